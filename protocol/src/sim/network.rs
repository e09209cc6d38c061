//! The network: delays, loss, duplicates, splits.

use super::tally::{Load, Way};
use super::world::{Event, World};
use super::{Chance, Faults};
use crate::letter::Letter;
use crate::time::Time;
use conclave_crypto::digest::Digest;

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
    pub(super) fn ways(&mut self, faults: &Faults, now: Time, from: usize, to: usize) -> Vec<u64> {
        let sick = faults.sick(now);
        if sick && self.chance.probably(&faults.loss) {
            return Vec::new();
        }
        let mut ways = vec![self.delay(faults, from, to)];
        if sick && self.chance.percent(faults.twice_percent) {
            ways.push(self.delay(faults, from, to));
        }
        ways
    }

    /// The delay of one way.
    pub(super) fn delay(&mut self, faults: &Faults, from: usize, to: usize) -> u64 {
        faults.latency.draw(&mut self.chance, from, to)
    }

    /// Whether two places are on different sides of a split.
    pub(super) fn split(faults: &Faults, now: Time, one: usize, other: usize) -> bool {
        faults.splits.iter().any(|(side, from, to)| {
            *from <= now && now < *to && side.contains(&one) != side.contains(&other)
        })
    }
}

impl World {
    /// Gossip between two that cannot reach each other directly goes over the first who reaches both.
    pub(super) fn relay(&mut self, from: usize, to: usize, bytes: &Letter) {
        if !self.faults.parted(self.now, from, to) {
            return;
        }
        let between = |other: &usize| self.linked(from, *other) && self.linked(*other, to);
        let Some(other) = (0..self.places.len()).find(between) else {
            return;
        };
        for delay in self.network.ways(&self.faults, self.now, from, other) {
            let rest = self.network.delay(&self.faults, other, to);
            let (from, bytes) = (other, bytes.clone());
            self.after(delay + rest, Event::Arrive { from, to, bytes });
        }
    }

    /// Looks for the blob at home, then at those asked, in their order; what is too long is refused.
    pub(super) fn pull(
        &mut self,
        place: usize,
        name: Digest,
        length: u64,
        from: &[conclave_crypto::sign::PublicKey],
    ) {
        let start = self.starts(place).unwrap_or_default();
        let home = self.places.get(place);
        let home = home.and_then(|place| place.blob(name.as_bytes()).cloned());
        if home.is_some() {
            let event = Event::Pulled {
                place,
                start,
                from: place,
                name,
                bytes: home,
            };
            self.after(1, event);
            return;
        }
        let found = from
            .iter()
            .filter_map(|key| self.place(key))
            .filter(|peer| self.linked(place, *peer))
            .filter_map(|peer| Some((peer, self.places.get(peer)?.blob(name.as_bytes()).cloned()?)))
            .find(|(_, blob)| u64::try_from(blob.len()).is_ok_and(|len| len <= length));
        let source = found.as_ref().map_or(place, |(peer, _)| *peer);
        if let Some((peer, blob)) = &found {
            self.count(*peer, Load::Blob, Way::Sent, blob.len());
        }
        let lost = self.network.ways(&self.faults, self.now, source, place);
        let delay = self.network.delay(&self.faults, source, place) * 3;
        let event = Event::Pulled {
            place,
            start,
            from: source,
            name,
            bytes: found.map(|(_, blob)| blob).filter(|_| !lost.is_empty()),
        };
        self.after(delay, event);
    }
}
