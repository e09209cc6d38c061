//! The chain of records: what follows from it, what may be appended, and the check of a whole one.

mod check;
mod standing;
#[cfg(all(test, feature = "sim"))]
mod tests;

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use crate::charter::Charter;
use crate::layout::Layout;
use crate::membership::Person;
use crate::message::Decided;
use crate::names::{Height, MemberId, Round, SessId, SumId};
use crate::params;
use crate::record::{Entry, Previous, Record, Sharer};
use crate::roster::Roster;

use self::standing::Standing;

/// What a chain must know of the model to recompute its masking contexts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The adapter's layout.
    pub layout: Layout,
    /// The digest of the adapter before training.
    pub adapter: Digest,
}

/// The decided chain and what follows from it.
#[derive(Debug, Clone)]
pub struct Ledger {
    charter: Charter,
    digest: Digest,
    start: Option<Start>,
    entries: Vec<Entry>,
    /// The members table: everybody who ever was one.
    pub(crate) people: Vec<Person>,
    /// Uses of each invitation.
    pub(crate) uses: BTreeMap<[u8; 16], u32>,
    /// The largest W so far.
    pub(crate) largest: usize,
    /// What is held against members.
    standing: Standing,
    /// Every session's height.
    sessions: BTreeMap<SessId, Height>,
    /// Every height's members, as far as they are fixed.
    rosters: BTreeMap<Height, Roster>,
    /// The last certified adapter; `None` while it is the initial one and that is unknown.
    certified: Option<Digest>,
}

/// Why a record cannot be the next one, or why a chain is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {height}: {what}")]
pub struct Broken {
    /// The record's height.
    pub height: u64,
    /// Which rule it breaks.
    pub what: String,
}

/// What `ledger verify` reports of a sound chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The newest record.
    pub head: Digest,
    /// Its height.
    pub height: Height,
    /// Rounds whose sum is certified.
    pub rounds_opened: u32,
    /// Rounds without survivors, and spent ones.
    pub rounds_null: u32,
    /// The last certified adapter, if a round was opened (or the start is known).
    pub adapter: Option<Digest>,
    /// The members of the next height.
    pub members: Vec<(MemberId, PublicKey)>,
    /// Whether the closing record is there.
    pub finished: bool,
}

/// Checks a chain from genesis: hashes, rosters, certificates, sharers and results. R41
///
/// `entries` are encoded [`Decided`] values by height from 1, as [`crate::output::Table::Ledger`] holds them.
/// Without `start` the masking contexts are not recomputed (they bind the adapter's shape).
pub fn verify_chain<'a>(
    charter: &Charter,
    start: Option<Start>,
    entries: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Verified, Broken> {
    let mut ledger = Ledger::new(charter.clone(), start);
    for bytes in entries {
        let entry = ledger.parse(bytes)?;
        ledger.verify(&entry)?;
        ledger.append(entry)?;
    }
    Ok(ledger.summary())
}

impl Ledger {
    /// The ledger of a charter: record 0 alone.
    pub fn new(charter: Charter, start: Option<Start>) -> Self {
        let digest = charter.digest();
        let people: Vec<_> = charter.members.iter().map(Person::founder).collect();
        let mut ledger = Self {
            certified: start.as_ref().map(|start| start.adapter),
            largest: people.len(),
            charter,
            digest,
            start,
            entries: Vec::new(),
            people,
            uses: BTreeMap::new(),
            standing: Standing::default(),
            sessions: BTreeMap::new(),
            rosters: BTreeMap::new(),
        };
        ledger.note_session(Height(1));
        ledger.note_session(Height(2));
        ledger
    }

    /// Parses what stands at the next height of the ledger table.
    pub fn parse(&self, bytes: &[u8]) -> Result<Entry, Broken> {
        let broken = || self.broken("no canonical encoding");
        let decided: Decided = crate::message::decode(bytes).map_err(|_| broken())?;
        Entry::new(&decided.record, decided.certificate).map_err(|_| broken())
    }

