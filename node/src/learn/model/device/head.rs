//! The output head and the cross-entropy on a device: rows of logits a block at a time, as on the processor.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor};

use super::given::given;
use super::product;
use crate::learn::fused::head::{Score, Targets};

/// `factor · Σ nll` over the targets of hidden states `(tokens, hidden)` under a head `(vocabulary, hidden)`, frozen or
/// moving, and the exact score. The gradient is known when the loss is.
pub(super) fn loss(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Arc<Targets>,
    factor: f32,
) -> Result<(Tensor, Score)> {
    let wanted = [hidden.track_op(), head.track_op()];
    let (x, w) = (hidden.detach(), head.detach());
    let mut score = Score::default();
    let mut dx = wanted[0].then(|| x.zeros_like()).transpose()?;
    let mut dw = wanted[1].then(|| w.zeros_like()).transpose()?;
    let blocks = targets.rows.chunks(ROWS).zip(targets.tokens.chunks(ROWS));
    for (rows, tokens) in blocks {
        let rows = Tensor::new(rows, x.device())?;
        let inputs = x.index_select(&rows, 0)?;
        let logits = product(&inputs, &w.t()?)?;
        let tokens = Tensor::new(tokens, x.device())?.unsqueeze(1)?;
        let largest = logits.max_keepdim(D::Minus1)?;
        let target = logits.gather(&tokens, 1)?;
        let powers = logits.broadcast_sub(&largest)?.exp()?;
        drop(logits);
        let sums = powers.sum_keepdim(D::Minus1)?;
        let nats = ((&largest - &target)? + sums.log()?)?.flatten_all()?;
        for nats in nats.to_vec1::<f32>()? {
            score.nats += f64::from(nats);
        }
        let hits = target.ge(&largest)?.to_dtype(DType::U32)?;
        score.hits += u64::from(hits.sum_all()?.to_scalar::<u32>()?);
        if wanted == [false; 2] {
            continue;
        }
        let ones = tokens.to_dtype(DType::F32)?.ones_like()?;
        let shares = powers.broadcast_div(&sums)?;
        drop(powers);
        let shares = shares.scatter_add(&tokens, &ones.neg()?, 1)?;
        let d_logits = (shares * f64::from(factor))?;
        if let Some(sum) = dx.take() {
            dx = Some(sum.index_add(&rows, &product(&d_logits, &w)?, 0)?);
        }
        if let Some(sum) = dw.take() {
            dw = Some((sum + product(&d_logits.t()?, &inputs)?)?);
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the graph's loss is an f32"
    )]
    let value = (score.nats * f64::from(factor)) as f32;
    let value = Tensor::new(value, x.device())?;
    let loss = given([hidden, head], value, move |_, d_loss| {
        let scaled = |gradient: &Option<Tensor>| {
            let gradient = gradient.as_ref();
            gradient.map(|g| g.broadcast_mul(d_loss)).transpose()
        };
        Ok(vec![scaled(&dx)?, scaled(&dw)?])
    })?;
    Ok((loss, score))
}

/// The logits `(rows, vocabulary)`, row-major, of hidden states `(rows, hidden)` under a head `(vocabulary, hidden)`.
pub(super) fn logits(hidden: &Tensor, head: &Tensor) -> Result<Vec<f32>> {
    product(hidden, &head.t()?)?.flatten_all()?.to_vec1()
}

/// Rows of logits at a time.
const ROWS: usize = 1024;
