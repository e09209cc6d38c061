//! Looking at a world from outside.

use conclave_crypto::sign::PublicKey;

use super::place::Place;
use super::{Crash, Faults, Stuck, Tally, Terms, Watch, World};
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

    /// The terms.
    pub fn terms(&self) -> &Terms {
        &self.terms
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
        places.filter(|place| place.member.is_some()).count()
    }

    /// Whether everybody who is to finish has finished.
    pub fn finished(&self) -> bool {
        let gone = |place: usize| {
            let crash = |crash: &Crash| crash.place == place && crash.back_after.is_none();
            let left = self.watch.left.get(&place) == Some(&None);
            let halted = self.watch.halted.contains_key(&place);
            left || halted || self.faults.crashes.iter().any(crash)
        };
        (0..self.places.len()).all(|place| gone(place) || self.watch.finished.contains_key(&place))
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
