//! A simulation as one SVG file: a column a round with who counts and who dropped out, and the bytes below it.
//!
//! It stands alone: its style is in it, and it follows the reader's light or dark system.

use super::html::escape;
use super::number;
use super::scale::{self, Scale, px};

/// The rounds of a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Churn {
    /// The command that runs it again.
    pub command: String,
    /// How many members there are.
    pub members: u32,
    /// How many of them a record needs.
    pub quorum: u32,
    /// A column a round.
    pub columns: Vec<Column>,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its number.
    pub round: u32,
    /// Whether its sum was opened.
    pub opened: bool,
    /// How it ended, in a word.
    pub word: &'static str,
    /// Members that count in the sum, or had their vectors there in time.
    pub counted: usize,
    /// The others by reason, in the order of [`REASONS`].
    pub out: [usize; REASONS.len()],
    /// Bytes that a member received in it, on average.
    pub bytes: u64,
}

/// The reasons of a column, from the bottom up, with the class of each.
pub const REASONS: [(&str, &str); 7] = [
    ("crashed", "crashed"),
    ("cut off", "cut"),
    ("late", "late"),
    ("left out", "left"),
    ("not a sharer", "idle"),
    ("removed", "gone"),
    ("hostile", "hostile"),
];

const WIDTH: f64 = 900.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 884.0;
/// Top and bottom of the upper and the lower plot.
const UPPER: (f64, f64) = (112.0, 316.0);
const LOWER: (f64, f64) = (372.0, 472.0);
const HEIGHT: f64 = 512.0;

const STYLE: &str = "svg{background:#fff;font:13px system-ui,sans-serif}\
text{fill:#333}.title{font-size:17px;font-weight:600}.small{font-size:11.5px;fill:#666}\
.rule{stroke:#ddd;fill:none}.need{stroke:#333;stroke-dasharray:5 4;fill:none}.lost{fill:#b3261e;opacity:.13}\
.in{fill:#2f6db3}.in.unused{fill:#a9bdd2}.crashed{fill:#b3261e}.cut{fill:#e08a1e}.late{fill:#c9b21a}\
.left{fill:#7b4fa3}.idle{fill:#8a8f98}.gone{fill:#cfd3d8}.hostile{fill:#1d1f23}.bytes{fill:#3b8f7d}.bad{fill:#b3261e}\
@media(prefers-color-scheme:dark){svg{background:#15181c}text{fill:#dde}.small{fill:#9aa}.rule{stroke:#333a42}\
.need{stroke:#dde}.lost{opacity:.3}.bad{fill:#ff8a80}.in.unused{fill:#4d6075}.gone{fill:#4a4f57}\
.hostile{fill:#f0f0f4}}";

/// The drawing.
pub fn svg(churn: &Churn) -> String {
    let opened = churn.columns.iter().filter(|column| column.opened).count();
    let lost = churn.columns.len() - opened;
    let title = format!(
        "{} members, {}: {opened} opened, {lost} lost",
        churn.members,
        number::count(churn.columns.len(), "round")
    );
    let mut parts = vec![format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"16\" y=\"28\">{}</text>\n<text class=\"small\" x=\"16\" y=\"48\">{}</text>\n",
        escape(&title),
        escape(&title),
        escape(&churn.command)
    )];
    parts.push(legend(churn));
    parts.push(presence(churn));
    parts.push(traffic(churn));
    parts.push("</svg>\n".into());
    parts.concat()
}

