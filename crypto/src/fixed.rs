//! Fixed-point numbers in the ring Z_2^32: the scale that makes overflow impossible, and the one way back to floats.
//!
//! `s = ⌊(2^31 − 1) / (n_max · w_max · c)⌋` for clamp c (PROTOCOL.md, section 8; LEARNING.md, 3.3).

use crate::digest::Digest;
use crate::fraction::Fraction;
use crate::lanes;
use crate::merkle::Tree;

/// The scale of a federation: integer steps per unit, the clamp in steps, and the heaviest weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    steps: u32,
    bound: u32,
    clamp: Fraction,
    weight_max: u32,
}

/// Why a charter leaves no room in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Infeasible {
    /// Only 32 bits are built.
    #[error("ring_bits = {0} is not supported: use 32")]
    Bits(u32),
    /// A factor is zero.
    #[error("members_max, weight_max and clip must be above zero")]
    Zero,
    /// Fewer than [`STEPS_MIN`] steps a unit remain.
    #[error(
        "members_max x weight_max x clip leaves only {steps} steps for a unit in the 32-bit ring, \
         fewer than {STEPS_MIN}: lower one of them"
    )]
    Coarse {
        /// The scale that came out.
        steps: u64,
    },
    /// Fewer than [`STEPS_MIN`] steps remain between zero and the clamp.
    #[error(
        "members_max x weight_max leaves only {levels} steps below the clamp in the 32-bit ring, \
         fewer than {STEPS_MIN}: lower one of them"
    )]
    Narrow {
        /// The clamp in steps.
        levels: u64,
    },
}

/// The coarsest scale that is accepted, for a unit and below the clamp: three decimal digits.
pub const STEPS_MIN: u64 = 1000;

const HALF_RING: u64 = (1 << 31) - 1;

impl Scale {
    /// Solves the scale for at most `members_max` members of weight at most `weight_max` and the clamp.
    pub fn solve(
        members_max: u32,
        weight_max: u32,
        clamp: &Fraction,
        ring_bits: u32,
    ) -> Result<Self, Infeasible> {
        if ring_bits != 32 {
            return Err(Infeasible::Bits(ring_bits));
        }
        let spread = u128::from(members_max)
            .saturating_mul(weight_max.into())
            .saturating_mul(clamp.numerator().into());
        let steps = u128::from(HALF_RING)
            .saturating_mul(clamp.denominator().into())
            .checked_div(spread);
        let steps = u64::try_from(steps.ok_or(Infeasible::Zero)?)
            .unwrap_or(u64::MAX)
            .min(HALF_RING);
        if steps < STEPS_MIN {
            return Err(Infeasible::Coarse { steps });
        }
        let levels = clamp.floor_of(steps);
        if levels < STEPS_MIN {
            return Err(Infeasible::Narrow { levels });
        }
        Ok(Self {
            steps: u32::try_from(steps).expect("at most 2^31 − 1"),
            bound: u32::try_from(levels).expect("s · c is at most 2^31 − 1"),
            clamp: *clamp,
            weight_max,
        })
    }

    /// Integer steps for a unit: s.
    pub const fn steps(&self) -> u32 {
        self.steps
    }

    /// The heaviest weight for which the sum cannot overflow.
    pub const fn weight_max(&self) -> u32 {
        self.weight_max
    }

