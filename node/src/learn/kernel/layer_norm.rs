//! LayerNorm (Ba et al., arXiv 1607.06450) on rows, with the pieces that its gradient needs.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is compiled for the oldest machine"
)]

use rayon::prelude::*;

use super::elementwise::{ROWS, dot, total, width};

/// What the forward pass keeps of each row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    /// The mean.
    pub mean: f32,
    /// `1 / sqrt(variance + eps)`.
    pub inverse: f32,
}

/// `y = w · (x − mean) / sqrt(variance + eps) + b`, row by row; gives the moments for the backward pass.
pub fn layer_norm(x: &[f32], [weight, bias]: [&[f32]; 2], eps: f32, y: &mut [f32]) -> Vec<Moments> {
    let n = weight.len();
    let mut moments = vec![Moments::default(); x.len() / n];
    y.par_chunks_mut(n * ROWS)
        .zip(x.par_chunks(n * ROWS))
        .zip(moments.par_chunks_mut(ROWS))
        .for_each(|((y, x), moments)| rows(x, weight, bias, eps, y, moments));
    moments
}

#[pulp::with_simd(rows = pulp::Arch::new())]
#[inline(always)]
fn rows_by<S: pulp::Simd>(
    _: S,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
    moments: &mut [Moments],
) {
    let n = weight.len();
    let rows = y.chunks_exact_mut(n).zip(x.chunks_exact(n));
    for ((y, x), kept) in rows.zip(moments) {
        let mean = total(x) / width(n);
        for (y, x) in y.iter_mut().zip(x) {
            *y = x - mean;
        }
        let inverse = 1.0 / (dot(y, y) / width(n) + eps).sqrt();
        for ((y, w), b) in y.iter_mut().zip(weight).zip(bias) {
            *y = *y * inverse * w + b;
        }
        *kept = Moments { mean, inverse };
    }
}

/// The gradient of [`layer_norm`] by its input: with g = w·dy and x̂ the normed input,
/// `dx = (g − mean(g) − x̂ · mean(g·x̂)) / sqrt(variance + eps)`.
pub fn layer_norm_back(x: &[f32], weight: &[f32], moments: &[Moments], dy: &[f32], dx: &mut [f32]) {
    let n = weight.len();
    dx.par_chunks_mut(n * ROWS)
        .zip(x.par_chunks(n * ROWS))
        .zip(dy.par_chunks(n * ROWS))
        .zip(moments.par_chunks(ROWS))
        .for_each(|(((dx, x), dy), moments)| rows_back(x, weight, moments, dy, dx));
}

#[pulp::with_simd(rows_back = pulp::Arch::new())]
#[inline(always)]
fn rows_back_by<S: pulp::Simd>(
    _: S,
    x: &[f32],
    weight: &[f32],
    moments: &[Moments],
    dy: &[f32],
    dx: &mut [f32],
) {
    let n = weight.len();
    let rows = dx
        .chunks_exact_mut(n)
        .zip(x.chunks_exact(n))
        .zip(dy.chunks_exact(n));
    for (((dx, x), dy), &Moments { mean, inverse }) in rows.zip(moments) {
        for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
            *dx = dy * w;
        }
        let shift = total(dx) / width(n);
        // mean(g · (x − mean)) = mean(g · x) − mean · mean(g)
        let slope = (dot(dx, x) / width(n) - mean * shift) * inverse * inverse;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = inverse * (*dx - shift - (x - mean) * slope);
        }
    }
}

/// The gradients of [`layer_norm`] by weight and bias: `dw = Σ_rows dy · x̂`, `db = Σ_rows dy`.
pub fn layer_norm_weight_back(
    x: &[f32],
    moments: &[Moments],
    dy: &[f32],
    [dw, db]: [&mut [f32]; 2],
) {
    let n = dw.len();
    let rows = x.chunks_exact(n).zip(dy.chunks_exact(n));
    for ((x, dy), &Moments { mean, inverse }) in rows.zip(moments) {
        for (((dw, db), x), dy) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(dy) {
            *dw += dy * (x - mean) * inverse;
            *db += dy;
        }
    }
}
