//! What is trained on: rows of files, or made-up ones.

use anyhow::Context as _;

use super::Args;
use crate::cli::note;
use crate::learn::data::Example;
use crate::learn::prepare::{Prepared, Wanted, prepare};
use crate::learn::training::Training;

/// Reads the rows to train on and to score, and tells what they are.
pub(super) fn rows(
    args: &Args,
    training: &Training,
    room: usize,
    classes: Option<&[String]>,
) -> anyhow::Result<Prepared> {
    let length = training.bounds_for(room);
    let wanted = Wanted {
        data: args.data.as_deref().context("--data is missing")?,
        eval: args.eval_data.as_deref(),
        length,
        seed: args.seed,
        labels: args.labels,
        classes,
    };
    let prepared = prepare(&args.model, &wanted)?;
    note(&prepared.about(length));
    Ok(prepared)
}

/// Rows that count up in sevens from each of 64 tokens: easy to learn, so that the loss moves.
pub(super) fn synthetic(vocabulary: usize, length: usize, seed: u64) -> Vec<Example> {
    let small = u32::try_from(vocabulary.min(64)).expect("at most 64");
    let shift = u32::try_from(seed % 64).expect("below 64");
    let length = u32::try_from(length).expect("a context fits u32");
    let row = |start: u32| Example {
        ids: (0..length)
            .map(|i| (start + shift + i * 7) % small)
            .collect(),
        scored: (0..length).map(|i| i > 0).collect(),
    };
    (0..small).map(row).collect()
}
