//! The forward pass for generation: a few new tokens at a time against the keys and values of all before, on the
//! processor or where else the model computes.

use candle_core::{Result, Tensor};
use conclave_protocol::charter::NonLinearity;
use rayon::prelude::*;

use super::Model;
use super::adapted::AdapterTensors;
use super::device::text::Text;
use super::parts::{Index, Ops};
use crate::learn::fused::Values;
use crate::learn::kernel::attention::{Heads, attend};
use crate::learn::kernel::elementwise::{add_to_rows, rms_norm, swiglu};
use crate::learn::kernel::gelu::Gelu;
use crate::learn::kernel::layer_norm::layer_norm;
use crate::learn::kernel::product::{Old, View, ViewMut, multiplied, product};
use crate::learn::kernel::rope::Turn;

/// A text in the making: the keys and values of its tokens so far, and of the soft prompt in front of them.
#[derive(Debug)]
pub struct Decoding<'a> {
    model: &'a Model,
    adapter: Option<&'a AdapterTensors>,
    memory: Memory<'a>,
    /// Rows in the caches: the soft prompt, if there is one, and the tokens behind it.
    length: usize,
}

/// Where the keys and values of each layer are.
#[derive(Debug)]
enum Memory<'a> {
    Here(Vec<Cache>),
    There(Text<'a>),
}

#[derive(Debug, Default)]
struct Cache {
    /// Turned keys, `(tokens, kv_heads · dim)`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// New tokens on their way through the model.
struct Step<'a, 'b> {
    model: &'a Model,
    adapter: Option<&'a AdapterTensors>,
    layers: &'b mut [Cache],
    /// Rows in the caches.
    before: usize,
    ids: &'b [u32],
    /// A soft prompt that goes in front of them.
    prompt: Option<&'a Tensor>,
    /// How many they are together.
    rows: usize,
}

impl<'a> Decoding<'a> {
    /// Starts an empty text of a model that continues texts; the adapter is where the model computes.
    pub fn new(model: &'a Model, adapter: Option<&'a AdapterTensors>) -> Self {
        let caches = || (0..model.config.layers).map(|_| Cache::default());
        Self {
            model,
            adapter,
            memory: match &model.there {
                None => Memory::Here(caches().collect()),
                Some(there) => Memory::There(Text::new(model, there, adapter)),
            },
            length: 0,
        }
    }

    /// How many more tokens fit the model's context.
    pub fn room(&self) -> usize {
        self.model.config.context - self.length.max(self.virtual_tokens())
    }

    /// Forgets all but the first `length` tokens.
    pub fn rewind(&mut self, length: usize) {
        let length = match length {
            0 => 0,
            _ => self.length.min(self.virtual_tokens() + length),
        };
        if let Memory::Here(layers) = &mut self.memory {
            for cache in layers {
                for held in [&mut cache.keys, &mut cache.values] {
                    held.truncate(held.len() / self.length.max(1) * length);
                }
            }
        }
        self.length = length;
    }

    /// Appends tokens and gives the logits of what follows the last of them. A text that a device failed on is to be
    /// given up.
    ///
    /// # Panics
    /// If there is no room, no token, or one outside the vocabulary.
    pub fn extend(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.grow(ids, false)
    }

    /// Appends tokens and gives the logits `(tokens, vocabulary)` of what follows each of them.
    ///
    /// # Panics
    /// As [`Self::extend`].
    pub fn extend_all(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.grow(ids, true)
    }

    fn grow(&mut self, ids: &[u32], each: bool) -> Result<Vec<f32>> {
        assert!(
            !ids.is_empty() && ids.len() <= self.room(),
            "tokens must fit the context"
        );
        let (model, before) = (self.model, self.length);
        let prompt = self.adapter.and_then(AdapterTensors::prompt);
        let prompt = prompt.filter(|_| before == 0);
        let rows = prompt.map_or(0, |prompt| prompt.dims()[0]) + ids.len();
        self.length += rows;
        let layers = match &mut self.memory {
            Memory::There(text) => return text.extend(before, ids, each),
            Memory::Here(layers) => layers,
        };
        let states = model.forward(&mut Step {
            model,
            adapter: self.adapter,
            layers,
            before,
            ids,
            prompt,
            rows,
        })?;
        let wanted = if each { ids.len() } else { 1 };
        let last = &states[states.len() - wanted * model.config.hidden..];
        Ok(model.output_head().apply(last))
    }

    fn virtual_tokens(&self) -> usize {
        self.adapter.map_or(0, AdapterTensors::virtual_tokens)
    }
}

impl Ops for Step<'_, '_> {
    type Rows = Vec<f32>;

    fn embed(&mut self, table: &str, index: Index) -> Result<Vec<f32>> {
        let model = self.model;
        Ok(match index {
            Index::Token => {
                let prompt = self.prompt.map(Values::of).transpose()?;
                let mut rows = prompt.map_or_else(Vec::new, |prompt| prompt.to_vec());
                rows.extend(model.rows(table, self.ids));
                rows
            }
            Index::Position => {
                let positions = (self.before..self.before + self.rows).map(as_u32);
                model.rows(table, &positions.collect::<Vec<u32>>())
            }
            Index::First => model.rows(table, &vec![0; self.rows]),
        })
    }

