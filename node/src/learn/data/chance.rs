//! A seeded stream of choices that is the same on every machine and for every version of `rand`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Choices from a seed and a stream number; two streams of one seed are independent.
#[derive(Debug, Clone)]
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(b"conclave");
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        Self(rng)
    }

    /// A number below `n`, or 0 when `n` is 0.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the product's high half is below n, a usize"
    )]
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// One of `items`.
    ///
    /// # Panics
    /// When `items` is empty.
    pub fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// A number in [0, 1) with 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    pub fn fraction(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Shuffles `items` (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }

    /// A point of the simplex from a symmetric Dirichlet distribution, `n` parts that sum to 1.
    pub fn dirichlet(&mut self, alpha: f64, n: usize) -> Vec<f64> {
        let logs: Vec<f64> = (0..n).map(|_| self.log_gamma(alpha)).collect();
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let parts: Vec<f64> = logs.iter().map(|log| (log - top).exp()).collect();
        let total: f64 = parts.iter().sum();
        parts.into_iter().map(|part| part / total).collect()
    }

    /// The logarithm of a gamma variate of shape `alpha` (Marsaglia and Tsang 2000; below shape 1
    /// by their boost, in logarithms so that tiny shapes do not underflow).
    fn log_gamma(&mut self, alpha: f64) -> f64 {
        if alpha < 1.0 {
            let boost = (1.0 - self.fraction()).ln() / alpha;
            return self.log_gamma(alpha + 1.0) + boost;
        }
        let d = alpha - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.fraction()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return (d * v).ln();
            }
        }
    }

    /// A standard normal variate (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.fraction()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choices_and_streams_differ() {
        let draw = |seed, stream| {
            let mut chance = Chance::new(seed, stream);
            (0..8).map(|_| chance.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
    }

    #[test]
    fn dirichlet_parts_sum_to_one_and_follow_alpha() {
        let mut chance = Chance::new(7, 0);
        let spread = |chance: &mut Chance, alpha| {
            let mut top = 0.0;
            for _ in 0..200 {
                let parts = chance.dirichlet(alpha, 5);
                assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                top += parts.iter().copied().fold(0.0, f64::max) / 200.0;
            }
            top
        };
        let (skewed, even) = (spread(&mut chance, 0.05), spread(&mut chance, 50.0));
        assert!(
            skewed > 0.9,
            "alpha 0.05 gives almost everything to one member: {skewed}"
        );
        assert!(even < 0.3, "alpha 50 is nearly even: {even}");
    }
}
