//! From numbers to places: linear scales with round ticks, and coordinates that are always finite.

/// A linear map from a range of values to a range of pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Maps `low..=high` to `from..=to`. An empty range is widened, so that every value has a place.
    pub(super) fn new(low: f64, high: f64, from: f64, to: f64) -> Self {
        let (low, high) = if high - low > f64::EPSILON * low.abs().max(1.0) {
            (low, high)
        } else {
            (low, low + 1.0)
        };
        Self {
            low,
            high,
            from,
            to,
        }
    }

    /// Where `value` stands, inside the range of pixels.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + share * (self.to - self.from)
    }
}

/// A range that holds all finite `values`, widened to whole ticks, and about `wanted` ticks.
///
/// Without any value it is `0..=1`.
pub(super) fn nice(values: impl Iterator<Item = f64>, wanted: u32) -> (f64, f64, Vec<f64>) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return (0.0, 1.0, vec![0.0, 0.5, 1.0]);
    }
    let high = if high - low > 1e-6 * high.abs().max(1e-3) {
        high
    } else {
        low + 0.1 * low.abs().max(0.1)
    };
    let step = round_step((high - low) / f64::from(wanted.max(1)));
    let first = (low / step).floor();
    let last = (high / step).ceil();
    let ticks = std::iter::successors(Some(first), |tick| {
        (*tick + 1.0 <= last).then_some(*tick + 1.0)
    });
    let ticks: Vec<f64> = ticks.take(64).map(|tick| tick * step).collect();
    (first * step, last * step, ticks)
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let of = [1.0, 2.0, 2.5, 5.0]
        .into_iter()
        .find(|times| times * power >= least * 0.999);
    of.unwrap_or(10.0) * power
}

/// Round numbers to label so that at most `wanted` stand on the axis; the first and the last are among them.
pub(super) fn round_ticks(last: u32, wanted: u32) -> Vec<u32> {
    let step = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000]
        .into_iter()
        .find(|step| last / step <= wanted);
    let step = step.unwrap_or_else(|| last.max(1));
    let mut ticks: Vec<u32> = (0..=last / step).map(|at| at * step).collect();
    if let Some(end) = ticks.last_mut().filter(|end| **end != last) {
        // The last round is the one that counts: it replaces a neighbour that it would touch.
        if last - *end < step.div_ceil(2) && *end > 0 {
            *end = last;
        } else {
            ticks.push(last);
        }
    }
    ticks
}

/// A tick's label with just the digits that its step needs.
pub(super) fn tick_label(tick: f64, ticks: &[f64]) -> String {
    let step = ticks
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .fold(1.0, f64::min);
    let digits = (0..6_usize).find(|digits| {
        let scaled = step * 10_f64.powi(i32::try_from(*digits).unwrap_or(0));
        (scaled - scaled.round()).abs() < 1e-6 * scaled.abs().max(1.0)
    });
    format!("{tick:.*}", digits.unwrap_or(6))
}

/// A coordinate for SVG: one decimal, never an exponent, never NaN.
pub(super) fn px(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let text = format!("{value:.1}");
    if text == "-0.0" { "0.0".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_all_values() {
        let (low, high, ticks) = nice([1.217, 2.412, f64::NAN].into_iter(), 5);
        assert!(low <= 1.217 && high >= 2.412, "{low} {high}");
        assert_eq!(
            ticks
                .iter()
                .map(|tick| tick_label(*tick, &ticks))
                .collect::<Vec<_>>(),
            ["1.00", "1.25", "1.50", "1.75", "2.00", "2.25", "2.50"]
        );
    }

    #[test]
    fn no_value_one_value_and_wild_values_have_finite_ticks() {
        for values in [
            vec![],
            vec![f64::NAN],
            vec![2.0],
            vec![0.0],
            vec![-3.0, -3.0],
            vec![1e-9, 1e12],
        ] {
            let (low, high, ticks) = nice(values.iter().copied(), 4);
            assert!(
                low.is_finite() && high.is_finite() && low < high,
                "{values:?}"
            );
            assert!(
                !ticks.is_empty() && ticks.len() <= 12 && ticks.iter().all(|tick| tick.is_finite()),
                "{values:?}"
            );
            let scale = Scale::new(low, high, 100.0, 0.0);
            assert!(
                values
                    .iter()
                    .filter(|value| value.is_finite())
                    .all(|value| scale.at(*value).is_finite())
            );
        }
    }

    #[test]
    fn an_empty_range_still_has_places() {
        assert!(Scale::new(2.0, 2.0, 0.0, 10.0).at(2.0).abs() < 1e-9);
        assert_eq!(px(Scale::new(0.0, 0.0, 0.0, 10.0).at(f64::NAN)), "0.0");
        assert_eq!(px(-0.01), "0.0");
    }

    #[test]
    fn the_last_round_is_always_labelled() {
        assert_eq!(round_ticks(0, 8), [0]);
        assert_eq!(round_ticks(6, 8), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(round_ticks(21, 8), [0, 5, 10, 15, 21]);
        assert_eq!(round_ticks(23, 8), [0, 5, 10, 15, 20, 23]);
        assert_eq!(round_ticks(50, 8), [0, 10, 20, 30, 40, 50]);
    }
}
