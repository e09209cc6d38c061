//! A text in the making on a device: a few new tokens at a time, against the keys and values of all before, which stay
//! there.

use std::borrow::Cow;

use candle_core::{DType, Result, Tensor};

use super::attention::{SCORES, angles, later, turned};
use super::pass::DevicePass;
use super::{OnDevice, head};
use crate::learn::batch::Batch;
use crate::learn::kernel::attention::Heads;
use crate::learn::model::Model;
use crate::learn::model::adapted::{AdapterTensors, Moving};
use crate::learn::model::carried::Carried;

/// What a device remembers of a text.
#[derive(Debug)]
pub(in crate::learn::model) struct Text<'a> {
    model: &'a Model,
    there: &'a OnDevice,
    moving: Moving,
    layers: Vec<Past>,
}

/// Turned keys, and values, of a layer's tokens so far: `(kv_heads, room, dim)` each, with room for more.
#[derive(Debug, Default)]
struct Past(Option<[Tensor; 2]>);

/// New tokens behind the first `before`.
pub(super) struct Growth<'a> {
    layers: &'a mut [Past],
    before: usize,
    /// Cosines and sines of their positions.
    angles: Option<[Tensor; 2]>,
}

impl<'a> Text<'a> {
    /// An empty text, with an adapter that is on the device.
    pub(in crate::learn::model) fn new(
        model: &'a Model,
        there: &'a OnDevice,
        adapter: Option<&AdapterTensors>,
    ) -> Self {
        let layers = (0..model.config.layers).map(|_| Past::default());
        Self {
            model,
            there,
            moving: adapter.map_or(Moving::Nothing, |adapter| Moving::Adapter(adapter.clone())),
            layers: layers.collect(),
        }
    }

    /// Appends tokens behind the first `before` rows, in parts that have up to [`SCORES`] probabilities; gives the
    /// logits of what follows each of them, or the last.
    pub(in crate::learn::model) fn extend(
        &mut self,
        mut before: usize,
        ids: &[u32],
        each: bool,
    ) -> Result<Vec<f32>> {
        let (model, there) = (self.model, self.there);
        let (heads, head) = (&model.heads, &there.tensors[model.config.head()]);
        let (mut logits, mut rest) = (Vec::new(), ids);
        while !rest.is_empty() {
            let longest = self.moving.virtual_tokens() + before + rest.len();
            let fit = (SCORES / (heads.heads * longest)).clamp(1, rest.len());
            let (now, later) = rest.split_at(fit);
            rest = later;
            let text = Batch::text(now);
            let batch = match before {
                0 => self.moving.in_front(&text),
                _ => Cow::Borrowed(&text),
            };
            let rows = batch.rows();
            let carried = Carried {
                model,
                batch: &batch,
                moving: &self.moving,
                before: u32::try_from(before).expect("a context fits u32"),
            };
            let growth = Growth {
                layers: &mut self.layers,
                before,
                angles: angles(heads, before..before + rows, &there.device)?,
            };
            let states = model.forward(&mut DevicePass::behind(carried, there, growth))?;
            if each {
                let states = states.narrow(0, rows - now.len(), now.len())?;
                logits.extend(head::logits(&states, head)?);
            } else if rest.is_empty() {
                logits = head::logits(&states.narrow(0, rows - 1, 1)?, head)?;
            }
            before += rows;
        }
        Ok(logits)
    }
}

impl Growth<'_> {
    /// The attended values `(rows, heads · dim)` of the new tokens' queries `(rows, heads · dim)`, keys and values
    /// `(rows, kv_heads · dim)`, none of them turned yet.
    pub(super) fn attention(
        &mut self,
        layer: usize,
        [q, k, v]: [&Tensor; 3],
        heads: &Heads,
    ) -> Result<Tensor> {
        let (rows, dim) = (q.dim(0)?, heads.dim);
        let split =
            |x: &Tensor, count: usize| x.reshape((rows, count, dim))?.transpose(0, 1)?.contiguous();
        let turn = |x: Tensor| match &self.angles {
            Some(angles) => turned(&x, angles),
            None => Ok(x),
        };
        let q = turn(split(q, heads.heads)?)?;
        let new = [turn(split(k, heads.kv_heads)?)?, split(v, heads.kv_heads)?];
        let [k, v] = self.layers[layer].hold(&new, self.before)?;
        let end = self.before + rows;
        let seen = heads.sight.of(self.before, end).start..end;
        let [k, v] = [k, v].map(|held| held.narrow(1, seen.start, seen.len()));
        // The queries of a group of heads go against the same keys.
        let q = q.reshape((heads.kv_heads, (), dim))?;
        let mut scores = (q.matmul(&k?.t()?)? * f64::from(heads.factor()))?;
        if rows > 1 {
            let shape = scores.shape().clone();
            let unseen = later(heads.sight, self.before..end, seen, q.device())?;
            let all = scores.reshape((heads.heads, rows, ()))?;
            scores = all.broadcast_add(&unseen)?.reshape(shape)?;
        }
        let shares = candle_nn::ops::softmax_last_dim(&scores)?;
        shares
            .matmul(&v?)?
            .reshape((heads.heads, rows, dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((rows, heads.heads * dim))
    }
}

impl Past {
    /// Puts the keys and values of new tokens `(kv_heads, rows, dim)` behind the first `before`; gives those of all.
    fn hold(&mut self, new: &[Tensor; 2], before: usize) -> Result<[Tensor; 2]> {
        let (kv_heads, rows, dim) = new[0].dims3()?;
        let length = before + rows;
        let held = match self.0.take() {
            Some(held) if held[0].dim(1)? >= length => held,
            old => {
                let room = length + (length / 2).max(LEAST);
                let more = |which: usize| {
                    let shape = (kv_heads, room, dim);
                    let more = Tensor::zeros(shape, DType::F32, new[which].device())?;
                    if let Some(old) = old.as_ref().filter(|_| before > 0) {
                        let kept = old[which].narrow(1, 0, before)?.contiguous()?;
                        more.slice_set(&kept, 1, 0)?;
                    }
                    Ok::<_, candle_core::Error>(more)
                };
                [more(0)?, more(1)?]
            }
        };
        for (held, new) in held.iter().zip(new) {
            held.slice_set(&new.contiguous()?, 1, before)?;
        }
        let all = [held[0].narrow(1, 0, length)?, held[1].narrow(1, 0, length)?];
        self.0 = Some(held);
        Ok(all)
    }
}

/// Tokens that there is room for beyond those that are there, at least.
const LEAST: usize = 64;