/// The colours that occur, with their words.
fn legend(churn: &Churn) -> String {
    let occurs = |at: usize| churn.columns.iter().any(|column| column.out[at] > 0);
    let reasons = REASONS.iter().enumerate();
    let mut words = vec![("in the sum", "in")];
    if churn
        .columns
        .iter()
        .any(|column| !column.opened && column.counted > 0)
    {
        words.push(("in time, round lost", "in unused"));
    }
    words.extend(
        reasons
            .filter(|(at, _)| occurs(*at))
            .map(|(_, reason)| *reason),
    );
    let mut x = 16.0;
    let mut parts = Vec::new();
    for (word, class) in words {
        parts.push(format!(
            "<rect class=\"{class}\" x=\"{}\" y=\"66\" width=\"11\" height=\"11\"/>\
             <text class=\"small\" x=\"{}\" y=\"76\">{word}</text>\n",
            px(x),
            px(x + 16.0)
        ));
        x += 34.0 + 6.4 * float(word.len());
    }
    parts.push(format!(
        "<path class=\"need\" d=\"M{} 71.5h22\"/><text class=\"small\" x=\"{}\" y=\"76\">{} decide</text>\n",
        px(x),
        px(x + 28.0),
        churn.quorum
    ));
    parts.concat()
}

/// Members by round: who counts at the bottom, the others by reason above.
fn presence(churn: &Churn) -> String {
    let y = Scale::new(0.0, f64::from(churn.members), UPPER.1, UPPER.0);
    let (_, _, ticks) = scale::nice([0.0, f64::from(churn.members)].into_iter(), 5);
    let ticks: Vec<f64> = ticks
        .into_iter()
        .filter(|tick| tick.fract().abs() < 1e-9 && *tick <= f64::from(churn.members))
        .collect();
    let mut parts = vec![axis(
        &y,
        &ticks,
        |tick| format!("{tick:.0}"),
        "members",
        UPPER.0,
    )];
    for (at, column) in churn.columns.iter().enumerate() {
        let (x, wide) = slot(churn, at);
        if !column.opened {
            let (left, width) = whole(churn, at);
            parts.push(rect("lost", left, UPPER.0, width, UPPER.1 - UPPER.0));
        }
        let class = if column.opened { "in" } else { "in unused" };
        let mut below = 0;
        let mut bars = String::new();
        for (count, class) in core::iter::once((column.counted, class))
            .chain(column.out.into_iter().zip(REASONS.map(|(_, class)| class)))
        {
            let (from, to) = (y.at(float(below)), y.at(float(below + count)));
            if count > 0 {
                bars += &rect(class, x, to, wide, from - to);
            }
            below += count;
        }
        parts.push(format!(
            "<g><title>{}</title>{bars}</g>\n",
            escape(&about(column))
        ));
        if !column.opened && wide > 24.0 {
            parts.push(format!(
                "<text class=\"small bad\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                px(x + wide / 2.0),
                px(UPPER.0 - 5.0),
                column.word
            ));
        }
    }
    let need = px(y.at(f64::from(churn.quorum)));
    parts.push(format!(
        "<path class=\"need\" d=\"M{} {need}H{}\"><title>{} members decide a record</title></path>\n",
        px(LEFT),
        px(RIGHT),
        churn.quorum
    ));
    parts.concat()
}

/// Bytes by round, and the numbers of the rounds.
fn traffic(churn: &Churn) -> String {
    let most = churn
        .columns
        .iter()
        .map(|column| column.bytes)
        .max()
        .unwrap_or(0);
    let (_, high, ticks) = scale::nice([0.0, wide(most)].into_iter(), 3);
    let y = Scale::new(0.0, high, LOWER.1, LOWER.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a tick is a number of bytes: not negative and far below 2^64"
    )]
    let label = |tick: f64| number::bytes(tick as u64);
    let mut parts = vec![axis(&y, &ticks, label, "received by a member", LOWER.0)];
    for (at, column) in churn.columns.iter().enumerate() {
        let (x, width) = slot(churn, at);
        let top = y.at(wide(column.bytes));
        parts.push(format!(
            "<g><title>{}</title>{}</g>\n",
            escape(&format!(
                "round {}: {} received by a member",
                column.round,
                number::bytes(column.bytes)
            )),
            rect("bytes", x, top, width, LOWER.1 - top)
        ));
    }
    let last = churn.columns.last().map_or(0, |column| column.round);
    for round in scale::round_ticks(last, 20)
        .into_iter()
        .filter(|round| *round > 0)
    {
        let at = usize::try_from(round - 1).unwrap_or(0);
        let (x, width) = slot(churn, at);
        parts.push(format!(
            "<text class=\"small\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{round}</text>\n",
            px(x + width / 2.0),
            px(LOWER.1 + 17.0)
        ));
    }
    parts.push(format!(
        "<text class=\"small\" x=\"16\" y=\"{}\">round</text>\n",
        px(LOWER.1 + 17.0)
    ));
    parts.concat()
}

