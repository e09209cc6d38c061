//! Who was there in which round, as SVG: a row a member, a column a round, a mark for each.
//!
//! The marks differ in shape, not only in colour: a filled disc counts in the sum, a crossed square dropped out after
//! it had dealt its shares, a ring shared in a round that was lost, a point was not there.

use super::html::escape;
use super::scale::px;
use super::{RoundOutcome, RoundReport, RunReport, number};

const ROW: f64 = 30.0;
const HEAD: f64 = 30.0;
/// What the rows below the members need.
const FOOT: f64 = 66.0;

/// How much room there is for names and rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// The class of the drawing, by which the page shows one of its sizes.
    pub(super) class: &'static str,
    /// Pixels for the names.
    pub(super) names: f64,
    /// Letters of a name that fit there.
    pub(super) letters: usize,
    /// Pixels that the rounds share if they can.
    pub(super) rounds: f64,
    /// The least that a round needs.
    pub(super) least: f64,
}

impl Room {
    /// A desk's.
    pub(super) const WIDE: Self = Self {
        class: "wide",
        names: 132.0,
        letters: 17,
        rounds: 736.0,
        least: 54.0,
    };
    /// A phone's.
    pub(super) const NARROW: Self = Self {
        class: "narrow",
        names: 82.0,
        letters: 11,
        rounds: 246.0,
        least: 41.0,
    };
}

/// What a member was in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Its delta is in the sum.
    Counted,
    /// It dealt and then was gone; its pair keys were rebuilt.
    Rebuilt,
    /// It dealt, and its delta is in no sum.
    Shared,
    /// It took no part.
    Absent,
}

