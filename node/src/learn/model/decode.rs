//! The forward pass for generation: a few new tokens at a time against the keys and values of all before.

use rayon::prelude::*;

use super::{LoraTensors, Map, Model};
use crate::learn::fused::Values;
use crate::learn::kernel::elementwise::{dot, exp_row, rms_norm, swiglu, vectorised};
use crate::learn::kernel::product::{Old, View, ViewMut, product};
use crate::learn::kernel::rope::Turn;

/// A text in the making: the keys and values of its tokens so far.
#[derive(Debug)]
pub struct Decoding<'a> {
    model: &'a Model,
    lora: Option<&'a LoraTensors>,
    layers: Vec<Cache>,
    length: usize,
}

#[derive(Debug, Default)]
struct Cache {
    /// Turned keys, `(tokens, kv_heads · dim)`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl<'a> Decoding<'a> {
    /// Starts an empty text.
    pub fn new(model: &'a Model, lora: Option<&'a LoraTensors>) -> Self {
        let layers = model.layers.iter().map(|_| Cache::default()).collect();
        Self {
            model,
            lora,
            layers,
            length: 0,
        }
    }

    /// How many more tokens fit the model's context.
    pub fn room(&self) -> usize {
        self.model.config.context - self.length
    }

    /// Appends tokens and gives the logits of what follows the last of them.
    ///
    /// # Panics
    /// If there is no room, no token, or one outside the vocabulary.
    pub fn extend(&mut self, ids: &[u32]) -> Vec<f32> {
        assert!(
            !ids.is_empty() && ids.len() <= self.room(),
            "tokens must fit the context"
        );
        let model = self.model;
        let config = &model.config;
        let (n, hidden) = (ids.len(), config.hidden);
        let embedding = model.embedding.values();
        let mut x: Vec<f32> = Vec::with_capacity(n * hidden);
        for &id in ids {
            let at = id as usize * hidden;
            x.extend_from_slice(&embedding[at..at + hidden]);
        }
        for layer in 0..config.layers {
            let weights = &model.layers[layer];
            let inside = normed(
                &x,
                &Values::of(&weights.input_norm).expect("a CPU vector"),
                config.eps,
            );
            let q = self.apply(&inside, layer, Map::Q);
            let k = self.apply(&inside, layer, Map::K);
            let v = self.apply(&inside, layer, Map::V);
            let seen = self.attend(q, k, &v, layer);
            add(&mut x, &self.apply(&seen, layer, Map::O));
            let inside = normed(
                &x,
                &Values::of(&weights.inner_norm).expect("a CPU vector"),
                config.eps,
            );
            let gate = self.apply(&inside, layer, Map::Gate);
            let up = self.apply(&inside, layer, Map::Up);
            let mut inner = vec![0.0; gate.len()];
            swiglu(&gate, &up, &mut inner);
            add(&mut x, &self.apply(&inner, layer, Map::Down));
        }
        self.length += n;
        let last = &x[(n - 1) * hidden..];
        let last = normed(
            last,
            &Values::of(&model.final_norm).expect("a CPU vector"),
            config.eps,
        );
        linear(&last, model.head().values(), config.vocabulary, hidden)
    }

    fn apply(&self, x: &[f32], layer: usize, map: Map) -> Vec<f32> {
        let weight = self.model.map(layer, map);
        let (out, inside) = weight.dims2();
        let mut y = linear(x, weight.values(), out, inside);
        let factors = self.lora.and_then(|lora| {
            let factors = lora.layers[layer][map as usize].as_ref()?;
            Some((lora.scale, factors))
        });
        if let Some((scale, (a, b))) = factors {
            let (a, b) = (
                Values::of(a).expect("a CPU matrix"),
                Values::of(b).expect("a CPU matrix"),
            );
            let rank = a.len() / inside;
            let h = linear(x, &a, rank, inside);
            let tokens = y.len() / out;
            product(
                ViewMut::new(&mut y, tokens, out),
                Old::Keep,
                scale,
                View::new(&h, tokens, rank),
                View::new(&b, out, rank).t(),
            );
        }
        y
    }

    fn attend(&mut self, mut q: Vec<f32>, mut k: Vec<f32>, v: &[f32], layer: usize) -> Vec<f32> {
        let config = &self.model.config;
        let (dim, heads) = (config.head_dim, config.heads);
        let kv_wide = config.kv_heads * dim;
        let group = heads / config.kv_heads;
        for (rows, wide) in [(&mut q, heads * dim), (&mut k, kv_wide)] {
            for (i, row) in rows.chunks_exact_mut(wide).enumerate() {
                for head in row.chunks_exact_mut(dim) {
                    self.model.rope.turn(head, self.length + i, Turn::Forward);
                }
            }
        }
        let cache = &mut self.layers[layer];
        cache.keys.extend_from_slice(&k);
        cache.values.extend_from_slice(v);
        let (keys, values) = (&cache.keys, &cache.values);
        let factor = 1.0 / f32::from(u16::try_from(dim).expect("a head is small")).sqrt();
        let mut out = vec![0.0; q.len()];
        let tasks = out.par_chunks_exact_mut(dim).zip(q.par_chunks_exact(dim));
        tasks.enumerate().for_each(|(task, (out, q))| {
            let (token, head) = (task / heads, task % heads);
            let at = head / group * dim;
            vectorised(|| {
                let seen = self.length + token + 1;
                let rows = keys.chunks_exact(kv_wide).take(seen);
                let mut scores: Vec<f32> = rows
                    .map(|row| factor * dot(q, &row[at..at + dim]))
                    .collect();
                let (_, sum) = exp_row(&mut scores);
                for (score, row) in scores.iter().zip(values.chunks_exact(kv_wide)) {
                    for (out, v) in out.iter_mut().zip(&row[at..at + dim]) {
                        *out += score / sum * v;
                    }
                }
            });
        });
        out
    }
}

fn normed(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let mut inverse = vec![0.0; x.len() / weight.len()];
    rms_norm(x, weight, eps, &mut y, &mut inverse);
    y
}

fn linear(x: &[f32], weight: &[f32], out: usize, inside: usize) -> Vec<f32> {
    let tokens = x.len() / inside;
    let mut y = vec![0.0; tokens * out];
    product(
        ViewMut::new(&mut y, tokens, out),
        Old::Replace,
        1.0,
        View::new(x, tokens, inside),
        View::new(weight, out, inside).t(),
    );
    y
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
