//! The run of a world: one event after another, in the order of the virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::digest::Digest;

use super::agenda::Agenda;
use super::byzantine::Hostile;
use super::disk::Records;
use super::links::{Links, link};
use super::network::Network;
use super::place::{Life, Place};
use super::schedule::Schedule;
use super::shelf::Shelf;
use super::tally::{Load, Way};
use super::watch::Trained;
use super::{Crash, Faults, Tally, Terms, Watch};
use crate::charter::Charter;
use crate::input::Input;
use crate::letter::{Bytes, Letter};
use crate::memo::Remembered;
use crate::names::MemberId;
use crate::time::{Span, Time};

/// What happens next, and to whom.
#[derive(Debug)]
pub(super) enum Event {
    /// A message arrives, if the link still stands.
    Arrive {
        from: usize,
        to: usize,
        bytes: Letter,
    },
    /// The alarm of a member.
    Wake { place: usize, at: Time },
    /// A pull is answered, if the link to whoever serves it still stands.
    Pulled {
        place: usize,
        start: u64,
        from: usize,
        name: Digest,
        bytes: Option<Bytes>,
    },
    /// The engine is at a step, or done.
    Step {
        place: usize,
        start: u64,
        attempt: u64,
        done: u32,
    },
    /// A member starts, for the first time or again.
    Open(usize),
    /// Two places can reach each other.
    Meet(usize, usize),
    /// A split begins or ends.
    Split,
    /// A single link is lost, or comes back.
    Link(usize, usize),
    /// The operator of a place wants to leave.
    Leave(usize),
    /// A member is to crash at its next fitting output.
    Doom(Crash),
}

/// Why a run did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stuck(pub String);

/// Members, network and clock.
#[derive(Debug)]
pub struct World {
    pub(super) terms: Terms,
    pub(super) charter: Charter,
    pub(super) faults: Faults,
    pub(super) places: Vec<Place>,
    pub(super) network: Network,
    pub(super) now: Time,
    /// Milliseconds by which the clock goes on at least.
    tick: u64,
    pub(super) links: Links,
    /// Crashes that have not struck, with the fitting outputs that still pass.
    pub(super) armed: Vec<(Crash, u64)>,
    pub(super) schedule: Schedule,
    agenda: Agenda,
    /// Who has something to look at.
    pub(super) busy: BTreeSet<usize>,
    pub(super) watch: Watch,
    pub(super) tally: Tally,
    pub(super) records: Records,
    /// What the members need not work out twice.
    pub(super) memo: Remembered,
    /// Nobody is spared a look.
    pub(super) restless: bool,
    /// The hostile places.
    pub(super) hostile: BTreeMap<usize, Hostile>,
    /// Their members' ids, before the turns whose outcome is performed.
    pub(super) accomplices: Vec<MemberId>,
}

/// The clock of a large world goes in steps, of 50 ms for 200 members: a member takes at once what comes to it within
/// one, as one does that is busy, and looks once at what follows.
fn tick(places: usize) -> u64 {
    let places = u64::try_from(places).unwrap_or(u64::MAX);
    (places.saturating_pow(3) / 160_000).max(1)
}

/// An alarm that goes off so often without time passing is a defect.
const SPINS_MAX: u32 = 1000;

impl World {
    /// A world in which all founders start within the first second and joiners after six.
    pub fn new(terms: Terms, faults: Faults) -> Self {
        let seed = terms.seed;
        let all = terms.founders.saturating_add(terms.joiners);
        let places = (0..all).map(|place| Place::new(terms.identity(place).public()));
        let armed = faults
            .crashes
            .iter()
            .map(|crash| (*crash, crash.strike.skip()));
        let mut world = Self {
            hostile: Hostile::all(&terms, &faults),
            charter: terms.charter(),
            places: places.collect(),
            network: Network::new(seed),
            now: Time(0),
            tick: tick(all),
            links: Links::default(),
            armed: armed.collect(),
            schedule: Schedule::default(),
            agenda: Agenda::default(),
            busy: BTreeSet::new(),
            watch: Watch::default(),
            tally: Tally::default(),
            records: Records::new(),
            memo: Remembered::by(Arc::new(Shelf::default())),
            restless: false,
            accomplices: Vec::new(),
            terms,
            faults,
        };
        let mut chance = super::Chance::new(seed, "conclave/sim/begin");
        for place in 0..all {
            let late = if place < world.terms.founders {
                0
            } else {
                6000
            };
            world.after(chance.within(late, late + 1000), Event::Open(place));
        }
        for (place, at) in world.faults.leaves.clone() {
            world.at(at, Event::Leave(place));
        }
        for (side, from, to) in world.faults.splits.clone() {
            world.watch.diary.cut(&side, all, from, to);
            world.at(from, Event::Split);
            world.at(to, Event::Split);
        }
        for ((one, other), (from, to)) in world.faults.broken.clone() {
            world.unlink((one, other), from, to);
        }
        world
    }

