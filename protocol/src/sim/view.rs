//! Looking at a world from outside.

use conclave_crypto::sign::PublicKey;

use super::diary::FOREVER;
use super::links::link;
use super::place::{Life, Place};
use super::{Crash, Faults, Stuck, Tally, Terms, Watch, World};
use crate::charter::Charter;
use crate::ledger::Ledger;
use crate::names::Height;
use crate::time::Time;

impl World {
    /// What was seen so far.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The same, for tests that plant a fault.
    pub fn watch_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// The messages and bytes of each place so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same, for tests that plant a fault.
    pub fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Keeps everything that is said and stored from now on in the watch.
    pub fn keep_log(&mut self) {
        self.watch.said = Some(Vec::new());
        self.watch.stored = Some(Vec::new());
    }

    /// The number of the running start; `None` while it is dead.
    pub(super) fn starts(&self, place: usize) -> Option<u64> {
        let found = self.places.get(place)?;
        (found.life == Life::Up).then_some(found.starts)
    }

    /// Whether a place runs, or starts at this moment.
    pub(super) fn is_up(&self, place: usize) -> bool {
        let found = self.places.get(place);
        found.is_some_and(|found| found.life != Life::Dead)
    }

    pub(super) fn linked(&self, one: usize, other: usize) -> bool {
        self.links.contains(&link(one, other))
    }

    /// The terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The charter that the terms make.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The identity of a place.
    pub fn key(&self, place: usize) -> Option<PublicKey> {
        self.places.get(place).map(|place| place.key)
    }

    /// The place of an identity.
    pub fn place(&self, key: &PublicKey) -> Option<usize> {
        self.places.iter().position(|place| place.key == *key)
    }

    /// The faults.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// How many members are up.
    pub fn up(&self) -> usize {
        let places = self.places.iter();
        places.filter(|place| place.life == Life::Up).count()
    }

    /// Whether every honest place that is to finish has finished.
    pub fn finished(&self) -> bool {
        let gone = |place: usize| {
            let crash = |crash: &Crash| crash.place == place && crash.back_after.is_none();
            let left = self.watch.left.get(&place) == Some(&None);
            let halted = self.watch.halted.contains_key(&place);
            left || halted || self.faults.crashes.iter().any(crash)
        };
        (0..self.places.len())
            .filter(|place| !self.is_hostile(*place))
            .all(|place| gone(place) || self.watch.finished.contains_key(&place))
    }

    /// How many places there are.
    #[expect(clippy::len_without_is_empty, reason = "no world is empty")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The longest chain that an honest running member holds.
    pub fn longest(&self) -> Option<&Ledger> {
        let honest = self.places.iter().enumerate();
        let honest = honest.filter(|(place, _)| !self.is_hostile(*place));
        let chains = honest.filter_map(|(_, place)| Some(place.member.as_ref()?.ledger()));
        chains.max_by_key(|chain| chain.head())
    }

    /// Since when the member of a place runs; `None` while it is dead.
    pub fn up_since(&self, place: usize) -> Option<Time> {
        let place = self.places.get(place)?;
        (place.life == Life::Up).then_some(place.since)
    }

    /// Since when the network is sound.
    pub fn sound_since(&self) -> Time {
        let splits = self.faults.splits.iter().map(|(_, _, end)| *end);
        let ends = splits.chain(self.faults.broken.values().map(|(_, end)| *end));
        ends.fold(self.faults.heal.unwrap_or(FOREVER), Time::max)
    }

    /// Words for a run that does not end: the seed, and where everybody stands.
    pub(super) fn stuck(&self, why: &str) -> Stuck {
        let (now, seed) = (self.now.0, self.terms.seed);
        Stuck(format!(
            "{why} at {now} ms; rerun with CONCLAVE_SEED={seed}{}",
            self.whereabouts()
        ))
    }

    /// Where the first dozen places stand, a line each.
    pub fn whereabouts(&self) -> String {
        use core::fmt::Write as _;
        let mut text = String::new();
        for (number, place) in self.places.iter().enumerate().take(12) {
            let Some(member) = &place.member else {
                let _written = write!(text, "\n  place {number}: dead");
                continue;
            };
            let status = member.status();
            let _written = write!(
                text,
                "\n  place {number}: height {} {:?}, head {}, waiting {:?}, halted {:?}, finished {}",
                status.height.0,
                status.phase,
                status.ledger_head.short(),
                status.waiting,
                status.halted,
                status.finished,
            );
        }
        text
    }

    /// The place that proposes first at a height, while the members are the founders.
    pub fn proposer(&self, height: Height) -> usize {
        let founders = u64::try_from(self.terms.founders).unwrap_or(u64::MAX);
        let turn = height.0.checked_rem(founders).unwrap_or(0);
        usize::try_from(turn).unwrap_or(0)
    }

    pub(super) fn parts(&mut self) -> (&mut Vec<Place>, &mut Watch) {
        (&mut self.places, &mut self.watch)
    }
}
