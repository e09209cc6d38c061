//! Who belongs: admissions and removals follow from the chain by rules, nobody decides them. R43

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::digest::Digest;
use conclave_crypto::fraction::Fraction;
use conclave_crypto::sign::PublicKey;

use crate::charter::{Admission, Founder};
use crate::envelope::{Envelope, Kind};
use crate::evidence::Evidence;
use crate::ledger::Ledger;
use crate::limits;
use crate::message::{self, Invite, Join, Leave};
use crate::names::{Height, MemberId};
use crate::params;
use crate::record::Record;
use crate::roster::Roster;

/// A row of the members table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Its identity.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// Whether it was ever among the sharers (founders count from the start).
    pub settled: bool,
    /// Counted heights in a row without it.
    pub absences: u32,
    /// The height whose record admitted it last.
    pub since: Height,
}

impl Person {
    /// A founder.
    pub(crate) fn founder(founder: &Founder) -> Self {
        Self {
            key: founder.key,
            name: founder.name.clone(),
            settled: true,
            absences: 0,
            since: Height(0),
        }
    }
}

impl Ledger {
    /// R43. The members of the height after next: admissions first, then convicts, leavers and the absent go.
    pub fn members_after_next(&self, record: &Record) -> Result<Vec<MemberId>, String> {
        let roster = self
            .roster(Height(record.height.0.saturating_add(1)))
            .ok_or("no members")?;
        let mut members: Vec<_> = roster.ids().collect();
        let mut newcomer = u32::try_from(self.people.len()).unwrap_or(u32::MAX);
        let mut keys = Vec::new();
        let mut used = BTreeMap::new();
        for envelope in &record.joins {
            let join = self
                .admissible(envelope, record.height)
                .map_err(|what| format!("a Join: {what}"))?;
            if let Some(invite) = &join.invite {
                let here = used.entry(invite.nonce).or_insert(0u32);
                *here = here.saturating_add(1);
                let before = self.uses.get(&invite.nonce).copied().unwrap_or_default();
                if before.saturating_add(*here) > invite.uses {
                    return Err("a Join: the invitation is used up".to_owned());
                }
            }
            if keys.last().is_some_and(|last| *last >= join.key) {
                return Err("its Joins are not in order".to_owned());
            }
            keys.push(join.key);
            if let Some(known) = self.member(&join.key) {
                members.push(known);
            } else {
                members.push(MemberId(newcomer));
                newcomer = newcomer.saturating_add(1);
            }
        }
        let returning: Vec<_> = keys.iter().filter_map(|key| self.member(key)).collect();
        let removed = self.removed(record, &members, &returning)?;
        members.retain(|id| !removed.contains(id));
        members.sort_unstable();
        if !keys.is_empty() && !self.bearable(record, &members) {
            return Err("too many newcomers at once".to_owned());
        }
        let most =
            usize::try_from(self.charter().aggregation.members_max).unwrap_or(limits::MEMBERS);
        if members.len() > most.min(limits::MEMBERS) && !keys.is_empty() {
            return Err("more members than the charter has room for".to_owned());
        }
        Ok(members)
    }

    /// R43. Applies a record that was checked to the members table.
    pub(crate) fn admit(&mut self, record: &Record) {
        let absences = self.absences(record);
        for (member, count) in absences {
            if let Some(person) = self.person_mut(member) {
                person.absences = count;
            }
        }
        for envelope in &record.joins {
            let join: Join = message::decode(&envelope.body).expect("the record was checked");
            if let Some(invite) = &join.invite {
                let uses = self.uses.entry(invite.nonce).or_default();
                *uses = uses.saturating_add(1);
            }
            if let Some(known) = self.member(&join.key) {
                if let Some(person) = self.person_mut(known) {
                    person.absences = 0;
                    person.settled = false;
                    person.since = record.height;
                }
            } else {
                self.people.push(Person {
                    key: join.key,
                    name: join.name,
                    settled: false,
                    absences: 0,
                    since: record.height,
                });
            }
        }
        for member in record.sharer_ids() {
            if let Some(person) = self.person_mut(member) {
                person.settled = true;
            }
        }
        self.largest = self.largest.max(record.members_after_next.len());
    }

