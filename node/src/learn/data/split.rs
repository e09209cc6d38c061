//! Who gets which rows, and which of them only measure; everything by the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Chance, DataError, Row};

/// The fewest rows that a member of a testnet is given.
pub const MEMBER_ROWS_MIN: usize = 32;

const STREAM_SPLIT: u64 = 1;
const STREAM_HOLD_OUT: u64 = 2;

/// How one data set becomes the private rows of several members.
#[derive(Debug, Clone, PartialEq)]
pub enum Split {
    /// Every member gets an equal random part.
    Iid,
    /// Shares drawn from a symmetric Dirichlet distribution: of each `label` where every row has
    /// one, else of the whole; the smaller the number, the more unequal.
    Dirichlet(f64),
    /// The sorted values of this field are dealt to the members in turn.
    By(String),
}

impl FromStr for Split {
    type Err = DataError;

    fn from_str(given: &str) -> Result<Self, DataError> {
        let unknown = || DataError::UnknownSplit {
            given: given.to_owned(),
        };
        match given.split_once(':') {
            None if given == "iid" => Ok(Self::Iid),
            Some(("dirichlet", alpha)) => match alpha.parse::<f64>() {
                Ok(alpha) if alpha.is_finite() && alpha > 0.0 => Ok(Self::Dirichlet(alpha)),
                _ => Err(unknown()),
            },
            Some(("by", field)) if !field.is_empty() => Ok(Self::By(field.to_owned())),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iid => f.write_str("iid"),
            Self::Dirichlet(alpha) => write!(f, "dirichlet:{alpha}"),
            Self::By(field) => write!(f, "by:{field}"),
        }
    }
}

/// Deals `rows` to `members`; each gets at least [`MEMBER_ROWS_MIN`].
pub fn split(
    rows: Vec<Row>,
    how: &Split,
    members: usize,
    seed: u64,
) -> Result<Vec<Vec<Row>>, DataError> {
    let (have, need) = (rows.len(), members * MEMBER_ROWS_MIN);
    if have < need {
        return Err(DataError::Split(format!(
            "{have} rows are too few for {members} members, who need {MEMBER_ROWS_MIN} each ({need}); \
             give more rows or fewer nodes"
        )));
    }
    let mut chance = Chance::new(seed, STREAM_SPLIT);
    match how {
        Split::Iid => Ok(deal_evenly(rows, members, &mut chance)),
        Split::Dirichlet(alpha) => Ok(deal_unevenly(rows, *alpha, members, &mut chance)),
        Split::By(field) => deal_groups(rows, field, members, &mut chance),
    }
}

/// Sets aside 5 % of one member's rows, at least 1 and at most min(200, 500 / `members`), by the
/// seed: `(rows to train on, rows held out)`, both in their old order. Fewer than 2 rows all train.
pub fn hold_out(rows: Vec<Row>, members: usize, seed: u64) -> (Vec<Row>, Vec<Row>) {
    let aside = set_aside(rows.len(), members, seed);
    let (mut train, mut held) = (Vec::new(), Vec::new());
    for (row, aside) in rows.into_iter().zip(aside) {
        if aside {
            held.push(row);
        } else {
            train.push(row);
        }
    }
    (train, held)
}

/// Which of so many rows [`hold_out`] sets aside.
pub fn set_aside(rows: usize, members: usize, seed: u64) -> Vec<bool> {
    let most = (500 / members.max(1)).clamp(1, 200);
    let count = if rows < 2 {
        0
    } else {
        (rows / 20).clamp(1, most)
    };
    let mut order: Vec<usize> = (0..rows).collect();
    Chance::new(seed, STREAM_HOLD_OUT).shuffle(&mut order);
    let mut aside = vec![false; rows];
    for &index in &order[..count] {
        aside[index] = true;
    }
    aside
}

fn deal_evenly(mut rows: Vec<Row>, members: usize, chance: &mut Chance) -> Vec<Vec<Row>> {
    chance.shuffle(&mut rows);
    let mut dealt = vec![Vec::new(); members];
    for (index, row) in rows.into_iter().enumerate() {
        dealt[index % members].push(row);
    }
    dealt
}