impl Presence {
    /// Every one, with what the legend says of it.
    pub(super) const LEGEND: [(Self, &'static str); 4] = [
        (Self::Counted, "counts in the sum"),
        (
            Self::Rebuilt,
            "dropped out after dealing, pair keys rebuilt",
        ),
        (Self::Shared, "dealt shares, not in a sum"),
        (Self::Absent, "not there"),
    ];

    fn of(name: &str, round: &RoundReport) -> Self {
        let has = |names: &[String]| names.iter().any(|other| other == name);
        if round.outcome == RoundOutcome::Opened && round.survivors.as_deref().is_some_and(has) {
            Self::Counted
        } else if has(&round.rebuilt) {
            Self::Rebuilt
        } else if has(&round.sharers) || round.survivors.as_deref().is_some_and(has) {
            Self::Shared
        } else {
            Self::Absent
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Counted => "counts in the sum",
            Self::Rebuilt => "dropped out, pair keys rebuilt",
            Self::Shared => "dealt shares, not in a sum",
            Self::Absent => "not there",
        }
    }

    /// The mark around a point.
    pub(super) fn mark(self, x: f64, y: f64) -> String {
        let (x, y) = (px(x), px(y));
        match self {
            Self::Counted => format!(r#"<circle class="counted" cx="{x}" cy="{y}" r="8"/>"#),
            Self::Rebuilt => {
                format!(
                    r#"<path class="rebuilt" d="M{x} {y}m-7 -7h14v14h-14zl14 14m0 -14l-14 14"/>"#
                )
            }
            Self::Shared => format!(r#"<circle class="shared" cx="{x}" cy="{y}" r="7"/>"#),
            Self::Absent => format!(r#"<circle class="absent" cx="{x}" cy="{y}" r="2"/>"#),
        }
    }
}

/// The timeline of `report`, at a width that shows every round; a page narrower than that scrolls it.
pub(super) fn svg(report: &RunReport, room: Room) -> String {
    let rounds = report.history.len().max(1);
    #[expect(
        clippy::cast_precision_loss,
        reason = "numbers of rounds and members are small"
    )]
    let (columns, members) = (rounds as f64, report.members.len() as f64);
    let column = (room.rounds / columns).clamp(room.least, room.least.max(124.0));
    let (width, bottom) = (room.names + columns * column, HEAD + members * ROW);
    let height = bottom + FOOT;
    let mut parts = vec![format!(
        r#"<svg class="timeline {}" width="{}" height="{}" viewBox="0 0 {} {}"
        role="img" aria-label="Who took part in each round">"#,
        room.class,
        px(width),
        px(height),
        px(width),
        px(height)
    )];
    parts.push(names(report, room, width, bottom));
    let mut x = room.names + column / 2.0;
    for round in &report.history {
        parts.push(round_column(report, round, x, column, bottom));
        x += column;
    }
    parts.push("</svg>".into());
    parts.concat()
}

/// A rule and a name a row, and what the rows below the members say.
fn names(report: &RunReport, room: Room, width: f64, bottom: f64) -> String {
    let mut parts = vec![r#"<text class="tick" x="0" y="19">round</text>"#.to_owned()];
    let mut y = HEAD;
    for member in &report.members {
        let (rule, text) = (px(y), px(y + ROW / 2.0 + 4.5));
        let name = escape(&clipped(&member.name, room.letters));
        parts.push(format!(
            r#"<path class="rule" d="M0 {rule}H{}"/><text class="name" x="0" y="{text}">{name}</text>"#,
            px(width)
        ));
        y += ROW;
    }
    parts.push(format!(
        r#"<path class="rule" d="M0 {}H{}"/>"#,
        px(bottom),
        px(width)
    ));
    for (text, below) in [("outcome", 21.0), ("took", 39.0), ("all sent", 57.0)] {
        parts.push(format!(
            r#"<text class="tick" x="0" y="{}">{text}</text>"#,
            px(bottom + below)
        ));
    }
    parts.concat()
}

fn round_column(
    report: &RunReport,
    round: &RoundReport,
    x: f64,
    column: f64,
    bottom: f64,
) -> String {
    let lost = round.outcome != RoundOutcome::Opened;
    let mut parts = Vec::new();
    if lost {
        let (left, wide, high) = (px(x - column / 2.0), px(column), px(bottom + FOOT));
        parts.push(format!(
            r#"<rect class="lost" x="{left}" y="0" width="{wide}" height="{high}"/>"#
        ));
    }
    let centre = px(x);
    parts.push(format!(
        r#"<text class="head middle" x="{centre}" y="19">{}</text>"#,
        round.round
    ));
    let mut y = HEAD + ROW / 2.0;
    for member in &report.members {
        let presence = Presence::of(&member.name, round);
        let about = format!(
            "{}, round {}: {}",
            member.name,
            round.round,
            presence.word()
        );
        parts.push(format!(
            "<g><title>{}</title>{}</g>",
            escape(&about),
            presence.mark(x, y)
        ));
        y += ROW;
    }
    let class = if lost {
        "tick middle bad"
    } else {
        "tick middle"
    };
    let seconds = round
        .seconds
        .map_or_else(|| number::UNKNOWN.into(), number::seconds);
    for (text, below) in [
        (round.outcome.word().to_owned(), 21.0),
        (seconds, 39.0),
        (sent(report, round.round), 57.0),
    ] {
        let class = if below < 30.0 { class } else { "tick middle" };
        parts.push(format!(
            r#"<text class="{class}" x="{centre}" y="{}">{text}</text>"#,
            px(bottom + below)
        ));
    }
    parts.concat()
}

/// What all members together sent in one round.
fn sent(report: &RunReport, round: u32) -> String {
    let traffic = report.members.iter().flat_map(|member| &member.traffic);
    let of_round: Vec<u64> = traffic
        .filter(|traffic| traffic.round == round)
        .map(|traffic| traffic.sent)
        .collect();
    if of_round.is_empty() {
        return number::UNKNOWN.into();
    }
    number::bytes(of_round.into_iter().fold(0, u64::saturating_add))
}

/// A name that fits beside its row.
fn clipped(name: &str, letters: usize) -> String {
    if name.chars().count() <= letters {
        return name.into();
    }
    name.chars().take(letters - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn one_can_see_who_dropped_out_and_whose_keys_were_rebuilt() {
        let report = sample::clinic();
        let svg = svg(&report, Room::WIDE);
        assert!(svg.contains("Dunmore, round 2: counts in the sum"));
        assert!(svg.contains("Dunmore, round 3: dropped out, pair keys rebuilt"));
        assert!(svg.contains("Dunmore, round 5: not there"));
        assert_eq!(svg.matches("class=\"rebuilt\"").count(), 2);
        assert_eq!(svg.matches("class=\"counted\"").count(), 6 * 4 + 2);
        assert_eq!(svg.matches("class=\"absent\"").count(), 2);
    }

    #[test]
    fn a_lost_round_counts_nobody() {
        let svg = svg(&sample::diverged(), Room::NARROW);
        assert!(svg.contains("Ahrenfeld, round 5: dealt shares, not in a sum"));
        assert_eq!(svg.matches("class=\"lost\"").count(), 1);
    }

    #[test]
    fn no_rounds_and_no_members_still_make_a_drawing() {
        assert!(svg(&RunReport::default(), Room::WIDE).ends_with("</svg>"));
    }
}
