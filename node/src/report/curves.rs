//! The held-out loss by round as SVG: an overview of all nodes and a small panel for each.
//!
//! Colour carries nothing alone: what was trained together is a solid line, what was trained alone a dashed one, and
//! the other nodes stand behind in a thin grey.

use super::html::escape;
use super::scale::{self, Scale, px};
use super::{CurvePoint, MemberReport, MemberStatus, RunReport};

/// The axes that every plot of a report shares, so that panels compare at a glance.
pub(super) struct Axes {
    rounds: u32,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

/// A plot's size and what its axes map to.
struct Frame<'a> {
    width: f64,
    height: f64,
    right: f64,
    x: Scale,
    y: Scale,
    axes: &'a Axes,
}

const LEFT: f64 = 38.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 26.0;

impl Axes {
    /// Axes that hold every curve of `report`.
    pub(super) fn of(report: &RunReport) -> Self {
        let points = || {
            report
                .members
                .iter()
                .flat_map(|member| member.evals.iter().chain(&member.solo))
        };
        let alone = report
            .members
            .iter()
            .filter_map(|member| member.solo_final(report.curve_rows));
        let (low, high, ticks) = scale::nice(points().map(|point| point.loss).chain(alone), 7);
        let rounds = points()
            .map(|point| point.round)
            .chain([report.rounds])
            .max()
            .unwrap_or(0);
        Self {
            rounds,
            low,
            high,
            ticks,
        }
    }
}

/// Whether any node's loss was measured by round.
pub(super) fn any(report: &RunReport) -> bool {
    report
        .members
        .iter()
        .any(|member| finite(&member.evals).next().is_some())
}

/// All nodes in one plot: each a thin line, their mean bold, the mean of training alone dashed.
pub(super) fn overview(
    report: &RunReport,
    axes: &Axes,
    width: f64,
    height: f64,
    class: &str,
) -> String {
    let frame = Frame::new(axes, width, height, 84.0);
    let complete: Vec<_> = report
        .members
        .iter()
        .filter(|member| covers(&member.evals, axes.rounds))
        .collect();
    let together = mean(
        complete.iter().map(|member| member.evals.as_slice()),
        axes.rounds,
    );
    let alone = if complete
        .iter()
        .all(|member| covers(&member.solo, axes.rounds))
    {
        mean(
            complete.iter().map(|member| member.solo.as_slice()),
            axes.rounds,
        )
    } else {
        Vec::new()
    };
    let finals: Option<Vec<f64>> = complete
        .iter()
        .map(|member| member.solo_final(report.curve_rows))
        .collect();
    let level = finals.as_deref().and_then(average);
    let mut parts = vec![frame.open(
        class,
        "Held-out loss by round: every node, their mean, and training alone",
    )];
    parts.push(frame.grid(8, 1));
    parts.extend(
        report
            .members
            .iter()
            .map(|member| frame.line(&member.evals, "other")),
    );
    let mut labels = Vec::new();
    if let Some(level) = level {
        if alone.is_empty() {
            let each = report
                .members
                .iter()
                .filter_map(|member| member.solo_final(report.curve_rows));
            parts.extend(each.map(|loss| frame.mark(loss)));
            parts.push(frame.level(level, "alone"));
        } else {
            parts.push(frame.line(&alone, "alone"));
        }
        labels.push((frame.y.at(level), "alone", "alone"));
    }
    parts.push(frame.line(&together, "together"));
    parts.push(frame.dots(&together, "together"));
    if let Some(end) = together.last() {
        labels.push((frame.y.at(end.loss), "together", "together"));
    }
    parts.push(frame.labels(labels));
    parts.push("</svg>".into());
    parts.concat()
}

/// One node before the others: its own line solid, its solo training dashed.
pub(super) fn panel(report: &RunReport, axes: &Axes, member: &MemberReport) -> String {
    let frame = Frame::new(axes, 280.0, 190.0, 10.0);
    let about = format!("Held-out loss of {} by round", member.name);
    let mut parts = vec![frame.open("panel", &about), frame.grid(6, 2)];
    let others = report
        .members
        .iter()
        .filter(|other| other.member != member.member);
    parts.extend(others.map(|other| frame.line(&other.evals, "other")));
    // Between a start and an end nobody measured anything: a line would invent it.
    if covers(&member.solo, axes.rounds) {
        parts.push(frame.line(&member.solo, "alone"));
    } else if let Some(level) = member.solo_final(report.curve_rows) {
        parts.push(frame.level(level, "alone"));
    }
    parts.push(frame.line(&member.evals, "together"));
    parts.push(frame.dots(&member.evals, "together"));
    if let Some(last) = finite(&member.evals)
        .last()
        .filter(|_| member.status == MemberStatus::Killed)
    {
        parts.push(frame.cross(last));
    }
    parts.push("</svg>".into());
    parts.concat()
}

