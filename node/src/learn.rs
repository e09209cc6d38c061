//! The learning engine: models, adapters on them, and the training of these, on candle.
//!
//! From the bottom up: [`kernel`] is arithmetic on slices, [`fused`] wraps it into operations with gradients,
//! [`model`] is the forward pass made of them. [`peft`] says what an adapter is and [`flatten`] where each of its
//! coordinates stands; [`trainer`] moves them in [`steps`], [`evaluate`] and [`generate`] use them.

#![expect(
    clippy::many_single_char_names,
    reason = "the letters of the papers: q, k, v, x, y, A, B"
)]
#![cfg_attr(
    test,
    expect(clippy::cast_precision_loss, reason = "test values are small")
)]

pub mod batch;
pub mod checkpoint;
pub mod choose;
pub mod data;
pub mod device;
pub mod draw;
pub mod dropout;
pub mod engine;
pub mod evaluate;
pub mod examples;
pub mod export;
#[cfg(test)]
pub(crate) mod fixture;
pub mod flatten;
pub mod fused;
pub mod generate;
pub mod kernel;
pub mod model;
pub mod optimise;
pub mod peft;
pub mod prepare;
pub mod sample;
pub mod schedule;
pub mod score;
pub mod steps;
pub mod tape;
pub mod threads;
pub mod trainer;
pub mod training;
pub mod vocabulary;
pub mod weights;
