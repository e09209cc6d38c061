//! Attention on a device: the examples of a packed row in grids of about one length, a product over all heads of a grid
//! at a time. Probabilities are computed again for the gradient.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};

use super::given::given;
use crate::learn::kernel::attention::{Heads, Sight};
use crate::learn::kernel::rope::Turn;

/// How the examples of a batch are laid out, each padded to the longest of its grid.
#[derive(Debug)]
pub(super) struct Grids {
    grids: Vec<Grid>,
    /// Where each token stands in the grids, one behind the other.
    places: Tensor,
}

/// Examples of about one length.
#[derive(Debug)]
struct Grid {
    examples: usize,
    length: usize,
    /// The token in each place; the first one of the example where there is none.
    tokens: Tensor,
    /// One where there is a token, zero elsewhere: `(examples · kv_heads, 1, length, 1)`.
    real: Tensor,
    /// Cosines and sines of its positions: `(length, dim / 2)` each.
    angles: Option<[Tensor; 2]>,
}

/// Of a grid: turned queries `(examples · kv_heads, group · length, dim)`, turned keys and values
/// `(examples · kv_heads, length, dim)`. Groups of heads are computed with apart where their probabilities are many.
struct Laid([Tensor; 3]);

/// Some of a grid's groups of heads.
struct Part {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// What is real of their examples.
    real: Tensor,
}

impl Grids {
    /// Lays out examples: ranges of rows, in order. As many stand in a grid as have up to [`SCORES`].
    pub(super) fn new(spans: &[Range<usize>], heads: &Heads, device: &Device) -> Result<Self> {
        let mut order: Vec<&Range<usize>> = spans.iter().filter(|span| !span.is_empty()).collect();
        order.sort_by_key(|span| span.len());
        let mut places = vec![0u32; spans.last().map_or(0, |span| span.end)];
        let (mut grids, mut from, mut next) = (Vec::new(), 0, 0);
        while from < order.len() {
            let fits = |count: usize| {
                let length = order[from + count - 1].len();
                length <= 2 * order[from].len() && count * heads.heads * length * length <= SCORES
            };
            let mut count = 1;
            while from + count < order.len() && fits(count + 1) {
                count += 1;
            }
            let examples = &order[from..from + count];
            let length = examples[count - 1].len();
            let group = heads.heads / heads.kv_heads;
            if group * length * length > i32::MAX as usize {
                candle_core::bail!(
                    "a row of {length} tokens is too long for attention of {group} heads at once on a GPU; lower \
                     sequence_len"
                );
            }
            let (mut tokens, mut real) = (Vec::new(), Vec::new());
            for span in examples {
                for i in 0..length {
                    let there = i < span.len();
                    let token = span.start + if there { i } else { 0 };
                    tokens.push(u32::try_from(token).expect("a batch fits u32"));
                    if there {
                        places[token] = next;
                    }
                    next += 1;
                }
                for _ in 0..heads.kv_heads {
                    real.extend((0..length).map(|i| if i < span.len() { 1.0f32 } else { 0.0 }));
                }
            }
            grids.push(Grid {
                examples: count,
                length,
                tokens: Tensor::new(tokens, device)?,
                real: Tensor::from_vec(real, (count * heads.kv_heads, 1, length, 1), device)?,
                angles: angles(heads, 0..length, device)?,
            });
            from += count;
        }
        let places = Tensor::new(places, device)?;
        Ok(Self { grids, places })
    }
}

/// The attended values `(tokens, heads · dim)` of queries `(tokens, heads · dim)`, keys and values
/// `(tokens, kv_heads · dim)`, none of them turned yet.
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    heads: &Heads,
    grids: &Arc<Grids>,
) -> Result<Tensor> {
    let still = [q.detach(), k.detach(), v.detach()];
    let mut parts = Vec::with_capacity(grids.grids.len());
    for grid in &grids.grids {
        let laid = grid.lay(still.each_ref(), heads)?;
        let seen = grid.parts(&laid)?.into_iter().map(|part| {
            let part = part?;
            grid.shares(&part, heads)?.matmul(&part.v)
        });
        let seen = Tensor::cat(&seen.collect::<Result<Vec<_>>>()?, 0)?;
        parts.push(grid.flat(&seen, heads)?);
    }
    let value = Tensor::cat(&parts, 0)?.index_select(&grids.places, 0)?;
    let (heads, grids) = (heads.clone(), grids.clone());
    given([q, k, v], value, move |inputs, d_out| {
        let &[q, k, v] = inputs else {
            candle_core::bail!("attention has three inputs, not {}", inputs.len());
        };
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for grid in &grids.grids {
            let gradients = grid.back([q, k, v], d_out, &heads)?;
            for (parts, gradient) in parts.iter_mut().zip(gradients) {
                parts.push(gradient);
            }
        }
        let gradient = |parts: &Vec<Tensor>| Tensor::cat(parts, 0)?.index_select(&grids.places, 0);
        parts
            .iter()
            .map(|parts| gradient(parts).map(Some))
            .collect()
    })
}

