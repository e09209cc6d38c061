//! Bad days by the round: what the seed deals out when a round begins, and the healing after the last one.
//!
//! Nobody knows beforehand when a round will begin. So the fate of a round is drawn from the seed and its height the
//! moment somebody enters it, on the scale of what the last rounds took.

use conclave_crypto::fraction::Fraction;

use super::faults::POINTS;
use super::links::link;
use super::world::Event;
use super::{Chance, Crash, Faults, Latency, Point, Strike, Terms, World, byzantine};
use crate::names::Height;
use crate::output::Report;
use crate::time::{Span, Time};

/// How bad the days of a simulated federation are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Climate {
    /// In each round each member crashes so probably, and is back half a round later on average.
    pub churn: Fraction,
    /// Each message is lost so probably.
    pub loss: Fraction,
    /// In each round the network is cut in two so probably, for half a round on average.
    pub partition: Fraction,
    /// In each round each link is lost so probably, for half a round on average.
    pub breaks: Fraction,
    /// How far the members are from each other.
    pub latency: Latency,
    /// How many members follow a hostile script.
    pub hostile: usize,
}

impl Climate {
    /// The faults of this climate. Besides what it names, one message of a hundred arrives twice, one member of eight
    /// trains two or three times slower, with every other seed both halves of a fork reach everybody, and in a
    /// wide area one pair of fifty cannot reach each other directly.
    pub fn faults(&self, terms: &Terms) -> Faults {
        let members = terms.founders;
        let mut chance = Chance::new(terms.seed, "conclave/sim/climate");
        let mut faults = Faults {
            loss: self.loss,
            twice_percent: 1,
            latency: self.latency,
            churn: self.churn,
            partition: self.partition,
            breaks: self.breaks,
            heal: None,
            hostile: byzantine::pick(terms, self.hostile),
            meshed: terms.seed.is_multiple_of(2),
            ..Faults::default()
        };
        for place in 0..members {
            let times = chance.within(2, 3);
            if chance.below(8) == 0 {
                faults.slow.push((place, times));
            }
            for other in 0..place {
                if chance.percent(2) && self.latency == Latency::Wan {
                    faults.apart.insert(link(place, other));
                }
            }
        }
        faults
    }
}

/// What the schedule knows of the rounds so far.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// The newest height with a round, and when it began.
    newest: Option<(Height, Time)>,
    /// What the rounds took.
    spans: Vec<Span>,
}

impl Schedule {
    /// The median of the last three rounds; before any was seen, a guess from the time of training.
    fn span(&self, faults: &Faults) -> Span {
        let mut last: Vec<Span> = self.spans.iter().rev().take(3).copied().collect();
        last.sort_unstable();
        let guess = Span(faults.training.1 + 2000);
        last.get(last.len() / 2).copied().unwrap_or(guess)
    }
}

impl World {
    /// Notes what a member reports, and deals out the faults of a round that begins.
    pub(super) fn observe(&mut self, report: &Report) {
        let now = self.now;
        self.watch.diary.told(report, now);
        match report {
            Report::Phase {
                height,
                round: Some(_),
                ..
            } => self.round_begins(*height),
            Report::Decided {
                round: Some(round), ..
            } if round.0 == self.terms.rounds && self.faults.heal.is_none() => self.heal(),
            _ => {}
        }
    }

    fn round_begins(&mut self, height: Height) {
        let now = self.now;
        match self.schedule.newest {
            Some((newest, _)) if height <= newest => return,
            Some((_, began)) => self.schedule.spans.push(now - began),
            None => {}
        }
        self.schedule.newest = Some((height, now));
        if !self.faults.sick(now) {
            return;
        }
        let span = self.schedule.span(&self.faults).0.max(1);
        let purpose = format!("conclave/sim/round {}", height.0);
        let mut chance = Chance::new(self.terms.seed, &purpose);
        for place in 0..self.places.len() {
            let moment = chance.below(span);
            let crash = Crash {
                place,
                strike: Strike::Next,
                point: POINTS
                    .get(chance.index(POINTS.len()))
                    .copied()
                    .unwrap_or(Point::AfterSend),
                back_after: Some(chance.within(1, span)),
                rollback: false,
            };
            if chance.probably(&self.faults.churn) {
                self.after(moment, Event::Doom(crash));
            }
        }
        if chance.probably(&self.faults.partition) {
            self.cut(&mut chance, span);
        }
        if !self.faults.breaks.is_zero() {
            self.tear(height, span);
        }
    }

