//! From a model folder and a data path to what the trainer takes: checked, tokenised, with rows held out.

use std::path::Path;

use super::data::{DataError, Tokens, histogram, hold_out, preview, read_rows};
use super::examples::Placed;

/// Examples to learn from and examples that only measure.
#[derive(Debug)]
pub struct Prepared {
    /// To train on.
    pub examples: Placed,
    /// To score on; may be empty.
    pub held_out: Placed,
    /// How many rows were cut to the sequence length.
    pub cut: usize,
    /// How many rows were left out because no token of theirs counts.
    pub unscored: usize,
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
    let measured = if measure.is_empty() {
        None
    } else {
        Some(tokens.tokenise_all(&measure, length)?)
    };
    let (cut, unscored) = measured.as_ref().map_or((0, 0), |m| (m.cut, m.unscored));
    Ok(Prepared {
        preview: learn
            .examples
            .first()
            .map(|first| preview(&tokens, first))
            .unwrap_or_default(),
        cut: learn.cut + cut,
        unscored: learn.unscored + unscored,
        examples: learn.placed(),
        held_out: measured
            .map(super::data::Tokenised::placed)
            .unwrap_or_default(),
    })
}

impl Prepared {
    /// What a reader should see before training: the first example, the lengths, what was cut or left out.
    pub fn about(&self, length: usize) -> String {
        let mut lines = vec![
            format!("the first example: {}", self.preview.trim_end()),
            histogram(&self.examples).trim_end().to_owned(),
        ];
        if self.cut > 0 {
            lines.push(format!(
                "{} rows were longer than {length} tokens and were cut",
                self.cut
            ));
        }
        if self.unscored > 0 {
            lines.push(format!(
                "{} rows have no token to score and were left out",
                self.unscored
            ));
        }
        lines.join("\n")
    }
}

/// Fewer rows than this all train.
pub const ROWS_TO_HOLD_OUT: usize = 40;