    /// R41. The certificate must name this record and carry a quorum of its height's members.
    pub fn verify(&self, entry: &Entry) -> Result<(), Broken> {
        let height = self.next();
        if entry.certificate.record != entry.digest || entry.certificate.height != height {
            return Err(self.broken("the certificate is of another record"));
        }
        let voters = self
            .roster(height)
            .map(|roster| roster.voters())
            .unwrap_or_default();
        let sess = self
            .session_id(height)
            .ok_or_else(|| self.broken("no such session"))?;
        let verdict = entry.certificate.verify(sess, &voters);
        verdict.map_err(|error| self.broken(&format!("the certificate does not hold: {error}")))
    }

    /// Appends a record whose certificate was verified.
    pub fn append(&mut self, entry: Entry) -> Result<(), Broken> {
        self.check(&entry.record)?;
        self.admit(&entry.record);
        self.standing.note(&entry.record);
        if let Previous::Opened(adapter) = &entry.record.previous {
            self.certified = Some(*adapter);
        }
        self.entries.push(entry);
        self.note_session(Height(self.head().0.saturating_add(2)));
        Ok(())
    }

    pub(crate) fn broken(&self, what: &str) -> Broken {
        Broken {
            height: self.next().0,
            what: what.to_owned(),
        }
    }

    fn note_session(&mut self, height: Height) {
        if let Some(sess) = self.session_id(height) {
            self.sessions.insert(sess, height);
        }
        if let Some(roster) = self.find_roster(height) {
            self.rosters.insert(height, roster);
        }
    }

    /// The charter.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// The charter's digest.
    pub fn charter_digest(&self) -> &Digest {
        &self.digest
    }

    /// The height of the newest record.
    pub fn head(&self) -> Height {
        Height(u64::try_from(self.entries.len()).unwrap_or(u64::MAX))
    }

    /// The height that is to be decided.
    pub fn next(&self) -> Height {
        Height(self.head().0.saturating_add(1))
    }

    /// The digest of the newest record.
    pub fn head_digest(&self) -> Digest {
        self.entries
            .last()
            .map_or(self.digest, |entry| entry.digest)
    }

    /// The decided entry of a height.
    pub fn entry(&self, height: Height) -> Option<&Entry> {
        let index = usize::try_from(height.0.checked_sub(1)?).ok()?;
        self.entries.get(index)
    }

    /// The digest of a height's record.
    pub fn record_digest(&self, height: Height) -> Option<Digest> {
        if height.0 == 0 {
            Some(self.digest)
        } else {
            self.entry(height).map(|entry| entry.digest)
        }
    }

    /// The members of a height, if they are fixed already.
    pub fn roster(&self, height: Height) -> Option<Roster> {
        self.rosters.get(&height).cloned()
    }

    fn find_roster(&self, height: Height) -> Option<Roster> {
        let ids = match height.0.checked_sub(2) {
            None | Some(0) => (0u32..)
                .map(MemberId)
                .take(self.charter.members.len())
                .collect(),
            Some(before) => self
                .entry(Height(before))?
                .record
                .members_after_next
                .clone(),
        };
        Some(Roster::new(
            ids.into_iter()
                .filter_map(|id| Some((id, self.person(id)?.key)))
                .collect(),
        ))
    }

    /// A row of the members table.
    pub fn person(&self, member: MemberId) -> Option<&Person> {
        self.people.get(usize::try_from(member.0).ok()?)
    }

    /// The member with this key, past or present.
    pub fn member(&self, key: &PublicKey) -> Option<MemberId> {
        let index = self.people.iter().position(|person| person.key == *key)?;
        u32::try_from(index).ok().map(MemberId)
    }

    /// Who shares in a height.
    pub fn sharers(&self, height: Height) -> &[Sharer] {
        let before = height
            .0
            .checked_sub(1)
            .and_then(|before| self.entry(Height(before)));
        before.map_or(&[], |entry| entry.record.sharers_next.as_slice())
    }

    /// Their ids.
    pub fn sharer_ids(&self, height: Height) -> Vec<MemberId> {
        self.sharers(height)
            .iter()
            .map(|sharer| sharer.member)
            .collect()
    }

    /// The session of a height, once the record two before is known.
    pub fn session_id(&self, height: Height) -> Option<SessId> {
        let before = match height.0.checked_sub(2) {
            None => Digest::ZERO,
            Some(before) => self.record_digest(Height(before))?,
        };
        Some(params::session_id(&self.digest, 0, height, &before))
    }

