//! The operations of the processor, with hand-written gradients: each computes, and leaves its way back on a
//! [`Tape`](super::tape::Tape).
//!
//! Frozen weights get no gradient. Each operation has a plain twin made of candle's differentiable operations, in the
//! tests of [`super::model`].

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Error, Layout, Result, Storage, StorageRef, Tensor};

pub mod attention;
pub mod each;
pub mod head;
pub mod layer_norm;
pub mod linear;
pub mod norm;
pub mod rows;
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

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Msg("a fused operation needs contiguous tensors".into()))?;
    Ok(start..end)
}
