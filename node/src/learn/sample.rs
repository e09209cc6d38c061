//! The choice of the next token: the likeliest, or one drawn at a temperature from the likeliest tokens.

use conclave_crypto::digest::Digest;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token always.
    pub temperature: f64,
    /// Draw from the smallest set of tokens with at least this probability together.
    pub top_p: Option<f64>,
    /// Of the draws.
    pub seed: u64,
}

/// Chooses token after token.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha20Rng,
}

impl Sampler {
    /// A stream of choices, the same for the same seed.
    pub fn new(sampling: Sampling) -> Self {
        let key = Digest::of("conclave/v1/sampling", &[&sampling.seed.to_le_bytes()]);
        let rng = ChaCha20Rng::from_seed(*key.as_bytes());
        Self { sampling, rng }
    }

    /// The next token, given the logits of all.
    ///
    /// # Panics
    /// If there are none.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature <= 0.0 {
            return likeliest(logits);
        }
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in an f64")]
        let mut point = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let shares = self.sampling.shares(logits);
        for &(token, share) in &shares {
            point -= share;
            if point < 0.0 {
                return token;
            }
        }
        shares[shares.len() - 1].0
    }
}

impl Sampling {
    /// The tokens that may be drawn, each with its probability: of a part, likeliest first; at a temperature above 0.
    pub fn shares(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let weigh = |logit: &f32| ((f64::from(*logit) - max) / self.temperature).exp();
        let mut shares: Vec<(u32, f64)> = (0..).zip(logits.iter().map(weigh)).collect();
        if let Some(top_p) = self.top_p.filter(|top_p| *top_p < 1.0) {
            shares.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let kept = top_p * sum(&shares);
            let mut mass = 0.0;
            let end = shares.iter().position(|share| {
                mass += share.1;
                mass >= kept
            });
            shares.truncate(end.map_or(shares.len(), |end| end + 1));
        }
        let whole = sum(&shares);
        for share in &mut shares {
            share.1 /= whole;
        }
        shares
    }
}

fn sum(shares: &[(u32, f64)]) -> f64 {
    shares.iter().map(|share| share.1).sum()
}

/// The number of the largest of these; the first of equals.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights 2, 1, 6, 1 of 10.
    fn logits() -> [f32; 4] {
        [2.0f32.ln(), 1.0f32.ln(), 6.0f32.ln(), 1.0f32.ln()]
    }

    fn sampling(temperature: f64, top_p: Option<f64>) -> Sampling {
        Sampling {
            temperature,
            top_p,
            seed: 5,
        }
    }

    fn exactly(found: &[(u32, f64)], expected: &[(u32, f64)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.0, expected.0);
            assert!(
                (found.1 - expected.1).abs() < 1e-6,
                "{found:?}, not {expected:?}"
            );
        }
    }

    #[test]
    fn the_distribution_is_exact() {
        let all = [(0, 0.2), (1, 0.1), (2, 0.6), (3, 0.1)];
        exactly(&sampling(1.0, None).shares(&logits()), &all);
        exactly(&sampling(1.0, Some(1.0)).shares(&logits()), &all);
        // At temperature 1/2 the weights are squared: 36, 4, 1, 1 of 42.
        let sharp = [
            (0, 4.0 / 42.0),
            (1, 1.0 / 42.0),
            (2, 36.0 / 42.0),
            (3, 1.0 / 42.0),
        ];
        exactly(&sampling(0.5, None).shares(&logits()), &sharp);
        let most = [(2, 0.6), (0, 0.2), (1, 0.1)];
        let most = most.map(|(token, share)| (token, share / 0.9));
        exactly(&sampling(1.0, Some(0.85)).shares(&logits()), &most);
        // The smallest sets with 0.6, 0.75 and 0.85 of the mass.
        exactly(&sampling(1.0, Some(0.59)).shares(&logits()), &[(2, 1.0)]);
        exactly(
            &sampling(1.0, Some(0.75)).shares(&logits()),
            &[(2, 0.75), (0, 0.25)],
        );
        let three = [(2, 6.0 / 9.0), (0, 2.0 / 9.0), (1, 1.0 / 9.0)];
        exactly(&sampling(1.0, Some(0.85)).shares(&logits()), &three);
        exactly(
            &sampling(1.0, Some(1e-9)).shares(&[0.0, -1e30, 80.0]),
            &[(2, 1.0)],
        );
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let drawn = |sampling: Sampling| {
            let mut sampler = Sampler::new(sampling);
            (0..10_000)
                .map(|_| sampler.choose(&logits()))
                .collect::<Vec<u32>>()
        };
        let mut chi = 0.0;
        let all = drawn(sampling(1.0, None));
        for (token, share) in sampling(1.0, None).shares(&logits()) {
            let count = all.iter().filter(|t| **t == token).count() as f64;
            let expected = share * 10_000.0;
            chi += (count - expected).powi(2) / expected;
        }
        assert!(
            chi < 16.3,
            "chi-square {chi} with 3 degrees of freedom: one in a thousand"
        );
        assert_eq!(all, drawn(sampling(1.0, None)));
        assert_ne!(
            all,
            drawn(Sampling {
                seed: 6,
                ..sampling(1.0, None)
            })
        );
        assert!(drawn(sampling(0.0, None)).iter().all(|token| *token == 2));
        assert!(
            drawn(sampling(1.0, Some(0.75)))
                .iter()
                .all(|token| [0, 2].contains(token))
        );
    }
}
