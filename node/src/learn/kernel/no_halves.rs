//! What stands for products on tiles where there are none: everybody who asks multiplies in f32.

use std::marker::PhantomData;

use half::bf16;

/// A matrix that is never multiplied with.
#[derive(Debug, Clone, Copy)]
pub struct Halves<'a>(PhantomData<&'a bf16>);

impl<'a> Halves<'a> {
    /// The row-major matrix of these values.
    pub fn new(_: &'a [bf16], _: usize, _: usize) -> Self {
        Self(PhantomData)
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        self
    }
}

/// Whether this machine has tiles.
pub fn there() -> bool {
    false
}

/// Does nothing.
pub fn product(_: &mut [f32], _: &[f32], _: Halves<'_>) -> bool {
    false
}

/// Gives nothing.
pub fn multiplied(_: &[f32], _: Halves<'_>) -> Option<Vec<f32>> {
    None
}