impl<'a> Frame<'a> {
    fn new(axes: &'a Axes, width: f64, height: f64, margin: f64) -> Self {
        let right = width - margin;
        Self {
            width,
            height,
            right,
            x: Scale::new(0.0, f64::from(axes.rounds), LEFT + 6.0, right - 6.0),
            y: Scale::new(axes.low, axes.high, height - BOTTOM, TOP),
            axes,
        }
    }

    fn open(&self, class: &str, about: &str) -> String {
        format!(
            r#"<svg class="plot {class}" viewBox="0 0 {} {}" role="img" aria-label="{}">"#,
            px(self.width),
            px(self.height),
            escape(about)
        )
    }

    /// Horizontal rules, every `step`th with its value, the round numbers below, and what the axes measure.
    fn grid(&self, labels: u32, step: usize) -> String {
        let (from, to, base) = (px(LEFT), px(self.right), self.height - BOTTOM);
        let rules = self.axes.ticks.iter().step_by(step).map(|tick| {
            let y = self.y.at(*tick);
            let label = scale::tick_label(*tick, &self.axes.ticks);
            let (end, text) = (px(LEFT - 6.0), px(y + 3.5));
            let y = px(y);
            format!(
                r#"<path class="rule" d="M{from} {y}H{to}"/>
                <text class="tick end" x="{end}" y="{text}">{label}</text>"#
            )
        });
        let rounds = scale::round_ticks(self.axes.rounds, labels)
            .into_iter()
            .map(|round| {
                let (x, y) = (px(self.x.at(f64::from(round))), px(base + 17.0));
                format!(r#"<text class="tick middle" x="{x}" y="{y}">{round}</text>"#)
            });
        let units = format!(
            r#"<text class="tick" x="0" y="{}">nats a token</text><text class="tick" x="0" y="{}">round</text>"#,
            px(TOP - 15.0),
            px(base + 17.0)
        );
        rules.chain(rounds).chain([units]).collect()
    }

    fn line(&self, points: &[CurvePoint], class: &str) -> String {
        let places: Vec<String> = finite(points).map(|point| self.place(point)).collect();
        if places.len() < 2 {
            return String::new();
        }
        format!(r#"<path class="line {class}" d="M{}"/>"#, places.join("L"))
    }

    /// A horizontal line at one loss.
    fn level(&self, loss: f64, class: &str) -> String {
        format!(
            r#"<path class="line {class}" d="M{} {}H{}"/>"#,
            px(LEFT),
            px(self.y.at(loss)),
            px(self.right)
        )
    }

    /// A short mark at the end: where one node's solo training ended.
    fn mark(&self, loss: f64) -> String {
        let y = px(self.y.at(loss));
        format!(
            r#"<path class="mark" d="M{} {y}H{}"/>"#,
            px(self.right - 22.0),
            px(self.right)
        )
    }

    fn dots(&self, points: &[CurvePoint], class: &str) -> String {
        // Between many rounds dots would only thicken the line.
        let radius = if self.axes.rounds > 25 { 1.5 } else { 3.0 };
        finite(points)
            .map(|point| {
                let (x, y) = (self.x.at(f64::from(point.round)), self.y.at(point.loss));
                format!(
                    r#"<circle class="dot {class}" cx="{}" cy="{}" r="{radius}"/>"#,
                    px(x),
                    px(y)
                )
            })
            .collect::<Vec<_>>()
            .concat()
    }

    /// Where a killed node's line ends.
    fn cross(&self, point: CurvePoint) -> String {
        let place = self.place(point);
        format!(r#"<path class="cross" d="M{place}m-6 -6l12 12m0 -12l-12 12"/>"#)
    }

    fn place(&self, point: CurvePoint) -> String {
        format!(
            "{} {}",
            px(self.x.at(f64::from(point.round))),
            px(self.y.at(point.loss))
        )
    }

    /// Names beside the ends of the lines, moved apart where they would overlap.
    fn labels(&self, mut labels: Vec<(f64, &str, &str)>) -> String {
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = f64::NEG_INFINITY;
        let placed = labels.into_iter().map(|(y, class, text)| {
            let y = y.max(free);
            free = y + 15.0;
            let (x, y) = (px(self.right + 4.0), px(y + 4.0));
            format!(r#"<text class="label {class}" x="{x}" y="{y}">{text}</text>"#)
        });
        placed.collect()
    }
}

/// Whether a curve has a loss for every round: a mean over fewer and fewer members would show who left, not what was
/// learnt.
fn covers(points: &[CurvePoint], rounds: u32) -> bool {
    (0..=rounds).all(|round| finite(points).any(|point| point.round == round))
}

/// The mean of several curves by round.
fn mean<'a>(curves: impl Iterator<Item = &'a [CurvePoint]>, rounds: u32) -> Vec<CurvePoint> {
    let curves: Vec<_> = curves.collect();
    let at = |round| {
        let here = curves
            .iter()
            .filter_map(|points| finite(points).find(|point| point.round == round));
        let losses: Vec<f64> = here.map(|point| point.loss).collect();
        average(&losses).map(|loss| CurvePoint { round, loss })
    };
    (0..=rounds).filter_map(at).collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a federation has fewer than 2^52 members"
)]
fn average(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn finite(points: &[CurvePoint]) -> impl Iterator<Item = CurvePoint> + '_ {
    points
        .iter()
        .copied()
        .filter(|point| point.loss.is_finite())
}

#[cfg(test)]
mod tests {
    use super::super::{RunReport, sample};
    use super::*;

    fn drawings(report: &RunReport) -> String {
        let axes = Axes::of(report);
        let panels = report
            .members
            .iter()
            .map(|member| panel(report, &axes, member));
        panels
            .chain([overview(report, &axes, 880.0, 320.0, "wide")])
            .collect()
    }

    fn assert_finite(svg: &str) {
        for wrong in ["NaN", "inf"] {
            assert!(!svg.contains(wrong), "{wrong}: {svg}");
        }
    }

    #[test]
    fn every_node_has_its_line_and_its_solo_training() {
        let report = sample::clinic();
        let axes = Axes::of(&report);
        let svg = overview(&report, &axes, 880.0, 320.0, "wide");
        assert_eq!(svg.matches("line other").count(), 5);
        assert_eq!(svg.matches("line together").count(), 1);
        assert_eq!(svg.matches("line alone").count(), 1);
        let killed = panel(&report, &axes, &report.members[3]);
        assert!(killed.contains("class=\"cross\"") && killed.contains("line alone"));
        assert_finite(&drawings(&report));
    }

    #[test]
    fn curves_of_no_point_one_point_or_wild_points_are_still_valid_drawings() {
        let mut report = sample::clinic();
        report.members[0].evals.clear();
        report.members[0].solo.clear();
        report.members[1].evals.truncate(1);
        report.members[2].evals[1].loss = f64::NAN;
        report.members[2].evals[2].loss = f64::INFINITY;
        assert_finite(&drawings(&report));
        for member in &mut report.members {
            member.evals.clear();
            member.solo.clear();
        }
        report.rounds = 0;
        assert!(!any(&report));
        assert_finite(&drawings(&report));
    }

    #[test]
    fn a_final_solo_loss_alone_is_a_level_line() {
        let mut report = sample::clinic();
        for member in &mut report.members {
            member.solo.drain(1..6);
        }
        let axes = Axes::of(&report);
        for (svg, marks) in [
            (overview(&report, &axes, 880.0, 320.0, "wide"), 5),
            (panel(&report, &axes, &report.members[0]), 0),
        ] {
            let (_, line) = svg
                .split_once(r#"class="line alone" d=""#)
                .expect("it is drawn");
            let path = line.split('"').next().expect("the path ends");
            assert!(path.contains('H') && !path.contains('L'), "{path}");
            assert_eq!(svg.matches("class=\"mark\"").count(), marks);
        }
    }

    #[test]
    fn labels_never_overlap() {
        let axes = Axes {
            rounds: 1,
            low: 0.0,
            high: 1.0,
            ticks: vec![0.0, 1.0],
        };
        let frame = Frame::new(&axes, 200.0, 100.0, 20.0);
        let svg = frame.labels(vec![(50.0, "a", "a"), (51.0, "b", "b")]);
        assert!(
            svg.contains("y=\"54.0\"") && svg.contains("y=\"69.0\""),
            "{svg}"
        );
    }
}
