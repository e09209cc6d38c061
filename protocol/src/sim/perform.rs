//! Performing the outputs of a member, in order, with deaths in between.

use conclave_crypto::digest::Digest;

use super::engine::Training;
use super::place::Wish;
use super::world::{Event, World};
use super::{Crash, Point, Strike};
use crate::envelope::Kind;
use crate::message::Commit;
use crate::names::Height;
use crate::output::{Order, Output, Phase, Table};

impl Strike {
    /// How many fitting outputs pass before it.
    pub(super) fn skip(&self) -> u64 {
        match self {
            Self::InPhase { skip, .. } | Self::AtHeight { skip, .. } => *skip,
            Self::AfterDealt { .. } | Self::AfterSubmitted { .. } | Self::Next => 0,
        }
    }
}

impl World {
    /// Performs all that a member wants, until it wants nothing or dies.
    pub(super) fn drain(&mut self, place: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            let Some((crash, phase)) = self.due(place, &wish) else {
                self.perform(place, wish);
                continue;
            };
            if crash.point != Point::BeforeStore {
                self.perform(place, wish);
            }
            self.die(place, crash, phase);
            return;
        }
        self.alarm(place);
    }

    /// Sees to it that the member is woken at its deadline.
    fn alarm(&mut self, place: usize) {
        let now = self.now;
        let Some(found) = self.places.get_mut(place) else {
            return;
        };
        let deadline = found.member.as_ref().and_then(|member| member.deadline());
        let Some(at) = deadline.map(|at| found.global(at).max(now)) else {
            found.awake = None;
            return;
        };
        if found.awake != Some(at) {
            found.awake = Some(at);
            if at > now {
                found.spins = 0;
            }
            self.at(at, Event::Wake { place, at });
        }
    }

    /// The crash that strikes at this output, if one does, with the phase that it belongs to.
    fn due(&mut self, place: usize, wish: &Wish) -> Option<(Crash, Phase)> {
        if !self.armed.iter().any(|(crash, _)| crash.place == place) {
            return None;
        }
        let output = &wish.output;
        let storing = matches!(output, Output::Store(_));
        let sending = matches!(output, Output::Publish { .. } | Output::Send { .. });
        let found = self.places.get(place)?;
        let (reported, height) = (found.phase, found.height.0);
        let said = phase_of(wish);
        let (dealt, submitted) = (found.dealt, found.submitted);
        let fits = |crash: &Crash| {
            let kind = match crash.point {
                Point::BeforeStore | Point::AfterStore => storing,
                Point::AfterSend => sending,
            };
            if crash.place != place || !kind {
                return None;
            }
            // Opening is over within one input: the first message behind it counts as its own.
            let opened = sending && found.opened;
            let within = |phase: Phase| {
                let fits = phase == reported || Some(phase) == said;
                (fits || phase == Phase::Open && opened).then_some(phase)
            };
            match crash.strike {
                Strike::InPhase { phase, .. } => within(phase),
                Strike::AtHeight {
                    phase, height: at, ..
                } => within(phase).filter(|_| at == height),
                Strike::AfterDealt { height } => {
                    (dealt >= Some(Height(height))).then_some(reported)
                }
                Strike::AfterSubmitted { height } => {
                    (submitted >= Some(Height(height))).then_some(reported)
                }
                Strike::Next => Some(reported),
            }
        };
        let mut struck = None;
        for (at, (crash, skip)) in self.armed.iter_mut().enumerate() {
            match fits(crash) {
                Some(phase) if *skip == 0 => {
                    struck = Some((at, phase));
                    break;
                }
                Some(_) => *skip = skip.saturating_sub(1),
                None => {}
            }
        }
        let (at, phase) = struck?;
        Some((self.armed.remove(at).0, phase))
    }

    fn die(&mut self, place: usize, crash: Crash, phase: Phase) {
        let proposer = self
            .places
            .get(place)
            .is_some_and(|found| self.proposer(found.height) == place);
        let now = self.now;
        let (places, watch) = self.parts();
        if let Some(found) = places.get_mut(place) {
            watch.diary.fell(place, now);
            watch.struck.insert((phase, crash.point, proposer));
            found.die();
            if crash.rollback {
                found.disk.clone_from(&found.snapshot);
            }
        }
        if let Some(after) = crash.back_after {
            self.after(after, Event::Open(place));
        }
    }

    /// Binds masked vectors to the deltas behind them, and sees to it that none leaves before its seeds are gone.
    fn note(&mut self, place: usize, wish: &Wish) {
        let (honest, now) = (!self.is_hostile(place), self.now);
        let (places, watch) = self.parts();
        let Some(found) = places.get_mut(place) else {
            return;
        };
        let stored = match &wish.output {
            Output::Store(write) if write.table == Table::Vectors => {
                // Nobody has announced this vector: it is the own one, stored before its Commit.
                let root = write.key.as_slice().try_into().map(Digest);
                if let (Ok(root), true) = (root, write.value.is_some())
                    && !watch.announced.contains(&root)
                {
                    found.bind(place, root, watch);
                }
                return;
            }
            output => matches!(output, Output::Store(_)),
        };
        let Some(letter) = &wish.letter else { return };
        let Ok(envelope) = letter.envelope() else {
            return;
        };
        if stored && honest {
            watch.envelope(letter);
        }
        if envelope.kind == Kind::Commit
            && let Ok(commit) = letter.body::<Commit>()
        {
            if stored {
                if honest && let Some(member) = &found.member {
                    watch.masked(envelope, &commit, member.ledger());
                }
                found.bind(place, commit.root, watch);
            } else {
                found.announces(now, place, commit.root, watch);
            }
        }
    }

    fn perform(&mut self, place: usize, wish: Wish) {
        self.note(place, &wish);
        match wish.output {
            Output::Store(write) => {
                self.watch.trace(&write.key);
                if write.table == Table::Ledger
                    && let Some(row) = &write.value
                {
                    self.watch.diary.recorded(&write.key, row);
                }
                if let (Some(stored), Some(value)) = (&mut self.watch.stored, &write.value) {
                    stored.push((place, write.table, value.clone()));
                }
                if let Some(found) = self.places.get_mut(place) {
                    found.store(write, &mut self.records);
                }
            }
            Output::Publish { bytes, .. } => self.say(place, None, &bytes),
            Output::Send { to, bytes } => {
                if let Some(to) = self.place(&to) {
                    self.say(place, Some(to), &bytes);
                }
            }
            Output::Pull {
                name, length, from, ..
            } => self.pull(place, name, length, &from),
            Output::Order(order) => self.order(place, order),
            Output::Report(report) => self.report(place, report),
        }
    }

    fn order(&mut self, place: usize, order: Order) {
        let start = self.starts(place).unwrap_or_default();
        let slow = self.faults.slow.iter().find(|(who, _)| *who == place);
        let slow = slow.map_or(1, |(_, times)| *times);
        let (from, to) = self.faults.training;
        let (places, watch) = self.parts();
        let Some(found) = places.get_mut(place) else {
            return;
        };
        match order {
            Order::Train {
                height,
                round,
                factor,
                adapter,
                digest,
                local_steps,
                ..
            } => {
                found.attempts = found.attempts.saturating_add(1);
                let attempt = found.attempts;
                found.training = Some(Training {
                    height,
                    round,
                    factor,
                    local_steps,
                    adapter,
                    digest,
                    attempt,
                });
                let purpose = format!("conclave/sim/pace {place} {attempt}");
                let mut chance = super::Chance::new(self.terms.seed, &purpose);
                let span = chance.within(from, to).saturating_mul(slow);
                for (done, part) in [(local_steps / 2, span / 2), (local_steps, span)] {
                    let event = Event::Step {
                        place,
                        start,
                        attempt,
                        done,
                    };
                    self.after(part, event);
                }
            }
            Order::Cancel { height } => {
                if found.training.as_ref().is_some_and(|t| t.height == height) {
                    found.training = None;
                }
            }
            Order::Adopt {
                height,
                adapter,
                digest,
                ..
            } => {
                let adopted = watch.adopted.entry((height, place)).or_default();
                adopted.push((digest, adapter));
            }
        }
    }
}

