//! Held-out loss, perplexity and accuracy.

use candle_core::Result;

use super::batch::Batch;
use super::examples::Examples;
use super::fused::head::Score;
use super::model::Model;
use super::model::adapted::Moving;
use super::model::labels;
use super::sample::likeliest;

/// What a set of examples scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// How many examples.
    pub examples: u64,
    /// Scored tokens.
    pub tokens: u64,
    /// Mean negative log-likelihood of the scored tokens, nats.
    pub loss: f64,
    /// `e^loss`.
    pub perplexity: f64,
    /// The share of scored tokens that were the model's first choice.
    pub accuracy: f64,
}

/// Scores examples, a few thousand tokens at a time; `None` if no token counts.
pub fn evaluate(
    model: &Model,
    moving: &Moving,
    examples: &dyn Examples,
) -> Result<Option<Measured>> {
    measure(moving, examples, |batch| model.score(batch, moving))
}

/// The same with a classifier, which says of each example in turn the label that it has, and the one that it is given.
pub fn classify(
    model: &Model,
    moving: &Moving,
    examples: &dyn Examples,
    mut each: impl FnMut(u32, u32),
) -> Result<Option<Measured>> {
    measure(moving, examples, |batch| {
        let (logits, labels) = (model.label_logits(batch, moving)?, &batch.targets.tokens);
        for (logits, label) in logits.iter().zip(labels) {
            each(*label, likeliest(logits));
        }
        Ok(labels::score(&logits, labels))
    })
}

fn measure(
    moving: &Moving,
    examples: &dyn Examples,
    mut score: impl FnMut(&Batch) -> Result<Score>,
) -> Result<Option<Measured>> {
    let rows = |example| moving.virtual_tokens() + examples.length(example);
    let mut total = Score::default();
    let mut tokens = 0;
    let mut next = 0;
    while next < examples.count() {
        let mut now = Vec::new();
        let mut length = 0;
        while next < examples.count() && (now.is_empty() || length + rows(next) <= TOKENS) {
            length += rows(next);
            now.push(examples.example(next).map_err(candle_core::Error::wrap)?);
            next += 1;
        }
        let batch = Batch::pack(now.iter().map(AsRef::as_ref));
        if batch.scored() == 0 {
            continue;
        }
        let score = score(&batch)?;
        total.nats += score.nats;
        total.hits += score.hits;
        tokens += batch.scored() as u64;
    }
    if tokens == 0 {
        return Ok(None);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let (loss, accuracy) = (
        total.nats / tokens as f64,
        total.hits as f64 / tokens as f64,
    );
    if !loss.is_finite() {
        candle_core::bail!(
            "the loss is not finite: the model's weights or the adapter hold values that are not finite; \
             fetch them again"
        );
    }
    Ok(Some(Measured {
        examples: examples.count() as u64,
        tokens,
        loss,
        perplexity: loss.exp(),
        accuracy,
    }))
}

const TOKENS: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::fixture::{encoder, examples};

    #[test]
    fn a_bare_encoder_scores_nothing_and_says_what_it_lacks() {
        let bare = encoder("BertModel");
        let said = evaluate(&bare, &Moving::Nothing, &examples()).unwrap_err();
        let said = said.to_string();
        assert!(
            said.starts_with("the base is an encoder without a classification head"),
            "{said}"
        );
    }
}
