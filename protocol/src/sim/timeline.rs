//! The rounds of a world, a line each: how it ended, who counts in its sum, who does not and why.

use std::collections::{BTreeMap, BTreeSet};

use super::diary::{Diary, FOREVER};
use super::{Way, World};
use crate::names::{Height, MemberId, Round};
use crate::params;
use crate::record::{Cause, Previous, Record};
use crate::time::{Span, Time};

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The sum is certified.
    Opened,
    /// Nothing was opened.
    Null,
    /// Survivors were decided, but no sum could be opened or used.
    Spent,
    /// The next record, which tells, was never decided.
    Untold,
}

/// Why a member counts in no sum of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It was down while it was needed.
    Crashed,
    /// It was on the smaller side of a cut.
    CutOff,
    /// Its vector came after the decision, or never.
    Late,
    /// Its vector was there in time, and the survivors were chosen without it.
    LeftOut,
    /// Its shares were not dealt in time, or too few members acknowledged them.
    NotASharer,
    /// It was no member at this height.
    Removed,
    /// It follows a hostile script.
    Hostile,
}

/// A round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub round: Round,
    /// Its height.
    pub height: Height,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was lost.
    pub reason: Option<String>,
    /// How many were members.
    pub members: usize,
    /// Who counts: the survivors, or in a null round those whose vectors were there in time.
    pub counted: Vec<usize>,
    /// Everybody else.
    pub out: BTreeMap<Why, Vec<usize>>,
    /// From the record before to its own.
    pub took: Span,
    /// Bytes that all members together received meanwhile.
    pub bytes: u64,
}

impl Why {
    /// In a word or two.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::CutOff => "cut off",
            Self::Late => "late",
            Self::LeftOut => "left out",
            Self::NotASharer => "not a sharer",
            Self::Removed => "removed",
            Self::Hostile => "hostile",
        }
    }

    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Crashed,
        Self::CutOff,
        Self::Late,
        Self::LeftOut,
        Self::NotASharer,
        Self::Removed,
        Self::Hostile,
    ];
}

impl Outcome {
    /// In a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Null => "null",
            Self::Spent => "spent",
            Self::Untold => "untold",
        }
    }
}

/// The heights of the rounds whose records are decided.
pub fn rounds(world: &World) -> Vec<Height> {
    let diary = &world.watch().diary;
    let decided = |height: &&Height| diary.records.contains_key(*height);
    diary.rounds.keys().filter(decided).copied().collect()
}

/// Whether all is known of a round: the record that says what became of its sum is decided.
pub fn told(world: &World, height: Height) -> bool {
    let records = &world.watch().diary.records;
    records.contains_key(&Height(height.0 + 1))
}

/// What became of the round at a height; `None` while it is not decided, or where the height is no round.
pub fn line(world: &World, height: Height) -> Option<Line> {
    let diary = &world.watch().diary;
    let round = *diary.rounds.get(&height)?;
    let record = diary.records.get(&height)?;
    let decided = diary.decided.get(&height).copied().unwrap_or(FOREVER);
    let moment = |back: u64| {
        let before = height.0.checked_sub(back).map(Height);
        let before = before.and_then(|before| diary.decided.get(&before));
        before.copied().unwrap_or(Time(0))
    };
    let view = View {
        diary,
        height,
        sharers: sharers(diary, height),
        survivors: record
            .survivors
            .as_ref()
            .map(|_| places(&record.survivor_ids())),
        set_up: moment(2),
        begun: moment(1),
        decided,
    };
    let members = members(world, height);
    let (mut counted, mut out) = (Vec::new(), BTreeMap::<Why, Vec<usize>>::new());
    for place in 0..world.places.len() {
        let why = match view.missing(place) {
            None => {
                counted.push(place);
                continue;
            }
            _ if world.is_hostile(place) => Why::Hostile,
            _ if !members.contains(&place) => Why::Removed,
            Some(why) => why,
        };
        out.entry(why).or_default().push(place);
    }
    if matches!(record.previous, Previous::Spent { .. }) {
        // Nobody was to submit anything.
        out.remove(&Why::Late);
    }
    let next = diary.records.get(&Height(height.0 + 1));
    let least = params::survivors_min(world.charter(), members.len());
    let (outcome, reason) = view.outcome(record, next, members.len(), least);
    Some(Line {
        round,
        height,
        outcome,
        reason,
        members: members.len(),
        counted,
        out,
        took: decided - view.begun,
        bytes: world.tally().at(height, Way::Received).bytes,
    })
}