    /// The clamp c.
    pub fn clamp(&self) -> f32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounding a clamp to f32 is meant; `quantise` bounds in steps"
        )]
        let clamp = self.clamp.to_f64() as f32;
        clamp
    }

    /// The nearest integer to `value · s`, ties away from zero, within the bound `⌊c · s⌋`. `value` is finite.
    #[inline]
    pub fn quantise(&self, value: f32) -> i32 {
        let bound = f64::from(self.bound);
        let steps = (f64::from(value) * f64::from(self.steps))
            .round()
            .clamp(-bound, bound);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an integer of at most 2^31 − 1 after the clamp"
        )]
        let steps = steps as i32;
        steps
    }

    /// Quantises a value, times `weight`, in the ring. The same number as [`Scale::quantise`] gives, in operations that
    /// run on many lanes at once.
    #[inline]
    pub(crate) fn encode(&self, value: f32, weight: u32) -> u32 {
        // 1.5 · 2^52: an integer far below it, added to it, stands in the lowest bits as its two's complement.
        const SHIFT: f64 = 6_755_399_441_055_744.0;
        let bound = f64::from(self.bound);
        let exact = f64::from(value) * f64::from(self.steps);
        let whole = exact.trunc();
        let away = f64::from(u8::from((exact - whole).abs() >= 0.5)).copysign(exact);
        let rounded = (whole + away).clamp(-bound, bound);
        #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
        let low = (rounded + SHIFT).to_bits() as u32;
        low.wrapping_mul(weight)
    }

    /// Whether every coordinate of an opened sum can come from inputs within the clamp: `|sum| ≤ Σw · bound`.
    pub fn is_in_range(&self, sum: &[u32], total_weight: u64) -> bool {
        let mut most = 0;
        lanes::widest(|| {
            for value in sum {
                most = most.max(centred(*value).unsigned_abs());
            }
        });
        u64::from(most) <= total_weight.saturating_mul(self.bound.into())
    }

    /// `f32(f64(old) + f64(sum) / (s · Σw))`, coordinate by coordinate: the same bytes on every machine (IEEE 754).
    ///
    /// In place: `adapter` holds the old coordinates and gets the new ones. It and `sum` have the same length; `sum`
    /// wraps around zero.
    pub fn apply(&self, adapter: &mut [f32], sum: &[u32], total_weight: u64) {
        assert_eq!(
            adapter.len(),
            sum.len(),
            "a sum has one coordinate for each of the adapter's"
        );
        #[expect(clippy::cast_precision_loss, reason = "a weight sum is far below 2^53")]
        let divisor = f64::from(self.steps) * total_weight as f64;
        // Moved in: behind a reference the loop would not run on lanes.
        lanes::widest(move || {
            for (value, sum) in adapter.iter_mut().zip(sum) {
                let new = f64::from(*value) + f64::from(centred(*sum)) / divisor;
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the one rounding to f32 that the protocol defines"
                )]
                let new = new as f32;
                *value = new;
            }
        });
    }
}

/// The representative of a ring element in −2^31 … 2^31 − 1.
pub const fn centred(value: u32) -> i32 {
    value.cast_signed()
}