    /// R44. A Join that a record at this height may admit.
    pub fn admissible(&self, envelope: &Envelope, height: Height) -> Result<Join, &'static str> {
        if envelope.kind != Kind::Join || envelope.sender != MemberId::NEWCOMER || envelope.seq != 0
        {
            return Err("it is none");
        }
        let join: Join =
            message::decode(&envelope.body).map_err(|_| "it is no canonical encoding")?;
        if join.name.is_empty() || join.name.len() > limits::NAME {
            return Err("its name is empty or too long");
        }
        self.recent(envelope, (join.head_height, join.head), height)?;
        let roster = self
            .roster(Height(height.0.saturating_add(1)))
            .ok_or("no members")?;
        let known = self.member(&join.key);
        if known.is_some_and(|known| roster.contains(known) || self.is_proved(known)) {
            return Err("its key is a member already, or excluded");
        }
        self.invited(&join, known.is_some(), height)?;
        envelope
            .verify(&join.key)
            .map_err(|_| "its signature does not verify")?;
        Ok(join)
    }

    /// R44, R66. What is signed for a record names a head of this chain, at most two heights old.
    fn recent(
        &self,
        envelope: &Envelope,
        (at, head): (Height, Digest),
        height: Height,
    ) -> Result<(), &'static str> {
        if at.0.saturating_add(3) < height.0 || at >= height {
            return Err("it names no recent head");
        }
        if self.record_digest(at) != Some(head) {
            return Err("it names another chain");
        }
        if self.session_id(at) != Some(envelope.sess) {
            return Err("it names another session");
        }
        Ok(())
    }

    /// R66. The key of who asks by a Leave that a record at this height may release: a member of the next height.
    /// Whether the words are its own, its signature says.
    pub(crate) fn leaver(
        &self,
        envelope: &Envelope,
        height: Height,
    ) -> Result<PublicKey, &'static str> {
        if envelope.kind != Kind::Leave || envelope.seq != 0 {
            return Err("it is none");
        }
        let leave: Leave =
            message::decode(&envelope.body).map_err(|_| "it is no canonical encoding")?;
        self.recent(envelope, (leave.head_height, leave.head), height)?;
        let since = self.person(envelope.sender).map(|person| person.since);
        if since.is_some_and(|since| leave.head_height < since) {
            return Err("the sender has returned since");
        }
        let roster = self
            .roster(Height(height.0.saturating_add(1)))
            .ok_or("no members")?;
        roster
            .key(envelope.sender)
            .copied()
            .ok_or("the sender is no member")
    }

    /// R66. Whether the members can do without one more: more than three times the corrupt ones stay.
    pub(crate) fn can_leave(&self, members: usize) -> bool {
        members > self.floor()
    }

    /// R44. The invitation, or an earlier membership.
    fn invited(&self, join: &Join, returning: bool, height: Height) -> Result<(), &'static str> {
        match &join.invite {
            Some(invite) => self.lets_in(invite, &join.key, height),
            None if returning => Ok(()),
            None => Err("it has no invitation"),
        }
    }

    /// R44. Whether this invitation lets the holder of a key in; its expiry is judged by whoever hands it on.
    pub fn lets_in(
        &self,
        invite: &Invite,
        key: &PublicKey,
        height: Height,
    ) -> Result<(), &'static str> {
        if self.charter().admission == Admission::Closed {
            return Err("the charter admits nobody");
        }
        self.invitation(invite, height)?;
        if invite.invitee.is_some_and(|invitee| invitee != *key) {
            return Err("the invitation is for somebody else");
        }
        let used = self.uses.get(&invite.nonce).copied().unwrap_or_default();
        if used < invite.uses {
            Ok(())
        } else {
            Err("the invitation is used up")
        }
    }

    /// R44. Whether a member of the height signed this invitation to this federation.
    pub fn invitation(&self, invite: &Invite, height: Height) -> Result<(), &'static str> {
        let roster = self.roster(height).ok_or("no members")?;
        if !roster.contains(invite.sponsor) {
            return Err("the sponsor is no member");
        }
        self.is_invited(invite)
    }

    /// R44. Whether anybody who ever was a member signed this invitation to this federation: enough to be told how the
    /// chain goes on, not to be admitted.
    pub fn is_invited(&self, invite: &Invite) -> Result<(), &'static str> {
        if invite.charter != *self.charter_digest() || invite.epoch != 0 {
            return Err("the invitation is to another federation");
        }
        let sponsor = self
            .person(invite.sponsor)
            .filter(|_| !self.is_proved(invite.sponsor))
            .ok_or("the sponsor never was a member, or is excluded")?;
        invite
            .verify(&sponsor.key)
            .map_err(|_| "the sponsor's signature does not verify")
    }

    /// Counted heights in a row that each member of the next height is absent, this record included.
    fn absences(&self, record: &Record) -> Vec<(MemberId, u32)> {
        let counted = !record.sharers_next.is_empty();
        let (survivors, sharers) = (record.survivor_ids(), record.sharer_ids());
        let roster = self.roster(Height(record.height.0.saturating_add(1)));
        let ids: Vec<_> = roster.iter().flat_map(Roster::ids).collect();
        let count = |id: MemberId| {
            let before = self.person(id).map_or(0, |person| person.absences);
            if survivors.contains(&id) || sharers.contains(&id) {
                0
            } else if counted {
                before.saturating_add(1)
            } else {
                before
            }
        };
        ids.into_iter().map(|id| (id, count(id))).collect()
    }

    /// R43. Who goes, while more than 3·c members stay: convicts first, then leavers, then the longest absent.
    /// A Leave for which there is no room makes the record wrong; the others wait.
    fn removed(
        &self,
        record: &Record,
        members: &[MemberId],
        returning: &[MemberId],
    ) -> Result<BTreeSet<MemberId>, String> {
        let floor = self.floor();
        let spare = members.len().saturating_sub(floor);
        let convicted = |id: &&MemberId| {
            let now = record.evidence.iter();
            self.is_convicted(**id) || now.map(Evidence::against).any(|convict| convict == **id)
        };
        let mut gone: BTreeSet<_> = members
            .iter()
            .filter(convicted)
            .take(spare)
            .copied()
            .collect();
        let mut last = None;
        for envelope in &record.leaves {
            let key = self
                .leaver(envelope, record.height)
                .map_err(|what| format!("a Leave: {what}"))?;
            envelope
                .verify(&key)
                .map_err(|_| "a Leave: its signature does not verify")?;
            if last >= Some(envelope.sender) {
                return Err("its Leaves are not in order".to_owned());
            }
            last = Some(envelope.sender);
            gone.insert(envelope.sender);
        }
        if gone.len() > spare && !record.leaves.is_empty() {
            return Err(format!("a Leave would leave fewer than {floor} members"));
        }
        let most = self.charter().aggregation.absent_rounds;
        let mut absent = self.absences(record);
        absent.retain(|(id, count)| *count >= most && !returning.contains(id));
        absent.sort_by_key(|(id, count)| (core::cmp::Reverse(*count), *id));
        for (id, _) in absent {
            if gone.len() < spare {
                gone.insert(id);
            }
        }
        Ok(gone)
    }

    /// The fewest members that removals may leave: more than three times the corrupt ones. R43
    pub(crate) fn floor(&self) -> usize {
        let corrupt = self.corrupt_total().max(1);
        corrupt.saturating_mul(3).saturating_add(1)
    }

    /// `⌊γ · max |W| of the epoch⌋`
    fn corrupt_total(&self) -> usize {
        let gamma: &Fraction = &self.charter().aggregation.corruption;
        let largest = u64::try_from(self.largest).unwrap_or(u64::MAX);
        let share = gamma
            .numerator()
            .saturating_mul(largest)
            .checked_div(gamma.denominator());
        usize::try_from(share.unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// R43. Unsettled members and those absent from the last sharers never exceed n′ − q(n′); growth to 4 is free.
    fn bearable(&self, record: &Record, members: &[MemberId]) -> bool {
        let n = members.len();
        if n <= 4 {
            return true;
        }
        let last = self.last_sharers(record);
        let uncertain = members.iter().filter(|id| {
            let person = self.person(**id);
            let settled = person.is_some_and(|person| person.settled) || last.contains(id);
            !settled || (!last.is_empty() && !last.contains(id))
        });
        uncertain.count() <= n.saturating_sub(params::quorum(n))
    }

    /// The newest sharers that are not none, this record's included.
    fn last_sharers(&self, record: &Record) -> Vec<MemberId> {
        if !record.sharers_next.is_empty() {
            return record.sharer_ids();
        }
        let heights = (1..=self.next().0).rev().map(Height);
        heights
            .map(|height| self.sharer_ids(height))
            .find(|ids| !ids.is_empty())
            .unwrap_or_default()
    }

    fn person_mut(&mut self, member: MemberId) -> Option<&mut Person> {
        self.people.get_mut(usize::try_from(member.0).ok()?)
    }
}