/// A round with everything that its line is read from.
struct View<'a> {
    diary: &'a Diary,
    height: Height,
    sharers: BTreeSet<usize>,
    survivors: Option<BTreeSet<usize>>,
    set_up: Time,
    begun: Time,
    decided: Time,
}

impl View<'_> {
    /// Why a member does not count, if it does not.
    fn missing(&self, place: usize) -> Option<Why> {
        if self
            .survivors
            .as_ref()
            .is_some_and(|all| all.contains(&place))
        {
            return None;
        }
        if !self.sharers.contains(&place) {
            let cause = self.cause(place, self.set_up, self.begun);
            return Some(cause.unwrap_or(Why::NotASharer));
        }
        let submitted = self.diary.submitted.get(&(self.height, place));
        let in_time = submitted.is_some_and(|at| *at <= self.decided);
        if in_time && self.survivors.is_none() {
            return None;
        }
        let cause = self.cause(place, self.begun, self.decided);
        Some(cause.unwrap_or(if in_time { Why::LeftOut } else { Why::Late }))
    }

    fn cause(&self, place: usize, from: Time, to: Time) -> Option<Why> {
        if self.diary.was_away(place, from, to) {
            Some(Why::Crashed)
        } else {
            self.diary
                .was_cut_off(place, from, to)
                .then_some(Why::CutOff)
        }
    }

    fn outcome(
        &self,
        record: &Record,
        next: Option<&Record>,
        members: usize,
        least: usize,
    ) -> (Outcome, Option<String>) {
        if record.survivors.is_none() {
            let in_time = |place: &&usize| self.missing(**place).is_none();
            let vectors = self.sharers.iter().filter(in_time).count();
            let reason = if matches!(record.previous, Previous::Spent { .. }) {
                "the round before was spent, so this one trained on nothing certified".to_owned()
            } else if vectors < least {
                format!("{vectors} vectors were in time, {least} of {members} members are needed")
            } else {
                format!("{vectors} vectors were in time, but too few reached those who proposed")
            };
            return (Outcome::Null, Some(reason));
        }
        match next.map(|next| &next.previous) {
            Some(Previous::Opened(_)) => (Outcome::Opened, None),
            Some(Previous::Spent {
                cause,
                culprits,
                silent,
            }) => {
                let reason = match cause {
                    Cause::Dealing => format!("the dealing of {} is proved false", names(culprits)),
                    Cause::Range => "the sum was out of range".to_owned(),
                    Cause::Withheld if silent.is_empty() => {
                        "too few shares were revealed in time".to_owned()
                    }
                    Cause::Withheld => {
                        format!(
                            "too few shares were revealed in time; silent: {}",
                            names(silent)
                        )
                    }
                };
                (Outcome::Spent, Some(reason))
            }
            Some(Previous::None) | None => (Outcome::Untold, None),
        }
    }
}

/// Members by their numbers.
fn names(members: &[MemberId]) -> String {
    let names: Vec<String> = members.iter().map(|id| id.0.to_string()).collect();
    format!("member {}", names.join(", "))
}

/// The sharers of a height, as the record before has them.
pub(super) fn sharers(diary: &Diary, height: Height) -> BTreeSet<usize> {
    let before = height.0.checked_sub(1).map(Height);
    let record = before.and_then(|before| diary.records.get(&before));
    places(&record.map(Record::sharer_ids).unwrap_or_default())
}

/// The members of a height: the founders, or as the record two heights before has it.
pub(super) fn members(world: &World, height: Height) -> BTreeSet<usize> {
    let before = height.0.checked_sub(2).map(Height);
    let record = before.and_then(|before| world.watch().diary.records.get(&before));
    record.map_or_else(
        || (0..world.terms().founders).collect(),
        |record| places(&record.members_after_next),
    )
}

/// Founders are members in the order of their places.
fn places(ids: &[MemberId]) -> BTreeSet<usize> {
    let place = |id: &MemberId| usize::try_from(id.0).ok();
    ids.iter().filter_map(place).collect()
}
