//! Attention with grouped queries and rotary positions, inside each span of a packed row.
//!
//! Queries are `(tokens, heads · dim)`, keys and values `(tokens, kv_heads · dim)`. A span is one example: its
//! positions start at zero and its tokens see one another only. Nothing of size span × span is kept: the forward
//! pass leaves one number a token and head (the logarithm of the softmax's denominator), from which the backward
//! pass recomputes the probabilities, 64 rows at a time (Dao et al., FlashAttention, arXiv 2205.14135).

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is compiled for the oldest machine"
)]

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::elementwise::{dot, exp_row, exp_row_by, exp_shifted, scale};
use super::product::{Old, View, ViewMut, product};
use super::rope::{RopeTable, Turn};

/// The heads of a layer.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements a head.
    pub dim: usize,
    /// Rotary angles; none where positions are learned.
    pub rope: Option<Arc<RopeTable>>,
    /// What a token sees.
    pub sight: Sight,
}

/// Which tokens of its example a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Itself and all before it.
    Causal,
    /// The last so many, itself among them.
    Window(usize),
    /// All.
    Both,
}

/// The gradients of queries, keys and values, each in the shape of its input.
#[derive(Debug)]
pub struct Gradients {
    /// By the queries.
    pub q: Vec<f32>,
    /// By the keys.
    pub k: Vec<f32>,
    /// By the values.
    pub v: Vec<f32>,
}

/// What one span and key head contribute.
struct Part {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sight {
    /// The columns that row `i` of `len` sees.
    pub fn of(self, i: usize, len: usize) -> Range<usize> {
        match self {
            Self::Causal => 0..i + 1,
            Self::Window(window) => (i + 1).saturating_sub(window)..i + 1,
            Self::Both => 0..len,
        }
    }
}

impl Heads {
    /// The attended values `(tokens, heads · dim)` and the log-denominators `(tokens, heads)`; `spans` are the
    /// examples: ranges of rows, in order.
    pub fn forward(&self, spans: &[Range<usize>], [q, k, v]: [&[f32]; 3]) -> (Vec<f32>, Vec<f32>) {
        let tokens = q.len() / (self.heads * self.dim);
        let parts = self.each(spans, |span, g| self.forward_part(q, k, v, span, g));
        let mut out = vec![0.0; q.len()];
        let mut logs = vec![0.0; tokens * self.heads];
        let group = self.heads / self.kv_heads;
        for ((span, g), (part_out, part_logs)) in self.tasks(spans).zip(parts) {
            let (wide, at) = (self.heads * self.dim, g * group * self.dim);
            put(&mut out, wide, at, &span, &part_out, group * self.dim);
            put(&mut logs, self.heads, g * group, &span, &part_logs, group);
        }
        (out, logs)
    }

    /// The gradients of [`Self::forward`], given its inputs, its results and the gradient of its output.
    pub fn backward(
        &self,
        spans: &[Range<usize>],
        [q, k, v]: [&[f32]; 3],
        out: &[f32],
        logs: &[f32],
        d_out: &[f32],
    ) -> Gradients {
        let parts = self.each(spans, |span, g| {
            self.backward_part([q, k, v], out, logs, d_out, span, g)
        });
        let mut gradients = Gradients {
            q: vec![0.0; q.len()],
            k: vec![0.0; k.len()],
            v: vec![0.0; v.len()],
        };
        let group = self.heads / self.kv_heads;
        let (q_wide, kv_wide) = (self.heads * self.dim, self.kv_heads * self.dim);
        for ((span, g), part) in self.tasks(spans).zip(parts) {
            let (q_at, kv_at) = (g * group * self.dim, g * self.dim);
            put(
                &mut gradients.q,
                q_wide,
                q_at,
                &span,
                &part.q,
                group * self.dim,
            );
            put(&mut gradients.k, kv_wide, kv_at, &span, &part.k, self.dim);
            put(&mut gradients.v, kv_wide, kv_at, &span, &part.v, self.dim);
        }
        gradients
    }

    fn tasks(&self, spans: &[Range<usize>]) -> impl Iterator<Item = (Range<usize>, usize)> {
        let spans = spans.iter().cloned();
        spans.flat_map(|span| (0..self.kv_heads).map(move |g| (span.clone(), g)))
    }

