//! What goes wrong in a world, and where exactly a member dies.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::fraction::Fraction;

use super::byzantine::Script;
use super::links::link;
use super::{Chance, Latency};
use crate::output::Phase;
use crate::time::Time;

/// Where in the stream of outputs a crash strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The next store is lost, and all behind it.
    BeforeStore,
    /// The next store is durable, and nothing behind it happens.
    AfterStore,
    /// The next message is out, and nothing behind it happens.
    AfterSend,
}

/// When a crash strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// At the n-th output that fits the point while the member is in the phase, counted from 0.
    InPhase {
        /// The phase that the member reported last, or that of the message or row.
        phase: Phase,
        /// How many fitting outputs pass before.
        skip: u64,
    },
    /// At the n-th fitting output in the named height and phase.
    AtHeight {
        /// The height that the member reported last.
        height: u64,
        /// Its phase.
        phase: Phase,
        /// How many fitting outputs pass before.
        skip: u64,
    },
    /// At the first fitting output after the own dealing of this height is acknowledged.
    AfterDealt {
        /// The height that was dealt for.
        height: u64,
    },
    /// At the first fitting output after the own vector of this height is stored and sent.
    AfterSubmitted {
        /// The height.
        height: u64,
    },
    /// At the next fitting output.
    Next,
}

/// One death of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Who.
    pub place: usize,
    /// When.
    pub strike: Strike,
    /// Where in the outputs.
    pub point: Point,
    /// Milliseconds until it starts again with what was stored; `None`: never.
    pub back_after: Option<u64>,
    /// Whether it starts again with the disk as it was when its last dealing was acknowledged: a restored snapshot.
    pub rollback: bool,
}

/// What a disk loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// What was said and signed: outbox, journal, consensus log, and the session secrets. The member knows it.
    Words,
    /// Everything but the identity: the folder was made anew.
    Everything,
}

/// The faults of a world: those that a test names, and those that the seed deals out by the round.
///
/// Faults of the network and those by the round end at `heal`; then everybody who may come back comes back.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Each message is lost so probably.
    pub loss: Fraction,
    /// Messages that arrive twice, of a hundred.
    pub twice_percent: u64,
    /// How long a message is on its way: different ways make reordering.
    pub latency: Latency,
    /// Milliseconds of training, at least and at most, drawn for each order.
    pub training: (u64, u64),
    /// Orders that the engine cannot carry out, of a hundred, before the world heals.
    pub failing_percent: u64,
    /// Places that train so many times slower.
    pub slow: Vec<(usize, u64)>,
    /// Pairs that can never reach each other directly, lower place first; gossip reaches them through others.
    pub apart: BTreeSet<(usize, usize)>,
    /// The deaths.
    pub crashes: Vec<Crash>,
    /// Places whose disk loses something whenever they start again.
    pub losses: Vec<(usize, Loss)>,
    /// Who leaves in order, and when.
    pub leaves: Vec<(usize, Time)>,
    /// Two sides that cannot reach each other: who is on the one side, from when to when.
    pub splits: Vec<(Vec<usize>, Time, Time)>,
    /// Links that are lost for a while, lower place first, from when to when: gossip goes over others meanwhile.
    pub broken: BTreeMap<(usize, usize), (Time, Time)>,
    /// In each round each member crashes so probably, at a random moment, and is back half a round later on average.
    pub churn: Fraction,
    /// In each round the network is cut in two so probably, from a random moment on, for half a round on average.
    pub partition: Fraction,
    /// In each round each link is lost so probably, from a random moment on, for half a round on average.
    pub breaks: Fraction,
    /// When the network is sound again; `None`: when the last round is decided.
    pub heal: Option<Time>,
    /// Members that are hostile, all the time, and their scripts.
    pub hostile: Vec<(usize, Script)>,
    /// Whether both halves of a fork reach everybody, as a gossip mesh carries them, and not one half each.
    pub meshed: bool,
    /// Members that break a rule by a script and are judged like honest ones: negative controls of the checkers.
    pub controls: Vec<(usize, Script)>,
}

impl Default for Faults {
    /// A sound network with a little delay.
    fn default() -> Self {
        Self {
            loss: never(),
            twice_percent: 0,
            latency: Latency::Within(2, 40),
            training: (500, 1500),
            failing_percent: 0,
            slow: Vec::new(),
            apart: BTreeSet::new(),
            crashes: Vec::new(),
            losses: Vec::new(),
            leaves: Vec::new(),
            splits: Vec::new(),
            broken: BTreeMap::new(),
            churn: never(),
            partition: never(),
            breaks: never(),
            heal: Some(Time(0)),
            hostile: Vec::new(),
            meshed: false,
            controls: Vec::new(),
        }
    }
}

/// The probability of what never happens.
pub fn never() -> Fraction {
    percent(0)
}

