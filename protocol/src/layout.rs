//! Where the factors stand inside the flat vector of an adapter.

use core::ops::Range;

use conclave_crypto::digest::Digest;

use crate::names::Factor;

/// The shape of an adapter as one flat vector of f32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The digest over the sorted (name, shape) of its tensors.
    pub shape: Digest,
    /// Coordinates in all.
    pub len: usize,
    /// Coordinate ranges of the factor A, ascending; empty for methods without factors.
    pub a: Vec<Range<usize>>,
    /// Coordinate ranges of the factor B, ascending; empty for methods without factors.
    pub b: Vec<Range<usize>>,
}

impl Layout {
    /// Whether rounds alternate between two factors.
    pub fn has_factors(&self) -> bool {
        !self.a.is_empty() && !self.b.is_empty()
    }

    /// Whether all ranges are ascending, apart, and inside the vector.
    pub fn is_sound(&self) -> bool {
        let within = |ranges: &[Range<usize>]| {
            let mut end = 0;
            ranges.iter().all(|range| {
                let sound = range.start >= end && range.start < range.end && range.end <= self.len;
                end = range.end;
                sound
            })
        };
        self.len > 0 && within(&self.a) && within(&self.b)
    }

    /// How many coordinates the factor has.
    pub fn count(&self, factor: Factor) -> usize {
        self.ranges(factor).iter().map(ExactSizeIterator::len).sum()
    }

    /// The factor's coordinates of a full vector, in order.
    pub fn gather(&self, factor: Factor, full: &[f32]) -> Vec<f32> {
        let mut part = Vec::with_capacity(self.count(factor));
        for range in self.ranges(factor) {
            part.extend_from_slice(full.get(range).unwrap_or_default());
        }
        part
    }

    /// Puts the factor's coordinates back into a full vector.
    pub fn scatter(&self, factor: Factor, part: &[f32], full: &mut [f32]) {
        let mut rest = part;
        for range in self.ranges(factor) {
            let Some((here, after)) = rest.split_at_checked(range.len()) else {
                return;
            };
            if let Some(place) = full.get_mut(range) {
                place.copy_from_slice(here);
            }
            rest = after;
        }
    }

    /// Goes through the factor's coordinates of a full vector, range by range, each with where it begins in the factor.
    pub fn each<T>(&self, factor: Factor, full: &mut [T], mut see: impl FnMut(&mut [T], usize)) {
        let mut begin: usize = 0;
        for range in self.ranges(factor) {
            let length = range.len();
            if let Some(part) = full.get_mut(range) {
                see(part, begin);
            }
            begin = begin.saturating_add(length);
        }
    }

    fn ranges(&self, factor: Factor) -> Vec<Range<usize>> {
        match factor {
            Factor::A => self.a.clone(),
            Factor::B => self.b.clone(),
            Factor::All => core::iter::once(0..self.len).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_gathered_and_put_back() {
        let layout = Layout {
            shape: Digest::ZERO,
            len: 6,
            a: vec![0..2, 4..5],
            b: vec![2..4, 5..6],
        };
        assert!(layout.is_sound() && layout.has_factors());
        let mut full = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(layout.gather(Factor::A, &full), [0.0, 1.0, 4.0]);
        assert_eq!(layout.gather(Factor::B, &full), [2.0, 3.0, 5.0]);
        let mut seen = Vec::new();
        layout.each(Factor::B, &mut full, |part, begin| {
            seen.push((part.to_vec(), begin));
        });
        assert_eq!(seen, [(vec![2.0, 3.0], 0), (vec![5.0], 2)]);
        layout.scatter(Factor::B, &[9.0, 8.0, 7.0], &mut full);
        assert_eq!(full, [0.0, 1.0, 9.0, 8.0, 4.0, 7.0]);
        let crossed = Layout {
            a: vec![2..4, 0..2],
            ..layout
        };
        assert!(!crossed.is_sound());
    }
}