    fn each<T: Send>(
        &self,
        spans: &[Range<usize>],
        work: impl Fn(Range<usize>, usize) -> T + Sync,
    ) -> Vec<T> {
        let tasks: Vec<_> = self.tasks(spans).collect();
        tasks
            .into_par_iter()
            .map(|(span, g)| work(span, g))
            .collect()
    }

    fn forward_part(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        span: Range<usize>,
        g: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let (dim, len, group) = (self.dim, span.len(), self.heads / self.kv_heads);
        let (q_wide, kv_wide) = (self.heads * dim, self.kv_heads * dim);
        let keys = self.turned(k, kv_wide, g, &span);
        let values = &v[span.start * kv_wide + g * dim..];
        let mut out = vec![0.0; len * group * dim];
        let mut logs = vec![0.0; len * group];
        let mut scores = vec![0.0; ROWS.min(len) * len];
        for h in 0..group {
            let queries = self.turned(q, q_wide, g * group + h, &span);
            for rows in blocks(len) {
                let seen = self.columns(&rows, len);
                self.scores(&mut scores, &queries, &keys, &rows, seen);
                for (i, row) in rows.clone().zip(scores.chunks_exact_mut(seen)) {
                    let row = self.visible(row, i, len);
                    let (max, sum) = exp_row(row);
                    scale(row, 1.0 / sum);
                    logs[i * group + h] = max + sum.ln();
                }
                let at = rows.start * group * dim + h * dim;
                product(
                    ViewMut::strided(&mut out[at..], rows.len(), dim, group * dim),
                    Old::Replace,
                    1.0,
                    View::new(&scores, rows.len(), seen),
                    View::strided(values, seen, dim, kv_wide),
                );
            }
        }
        (out, logs)
    }

    fn backward_part(
        &self,
        [q, k, v]: [&[f32]; 3],
        out: &[f32],
        logs: &[f32],
        d_out: &[f32],
        span: Range<usize>,
        g: usize,
    ) -> Part {
        let (dim, len, group) = (self.dim, span.len(), self.heads / self.kv_heads);
        let (q_wide, kv_wide) = (self.heads * dim, self.kv_heads * dim);
        let keys = self.turned(k, kv_wide, g, &span);
        let mut part = Part {
            q: vec![0.0; len * group * dim],
            k: vec![0.0; len * dim],
            v: vec![0.0; len * dim],
        };
        let mut scores = vec![0.0; ROWS.min(len) * len];
        let mut d_scores = vec![0.0; ROWS.min(len) * len];
        for h in 0..group {
            let head = g * group + h;
            let queries = self.turned(q, q_wide, head, &span);
            for rows in blocks(len) {
                let (seen, n) = (self.columns(&rows, len), rows.len());
                let at = (span.start + rows.start) * q_wide + head * dim;
                let d_rows = View::strided(&d_out[at..], n, dim, q_wide);
                self.scores(&mut scores, &queries, &keys, &rows, seen);
                // dP = dO · Vᵀ
                let v_rows =
                    View::strided(&v[span.start * kv_wide + g * dim..], seen, dim, kv_wide);
                let d_scores = &mut d_scores[..n * seen];
                product(
                    ViewMut::new(d_scores, n, seen),
                    Old::Replace,
                    1.0,
                    d_rows,
                    v_rows.t(),
                );
                // P from the kept logarithms; dS = P ∘ (dP − Σ dO∘O)
                let pairs = scores
                    .chunks_exact_mut(seen)
                    .zip(d_scores.chunks_exact_mut(seen));
                for (i, (p, d)) in rows.clone().zip(pairs) {
                    let token = span.start + i;
                    exp_shifted(self.visible(p, i, len), logs[token * self.heads + head]);
                    let at = token * q_wide + head * dim;
                    softmax_back(p, &d_out[at..at + dim], &out[at..at + dim], d);
                }
                let p = View::new(&scores, n, seen);
                let d_s = View::new(d_scores, n, seen);
                product(
                    ViewMut::new(&mut part.v, seen, dim),
                    Old::Keep,
                    1.0,
                    p.t(),
                    d_rows,
                );
                let q_rows = View::new(&queries[rows.start * dim..], n, dim);
                product(
                    ViewMut::new(&mut part.k, seen, dim),
                    Old::Keep,
                    self.factor(),
                    d_s.t(),
                    q_rows,
                );
                let at = rows.start * group * dim + h * dim;
                product(
                    ViewMut::strided(&mut part.q[at..], n, dim, group * dim),
                    Old::Replace,
                    self.factor(),
                    d_s,
                    View::new(&keys, seen, dim),
                );
            }
        }
        for i in 0..len {
            self.turn(&mut part.k[i * dim..(i + 1) * dim], i, Turn::Back);
            for head in part.q[i * group * dim..(i + 1) * group * dim].chunks_exact_mut(dim) {
                self.turn(head, i, Turn::Back);
            }
        }
        part
    }