/// The phase that an output belongs to by what it says, whatever the member reported last.
fn phase_of(wish: &Wish) -> Option<Phase> {
    if let Output::Store(write) = &wish.output {
        match write.table {
            Table::Outbox => {}
            Table::Wal | Table::Ledger => return Some(Phase::Decide),
            Table::Journal => return Some(Phase::Reveal),
            Table::Adapters => return Some(Phase::Open),
            Table::Inbox | Table::Vectors | Table::Shards | Table::Facts | Table::Secrets => {
                return None;
            }
        }
    }
    match wish.letter.as_ref()?.envelope().ok()?.kind {
        Kind::KeyAd => Some(Phase::Advertise),
        Kind::Deal | Kind::Seal | Kind::Ack => Some(Phase::Deal),
        Kind::Commit | Kind::Have => Some(Phase::Submit),
        Kind::Proposal | Kind::Vote | Kind::Liveness => Some(Phase::Decide),
        Kind::Reveal | Kind::SumCommit => Some(Phase::Reveal),
        Kind::Tags => Some(Phase::Open),
        Kind::Heartbeat | Kind::Join | Kind::Want | Kind::Decided | Kind::Leave | Kind::Recall => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::watch::Trained;
    use super::super::{Faults, Terms, check};
    use super::*;
    use crate::names::Factor;
    use crate::output::Write;

    // R17: a vector that is stored before its Commit counts as masked, whether that is ever said or not.
    #[test]
    fn a_vector_stored_without_its_commit_is_bound() {
        let mut world = World::new(Terms::new(1, 4), Faults::default());
        let trained = Trained {
            factor: Factor::A,
            from: Digest::ZERO,
            adapter: Vec::new().into(),
            delta: Vec::new(),
            carried: None,
        };
        let (places, watch) = world.parts();
        let pulled = Digest([1; 32]);
        watch.announced.insert(pulled);
        places[2].handed = Some((Height(2), trained));
        let store = |root: Digest| {
            Output::Store(Write {
                table: Table::Vectors,
                key: root.0.to_vec(),
                value: Some(vec![0; 4].into()),
            })
        };
        for root in [pulled, Digest([2; 32])] {
            world.note(2, &store(root).into());
            assert_eq!(check::mask::check(&world), Ok(()));
        }
        world.note(2, &store(Digest([3; 32])).into());
        assert!(check::mask::check(&world).is_err(), "two vectors, one mask");
    }
}
