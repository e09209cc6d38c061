//! The diary of a world: when each height began and was decided, and who was away or cut off meanwhile.
//!
//! What [`super::timeline`] tells of a round, and how long a round takes, is read from here.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::{self, Decided};
use crate::names::{Height, Round};
use crate::output::Report;
use crate::record::Record;
use crate::time::Time;

/// When what happened.
#[derive(Debug, Clone, Default)]
pub struct Diary {
    /// From when to when each place was down; [`FOREVER`] while it still is.
    pub away: BTreeMap<usize, Vec<(Time, Time)>>,
    /// Who was cut off from the others, from when to when.
    pub cuts: Vec<(BTreeSet<usize>, Time, Time)>,
    /// Which single link was lost, from when to when.
    pub breaks: Vec<((usize, usize), Time, Time)>,
    /// The rounds by height.
    pub rounds: BTreeMap<Height, Round>,
    /// When a member had opened the sum of a height.
    pub opened: BTreeMap<(Height, usize), Time>,
    /// When the first member held the record of a height.
    pub decided: BTreeMap<Height, Time>,
    /// When a member had masked its vector.
    pub submitted: BTreeMap<(Height, usize), Time>,
    /// The decided records as the first member stored them.
    pub records: BTreeMap<Height, Record>,
}

/// The end of what has not ended.
pub const FOREVER: Time = Time(u64::MAX);

impl Diary {
    /// The places are to be cut in two: the smaller side counts as cut off.
    pub(super) fn cut(&mut self, side: &[usize], places: usize, from: Time, to: Time) {
        let side: BTreeSet<usize> = side.iter().copied().collect();
        let other: BTreeSet<usize> = (0..places).filter(|place| !side.contains(place)).collect();
        let smaller = if other.len() < side.len() {
            other
        } else {
            side
        };
        self.cuts.push((smaller, from, to));
    }

    /// A place went down.
    pub(super) fn fell(&mut self, place: usize, now: Time) {
        self.away.entry(place).or_default().push((now, FOREVER));
    }

    /// A place is up, for the first time or again.
    pub(super) fn rose(&mut self, place: usize, now: Time) {
        if let Some((_, until)) = self.away.get_mut(&place).and_then(|away| away.last_mut()) {
            *until = now.min(*until);
        }
    }

    /// A member's masked vector is announced.
    pub(super) fn announced(&mut self, height: Height, place: usize, now: Time) {
        self.submitted.entry((height, place)).or_insert(now);
    }

    /// What a member reported.
    pub(super) fn told(&mut self, report: &Report, now: Time) {
        match report {
            Report::Phase {
                height,
                round: Some(round),
                ..
            } => {
                self.rounds.entry(*height).or_insert(*round);
            }
            Report::Decided { height, .. } => {
                self.decided.entry(*height).or_insert(now);
            }
            _ => {}
        }
    }

    /// What a member stored as the next entry of its ledger.
    pub(super) fn recorded(&mut self, key: &[u8], row: &[u8]) {
        let Ok(height) = key.try_into().map(u64::from_be_bytes) else {
            return;
        };
        if self.records.contains_key(&Height(height)) {
            return;
        }
        let decided = message::decode::<Decided>(row);
        let record = decided.and_then(|decided| Record::from_bytes(&decided.record));
        if let Ok(record) = record {
            self.records.insert(Height(height), record);
        }
    }

    /// When the last height was decided.
    pub fn last_decided(&self) -> Time {
        self.decided.values().copied().max().unwrap_or_default()
    }

    /// Whether a place was down at any moment of a span.
    pub fn was_away(&self, place: usize, from: Time, to: Time) -> bool {
        let away = self.away.get(&place).into_iter().flatten();
        away.into_iter()
            .any(|(fell, rose)| *fell <= to && from < *rose)
    }

    /// Whether a place was cut off at any moment of a span.
    pub fn was_cut_off(&self, place: usize, from: Time, to: Time) -> bool {
        let mut cuts = self.cuts.iter();
        cuts.any(|(side, cut, joined)| side.contains(&place) && *cut <= to && from < *joined)
    }

    /// Whether any single link was lost at any moment of a span.
    pub fn was_torn(&self, from: Time, to: Time) -> bool {
        let mut breaks = self.breaks.iter();
        breaks.any(|(_, broke, back)| *broke <= to && from < *back)
    }

    /// How often a member crashed.
    pub fn crashes(&self) -> usize {
        self.away.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_touches_what_happened_in_it() {
        let mut diary = Diary::default();
        diary.rose(3, Time(0));
        assert!(!diary.was_away(3, Time(0), FOREVER), "its first start");
        diary.fell(3, Time(10));
        assert!(diary.was_away(3, Time(5), Time(10)));
        assert!(diary.was_away(3, Time(50), Time(60)), "it is still down");
        diary.rose(3, Time(20));
        assert!(!diary.was_away(3, Time(20), Time(60)));
        assert!(!diary.was_away(3, Time(0), Time(9)));
        assert!(!diary.was_away(4, Time(0), FOREVER));
        diary.cut(&[0, 3, 4], 5, Time(5), Time(7));
        assert!(diary.was_cut_off(1, Time(0), Time(5)));
        assert!(!diary.was_cut_off(1, Time(7), Time(9)));
        assert!(!diary.was_cut_off(0, Time(0), Time(9)));
        diary.cut(&[0, 3], 5, Time(5), Time(7));
        assert!(diary.was_cut_off(0, Time(0), Time(9)));
        assert_eq!(diary.crashes(), 1);
        diary.breaks.push(((0, 3), Time(5), Time(7)));
        assert!(diary.was_torn(Time(0), Time(5)) && !diary.was_torn(Time(7), Time(9)));
    }
}