fn deal_unevenly(rows: Vec<Row>, alpha: f64, members: usize, chance: &mut Chance) -> Vec<Vec<Row>> {
    let labelled = rows.iter().all(|row| row.field("label").is_some());
    let mut labels: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        let label = if labelled {
            row.field("label").unwrap_or_default()
        } else {
            String::new()
        };
        labels.entry(label).or_default().push(row);
    }
    let mut dealt = vec![Vec::new(); members];
    for (_, mut rows) in labels {
        chance.shuffle(&mut rows);
        let shares = chance.dirichlet(alpha, members);
        let total = rows.len();
        let (mut rows, mut until, mut given) = (rows.into_iter(), 0.0, 0);
        for (member, share) in dealt.iter_mut().zip(shares) {
            until += share;
            let end = rounded(until, total);
            member.extend(rows.by_ref().take(end.saturating_sub(given)));
            given = given.max(end);
        }
        dealt[members - 1].extend(rows);
    }
    top_up(&mut dealt);
    dealt
}

/// The rows from the largest member to those below the minimum; there are enough, `split` checked.
fn top_up(dealt: &mut [Vec<Row>]) {
    while let Some(poor) = (0..dealt.len()).find(|&member| dealt[member].len() < MEMBER_ROWS_MIN) {
        let rich = (0..dealt.len())
            .rev()
            .max_by_key(|&member| dealt[member].len())
            .unwrap_or(poor);
        match dealt[rich].pop() {
            Some(row) if rich != poor => dealt[poor].push(row),
            _ => return,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of at most `total`, which is far below 2^52"
)]
fn rounded(share: f64, total: usize) -> usize {
    ((share * total as f64).round().max(0.0) as usize).min(total)
}

fn deal_groups(
    rows: Vec<Row>,
    field: &str,
    members: usize,
    chance: &mut Chance,
) -> Result<Vec<Vec<Row>>, DataError> {
    let mut groups: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        let Some(value) = row.field(field) else {
            let what = format!(
                "field {field} is missing, and the split goes by it; add it or split otherwise"
            );
            return Err(DataError::Malformed { at: row.at, what });
        };
        groups.entry(value).or_default().push(row);
    }
    if groups.len() < members {
        let found = groups.len();
        return Err(DataError::Split(format!(
            "field {field} has {found} different values, fewer than the {members} members; \
             give fewer nodes or split by another field"
        )));
    }
    let mut dealt = vec![Vec::new(); members];
    for (turn, rows) in groups.into_values().enumerate() {
        dealt[turn % members].extend(rows);
    }
    for (index, rows) in dealt.iter_mut().enumerate() {
        let (have, number) = (rows.len(), index + 1);
        if have < MEMBER_ROWS_MIN {
            return Err(DataError::Split(format!(
                "split by {field} leaves member {number} with {have} rows, below the {MEMBER_ROWS_MIN} \
                 it needs; give fewer nodes or split otherwise"
            )));
        }
        chance.shuffle(rows);
    }
    Ok(dealt)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::Place;
    use super::*;

    fn rows(count: usize, groups: usize) -> Vec<Row> {
        let place = |line| Place {
            file: Arc::from(Path::new("rows.jsonl")),
            line,
        };
        (0..count)
            .map(|n| {
                let line = format!(
                    r#"{{"text": "row {n}", "label": "l{}", "source": "s{}"}}"#,
                    n % 7,
                    n % groups
                );
                Row::parse(&line, place(n as u64 + 1)).expect("a row")
            })
            .collect()
    }

    fn dealt(how: &str, count: usize, groups: usize, members: usize, seed: u64) -> Vec<Vec<Row>> {
        let dealt = split(
            rows(count, groups),
            &how.parse().expect("a split"),
            members,
            seed,
        )
        .expect("dealt");
        let mut seen: Vec<u64> = dealt.iter().flatten().map(|row| row.at.line).collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            (1..=count as u64).collect::<Vec<_>>(),
            "{how}: every row to exactly one member"
        );
        assert!(
            dealt.iter().all(|rows| rows.len() >= MEMBER_ROWS_MIN),
            "{how}: the minimum"
        );
        dealt
    }

    #[test]
    fn every_split_deals_each_row_once_and_is_decided_by_the_seed() {
        for how in [
            "iid",
            "dirichlet:0.5",
            "dirichlet:0.01",
            "dirichlet:100",
            "by:source",
        ] {
            assert_eq!(dealt(how, 500, 9, 5, 3), dealt(how, 500, 9, 5, 3), "{how}");
            assert_ne!(dealt(how, 500, 9, 5, 3), dealt(how, 500, 9, 5, 4), "{how}");
            dealt(how, 160, 5, 5, 1);
        }
        let sizes: Vec<_> = dealt("iid", 502, 9, 5, 0).iter().map(Vec::len).collect();
        assert_eq!(sizes, [101, 101, 100, 100, 100]);
    }

    #[test]
    fn dirichlet_skews_labels_when_rows_have_them() {
        let dealt = dealt("dirichlet:0.1", 2000, 3, 4, 11);
        let largest =
            dealt[0]
                .iter()
                .fold(BTreeMap::new(), |mut counts: BTreeMap<_, usize>, row| {
                    *counts.entry(row.field("label")).or_default() += 1;
                    counts
                });
        let top = largest.values().max().copied().unwrap_or(0);
        assert!(
            top * 7 > 2 * dealt[0].len(),
            "one of 7 labels stands out: {largest:?}"
        );
    }

    #[test]
    fn groups_are_dealt_in_turn_and_too_few_are_refused() {
        let dealt = dealt("by:source", 400, 5, 4, 0);
        let first: std::collections::BTreeSet<_> = dealt[0]
            .iter()
            .filter_map(|row| row.field("source"))
            .collect();
        assert_eq!(first.into_iter().collect::<Vec<_>>(), ["s0", "s4"]);
        let by = Split::By("source".into());
        let said = split(rows(400, 3), &by, 4, 0)
            .expect_err("refused")
            .to_string();
        assert!(
            said.contains("3 different values, fewer than the 4 members"),
            "{said}"
        );
        let said = split(rows(400, 3), &Split::By("ward".into()), 3, 0)
            .expect_err("refused")
            .to_string();
        assert!(
            said.contains("rows.jsonl:1: field ward is missing"),
            "{said}"
        );
        let said = split(rows(100, 3), &Split::Iid, 5, 0)
            .expect_err("refused")
            .to_string();
        assert!(
            said.contains("100 rows are too few for 5 members"),
            "{said}"
        );
    }

    #[test]
    fn held_out_rows_are_a_twentieth_within_bounds() {
        for (count, members, expected) in [
            (1, 5, 0),
            (32, 5, 1),
            (40, 5, 2),
            (1000, 5, 50),
            (9000, 5, 100),
        ] {
            let (train, held) = hold_out(rows(count, 3), members, 9);
            assert_eq!(
                (held.len(), train.len()),
                (expected, count - expected),
                "{count} rows"
            );
        }
        assert_eq!(hold_out(rows(9000, 3), 1, 9).1.len(), 200);
        assert_eq!(hold_out(rows(9000, 3), 1000, 9).1.len(), 1);
        assert_eq!(hold_out(rows(99, 3), 5, 9), hold_out(rows(99, 3), 5, 9));
        assert_ne!(
            hold_out(rows(99, 3), 5, 9).1,
            hold_out(rows(99, 3), 5, 10).1
        );
    }

    #[test]
    fn words_that_name_no_split_are_refused() {
        for given in [
            "",
            "iid:2",
            "dirichlet",
            "dirichlet:0",
            "dirichlet:-1",
            "dirichlet:nan",
            "by:",
            "random",
        ] {
            assert!(given.parse::<Split>().is_err(), "{given}");
        }
        assert_eq!(
            "dirichlet:0.5"
                .parse::<Split>()
                .expect("a split")
                .to_string(),
            "dirichlet:0.5"
        );
    }
}