impl Grid {
    fn lay(&self, [q, k, v]: [&Tensor; 3], heads: &Heads) -> Result<Laid> {
        Ok(Laid([
            self.turn(&self.grid(q, heads)?, heads, Turn::Forward)?,
            self.turn(&self.grid(k, heads)?, heads, Turn::Forward)?,
            self.grid(v, heads)?,
        ]))
    }

    /// `(tokens, kv_heads · group · dim)` as `(examples · kv_heads, group · length, dim)`.
    fn grid(&self, x: &Tensor, heads: &Heads) -> Result<Tensor> {
        let group = x.dim(1)? / (heads.kv_heads * heads.dim);
        let (examples, length, dim) = (self.examples, self.length, heads.dim);
        x.index_select(&self.tokens, 0)?
            .reshape((examples, length, heads.kv_heads, group, dim))?
            .permute((0, 2, 3, 1, 4))?
            .contiguous()?
            .reshape((examples * heads.kv_heads, group * length, dim))
    }

    /// The other way: `(examples · length, kv_heads · group · dim)`.
    fn flat(&self, x: &Tensor, heads: &Heads) -> Result<Tensor> {
        let group = x.dim(1)? / self.length;
        let (examples, length, dim) = (self.examples, self.length, heads.dim);
        x.reshape((examples, heads.kv_heads, group, length, dim))?
            .permute((0, 3, 1, 2, 4))?
            .contiguous()?
            .reshape((examples * length, heads.kv_heads * group * dim))
    }

    /// Turns each head by the angles of its position, or back.
    fn turn(&self, x: &Tensor, heads: &Heads, turn: Turn) -> Result<Tensor> {
        let Some([cos, sin]) = &self.angles else {
            return Ok(x.clone());
        };
        let by = match turn {
            Turn::Forward => [cos.clone(), sin.clone()],
            Turn::Back => [cos.clone(), sin.neg()?],
        };
        let rows = x.reshape(((), self.length, heads.dim))?;
        turned(&rows, &by)?.reshape(x.shape())
    }

    /// As many groups of heads at a time as have up to [`SCORES`] probabilities.
    fn parts(&self, laid: &Laid) -> Result<Vec<Result<Part>>> {
        let Laid([q, k, v]) = laid;
        let all = q.dim(0)?;
        let at_once = (SCORES / (q.dim(1)? * self.length)).clamp(1, all);
        let part = |from: usize| {
            let count = at_once.min(all - from);
            let of = |x: &Tensor| x.narrow(0, from, count);
            Ok(Part {
                q: of(q)?,
                k: of(k)?,
                v: of(v)?,
                real: of(&self.real)?,
            })
        };
        Ok((0..all).step_by(at_once).map(part).collect())
    }

    /// The share of each key in what a query sees: `(groups of heads, group · length, length)`.
    fn shares(&self, part: &Part, heads: &Heads) -> Result<Tensor> {
        let scores = (part.q.matmul(&part.k.t()?)? * f64::from(heads.factor()))?;
        let shape = scores.shape().clone();
        let all = ((), heads.heads / heads.kv_heads, self.length, self.length);
        let unseen = self.unseen(heads.sight, &part.real)?;
        let seen = scores.reshape(all)?.broadcast_add(&unseen)?;
        candle_nn::ops::softmax_last_dim(&seen.contiguous()?)?.reshape(shape)
    }

    /// What hides keys from queries when it is added to their scores.
    fn unseen(&self, sight: Sight, real: &Tensor) -> Result<Tensor> {
        match sight {
            Sight::Causal | Sight::Window(_) => {
                later(sight, 0..self.length, 0..self.length, real.device())
            }
            // The keys that are none stand behind those that are.
            Sight::Both => hide(&real.transpose(2, 3)?.contiguous()?),
        }
    }

