//! Text, token by token: greedy, or drawn at a temperature from the likeliest tokens.

use conclave_crypto::digest::Digest;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::model::decode::Decoding;
use super::model::{LoraTensors, Model};

/// How to choose the next token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token always.
    pub temperature: f64,
    /// Draw from the smallest set of tokens with at least this probability together.
    pub top_p: Option<f64>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Of the draws.
    pub seed: u64,
}

/// Continues a prompt until an end token, `max_tokens` or the end of the context; gives the new tokens, without the
/// end token. `stop` holds the end tokens.
///
/// # Panics
/// If the prompt is empty, longer than the context, or has tokens outside the vocabulary.
pub fn generate(
    model: &Model,
    lora: Option<&LoraTensors>,
    prompt: &[u32],
    stop: &[u32],
    sampling: &Sampling,
) -> Vec<u32> {
    let key = Digest::of("conclave/v1/sampling", &[&sampling.seed.to_le_bytes()]);
    let mut rng = ChaCha20Rng::from_seed(*key.as_bytes());
    let mut decoding = Decoding::new(model, lora);
    let mut new = Vec::new();
    let mut logits = decoding.extend(prompt);
    while new.len() < sampling.max_tokens {
        let token = choose(&logits, sampling, &mut rng);
        if stop.contains(&token) {
            break;
        }
        new.push(token);
        if decoding.room() == 0 || new.len() == sampling.max_tokens {
            break;
        }
        logits = decoding.extend(&[token]);
    }
    new
}

fn choose(logits: &[f32], sampling: &Sampling, rng: &mut ChaCha20Rng) -> u32 {
    let id = |index: usize| u32::try_from(index).expect("a vocabulary fits u32");
    if sampling.temperature <= 0.0 {
        let mut best = 0;
        for (index, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = index;
            }
        }
        return id(best);
    }
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weigh = |logit: f32| ((f64::from(logit) - max) / sampling.temperature).exp();
    let mut weights: Vec<(usize, f64)> = logits.iter().map(|l| weigh(*l)).enumerate().collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let all: f64 = weights.iter().map(|w| w.1).sum();
    let kept = sampling.top_p.unwrap_or(1.0) * all;
    let mut mass = 0.0;
    let end = weights.iter().position(|w| {
        mass += w.1;
        mass >= kept
    });
    weights.truncate(end.map_or(weights.len(), |end| end + 1));
    let total: f64 = weights.iter().map(|w| w.1).sum();
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in an f64")]
    let mut point = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
    for (index, weight) in &weights {
        point -= weight;
        if point < 0.0 {
            return id(*index);
        }
    }
    id(weights[weights.len() - 1].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(temperature: f64, top_p: Option<f64>) -> Vec<u32> {
        let sampling = Sampling {
            temperature,
            top_p,
            max_tokens: 1,
            seed: 0,
        };
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let logits = [2.0f32.ln(), 1.0f32.ln(), 6.0f32.ln(), 1.0f32.ln()];
        (0..1000)
            .map(|_| choose(&logits, &sampling, &mut rng))
            .collect()
    }

    #[test]
    fn sampling_follows_the_probabilities_and_top_p_cuts_the_tail() {
        assert!(drawn(0.0, None).iter().all(|t| *t == 2));
        let all = drawn(1.0, None);
        let share = all.iter().filter(|t| **t == 2).count();
        assert!((550..650).contains(&share), "{share} of 1000, expected 600");
        assert!((0..4).all(|t| all.contains(&t)));
        let cut = drawn(1.0, Some(0.75));
        assert!(cut.iter().all(|t| *t == 2 || *t == 0));
        assert!(cut.contains(&0));
    }
}
