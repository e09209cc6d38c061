//! The sans-IO core of conclave: one member of a federation as a value.
//!
//! `Member` takes `(now, Input)` and yields [`output::Output`]s. It knows no clock, socket, disk,
//! thread or float; the same value runs in the node, in the deterministic world and under fuzzing.
#![forbid(unsafe_code)]

pub mod charter;
pub mod decide;
pub mod envelope;
pub mod input;
pub mod names;
pub mod nearest;
pub mod output;
pub mod refusal;
pub mod time;
