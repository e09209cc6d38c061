//! What goes through a model, wherever that computes, and what both ways to compute take from it in the same way.

use candle_core::{Device, Result, Tensor};

use super::Model;
use super::adapted::{AdapterTensors, Moving};
use super::bert::{HEAD_BIAS, HEAD_WEIGHT};
use super::labels::LabelHead;
use super::parts::Index;
use crate::learn::batch::Batch;

/// What goes through a model, wherever that computes.
pub(super) struct Carried<'a> {
    pub(super) model: &'a Model,
    pub(super) batch: &'a Batch,
    pub(super) moving: &'a Moving,
    /// How many rows of its one text went through before.
    pub(super) before: u32,
}

impl Carried<'_> {
    /// A tensor of the model: the moving one, or the frozen one.
    pub(super) fn tensor(
        &self,
        name: &str,
        frozen: impl FnOnce(&str) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self.moving {
            Moving::All(weights) => Ok(weights[name].clone()),
            Moving::Nothing | Moving::Adapter(_) => frozen(name),
        }
    }

    /// The head of a classifier.
    pub(super) fn label_head(&self, frozen: impl Fn(&str) -> Result<Tensor>) -> Result<LabelHead> {
        let adapter = self.moving.adapter();
        if let Some(head) = adapter.and_then(|adapter| adapter.head.as_ref()) {
            return Ok(head.clone());
        }
        if !self.model.has(HEAD_WEIGHT) {
            candle_core::bail!(
                "the base is an encoder without a classification head; name an adapter that brings one"
            );
        }
        Ok(LabelHead {
            weight: self.tensor(HEAD_WEIGHT, &frozen)?,
            bias: self.tensor(HEAD_BIAS, &frozen)?,
        })
    }

    /// Rows of a table, one for each token; a soft prompt in front of each text where tokens are embedded.
    pub(super) fn looked_up(&self, table: &str, index: Index, device: &Device) -> Result<Tensor> {
        let mut ids = index.of(self.batch);
        if index == Index::Position {
            for position in &mut ids {
                *position += self.before;
            }
        }
        if let Moving::All(weights) = self.moving {
            return weights[table].index_select(&Tensor::new(&ids[..], device)?, 0);
        }
        let rows = self.model.rows(table, &ids);
        let width = rows.len() / ids.len();
        let rows = Tensor::from_vec(rows, (ids.len(), width), device)?;
        match self.moving.adapter().and_then(AdapterTensors::prompt) {
            Some(prompt) if index == Index::Token && self.batch.virtual_tokens > 0 => {
                self.batch.interleave(prompt, &rows)
            }
            _ => Ok(rows),
        }
    }
}
