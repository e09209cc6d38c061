//! Loops over many elements, compiled for the widest vectors that the machine has.
//!
//! Only the speed depends on the machine: integer operations are exact, and each float operation rounds as IEEE 754
//! says, whatever the width.
#![expect(
    clippy::inline_always,
    reason = "what runs under the wide instructions must be compiled into the function that has them"
)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

/// Runs a loop compiled for the machine's vector instructions. What it calls must be inlined to gain from that.
#[inline(always)]
pub(crate) fn widest<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