/// Horizontal rules with their values, and what they measure.
fn axis(y: &Scale, ticks: &[f64], label: impl Fn(f64) -> String, what: &str, top: f64) -> String {
    let rules = ticks.iter().map(|tick| {
        let at = y.at(*tick);
        format!(
            "<path class=\"rule\" d=\"M{} {}H{}\"/><text class=\"small\" x=\"{}\" y=\"{}\" \
             text-anchor=\"end\">{}</text>\n",
            px(LEFT),
            px(at),
            px(RIGHT),
            px(LEFT - 6.0),
            px(at + 4.0),
            escape(&label(*tick))
        )
    });
    let what = format!(
        "<text class=\"small\" x=\"16\" y=\"{}\">{what}</text>\n",
        px(top - 12.0)
    );
    rules.chain([what]).collect()
}

/// The whole width of a round.
fn whole(churn: &Churn, at: usize) -> (f64, f64) {
    let width = (RIGHT - LEFT) / float(churn.columns.len().max(1));
    (LEFT + width * float(at), width)
}

/// The bar of a round.
fn slot(churn: &Churn, at: usize) -> (f64, f64) {
    let (left, width) = whole(churn, at);
    let bar = (width * 0.78).min(56.0);
    (left + (width - bar) / 2.0, bar)
}

fn rect(class: &str, x: f64, y: f64, width: f64, height: f64) -> String {
    format!(
        "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{}\" width=\"{width:.2}\" height=\"{}\"/>",
        px(y),
        px(height)
    )
}

fn about(column: &Column) -> String {
    let out = column.out.iter().zip(REASONS);
    let out = out
        .filter(|(count, _)| **count > 0)
        .map(|(count, (word, _))| format!(", {count} {word}"));
    format!(
        "round {}: {}, {} in{}",
        column.round,
        column.word,
        column.counted,
        out.collect::<String>()
    )
}

#[expect(clippy::cast_precision_loss, reason = "numbers of members and rounds")]
const fn float(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "a place on an axis")]
const fn wide(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn churn(rounds: u32) -> Churn {
        let column = |round: u32| {
            let lost = round.is_multiple_of(5);
            Column {
                round,
                opened: !lost,
                word: if lost { "null" } else { "opened" },
                counted: if lost { 3 } else { 6 },
                out: if lost {
                    [3, 1, 0, 0, 0, 0, 0]
                } else {
                    [1, 0, 0, 0, 0, 0, 0]
                },
                bytes: 20_000 + u64::from(round) * 900,
            }
        };
        Churn {
            command: "conclave simulate --members 7 --seed <1>".to_owned(),
            members: 7,
            quorum: 5,
            columns: (1..=rounds).map(column).collect(),
        }
    }

    #[test]
    fn a_column_a_round_with_its_dropouts() {
        let svg = svg(&churn(10));
        assert_eq!(svg.matches("class=\"bytes\"").count(), 10);
        assert_eq!(svg.matches("class=\"lost\"").count(), 2);
        assert_eq!(svg.matches("class=\"crashed\" x").count(), 10 + 1);
        assert_eq!(svg.matches("class=\"cut\" x").count(), 2 + 1);
        assert!(!svg.contains("class=\"late\" x"), "nobody was late");
        assert!(svg.contains("round 5: null, 3 in, 3 crashed, 1 cut off"));
        assert!(svg.contains("7 members, 10 rounds: 8 opened, 2 lost"));
        assert!(svg.contains("--seed &lt;1&gt;") && !svg.contains("NaN"));
    }

    #[test]
    fn no_round_and_a_thousand_rounds_are_drawings_too() {
        for rounds in [0, 1, 1000] {
            let svg = svg(&churn(rounds));
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}
