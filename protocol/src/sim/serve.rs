//! Laying inputs before members, and letting all of one moment take theirs.

use rayon::prelude::*;

use super::links::link;
use super::place::{Ground, Place};
use super::tally::{Load, Way};
use super::world::{Stuck, World};
use crate::input::Input;
use crate::names::Height;

/// From so many inputs at one moment on, the members take them on several threads.
pub(super) const INPUTS_TOGETHER: usize = 32;

impl World {
    /// Lays an input before a member, if it is up.
    pub(super) fn feed(&mut self, place: usize, input: Input) {
        let Some(found) = self.places.get_mut(place) else {
            return;
        };
        if found.member.is_some() || found.starting {
            if !matches!(input, Input::Wake) {
                found.spins = 0;
            }
            found.inbox.push(input);
            self.busy.insert(place);
        }
    }

    /// Lets all members that something was laid before take it, then performs what they want, place after place.
    ///
    /// What a member makes of its inputs depends on nobody else: that part may run on several threads.
    pub(super) fn serve(&mut self) -> Result<(), Stuck> {
        while !self.busy.is_empty() {
            let busy = core::mem::take(&mut self.busy);
            let now = self.now;
            let ground = Ground {
                terms: &self.terms,
                charter: &self.charter,
                memo: &self.memo,
                restless: self.restless,
            };
            let places = self.places.iter_mut().enumerate();
            let mut called: Vec<(usize, &mut Place)> =
                places.filter(|(place, _)| busy.contains(place)).collect();
            let inputs: usize = called.iter().map(|(_, found)| found.load()).sum();
            let serve = |(place, found): &mut (usize, &mut Place)| {
                let served = found.serve(&ground, *place, now);
                served.map_err(Stuck)
            };
            if called.len() > 1 && inputs >= INPUTS_TOGETHER {
                called.par_iter_mut().try_for_each(serve)?;
            } else {
                called.iter_mut().try_for_each(serve)?;
            }
            for place in busy {
                if let Some(found) = self.places.get_mut(place) {
                    let refused = found.refused.drain(..);
                    let refused = refused.map(|why| (place, why));
                    self.watch.refused.extend(refused);
                }
                self.drain(place);
                self.bury(place);
            }
        }
        Ok(())
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