/// So many of a hundred, as a probability.
///
/// # Panics
/// Beyond a thousand million.
pub fn percent(percent: u64) -> Fraction {
    let text = format!("{}.{:02}", percent / 100, percent % 100);
    text.parse().expect("two decimals")
}

/// All phases.
pub const PHASES: [Phase; 7] = [
    Phase::Advertise,
    Phase::Deal,
    Phase::Train,
    Phase::Submit,
    Phase::Decide,
    Phase::Reveal,
    Phase::Open,
];

/// All points.
pub const POINTS: [Point; 3] = [Point::BeforeStore, Point::AfterStore, Point::AfterSend];

impl Faults {
    /// Whether the network is not sound yet.
    pub(super) fn sick(&self, now: Time) -> bool {
        self.heal.is_none_or(|heal| now < heal)
    }

    /// Whether a single link is lost at this moment, or can never be.
    pub(super) fn parted(&self, now: Time, one: usize, other: usize) -> bool {
        self.apart.contains(&link(one, other)) || self.is_broken(now, one, other)
    }

    /// Whether a single link is lost at this moment.
    pub(super) fn is_broken(&self, now: Time, one: usize, other: usize) -> bool {
        let broken = self.broken.get(&link(one, other));
        broken.is_some_and(|(from, to)| *from <= now && now < *to)
    }

    /// A mixture drawn from the seed: loss up to 20 %, duplicates, reordering, up to three crashes, a split.
    pub fn mixed(seed: u64, members: usize) -> Self {
        let mut chance = Chance::new(seed, "conclave/sim/faults");
        let crashes = chance.below(4);
        let crashes = (0..crashes).map(|_| Self::crash(&mut chance, members));
        let crashes = crashes.collect();
        let mut faults = Self {
            loss: percent(chance.below(21)),
            twice_percent: chance.below(20),
            latency: Latency::Within(1, chance.within(20, 400)),
            training: (300, chance.within(600, 4000)),
            crashes,
            heal: Some(Time(60_000)),
            ..Self::default()
        };
        if chance.percent(20) {
            faults
                .slow
                .push((chance.index(members), chance.within(2, 6)));
        }
        if chance.percent(25) {
            let begin = chance.within(500, 15_000);
            let end = begin.saturating_add(chance.within(500, 12_000));
            let lonely = vec![chance.index(members)];
            faults.splits.push((lonely, Time(begin), Time(end)));
        }
        faults
    }

    /// Harder: up to nine crashes, some for good (never more than a quorum can do without), loss up to 40 %,
    /// several splits into two sides of any size.
    pub fn wild(seed: u64, members: usize) -> Self {
        let mut chance = Chance::new(seed, "conclave/sim/wild");
        let mut faults = Self::mixed(seed, members);
        faults.loss = percent(chance.below(41));
        faults.failing_percent = chance.below(15);
        faults.heal = Some(Time(chance.within(20_000, 80_000)));
        let crashes = chance.below(10);
        faults.crashes = (0..crashes)
            .map(|_| Self::crash(&mut chance, members))
            .collect();
        let spare = members.saturating_sub(1) / 3;
        for _ in 0..chance.below(u64::try_from(spare).unwrap_or(0) + 1) {
            let mut last = Self::crash(&mut chance, members);
            last.back_after = None;
            faults.crashes.push(last);
        }
        for _ in 0..chance.below(4) {
            let begin = chance.within(500, 30_000);
            let end = begin.saturating_add(chance.within(500, 15_000));
            let side = (0..members).filter(|_| chance.percent(40)).collect();
            faults.splits.push((side, Time(begin), Time(end)));
        }
        faults
    }

    /// The mixture, and links that are lost in the middle of heights: each at most once, up to half of them.
    pub fn torn(seed: u64, members: usize) -> Self {
        let mut chance = Chance::new(seed, "conclave/sim/torn");
        let mut faults = Self::mixed(seed, members);
        let percent = chance.within(10, 50);
        for pair in (0..members).flat_map(|one| (0..one).map(move |other| (other, one))) {
            let begin = chance.within(500, 25_000);
            let end = begin.saturating_add(chance.within(200, 12_000));
            if chance.percent(percent) {
                faults.broken.insert(pair, (Time(begin), Time(end)));
            }
        }
        faults
    }

    fn crash(chance: &mut Chance, members: usize) -> Crash {
        let phase = PHASES.get(chance.index(PHASES.len()));
        let point = POINTS.get(chance.index(POINTS.len()));
        Crash {
            place: chance.index(members),
            strike: Strike::InPhase {
                phase: phase.copied().unwrap_or(Phase::Train),
                skip: chance.below(12),
            },
            point: point.copied().unwrap_or(Point::AfterStore),
            back_after: Some(chance.within(100, 15_000)),
            rollback: false,
        }
    }
}
