//! The output head and the cross-entropy as one operation, on scored tokens only.
//!
//! The logits `(scored, vocabulary)` never exist at once: a block of rows at a time is computed, scored, turned into
//! their own gradient and multiplied back. So the gradient is known when the loss is, and the backward pass only scales
//! it.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{argument, kept, shaped_as};
use crate::learn::kernel::elementwise::{exp_row, scale};
use crate::learn::kernel::product::{Old, View, ViewMut, product};
use crate::learn::weights::affine::Affine;

/// Which rows are scored, against which tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Rows of the hidden states.
    pub rows: Vec<u32>,
    /// The token that each of these rows should predict.
    pub tokens: Vec<u32>,
}

/// What scoring gave besides the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Summed negative log-likelihood, nats.
    pub nats: f64,
    /// Targets that were the head's first choice.
    pub hits: u64,
}

struct Pass<'a> {
    x: &'a [f32],
    hidden: usize,
    matrix: Matrix<'a>,
    vocabulary: usize,
}

/// The head's matrix `(vocabulary, hidden)`.
#[derive(Clone, Copy)]
enum Matrix<'a> {
    Frozen(&'a Affine),
    Free(&'a [f32]),
}

struct Gradients {
    x: Vec<f32>,
    weight: Vec<f32>,
}

struct FrozenHead {
    map: Affine,
    shared: Shared,
}

struct FreeHead {
    shared: Shared,
}

struct Shared {
    targets: Arc<Targets>,
    factor: f32,
    wanted: [bool; 2],
    score: Arc<OnceLock<Score>>,
    gradients: OnceLock<Gradients>,
}

/// `factor · Σ nll` over the targets (a scalar) of hidden states `x` `(tokens, hidden)` under a frozen head
/// `(vocabulary, hidden)`, and the exact score.
pub fn frozen(
    x: &Tensor,
    map: &Affine,
    targets: Arc<Targets>,
    factor: f32,
) -> Result<(Tensor, Score)> {
    let shared = Shared::new(targets, factor, [x.track_op(), false]);
    let score = shared.score.clone();
    let map = map.clone();
    let loss = x.apply_op1(FrozenHead { map, shared })?;
    Ok((loss, *kept(&score)?))
}

/// The same for a head that is a variable.
pub fn free(
    x: &Tensor,
    weight: &Tensor,
    targets: Arc<Targets>,
    factor: f32,
) -> Result<(Tensor, Score)> {
    let shared = Shared::new(targets, factor, [x.track_op(), weight.track_op()]);
    let score = shared.score.clone();
    let loss = x.apply_op2(weight, FreeHead { shared })?;
    Ok((loss, *kept(&score)?))
}

impl Shared {
    fn new(targets: Arc<Targets>, factor: f32, wanted: [bool; 2]) -> Self {
        Self {
            targets,
            factor,
            wanted,
            score: Arc::new(OnceLock::new()),
            gradients: OnceLock::new(),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the graph's loss is an f32"
    )]
    fn forward(&self, pass: &Pass<'_>) -> (CpuStorage, Shape) {
        let (score, gradients) = pass.run(&self.targets, self.factor, self.wanted);
        self.score.get_or_init(|| score);
        self.gradients.get_or_init(|| gradients);
        let loss = (score.nats * f64::from(self.factor)) as f32;
        (CpuStorage::F32(vec![loss]), Shape::from(()))
    }

    fn backward(&self, x: &Tensor, d_loss: &Tensor) -> Result<(Tensor, f32)> {
        let d_loss = d_loss.to_scalar::<f32>()?;
        let mut dx = kept(&self.gradients)?.x.clone();
        scale(&mut dx, d_loss);
        Ok((shaped_as(dx, x)?, d_loss))
    }
}

impl Pass<'_> {
    fn run(&self, targets: &Targets, factor: f32, wanted: [bool; 2]) -> (Score, Gradients) {
        let (hidden, vocabulary) = (self.hidden, self.vocabulary);
        let [x_wanted, weight_wanted] = wanted;
        let mut gradients = Gradients {
            x: vec![0.0; if x_wanted { self.x.len() } else { 0 }],
            weight: vec![
                0.0;
                if weight_wanted {
                    vocabulary * hidden
                } else {
                    0
                }
            ],
        };
        let mut score = Score::default();
        let rows = rows_at_a_time(vocabulary);
        let block = rows.min(targets.rows.len());
        let mut logits = vec![0.0; block * vocabulary];
        let mut inputs = Vec::with_capacity(block * hidden);
        let mut d_inputs = vec![0.0; block * hidden];
        let pairs = targets.rows.chunks(rows).zip(targets.tokens.chunks(rows));
        for (rows, tokens) in pairs {
            let n = rows.len();
            inputs.clear();
            for &row in rows {
                let at = row as usize * hidden;
                inputs.extend_from_slice(&self.x[at..at + hidden]);
            }
            let logits = &mut logits[..n * vocabulary];
            match self.matrix {
                Matrix::Frozen(map) => map.apply_into(&inputs, logits),
                Matrix::Free(weight) => product(
                    ViewMut::new(logits, n, vocabulary),
                    Old::Replace,
                    1.0,
                    View::new(&inputs, n, hidden),
                    View::new(weight, vocabulary, hidden).t(),
                ),
            }
            score_rows(logits, vocabulary, tokens, factor, &mut score);
            let d_logits = View::new(logits, n, vocabulary);
            if x_wanted {
                let d_inputs = &mut d_inputs[..n * hidden];
                match self.matrix {
                    Matrix::Frozen(map) => map.apply_back_into(logits, d_inputs),
                    Matrix::Free(weight) => product(
                        ViewMut::new(d_inputs, n, hidden),
                        Old::Replace,
                        1.0,
                        d_logits,
                        View::new(weight, vocabulary, hidden),
                    ),
                }
                for (&row, d) in rows.iter().zip(d_inputs.chunks_exact(hidden)) {
                    let at = row as usize * hidden;
                    gradients.x[at..at + hidden].copy_from_slice(d);
                }
            }
            if weight_wanted {
                let out = ViewMut::new(&mut gradients.weight, vocabulary, hidden);
                product(
                    out,
                    Old::Keep,
                    1.0,
                    d_logits.t(),
                    View::new(&inputs, n, hidden),
                );
            }
        }
        (score, gradients)
    }
}