    /// How many columns some rows see together.
    fn columns(&self, rows: &Range<usize>, len: usize) -> usize {
        self.sight.of(rows.end - 1, len).end
    }

    /// The part of a row of scores that row `i` sees; the rest becomes zero.
    fn visible<'a>(&self, row: &'a mut [f32], i: usize, len: usize) -> &'a mut [f32] {
        let seen = self.sight.of(i, len);
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        &mut row[seen]
    }

    /// `Q · Kᵀ / sqrt(dim)` for some rows against the first `seen` columns.
    fn scores(
        &self,
        scores: &mut [f32],
        queries: &[f32],
        keys: &[f32],
        rows: &Range<usize>,
        seen: usize,
    ) {
        product(
            ViewMut::new(scores, rows.len(), seen),
            Old::Replace,
            self.factor(),
            View::new(&queries[rows.start * self.dim..], rows.len(), self.dim),
            View::new(keys, seen, self.dim).t(),
        );
    }

    /// One head of a span, dense, each row turned by its position.
    fn turned(&self, x: &[f32], wide: usize, head: usize, span: &Range<usize>) -> Vec<f32> {
        let mut rows = Vec::with_capacity(span.len() * self.dim);
        for (position, token) in span.clone().enumerate() {
            let at = token * wide + head * self.dim;
            rows.extend_from_slice(&x[at..at + self.dim]);
            let end = rows.len();
            self.turn(&mut rows[end - self.dim..], position, Turn::Forward);
        }
        rows
    }

    /// Turns one head of the token at a position in place.
    pub fn turn(&self, head: &mut [f32], position: usize, turn: Turn) {
        if let Some(rope) = &self.rope {
            rope.turn(head, position, turn);
        }
    }

    /// What scores are multiplied with: `1 / sqrt(dim)`.
    pub fn factor(&self) -> f32 {
        1.0 / f32::from(u16::try_from(self.dim).expect("a head is small")).sqrt()
    }
}

/// A span's rows, [`ROWS`] at a time.
fn blocks(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len)
        .step_by(ROWS)
        .map(move |start| start..(start + ROWS).min(len))
}

/// The gradient of a row of scores: of `d` by its probabilities `p`, `p ∘ (d − Σ d_out ∘ out)`.
#[pulp::with_simd(softmax_back = pulp::Arch::new())]
#[inline(always)]
fn softmax_back_by<S: pulp::Simd>(_: S, p: &[f32], d_out: &[f32], out: &[f32], d: &mut [f32]) {
    let mean = dot(d_out, out);
    for (d, p) in d.iter_mut().zip(p) {
        *d = p * (*d - mean);
    }
}

/// One head of one token over rows of keys and values, `wide` elements each, of which its head begins `at`.
#[pulp::with_simd(attend = pulp::Arch::new())]
#[inline(always)]
pub fn attend_by<S: pulp::Simd>(
    simd: S,
    q: &[f32],
    kv: [&[f32]; 2],
    wide: usize,
    at: usize,
    factor: f32,
    out: &mut [f32],
) {
    let [keys, values] = kv.map(|rows| rows.chunks_exact(wide));
    let mut scores: Vec<f32> = keys
        .map(|row| factor * dot(q, &row[at..at + q.len()]))
        .collect();
    let (_, sum) = exp_row_by(simd, &mut scores);
    for (score, row) in scores.iter().zip(values) {
        for (out, v) in out.iter_mut().zip(&row[at..at + q.len()]) {
            *out += score / sum * v;
        }
    }
}

/// Copies a part's rows into the columns from `at` of the whole.
fn put(whole: &mut [f32], wide: usize, at: usize, span: &Range<usize>, part: &[f32], cols: usize) {
    for (token, row) in span.clone().zip(part.chunks_exact(cols)) {
        whole[token * wide + at..token * wide + at + cols].copy_from_slice(row);
    }
}

const ROWS: usize = 64;