    /// The gradients of the grid's queries, keys and values, flat.
    fn back(&self, inputs: [&Tensor; 3], d_out: &Tensor, heads: &Heads) -> Result<[Tensor; 3]> {
        let laid = self.lay(inputs, heads)?;
        let d_out = self.grid(d_out, heads)?;
        let mut gradients = [Vec::new(), Vec::new(), Vec::new()];
        let mut from = 0;
        for part in self.parts(&laid)? {
            let part = part?;
            let count = part.q.dim(0)?;
            let shares = self.shares(&part, heads)?;
            let d_out = hushed(&d_out.narrow(0, from, count)?, &part.real)?;
            from += count;
            let dv = shares.t()?.contiguous()?.matmul(&d_out)?;
            let d_shares = d_out.matmul(&part.v.t()?)?;
            let mean = (&shares * &d_shares)?.sum_keepdim(D::Minus1)?;
            let d_scores = (shares * d_shares.broadcast_sub(&mean)?)?;
            let d_scores = (d_scores * f64::from(heads.factor()))?;
            let dq = self.turn(&d_scores.matmul(&part.k)?, heads, Turn::Back)?;
            let dk = d_scores.t()?.contiguous()?.matmul(&part.q)?;
            let dk = self.turn(&dk, heads, Turn::Back)?;
            for (all, gradient) in gradients.iter_mut().zip([dq, dk, dv]) {
                all.push(gradient);
            }
        }
        let flat = |parts: &Vec<Tensor>| self.flat(&Tensor::cat(parts, 0)?, heads);
        let [dq, dk, dv] = &gradients;
        Ok([flat(dq)?, flat(dk)?, flat(dv)?])
    }
}

/// What hides the keys at some positions from queries at others that do not see them, when it is added to their scores:
/// `(queries, keys)`.
pub(super) fn later(
    sight: Sight,
    queries: Range<usize>,
    keys: Range<usize>,
    device: &Device,
) -> Result<Tensor> {
    let numbers = |range: Range<usize>| {
        let [start, end] = [range.start, range.end].map(|at| u32::try_from(at).expect("it fits"));
        Tensor::arange(start, end, device)?.to_dtype(DType::F32)
    };
    let (query, key) = (
        numbers(queries)?.unsqueeze(1)?,
        numbers(keys)?.unsqueeze(0)?,
    );
    let seen = key.broadcast_le(&query)?;
    match sight {
        Sight::Causal => hide(&seen),
        Sight::Window(window) => {
            #[expect(clippy::cast_precision_loss, reason = "windows are far below 2^52")]
            let oldest = (query + (1.0 - window as f64))?;
            let near = key.broadcast_ge(&oldest)?.to_dtype(DType::F32)?;
            hide(&(seen.to_dtype(DType::F32)? * near)?)
        }
        Sight::Both => seen.to_dtype(DType::F32)?.zeros_like(),
    }
}

/// Zero for ones, and [`HIDDEN`] below for zeros.
fn hide(seen: &Tensor) -> Result<Tensor> {
    seen.to_dtype(DType::F32)?.affine(HIDDEN, -HIDDEN)
}

/// Cosines and sines of some positions, `(positions, dim / 2)` each; none where heads are not turned.
pub(super) fn angles(
    heads: &Heads,
    positions: Range<usize>,
    device: &Device,
) -> Result<Option<[Tensor; 2]>> {
    let Some(rope) = &heads.rope else {
        return Ok(None);
    };
    let shape = (positions.len(), heads.dim / 2);
    let [cos, sin] = rope.angles(positions);
    Ok(Some([
        Tensor::from_slice(cos, shape, device)?,
        Tensor::from_slice(sin, shape, device)?,
    ]))
}

/// Heads `(many, positions, dim)` turned by the angles of their positions, in the half-split order.
pub(super) fn turned(x: &Tensor, [cos, sin]: &[Tensor; 2]) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let new_low = (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?;
    let new_high = (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?;
    Tensor::cat(&[new_low, new_high], 2)
}

/// A gradient `(groups of heads, group · length, dim)` with zeros where there is no token.
fn hushed(x: &Tensor, real: &Tensor) -> Result<Tensor> {
    let (groups, _, length, _) = real.dims4()?;
    let dim = x.dim(2)?;
    let all = x.reshape((groups, (), length, dim))?;
    all.broadcast_mul(real)?.reshape(x.shape())
}

/// The most probabilities at once: half a GiB of them, unless one group of heads of one example has more.
#[cfg(not(test))]
pub(super) const SCORES: usize = 1 << 27;
/// So few that tests compute in parts.
#[cfg(test)]
pub(super) const SCORES: usize = 1 << 14;
/// What is as good as minus infinity, and no cause of NaN.
const HIDDEN: f64 = 1e9;
