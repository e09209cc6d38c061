//! The pure mathematics of conclave: no IO, no clock, no async; randomness is passed in.
//!
//! Every primitive names the document that it follows and is checked against that document's vectors.
//! What may leave an institution is a type: [`ladder::Delta`] → Clipped → Encoded → Noised → Masked.
#![forbid(unsafe_code)]

pub mod digest;
pub mod ladder;
pub mod sign;
