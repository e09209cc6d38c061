//! The pure mathematics of conclave: no IO, no clock, no async; randomness is passed in.
//!
//! Every primitive names the document that it follows and is checked against that document's vectors.
//! What may leave an institution is a type: [`ladder::Delta`] → `Clipped` → `Encoded` → `Noised` → `Masked`.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )
)]

#[cfg(target_endian = "big")]
compile_error!("vectors travel as they lie in memory: the machine must be little-endian");

pub mod agree;
pub mod check;
pub mod dealing;
pub mod digest;
pub mod fixed;
pub mod fraction;
pub mod ladder;
mod lanes;
pub mod mask;
pub mod merkle;
pub mod privacy;
pub mod sealed;
pub mod shamir;
pub mod sign;
#[cfg(test)]
mod vectors;
