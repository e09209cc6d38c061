//! The output head and the cross-entropy as one operation, on scored tokens only.
//!
//! The logits `(scored, vocabulary)` never exist at once: a block of rows at a time is computed, scored, turned into
//! their own gradient and multiplied back. So the gradient is known when the loss is.

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

/// The head's matrix `(vocabulary, hidden)`.
#[derive(Debug, Clone, Copy)]
pub enum Matrix<'a> {
    /// It gets no gradient.
    Frozen(&'a Affine),
    /// Its values and its shape.
    Free(&'a [f32], [usize; 2]),
}

/// The gradients of `factor · Σ nll`; empty where none are wanted.
#[derive(Debug)]
pub struct Gradients {
    /// By the hidden states.
    pub x: Vec<f32>,
    /// By the matrix.
    pub weight: Vec<f32>,
}

impl Matrix<'_> {
    fn dims(self) -> (usize, usize) {
        match self {
            Matrix::Frozen(map) => map.dims(),
            Matrix::Free(_, shape) => shape.into(),
        }
    }

    /// The exact score of hidden states `x` `(tokens, hidden)` against the targets, and the gradients of
    /// `factor · Σ nll` by those of the hidden states and the matrix that are wanted.
    pub fn score(
        self,
        x: &[f32],
        targets: &Targets,
        factor: f32,
        [x_wanted, weight_wanted]: [bool; 2],
    ) -> (Score, Gradients) {
        let (vocabulary, hidden) = self.dims();
        let mut gradients = Gradients {
            x: vec![0.0; if x_wanted { x.len() } else { 0 }],
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
                inputs.extend_from_slice(&x[at..at + hidden]);
            }
            let logits = &mut logits[..n * vocabulary];
            match self {
                Matrix::Frozen(map) => map.apply_into(&inputs, logits),
                Matrix::Free(weight, _) => product(
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
                match self {
                    Matrix::Frozen(map) => map.apply_back_into(logits, d_inputs),
                    Matrix::Free(weight, _) => product(
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

/// Rows of logits at a time: up to so many bytes of them, for the head's matrix is read anew for each block.
fn rows_at_a_time(vocabulary: usize) -> usize {
    const BYTES: usize = 64 << 20;
    (BYTES / size_of::<f32>() / vocabulary.max(1)).clamp(256, 1024)
}
