//! The learning engine: a Llama-family model, LoRA on its linear maps, and the training of it, on candle.
//!
//! From the bottom up: [`kernel`] is arithmetic on slices, [`fused`] wraps it into operations with gradients,
//! [`model`] is the forward pass made of them.

#![expect(
    clippy::many_single_char_names,
    reason = "the letters of the papers: q, k, v, x, y, A, B"
)]
#![cfg_attr(
    test,
    expect(clippy::cast_precision_loss, reason = "test values are small integers")
)]

pub mod batch;
pub mod data;
pub mod fused;
pub mod kernel;
pub mod model;
pub mod weights;
