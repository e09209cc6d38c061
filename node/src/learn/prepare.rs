//! From a model folder and a data path to what the trainer takes: checked, tokenised, with rows held out.

use std::path::Path;

use super::data::{DataError, Example, Tokens, hold_out, preview, read_rows};

/// Examples to learn from and examples that only measure.
#[derive(Debug)]
pub struct Prepared {
    /// To train on.
    pub examples: Vec<Example>,
    /// To score on; may be empty.
    pub held_out: Vec<Example>,
    /// How many rows were cut to the sequence length.
    pub cut: usize,
    /// The first example as text, with its scored parts marked.
    pub preview: String,
}

/// Reads and tokenises. `eval` names the rows that score; without it 5 % of the data is held out by the seed, from
/// 40 rows on.
pub fn prepare(
    model: &Path,
    data: &Path,
    eval: Option<&Path>,
    length: usize,
    seed: u64,
) -> Result<Prepared, DataError> {
    let tokens = Tokens::open(model)?;
    let rows = read_rows(data)?;
    let (rows, measure) = match eval {
        Some(eval) => (rows, read_rows(eval)?),
        None if rows.len() >= ROWS_TO_HOLD_OUT => hold_out(rows, 1, seed),
        None => (rows, Vec::new()),
    };
    let learn = tokens.tokenise_all(&rows, length)?;
    let (held_out, cut) = if measure.is_empty() {
        (Vec::new(), 0)
    } else {
        let measured = tokens.tokenise_all(&measure, length)?;
        (measured.examples, measured.cut)
    };
    Ok(Prepared {
        preview: learn
            .examples
            .first()
            .map(|first| preview(&tokens, first))
            .unwrap_or_default(),
        examples: learn.examples,
        held_out,
        cut: learn.cut + cut,
    })
}

/// Fewer rows than this all train.
pub const ROWS_TO_HOLD_OUT: usize = 40;
