//! Files in memory: mapped, looked at as f32 or as blocks of few bits, let go.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::GgmlType;
use memmap2::{Mmap, UncheckedAdvice};

use super::WeightsError;

/// Maps a file.
pub(super) fn map(path: &Path) -> Result<Mmap, WeightsError> {
    let io = |source| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    #[expect(unsafe_code, reason = "memory-mapped weights")]
    // SAFETY: the map is read-only and private to this process; that nobody truncates the file meanwhile is the
    // operator's part, as the module above says.
    let map = unsafe { Mmap::map(&file) };
    map.map_err(io)
}

/// Gives the pages of a part back: what is not asked for again does not stay resident.
pub(super) fn release(map: &Mmap, range: &Range<usize>) {
    #[expect(unsafe_code, reason = "memory-mapped weights")]
    // SAFETY: the map is read-only and private: pages that are dropped come back from the file as they were.
    let released =
        unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    if let Err(error) = released {
        tracing::debug!(%error, "the pages of a tensor stay in memory");
    }
}

/// The bytes as f32, where they lie aligned on a little-endian machine.
pub(super) fn floats(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    #[expect(unsafe_code, reason = "memory-mapped weights")]
    // SAFETY: every bit pattern is an f32; `align_to` splits off what is not aligned.
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

/// The bytes of a GGUF file's tensor as blocks, where they lie aligned on a little-endian machine.
pub(super) fn blocks<T: GgmlType>(bytes: &[u8]) -> Option<&[T]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    #[expect(unsafe_code, reason = "memory-mapped weights")]
    // SAFETY: a block is made of numbers and has no padding, as candle relies on when it reads and zeroes them, so
    // that every bit pattern is one; `align_to` splits off what is not aligned.
    let (before, blocks, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(blocks)
}