/// Adds to the score and turns each row of logits into `factor · (softmax − onehot)`.
fn score_rows(
    logits: &mut [f32],
    vocabulary: usize,
    tokens: &[u32],
    factor: f32,
    score: &mut Score,
) {
    use rayon::prelude::*;
    let rows: Vec<(f64, bool)> = logits
        .par_chunks_exact_mut(vocabulary)
        .zip(tokens)
        .map(|(row, &token)| {
            let target = row[token as usize];
            let (max, sum) = exp_row(row);
            scale(row, factor / sum);
            row[token as usize] -= factor;
            (
                f64::from(max) - f64::from(target) + f64::from(sum).ln(),
                target >= max,
            )
        })
        .collect();
    for (nats, hit) in rows {
        score.nats += nats;
        score.hits += u64::from(hit);
    }
}

impl CustomOp1 for FrozenHead {
    fn name(&self) -> &'static str {
        "frozen-head"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocabulary, hidden) = self.map.dims();
        Ok(self.shared.forward(&Pass {
            x: argument(x, layout)?,
            hidden,
            matrix: Matrix::Frozen(&self.map),
            vocabulary,
        }))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, d_loss: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.shared.backward(x, d_loss)?.0))
    }
}

impl CustomOp2 for FreeHead {
    fn name(&self) -> &'static str {
        "free-head"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (vocabulary, hidden) = w_layout.shape().dims2()?;
        Ok(self.shared.forward(&Pass {
            x: argument(x, x_layout)?,
            hidden,
            matrix: Matrix::Free(argument(w, w_layout)?),
            vocabulary,
        }))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        d_loss: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, d_loss) = self.shared.backward(x, d_loss)?;
        let mut dw = kept(&self.shared.gradients)?.weight.clone();
        scale(&mut dw, d_loss);
        Ok((Some(dx), Some(shaped_as(dw, w)?)))
    }
}

/// Rows of logits at a time: up to so many bytes of them, for the head's matrix is read anew for each block.
fn rows_at_a_time(vocabulary: usize) -> usize {
    const BYTES: usize = 64 << 20;
    (BYTES / size_of::<f32>() / vocabulary.max(1)).clamp(256, 1024)
}