    fn linear(&mut self, x: &Vec<f32>, module: &str) -> Result<Vec<f32>> {
        let map = self.model.map(module);
        let (out, inside) = map.dims();
        let mut y = map.apply(x);
        let adapter = self.adapter;
        if let Some((factors, _)) = adapter.and_then(|adapter| adapter.beside(module)) {
            let (a, b) = (Values::of(&factors.a)?, Values::of(&factors.b)?);
            let rank = a.len() / inside;
            let h = linear(x, &a, (rank, inside));
            let tokens = y.len() / out;
            product(
                ViewMut::new(&mut y, tokens, out),
                Old::Keep,
                factors.scale,
                View::new(&h, tokens, rank),
                View::new(&b, out, rank).t(),
            );
        }
        Ok(y)
    }

    fn rms_norm(&mut self, x: &Vec<f32>, module: &str, eps: f32) -> Result<Vec<f32>> {
        let weight = self.model.weight(&format!("{module}.weight"));
        let mut y = vec![0.0; x.len()];
        let mut inverse = vec![0.0; x.len() / weight.values().len()];
        rms_norm(x, weight.values(), eps, &mut y, &mut inverse);
        Ok(y)
    }

    fn layer_norm(&mut self, x: &Vec<f32>, module: &str, eps: f32) -> Result<Vec<f32>> {
        let [weight, bias] =
            ["weight", "bias"].map(|of| self.model.weight(&format!("{module}.{of}")));
        let mut y = vec![0.0; x.len()];
        layer_norm(x, [weight.values(), bias.values()], eps, &mut y);
        Ok(y)
    }

    fn thirds(&mut self, x: &Vec<f32>) -> Result<[Vec<f32>; 3]> {
        let width = x.len() / self.rows / 3;
        let third = |i: usize| {
            let rows = x.chunks_exact(3 * width);
            rows.flat_map(|row| &row[i * width..(i + 1) * width])
                .copied()
                .collect()
        };
        Ok([third(0), third(1), third(2)])
    }

    fn attend(
        &mut self,
        layer: usize,
        heads: &Heads,
        [mut q, mut k, v]: [Vec<f32>; 3],
    ) -> Result<Vec<f32>> {
        let (dim, count) = (heads.dim, heads.heads);
        let kv_wide = heads.kv_heads * dim;
        let group = count / heads.kv_heads;
        let before = self.before;
        for (rows, wide) in [(&mut q, count * dim), (&mut k, kv_wide)] {
            for (i, row) in rows.chunks_exact_mut(wide).enumerate() {
                for head in row.chunks_exact_mut(dim) {
                    heads.turn(head, before + i, Turn::Forward);
                }
            }
        }
        let cache = &mut self.layers[layer];
        cache.keys.extend_from_slice(&k);
        cache.values.extend_from_slice(&v);
        let (keys, values) = (&cache.keys, &cache.values);
        let length = keys.len() / kv_wide;
        let mut out = vec![0.0; q.len()];
        let tasks = out.par_chunks_exact_mut(dim).zip(q.par_chunks_exact(dim));
        tasks.enumerate().for_each(|(task, (out, q))| {
            let (token, head) = (task / count, task % count);
            let at = head / group * dim;
            let seen = heads.sight.of(before + token, length);
            let seen = seen.start * kv_wide..seen.end * kv_wide;
            let kv = [&keys[seen.clone()], &values[seen]];
            attend(q, kv, kv_wide, at, heads.factor(), out);
        });
        Ok(out)
    }

    fn swiglu(&mut self, gate: &Vec<f32>, up: &Vec<f32>) -> Result<Vec<f32>> {
        let mut inner = vec![0.0; gate.len()];
        swiglu(gate, up, &mut inner);
        Ok(inner)
    }

    fn gelu(&mut self, x: &Vec<f32>, form: Gelu) -> Result<Vec<f32>> {
        let mut y = vec![0.0; x.len()];
        form.forward(x, &mut y);
        Ok(y)
    }

    fn firsts(&mut self, x: &Vec<f32>) -> Result<Vec<f32>> {
        Ok(x[..x.len() / self.rows].to_vec())
    }

    fn tanh(&mut self, x: &Vec<f32>) -> Result<Vec<f32>> {
        Ok(x.iter().map(|x| x.tanh()).collect())
    }

    fn bottleneck(&mut self, mut y: Vec<f32>, place: &str) -> Result<Vec<f32>> {
        let adapter = self.adapter;
        let Some((form, bottleneck)) = adapter.and_then(|adapter| adapter.behind(place)) else {
            return Ok(y);
        };
        let (size, hidden) = bottleneck.down.dims2()?;
        let mut down = linear(&y, &Values::of(&bottleneck.down)?, (size, hidden));
        add_to_rows(&mut down, &Values::of(&bottleneck.down_bias)?);
        let bent = match form {
            NonLinearity::Gelu => self.gelu(&down, Gelu::Exact)?,
            NonLinearity::Relu => down.iter().map(|x| x.max(0.0)).collect(),
            NonLinearity::Silu => down.iter().map(|x| x / (1.0 + (-x).exp())).collect(),
            NonLinearity::Tanh => self.tanh(&down)?,
        };
        let up = linear(&bent, &Values::of(&bottleneck.up)?, (hidden, size));
        add_to_rows(&mut y, &Values::of(&bottleneck.up_bias)?);
        self.add(y, up)
    }

    fn add(&mut self, mut x: Vec<f32>, y: Vec<f32>) -> Result<Vec<f32>> {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
        Ok(x)
    }
}

fn as_u32(position: usize) -> u32 {
    u32::try_from(position).expect("a context fits u32")
}

/// `x · Wᵀ` for a matrix of these dimensions.
fn linear(x: &[f32], weight: &[f32], (out, inside): (usize, usize)) -> Vec<f32> {
    let x = View::new(x, x.len() / inside, inside);
    multiplied(1.0, x, View::new(weight, out, inside).t())
}
