//! One place of the world: a member with its disk and its engine, dead or alive.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::{IdentityKey, PublicKey};

use super::disk::{Disk, Records};
use super::engine::Training;
use super::faults::Loss;
use super::{Chance, Terms, Watch};
use crate::envelope::{Envelope, Kind};
use crate::input::{Input, Verdict};
use crate::letter::Bytes;
use crate::member::Member;
use crate::memo::Remembered;
use crate::message::{self, Commit, Invite, Reveal};
use crate::names::{Height, MemberId, Round};
use crate::output::{Phase, Table, Write};
use crate::setup::Setup;
use crate::time::{Span, Time};

/// A member, or what is left of it while it is dead.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: PublicKey,
    pub(super) member: Option<Member>,
    pub(super) disk: Disk,
    /// The disk when the last dealing was acknowledged.
    pub(super) snapshot: Disk,
    /// Whether the member is told that its disk is whole.
    pub(super) intact: bool,
    /// Starts so far.
    pub(super) starts: u64,
    /// When the running member was started, on the world's clock.
    pub(super) since: Time,
    pub(super) training: Option<Training>,
    pub(super) attempts: u64,
    /// What the running member reported last.
    pub(super) phase: Phase,
    pub(super) height: Height,
    pub(super) dealt: Option<Height>,
    pub(super) submitted: Option<Height>,
    /// An adapter was stored, and nothing was said since.
    pub(super) opened: bool,
    /// The delta that was handed to the running member last.
    pub(super) handed: Option<(Height, super::watch::Trained)>,
    /// The deltas that were handed to the running member, by round: with their heights.
    pub(super) deltas: BTreeMap<Round, (Height, Vec<f32>)>,
    /// What was laid before it and not taken yet.
    pub(super) inbox: Vec<Input>,
    /// What it refused just now, and why.
    pub(super) refused: Vec<String>,
    /// When it will be woken next.
    pub(super) awake: Option<Time>,
    /// Wakes in a row without time passing.
    pub(super) spins: u32,
}

/// Each start has its own origin of time: this much later, so that nothing can rely on stored times.
const ORIGIN: u64 = 1_000_003;

impl Place {
    pub(super) fn new(key: PublicKey) -> Self {
        Self {
            key,
            member: None,
            disk: Disk::default(),
            snapshot: Disk::default(),
            intact: true,
            starts: 0,
            since: Time(0),
            training: None,
            attempts: 0,
            phase: Phase::Advertise,
            height: Height(1),
            dealt: None,
            submitted: None,
            opened: false,
            handed: None,
            deltas: BTreeMap::new(),
            inbox: Vec::new(),
            refused: Vec::new(),
            awake: None,
            spins: 0,
        }
    }

    /// Starts the member with what the disk holds.
    pub(super) fn open(
        &mut self,
        terms: &Terms,
        memo: &Remembered,
        place: usize,
        now: Time,
    ) -> Result<(), String> {
        self.starts = self.starts.saturating_add(1);
        self.since = now;
        let mut setup = Self::setup(terms, memo, place);
        setup.intact = self.intact;
        let purpose = format!("conclave/sim/start {place} {}", self.starts);
        let seed = Chance::new(terms.seed, &purpose).bytes();
        let opened = Member::open(setup, self.disk.whole(), self.local(now), seed);
        self.member = Some(opened.map_err(|error| format!("place {place}: {error}"))?);
        Ok(())
    }

    /// Takes all that was laid before it, then looks once at what is due.
    pub(super) fn serve(&mut self, now: Time) {
        let local = self.local(now);
        let Some(member) = self.member.as_mut() else {
            self.inbox.clear();
            return;
        };
        if self.inbox.is_empty() {
            return;
        }
        for input in self.inbox.drain(..) {
            let letter = match &input {
                Input::Received { bytes, .. } => Some(bytes.clone()),
                _ => None,
            };
            if let Verdict::Refused(refusal) = member.hear(local, input) {
                let refused = format!("{refusal:?} at {now:?}: {letter:?}");
                self.refused.push(refused);
            }
        }
        member.look();
    }

    /// The disk loses something before the next start.
    pub(super) fn lose(&mut self, loss: Loss) {
        let words = [Table::Outbox, Table::Journal, Table::Wal, Table::Secrets];
        self.disk.retain(|table| match loss {
            Loss::Words => !words.contains(&table),
            Loss::Everything => false,
        });
        self.intact = loss == Loss::Everything;
    }

