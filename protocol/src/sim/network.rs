//! The network: delays, loss, duplicates, splits.

use super::{Chance, Faults};
use crate::time::Time;

/// Draws the fate of each message.
#[derive(Debug)]
pub(super) struct Network {
    chance: Chance,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed, "conclave/sim/network"),
        }
    }

    /// The delays after which copies of a message arrive: none when it is lost, two when it is doubled.
    pub(super) fn ways(&mut self, faults: &Faults, now: Time) -> Vec<u64> {
        let sick = now < faults.heal;
        if sick && self.chance.percent(faults.loss_percent) {
            return Vec::new();
        }
        let mut ways = vec![self.delay(faults)];
        if sick && self.chance.percent(faults.twice_percent) {
            ways.push(self.delay(faults));
        }
        ways
    }

    /// The delay of one way.
    pub(super) fn delay(&mut self, faults: &Faults) -> u64 {
        self.chance.within(faults.delay.0, faults.delay.1)
    }

    /// Whether two places are on different sides of a split.
    pub(super) fn split(faults: &Faults, now: Time, one: usize, other: usize) -> bool {
        faults.splits.iter().any(|(side, from, to)| {
            *from <= now && now < *to && side.contains(&one) != side.contains(&other)
        })
    }
}