    /// The same world in which every member works out everything itself, as a node does.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.memo = Remembered::default();
        self
    }

    /// The same world in which every member looks at everything after whatever it heard: that may change nothing.
    #[must_use]
    pub fn restless(mut self) -> Self {
        self.restless = true;
        self
    }

    /// Runs until `done`, at the latest until the virtual time `limit`.
    pub fn run(&mut self, limit: Time, done: impl Fn(&Self) -> bool) -> Result<Time, Stuck> {
        while !done(self) {
            let Some((now, mut events)) = self.agenda.next() else {
                return Err(self.stuck("nothing happens any more"));
            };
            self.now = now;
            if now > limit {
                return Err(self.stuck("time is up"));
            }
            for event in events.drain(..) {
                self.happen(event)?;
            }
            self.agenda.over(events);
            self.serve()?;
        }
        Ok(self.now)
    }

    /// Runs until every honest place that is to finish has finished.
    pub fn finish(&mut self, limit: Time) -> Result<Time, Stuck> {
        self.run(limit, Self::finished)
    }

    /// Schedules an event.
    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + Span(delay), event);
    }

    pub(super) fn at(&mut self, time: Time, event: Event) {
        let time = time.max(self.now).0.next_multiple_of(self.tick);
        self.agenda.add(Time(time), event);
    }

    fn happen(&mut self, event: Event) -> Result<(), Stuck> {
        match event {
            Event::Arrive { from, to, bytes } => {
                if !self.linked(from, to) || self.overhear(to, &bytes) {
                    self.arrive(from, to, bytes);
                }
            }
            Event::Wake { place, at } => self.wake(place, at)?,
            Event::Pulled {
                place,
                start,
                from,
                name,
                bytes,
            } => {
                if self.starts(place) == Some(start) {
                    let stands = from == place || self.linked(from, place);
                    let input = match bytes.filter(|_| stands) {
                        Some(bytes) => {
                            self.count(place, Load::Blob, Way::Received, bytes.len());
                            Input::Pulled { name, bytes }
                        }
                        None => Input::PullFailed { name },
                    };
                    self.feed(place, input);
                }
            }
            Event::Step {
                place,
                start,
                attempt,
                done,
            } => {
                if self.starts(place) == Some(start) {
                    self.step(place, attempt, done)?;
                }
            }
            Event::Open(place) => self.open(place),
            Event::Meet(one, other) => self.meet(one, other),
            Event::Split => self.split(),
            Event::Link(one, other) => self.relink(one, other),
            Event::Leave(place) => self.feed(place, Input::Leave),
            Event::Doom(crash) => self.doom(crash),
        }
        Ok(())
    }

    fn arrive(&mut self, from: usize, to: usize, bytes: Letter) {
        // What its sender said before it died still arrives.
        let dead = self.starts(from).is_none();
        let cut = Network::split(&self.faults, self.now, from, to);
        let last = dead && !cut && !self.faults.is_broken(self.now, from, to);
        let Some(from) = self.key(from).filter(|_| last || self.linked(from, to)) else {
            return;
        };
        self.count(to, Load::of(&bytes), Way::Received, bytes.len());
        self.feed(to, Input::Received { from, bytes });
    }

    fn wake(&mut self, place: usize, at: Time) -> Result<(), Stuck> {
        let Some(found) = self.places.get_mut(place) else {
            return Ok(());
        };
        if found.awake != Some(at) {
            return Ok(());
        }
        found.awake = None;
        found.spins = found.spins.saturating_add(1);
        if found.spins > SPINS_MAX {
            return Err(self.stuck(&format!("the alarm of place {place} goes off for ever")));
        }
        self.feed(place, Input::Wake);
        Ok(())
    }

    /// The place starts when those of this moment are served.
    fn open(&mut self, place: usize) {
        let now = self.now;
        let losses = self.faults.losses.iter();
        let loss = losses.rev().find(|(who, _)| *who == place);
        let loss = loss.map(|(_, loss)| *loss);
        if let Some(found) = self.places.get_mut(place) {
            if let Some(loss) = loss.filter(|_| found.starts > 0) {
                found.lose(loss);
            }
            found.life = Life::Starting;
            self.watch.diary.rose(place, now);
        }
        self.busy.insert(place);
        for other in 0..self.places.len() {
            if other != place && self.is_up(other) {
                let delay = self.network.delay(&self.faults, place, other);
                self.after(delay, Event::Meet(place, other));
            }
        }
    }

    fn meet(&mut self, one: usize, other: usize) {
        let alive = self.starts(one).is_some() && self.starts(other).is_some();
        let apart = self.faults.parted(self.now, one, other)
            || Network::split(&self.faults, self.now, one, other);
        if !alive || apart || !self.links.insert(link(one, other)) {
            return;
        }
        self.notice(one, other, true);
        self.notice(other, one, true);
    }

    /// Cuts or joins links as the splits of this moment have it.
    fn split(&mut self) {
        for one in 0..self.places.len() {
            for other in 0..one {
                self.relink(one, other);
            }
        }
    }

    /// Cuts or joins one link as the faults of this moment have it.
    fn relink(&mut self, one: usize, other: usize) {
        let cut = Network::split(&self.faults, self.now, one, other);
        if !cut && !self.faults.is_broken(self.now, one, other) {
            self.meet(one, other);
        } else if self.links.remove(&link(one, other)) {
            self.notice(one, other, false);
            self.notice(other, one, false);
        }
    }

    /// Tells a place that it can reach another one, or not any more.
    pub(super) fn notice(&mut self, to: usize, about: usize, here: bool) {
        let Some(peer) = self.key(about) else {
            return;
        };
        let input = if here {
            Input::Connected { peer }
        } else {
            Input::Disconnected { peer }
        };
        self.feed(to, input);
    }

    fn step(&mut self, place: usize, attempt: u64, done: u32) -> Result<(), Stuck> {
        let seed = self.terms.seed;
        let Some(found) = self.places.get_mut(place) else {
            return Ok(());
        };
        let Some(training) = found.training.clone().filter(|t| t.attempt == attempt) else {
            return Ok(());
        };
        let (height, of) = (training.height, training.local_steps);
        if done < of {
            self.feed(place, Input::Progress { height, done, of });
            return Ok(());
        }
        found.training = None;
        let purpose = format!("conclave/sim/failing {place} {attempt}");
        let mut chance = super::Chance::new(seed, &purpose);
        if self.faults.sick(self.now) && chance.percent(self.faults.failing_percent) {
            let reason = "the engine of this world failed".to_owned();
            self.feed(place, Input::TrainFailed { height, reason });
            return Ok(());
        }
        let values = training.delta(seed, place);
        let delta = conclave_crypto::ladder::Delta::new(values.clone())
            .map_err(|error| Stuck(error.to_string()))?;
        let trained = Trained {
            factor: training.factor,
            from: training.digest,
            adapter: training.adapter,
            delta: values.clone(),
            carried: None,
        };
        found.deltas.insert(training.round, (height, values));
        found.handed = Some((height, trained));
        self.feed(place, Input::Trained { height, delta });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn founders_that_start_at_the_same_moment_meet() {
        let mut world = World::new(Terms::new(1, 60), Faults::default());
        let later = |world: &World| world.now() >= Time(2500);
        world.run(Time(5000), later).expect("goes on");
        for one in 0..60 {
            for other in 0..one {
                assert!(world.linked(one, other), "{one} and {other}");
            }
        }
    }

    #[test]
    fn only_the_clock_of_a_large_world_goes_in_steps() {
        let ticks = [3, 68, 69, 100, 200].map(tick);
        assert_eq!(ticks, [1, 1, 2, 6, 50]);
        let mut world = World::new(Terms::new(1, 69), Faults::default());
        world.at(Time(2001), Event::Split);
        while let Some((at, _)) = world.agenda.next() {
            assert_eq!(at.0 % 2, 0, "{at:?}");
        }
    }
}