/// `BLAKE3("conclave/v1/adapter", shape ‖ f32 little-endian vector)`, as [`merkle`](crate::merkle) makes it.
pub fn adapter_digest(shape: &Digest, adapter: &[f32]) -> Digest {
    let mut tree = Tree::under("conclave/v1/adapter");
    tree.add(shape.as_bytes());
    #[cfg(target_endian = "little")]
    tree.add(bytemuck::cast_slice(adapter));
    #[cfg(target_endian = "big")]
    for value in adapter {
        tree.add(&value.to_le_bytes());
    }
    tree.root()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scale(members: u32, weight: u32, clamp: &str) -> Result<Scale, Infeasible> {
        Scale::solve(members, weight, &clamp.parse().expect("a fraction"), 32)
    }

    #[test]
    fn the_default_charter_has_room() {
        assert_eq!(scale(16, 16, "1.0").expect("feasible").steps(), 8_388_607);
        assert_eq!(scale(200, 16, "1.0").expect("feasible").steps(), 671_088);
    }

    #[test]
    fn infeasible_charters_are_refused() {
        assert_eq!(
            Scale::solve(5, 1, &"1".parse().expect("good"), 16).err(),
            Some(Infeasible::Bits(16))
        );
        assert_eq!(scale(0, 1, "1").err(), Some(Infeasible::Zero));
        assert_eq!(scale(5, 1, "0").err(), Some(Infeasible::Zero));
        assert_eq!(
            scale(200, 65_536, "1000").err(),
            Some(Infeasible::Coarse { steps: 0 })
        );
        assert_eq!(
            scale(200, 16_384, "0.01").err(),
            Some(Infeasible::Narrow { levels: 655 })
        );
        let sentence = Infeasible::Narrow { levels: 655 }.to_string();
        assert!(
            sentence.contains("32-bit ring, fewer than 1000: lower"),
            "{sentence}"
        );
        assert_eq!(
            scale(1, 1, "0.000000001").err(),
            Some(Infeasible::Narrow { levels: 2 })
        );
    }

    proptest! {
        /// Both ways to the nearest integer agree, halves and what lies beyond the clamp among them.
        #[test]
        fn encoded_is_quantised_and_weighed(
            bits in prop::collection::vec(any::<u32>(), 1..100), half in -3000..3000_i16, weight in 1..64_u32,
        ) {
            let scale = scale(200, 64, "1.5").expect("feasible");
            let finite = bits.iter().map(|bits| f32::from_bits(*bits)).filter(|value| value.is_finite());
            let mut values: Vec<f32> = finite.collect();
            for numerator in [half, half.wrapping_mul(2), 1, -1, 0] {
                // Half a step more or less, as near as floats come.
                #[allow(clippy::cast_possible_truncation, reason = "the nearest float is meant")]
                let value = (f64::from(numerator) / 2.0 / f64::from(scale.steps())) as f32;
                values.extend([value, f32::from_bits(value.to_bits() ^ 1), -value]);
            }
            for value in values {
                let alone = scale.quantise(value).cast_unsigned().wrapping_mul(weight);
                prop_assert_eq!(scale.encode(value, weight), alone, "{} = {:x}", value, value.to_bits());
            }
        }

        #[test]
        fn halves_are_rounded_away_from_zero(numerator in -2_000_000..2_000_000_i32) {
            // A power of two as scale: halves are exact.
            let scale = Scale { steps: 1 << 20, bound: 1 << 20, clamp: "1.0".parse().expect("good"), weight_max: 1 };
            #[allow(clippy::cast_precision_loss, reason = "below 2^24")]
            let value = numerator as f32 / (1 << 21) as f32;
            prop_assert_eq!(scale.encode(value, 1).cast_signed(), scale.quantise(value));
        }

        /// The extreme: every member at its heaviest weight, every coordinate beyond the clamp.
        #[test]
        fn no_feasible_charter_overflows(
            members in 1..255_u32, weight in 1..100_000_u32, whole in 0..1000_u32, part in 0..1000_u32,
        ) {
            if let Ok(scale) = scale(members, weight, &format!("{whole}.{part:03}")) {
                for far in [f32::MAX, f32::MIN] {
                    let sum = i64::from(scale.quantise(far)) * i64::from(members) * i64::from(weight);
                    prop_assert!(sum.abs() <= i64::from(i32::MAX), "{scale:?}");
                    let ring = u32::from_le_bytes(i32::try_from(sum).expect("no overflow").to_le_bytes());
                    prop_assert!(scale.is_in_range(&[ring], u64::from(members) * u64::from(weight)));
                    let fewer = u64::from(members) * u64::from(weight) - 1;
                    prop_assert!(!scale.is_in_range(&[ring], fewer));
                }
            }
        }

        /// The ring is a group: any order of additions and subtractions gives the plain sum.
        #[test]
        fn wrapping_sums_come_back(values in prop::collection::vec(-1.0..1.0_f32, 1..64), mask: u32) {
            let scale = scale(64, 1, "1.0").expect("feasible");
            let steps: Vec<i32> = values.iter().map(|value| scale.quantise(*value)).collect();
            let plain: i64 = steps.iter().map(|value| i64::from(*value)).sum();
            let ring = steps.iter().rev().fold(mask, |sum, value| sum.wrapping_add(value.cast_unsigned()));
            prop_assert_eq!(i64::from(centred(ring.wrapping_sub(mask))), plain);
        }

        #[test]
        fn no_sum_overflows_and_the_error_is_half_a_step_a_member(
            members in 1..200_u32, weight in 1..64_u32, values in prop::collection::vec(-2.0..2.0_f32, 1..200),
        ) {
            let scale = scale(200, 64, "1.5").expect("feasible");
            let mut sum = 0_i64;
            let mut exact = 0.0;
            for value in values.iter().take(members as usize) {
                sum += i64::from(scale.quantise(*value)) * i64::from(weight);
                exact += f64::from(value.clamp(-1.5, 1.5)) * f64::from(weight);
            }
            prop_assert!(sum.abs() <= i64::from(i32::MAX));
            let ring = u32::from_le_bytes(i32::try_from(sum).expect("no overflow").to_le_bytes());
            let count = u32::try_from(values.len()).expect("few").min(members);
            let total = u64::from(weight * count);
            prop_assert!(scale.is_in_range(&[ring], total));
            let total = f64::from(weight * count);
            let error = (f64::from(centred(ring)) / f64::from(scale.steps()) - exact).abs();
            prop_assert!(error <= total * (0.500_01 / f64::from(scale.steps()) + 1e-6), "{error}");
        }
    }

    #[test]
    fn the_worst_case_fills_the_ring_and_no_more() {
        let scale = scale(64, 16, "1.0").expect("feasible");
        let most = i64::from(scale.quantise(1e9)) * 64 * 16;
        assert!(most <= i64::from(i32::MAX) && most > i64::from(i32::MAX) - 64 * 16);
        assert_eq!(scale.quantise(-1e9), -scale.quantise(1e9));
    }

    #[test]
    fn apply_is_the_average() {
        let scale = scale(4, 2, "1.0").expect("feasible");
        let sum = scale.quantise(0.5) * 2 + scale.quantise(-0.25);
        let mut adapter = [1.0];
        scale.apply(&mut adapter, &[u32::from_le_bytes(sum.to_le_bytes())], 3);
        assert!((adapter[0] - 1.25).abs() < 1e-6, "{adapter:?}");
    }
}
