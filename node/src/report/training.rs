//! The losses of one training run as a picture of its own: each step thin, the held-out rows bold.

use std::fmt::Write as _;

use super::scale::{Scale, nice, px, round_ticks, tick_label};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;
/// More points than this are drawn as the means of so many parts.
const POINTS: usize = 600;
const STYLE: &str = "text{font:12px sans-serif;fill:#444}.rule{stroke:#ddd}\
    .steps,.held{fill:none}.steps{stroke:#8a8f98;stroke-width:1}.held{stroke:#0b63ce;stroke-width:2}\
    .dot{fill:#0b63ce}.name{fill:#0b63ce;font-weight:bold}.end{text-anchor:end}.middle{text-anchor:middle}";

/// An SVG file of the loss of each step, `(steps done, loss)`, and of the held-out losses; `before` is the held-out
/// loss before the first step.
pub fn plot(steps: &[(u64, f64)], before: Option<f64>, held_out: &[(u64, f64)]) -> String {
    let held: Vec<(u64, f64)> = before
        .map(|loss| (0, loss))
        .into_iter()
        .chain(held_out.iter().copied())
        .collect();
    let thin = thinned(steps);
    let (low, high, ticks) = nice(thin.iter().chain(&held).map(|point| point.1), 6);
    let last = steps
        .iter()
        .chain(&held)
        .map(|point| point.0)
        .max()
        .unwrap_or(1);
    let last = u32::try_from(last).unwrap_or(u32::MAX);
    let (right, base) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = Scale::new(0.0, f64::from(last), LEFT, right);
    let y = Scale::new(low, high, base, TOP);
    #[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
    let at = |point: &(u64, f64)| (px(x.at(point.0 as f64)), px(y.at(point.1)));
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss by step">
<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="8" y="18">nats a token</text>
<text class="end" x="{right}" y="18">each step thin, <tspan class="name">held-out rows bold</tspan></text>
"##
    );
    for tick in &ticks {
        let (place, label) = (y.at(*tick), tick_label(*tick, &ticks));
        let _whole = writeln!(
            svg,
            "<path class=\"rule\" d=\"M{LEFT} {}H{right}\"/><text class=\"end\" x=\"{}\" y=\"{}\">{label}</text>",
            px(place),
            px(LEFT - 8.0),
            px(place + 4.0)
        );
    }
    for tick in round_ticks(last, 8) {
        let (place, down) = (px(x.at(f64::from(tick))), px(base + 20.0));
        let _whole = writeln!(
            svg,
            "<text class=\"middle\" x=\"{place}\" y=\"{down}\">{tick}</text>"
        );
    }
    for (class, points) in [("steps", &thin), ("held", &held)] {
        let places: Vec<_> = points
            .iter()
            .filter(|point| point.1.is_finite())
            .map(at)
            .collect();
        if places.len() > 1 {
            let path: Vec<_> = places.iter().map(|(x, y)| format!("{x} {y}")).collect();
            let _whole = writeln!(svg, "<path class=\"{class}\" d=\"M{}\"/>", path.join("L"));
        }
        if class == "held" {
            svg.extend(
                places.iter().map(|(x, y)| {
                    format!("<circle class=\"dot\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>\n")
                }),
            );
        }
    }
    svg + "</svg>\n"
}

/// The points, or the means of at most [`POINTS`] equal parts, each at its last step.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let part = points.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(u64, f64)]| {
        #[expect(clippy::cast_precision_loss, reason = "a part is small")]
        let count = part.len() as f64;
        let sum: f64 = part.iter().map(|point| point.1).sum();
        Some((part.last()?.0, sum / count))
    };
    points.chunks(part).filter_map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measured_point_is_drawn_and_long_runs_are_thinned() {
        let steps: Vec<(u64, f64)> = (1..=20_u32)
            .map(|step| (u64::from(step), 4.0 - 0.1 * f64::from(step)))
            .collect();
        let svg = plot(&steps, Some(4.5), &[(10, 3.0), (20, 2.5)]);
        assert_eq!(svg.matches("<circle").count(), 3);
        let line = svg.split("class=\"steps\" d=\"").nth(1).unwrap();
        assert_eq!(line.split('"').next().unwrap().matches('L').count(), 19);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
        let long: Vec<(u64, f64)> = (1..=10_000).map(|step| (step, 1.0)).collect();
        assert!(thinned(&long).len() <= POINTS);
        assert_eq!(thinned(&long).last(), Some(&(10_000, 1.0)));
        assert!(
            plot(&[], None, &[]).contains("</svg>"),
            "nothing measured is drawn as nothing"
        );
    }
}