    /// The height of a session, past or open.
    pub fn session_height(&self, sess: &SessId) -> Option<Height> {
        self.sessions.get(sess).copied()
    }

    /// The masking context of a height over an adapter.
    pub fn sum_id(&self, height: Height, adapter: &Digest) -> Option<SumId> {
        let sess = self.session_id(height)?;
        let round = self.round(height)?;
        let layout = &self.start.as_ref()?.layout;
        let before = self.record_digest(Height(height.0.checked_sub(1)?))?;
        let factor = params::factor(layout, round);
        let terms = params::configuration_digest(&self.charter, &layout.shape, round, factor);
        Some(params::sum_id(&sess, &before, adapter, &terms))
    }

    /// The round of a height: only heights with sharers have one.
    pub fn round(&self, height: Height) -> Option<Round> {
        if self.sharers(height).is_empty() {
            None
        } else {
            Some(Round(self.rounds_through(height)))
        }
    }

    /// Heights with sharers up to and with this one.
    pub fn rounds_through(&self, height: Height) -> u32 {
        let before = usize::try_from(height.0.saturating_sub(1)).unwrap_or(usize::MAX);
        let rounds = self
            .entries
            .iter()
            .take(before)
            .filter(|entry| !entry.record.sharers_next.is_empty());
        u32::try_from(rounds.count()).unwrap_or(u32::MAX)
    }

    /// Whether sharers may follow this height: rounds are left after it.
    pub fn more_rounds(&self, height: Height) -> bool {
        self.rounds_through(height) < self.charter.round.rounds
    }

    /// R45. The height after the last round: it certifies the last result and shares nothing.
    pub fn closing(&self, height: Height) -> bool {
        let before = Height(height.0.saturating_sub(1));
        self.sharers(height).is_empty() && self.rounds_through(before) >= self.charter.round.rounds
    }

    /// Whether the closing record stands.
    pub fn finished(&self) -> bool {
        !self.entries.is_empty() && self.closing(self.head())
    }

    /// The last certified adapter.
    pub fn certified(&self) -> Option<Digest> {
        self.certified
    }

    /// What became of a height's sum, by the record after it.
    pub fn outcome(&self, height: Height) -> Option<&Previous> {
        self.entry(Height(height.0.saturating_add(1)))
            .map(|entry| &entry.record.previous)
    }

    /// R65. Whether the sums were out of range too often: the job ends with the last certified adapter.
    pub fn halted(&self) -> bool {
        self.standing.halted()
    }

    /// Whether no record follows any more.
    pub fn over(&self) -> bool {
        self.finished() || self.halted()
    }

    /// Whether this member's dealing was proved false, or it contradicted itself under its own signature.
    pub fn is_proved(&self, member: MemberId) -> bool {
        self.standing.proved(member)
    }

    /// Whether this member contradicted itself under its own signature. R64
    pub fn is_convicted(&self, member: MemberId) -> bool {
        self.standing.convicted(member)
    }

    /// R62, R64. Who may not share in the height after this record, by the chain and the record itself.
    pub(crate) fn exclusion(&self, record: &Record) -> impl Fn(MemberId) -> bool + use<> {
        let mut standing = self.standing.clone();
        standing.note(record);
        let next = Height(record.height.0.saturating_add(1));
        move |member| standing.excluded(member, next)
    }

    /// Numbers and names of the chain.
    pub fn summary(&self) -> Verified {
        let heights = (1..=self.head().0).map(Height);
        let ended = |height: &Height| self.round(*height).is_some();
        let opened = |height: &Height| matches!(self.outcome(*height), Some(Previous::Opened(_)));
        let lost = |height: &Height| {
            let null = self
                .entry(*height)
                .is_some_and(|entry| entry.record.survivors.is_none());
            null || matches!(self.outcome(*height), Some(Previous::Spent { .. }))
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let roster = self.roster(self.next());
        Verified {
            head: self.head_digest(),
            height: self.head(),
            rounds_opened: count(heights.clone().filter(ended).filter(opened).count()),
            rounds_null: count(heights.filter(ended).filter(lost).count()),
            adapter: self.certified,
            members: roster
                .map(|r| r.ids().zip(r.keys()).collect())
                .unwrap_or_default(),
            finished: self.finished(),
        }
    }
}