    /// Breaks links of the round, each at a random moment, for half a round on average.
    fn tear(&mut self, height: Height, span: u64) {
        let purpose = format!("conclave/sim/links {}", height.0);
        let mut chance = Chance::new(self.terms.seed, &purpose);
        for one in 0..self.places.len() {
            for other in 0..one {
                let from = self.now + Span(chance.below(span));
                let to = from + Span(chance.within(1, span));
                let last = self.faults.broken.get(&link(one, other));
                let whole = last.is_none_or(|(_, to)| *to <= self.now);
                if chance.probably(&self.faults.breaks) && whole {
                    self.faults.broken.insert(link(one, other), (from, to));
                    self.unlink(link(one, other), from, to);
                }
            }
        }
    }

    /// Has a link end and come back.
    pub(super) fn unlink(&mut self, (one, other): (usize, usize), from: Time, to: Time) {
        self.watch.diary.breaks.push(((one, other), from, to));
        self.at(from, Event::Link(one, other));
        self.at(to, Event::Link(one, other));
    }

    /// Cuts off one to half of the members at a random moment of the round, for half a round on average.
    fn cut(&mut self, chance: &mut Chance, span: u64) {
        let mut places: Vec<usize> = (0..self.places.len()).collect();
        let most = u64::try_from(places.len() / 2).unwrap_or(u64::MAX);
        let count = chance.within(1, most.max(1));
        let side: Vec<usize> = (0..count)
            .map(|_| places.swap_remove(chance.index(places.len())))
            .collect();
        let from = self.now + Span(chance.below(span));
        let to = from + Span(chance.within(1, span));
        let now = self.now;
        self.faults.splits.retain(|(_, _, end)| *end > now);
        let all = self.places.len();
        self.watch.diary.cut(&side, all, from, to);
        self.faults.splits.push((side, from, to));
        self.at(from, Event::Split);
        self.at(to, Event::Split);
    }

    /// A crash of the schedule is due: it strikes at the next fitting output, if the member is up.
    pub(super) fn doom(&mut self, crash: Crash) {
        let marked =
            |(other, _): &(Crash, u64)| other.place == crash.place && other.strike == Strike::Next;
        let up = self.is_up(crash.place);
        if up && self.faults.sick(self.now) && !self.armed.iter().any(marked) {
            self.armed.push((crash, 0));
        }
    }

    /// The last round is decided: the network is sound from now on, nobody crashes any more, and who is down returns.
    fn heal(&mut self) {
        let now = self.now;
        self.faults.heal = Some(now);
        self.faults.splits.clear();
        self.faults.broken.clear();
        let diary = &mut self.watch.diary;
        // What was to come later does not happen.
        diary.cuts.retain(|(_, from, _)| *from <= now);
        diary.breaks.retain(|(_, from, _)| *from <= now);
        let cuts = diary.cuts.iter_mut().map(|(_, _, to)| to);
        for to in cuts.chain(diary.breaks.iter_mut().map(|(_, _, to)| to)) {
            *to = (*to).min(now);
        }
        self.armed.retain(|(crash, _)| crash.strike != Strike::Next);
        self.at(now, Event::Split);
    }
}

#[cfg(test)]
mod tests {
    use super::super::faults::{never, percent};
    use super::*;

    #[test]
    fn a_climate_is_drawn_from_its_seed() {
        let climate = Climate {
            churn: percent(10),
            loss: never(),
            partition: never(),
            breaks: never(),
            latency: Latency::Wan,
            hostile: 20,
        };
        let faults = climate.faults(&Terms::new(7, 100));
        let again = climate.faults(&Terms::new(7, 100));
        assert_eq!((&faults.slow, &faults.apart), (&again.slow, &again.apart));
        assert_eq!(faults.hostile.len(), 20);
        assert_eq!(faults.hostile, again.hostile);
        assert!((5..25).contains(&faults.slow.len()), "{:?}", faults.slow);
        let pairs = faults.apart.len();
        assert!((60..140).contains(&pairs), "{pairs} of 4950 pairs");
        assert!(faults.apart.iter().all(|(lower, higher)| lower < higher));
        assert_ne!(climate.faults(&Terms::new(8, 100)).slow, faults.slow);
    }

    #[test]
    fn the_scale_of_a_round_is_the_median_of_the_last_three() {
        let mut schedule = Schedule::default();
        let faults = Faults::default();
        assert_eq!(schedule.span(&faults), Span(3500));
        schedule.spans.extend([9000, 100, 5000, 70_000].map(Span));
        assert_eq!(schedule.span(&faults), Span(5000));
    }
}
