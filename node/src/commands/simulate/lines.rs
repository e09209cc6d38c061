//! A round in one line: number, outcome, who counts, who does not and why, bytes, virtual time.

use conclave_protocol::sim::timeline::{Line, Outcome, Why};

use crate::report::number;

/// So many members are named for a reason; the others are counted.
const NAMED: usize = 6;

/// The line of a round, among so many rounds.
pub(super) fn line(line: &Line, rounds: u32, members: u32) -> String {
    let digits = rounds.to_string().len();
    let mut parts = vec![format!(
        "round {:>digits$}  {:<6}  {:>2} of {} in  {:>8} a member  {:>6.1} s",
        line.round.0,
        line.outcome.word(),
        line.counted.len(),
        line.members,
        number::bytes(line.bytes / u64::from(members)),
        seconds(line),
    )];
    let out = Why::ALL
        .iter()
        .filter_map(|why| line.out.get(why).map(|who| out(*why, who)));
    let out: Vec<String> = out.collect();
    if !out.is_empty() {
        parts.push(format!("out: {}", out.join("; ")));
    }
    let lost = line.outcome != Outcome::Opened;
    parts.extend(
        line.reason
            .iter()
            .filter(|_| lost)
            .map(|reason| format!("({reason})")),
    );
    parts.join("  ")
}

/// `crashed 3, 7`, or `crashed 3, 7, 9, 12, 14, 20 and 11 more`.
fn out(why: Why, who: &[usize]) -> String {
    let named: Vec<String> = who.iter().take(NAMED).map(ToString::to_string).collect();
    let more = who.len().saturating_sub(NAMED);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!("{} {}{more}", why.word(), named.join(", "))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a round lasts less than 2^52 milliseconds"
)]
fn seconds(line: &Line) -> f64 {
    line.took.0 as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use conclave_protocol::names::{Height, Round};
    use conclave_protocol::time::Span;

    use super::*;

    #[test]
    fn a_line_names_who_is_out_and_why() {
        let lost = Line {
            round: Round(3),
            height: Height(4),
            outcome: Outcome::Null,
            reason: Some("2 vectors were in time, 3 of 12 members are needed".to_owned()),
            members: 12,
            counted: vec![0, 1],
            out: BTreeMap::from([(Why::Late, vec![2]), (Why::Crashed, (3..12).collect())]),
            took: Span(6_040),
            bytes: 24_000,
        };
        assert_eq!(
            line(&lost, 20, 12),
            "round  3  null     2 of 12 in    2.0 kB a member     6.0 s  out: crashed 3, 4, 5, 6, 7, 8 and 3 more; \
             late 2  (2 vectors were in time, 3 of 12 members are needed)"
        );
        let won = Line {
            outcome: Outcome::Opened,
            reason: None,
            out: BTreeMap::new(),
            ..lost
        };
        assert_eq!(
            line(&won, 9, 12),
            "round 3  opened   2 of 12 in    2.0 kB a member     6.0 s"
        );
    }
}
