//! Operations with hand-written gradients that plug into candle's graph.
//!
//! Candle's own fused operations record nothing and cut the graph silently, and its matrix product always computes
//! the gradient of the weight, also of a frozen one. These do neither. Each has a plain twin made of candle's
//! differentiable operations, in the tests of [`super::model`].

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Error, Layout, Result, Storage, StorageRef, Tensor};

pub mod attention;
pub mod gelu;
pub mod head;
pub mod layer_norm;
pub mod linear;
pub mod norm;
pub mod swiglu;

/// The values of a contiguous f32 tensor on the CPU, borrowed.
pub(crate) struct Values<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Values<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = contiguous(layout)?;
        if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
            return Err(Error::Msg("a fused operation needs f32 on the CPU".into()));
        }
        Ok(Self { storage, range })
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when the values were borrowed"),
        }
    }
}

/// The values of an operation's argument.
fn argument<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    Ok(&storage.as_slice::<f32>()?[contiguous(layout)?])
}

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Msg("a fused operation needs contiguous tensors".into()))?;
    Ok(start..end)
}

/// A new tensor of these values, in the shape of another.
fn shaped_as(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), &Device::Cpu)
}

/// What the forward pass kept for the backward pass.
fn kept<T>(cell: &std::sync::OnceLock<T>) -> Result<&T> {
    cell.get()
        .ok_or_else(|| Error::Msg("a backward pass came before its forward pass".into()))
}
