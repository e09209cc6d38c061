//! Laying inputs before members, letting all of one moment take theirs, and performing what they want.

use super::links::link;
use super::place::{Ground, Life};
use super::tally::{Load, Way};
use super::turn::{self, Turn};
use super::world::{Stuck, World};
use crate::input::Input;
use crate::names::Height;

impl World {
    /// Lays an input before a member, if it is up.
    pub(super) fn feed(&mut self, place: usize, input: Input) {
        let Some(found) = self.places.get_mut(place) else {
            return;
        };
        if found.life != Life::Dead {
            if !matches!(input, Input::Wake) {
                found.spins = 0;
            }
            found.inbox.push(input);
            self.busy.insert(place);
        }
    }

    /// Lets all members that something was laid before take their turns, and performs what they want, place after
    /// place.
    pub(super) fn serve(&mut self) -> Result<(), Stuck> {
        while !self.busy.is_empty() {
            let busy = core::mem::take(&mut self.busy);
            self.accomplices = self.hostile_ids();
            let ground = Ground {
                terms: &self.terms,
                charter: &self.charter,
                memo: &self.memo,
                restless: self.restless,
            };
            let now = self.now;
            let turns = busy.into_iter().filter_map(|place| {
                let turn = self.places.get_mut(place)?.call(&ground, place, now)?;
                Some((place, turn))
            });
            let mut failed = None;
            turn::take_all(turns.collect(), |place, turn| {
                let why = self.settle(place, turn);
                failed = failed.take().or(why);
            });
            if let Some(why) = failed {
                return Err(why);
            }
        }
        Ok(())
    }

    /// Performs what came out of a turn. Why the member did not start, if it did not.
    fn settle(&mut self, place: usize, turn: Turn) -> Option<Stuck> {
        let now = self.now;
        let (places, watch) = self.parts();
        let refused = turn.refused.into_iter();
        let refused = refused.map(|why| (place, format!("at {now:?}: {why}")));
        watch.refused.extend(refused);
        let found = places.get_mut(place)?;
        found.member = turn.member;
        if found.inbox.is_empty() {
            // The room that its inputs have left.
            found.inbox = turn.inbox;
        }
        if let Some(why) = turn.failed {
            found.die();
            return Some(Stuck(format!("place {place}: {why}")));
        }
        self.drain(place, turn.outbox);
        self.bury(place);
        None
    }

    /// If the member has died meanwhile, its peers notice.
    fn bury(&mut self, place: usize) {
        if self.starts(place).is_some() {
            return;
        }
        for other in 0..self.places.len() {
            if self.links.remove(&link(place, other)) {
                self.notice(other, place, false);
            }
        }
    }

    /// Counts what a place sent or received.
    pub(super) fn count(&mut self, place: usize, load: Load, way: Way, bytes: usize) {
        let height = self
            .places
            .get(place)
            .map_or(Height(0), |found| found.height);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.tally.count(place, height, load, way, bytes);
    }
}