    /// What stays: the disk.
    pub(super) fn die(&mut self) {
        self.inbox.clear();
        self.member = None;
        self.training = None;
        self.handed = None;
        self.deltas.clear();
        self.opened = false;
        self.awake = None;
        self.dealt = None;
        self.submitted = None;
        self.phase = Phase::Advertise;
    }

    /// The member's own clock.
    pub(super) fn local(&self, now: Time) -> Time {
        Time(self.starts.saturating_mul(ORIGIN)) + (now - self.since)
    }

    /// The world's clock at a moment of the member's.
    pub(super) fn global(&self, local: Time) -> Time {
        let origin = Time(self.starts.saturating_mul(ORIGIN));
        self.since + Span(local.0.saturating_sub(origin.0))
    }

    /// Applies a store to the disk.
    pub(super) fn store(&mut self, write: Write, records: &mut Records) {
        self.opened |= write.table == Table::Adapters && write.value.is_some();
        self.disk.store(write, records);
    }

    /// A blob that this place serves.
    pub(super) fn blob(&self, name: &[u8]) -> Option<&Bytes> {
        self.disk.blob(name)
    }

    /// Whether the disk holds this Commit of a member and its vector.
    pub(super) fn holds_vector(&self, height: Height, member: MemberId, commit: &Digest) -> bool {
        let key = crate::outbox::slot_key(height, Kind::Commit, member);
        let rows = [Table::Inbox, Table::Outbox].map(|table| (table, key.clone()));
        let rows = rows.iter().filter_map(|row| self.disk.rows.get(row));
        let mut named = rows.filter(|row| Envelope::digest_of(row) == *commit);
        let found = named.next();
        let envelope = found.and_then(|row| Envelope::from_bytes(row).ok());
        let commit = envelope.and_then(|envelope| message::decode::<Commit>(&envelope.body).ok());
        commit.is_some_and(|commit| {
            // R73  Where vectors are summed in shards, f + 1 others hold each of them for it.
            let sharded = !commit.shards.is_empty();
            sharded || commit.inline.is_some() || self.blob(commit.root.as_bytes()).is_some()
        })
    }

    /// Whether the disk holds the journal's row for this own Reveal.
    pub(super) fn has_journalled(&self, envelope: &Envelope) -> bool {
        let key = (Table::Journal, envelope.sess.0.as_bytes().to_vec());
        let row = self.disk.rows.get(&key).map(AsRef::as_ref);
        let reveal = message::decode::<Reveal>(&envelope.body);
        reveal.is_ok_and(|reveal| row == Some(reveal.record.as_bytes().as_slice()))
    }

    /// Binds a masked vector to the delta that was handed over last.
    pub(super) fn bind(&self, place: usize, root: Digest, watch: &mut Watch) {
        if let Some((height, trained)) = &self.handed {
            let bound = watch.committed.entry((*height, place)).or_default();
            bound.entry(root).or_insert_with(|| trained.clone());
        }
    }

    /// Notes an own masked vector that leaves, and whether the file with its mask's seeds still stands then.
    pub(super) fn announces(&mut self, now: Time, place: usize, root: Digest, watch: &mut Watch) {
        let mine = watch.committed.iter();
        let mine = mine.filter(|((_, who), roots)| *who == place && roots.contains_key(&root));
        for height in mine.map(|((height, _), _)| *height).collect::<Vec<_>>() {
            self.submitted = Some(height);
            watch.diary.announced(height, place, now);
            let file = format!("{}.mask", height.0).into_bytes();
            if self.disk.holds(Table::Secrets, file) {
                watch.late_masks.insert((height, place));
            }
        }
    }

    fn setup(terms: &Terms, memo: &Remembered, place: usize) -> Setup {
        let identity: IdentityKey = terms.identity(place);
        let charter = terms.charter();
        let invite = (place >= terms.founders).then(|| {
            let nonce = Chance::new(terms.seed, "conclave/sim/invite").bytes();
            let nonce = nonce.first_chunk().copied().unwrap_or_default();
            let sponsor = terms.identity(0);
            let invitee = Some(identity.public());
            Invite::sign(
                &sponsor,
                charter.digest(),
                MemberId(0),
                nonce,
                invitee,
                1,
                0,
            )
        });
        Setup {
            charter,
            identity,
            name: format!("member {place}"),
            examples: Terms::examples(place),
            layout: Terms::layout(),
            initial: Terms::initial().into(),
            invite,
            intact: true,
            memo: memo.clone(),
        }
    }
}
