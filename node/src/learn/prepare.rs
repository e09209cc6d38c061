//! From a model folder and a data path to what the trainer takes: checked, tokenised, with rows held out.

use std::path::Path;
use std::sync::Arc;

use super::data::{
    Corpus, DataError, Excess, Length, Part, Row, Tokens, histogram, preview, set_aside,
};
use super::examples::Examples as _;

/// Examples to learn from and examples that only measure.
#[derive(Debug)]
pub struct Prepared {
    /// To train on.
    pub examples: Part,
    /// To score on; may be empty.
    pub held_out: Part,
    /// How many rows were longer than the sequence length.
    pub cut: usize,
    /// How many rows were left out because no token of theirs counts.
    pub unscored: usize,
    /// The first example as text, with its scored parts marked.
    pub preview: String,
    /// The labels that an encoder tells apart: those that were wanted, or else those of the rows to train on, sorted.
    pub classes: Vec<String>,
}

/// What to make of the rows.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The rows.
    pub data: &'a Path,
    /// Rows that score; without them 5 % of the data is held out by the seed, from 40 rows on.
    pub eval: Option<&'a Path>,
    /// How long rows may be.
    pub length: Length,
    /// Draws what is held out.
    pub seed: u64,
    /// Learn the field `label` behind the text.
    pub labels: bool,
    /// The labels that an encoder tells apart, empty if it is to learn those of the rows; none for a model that
    /// continues texts.
    pub classes: Option<&'a [String]>,
}

/// Reads and tokenises.
pub fn prepare(model: &Path, wanted: &Wanted<'_>) -> Result<Prepared, DataError> {
    let mut tokens = Tokens::open(model)?.telling_apart(wanted.classes.unwrap_or(&[]));
    let change = |row: Row| {
        if wanted.labels || wanted.classes.is_some() {
            row.labelled()
        } else {
            Ok(row)
        }
    };
    let corpus = |tokens: &Tokens, path| {
        let read = Corpus::read(tokens, path, wanted.length, change);
        read.map(Arc::new)
    };
    let learn = if wanted.classes.is_some_and(<[String]>::is_empty) {
        let (learn, found) = Corpus::read_labelled(&tokens, wanted.data, wanted.length)?;
        tokens = tokens.telling_apart(&found);
        Arc::new(learn)
    } else {
        corpus(&tokens, wanted.data)?
    };
    let rows = learn.rows();
    let (examples, held_out, measured) = match wanted.eval {
        Some(eval) => {
            let measured = corpus(&tokens, eval)?;
            (
                learn.part(0..rows),
                measured.part(0..measured.rows()),
                Some(measured),
            )
        }
        None if rows >= ROWS_TO_HOLD_OUT => {
            let aside = set_aside(rows, 1, wanted.seed);
            let which = |held: bool| {
                (0..rows)
                    .filter(|row| aside[*row] == held)
                    .collect::<Vec<_>>()
            };
            (learn.part(which(false)), learn.part(which(true)), None)
        }
        None => (learn.part(0..rows), learn.part(0..0), None),
    };
    if examples.count() == 0 {
        let sequence_len = wanted.length.most;
        return Err(DataError::NothingScored { rows, sequence_len });
    }
    let both = || [Some(&learn), measured.as_ref()].into_iter().flatten();
    Ok(Prepared {
        preview: preview(&tokens, &*examples.example(0)?),
        cut: both().map(|corpus| corpus.cut).sum(),
        unscored: both().map(|corpus| corpus.unscored).sum(),
        classes: tokens.classes().to_vec(),
        examples,
        held_out,
    })
}

impl Prepared {
    /// What a reader should see before training: the first example, the lengths, what was cut or left out.
    pub fn about(&self, length: Length) -> String {
        let mut lines = vec![
            format!("the first example: {}", self.preview.trim_end()),
            histogram(&self.examples).trim_end().to_owned(),
        ];
        lines.extend(excess(self.cut, length));
        if self.unscored > 0 {
            lines.push(format!(
                "{} rows have no token to score and were left out",
                self.unscored
            ));
        }
        lines.join("\n")
    }
}

/// What happened to rows that were too long, if there were any.
pub fn excess(count: usize, length: Length) -> Option<String> {
    let happened = match length.excess {
        Excess::Truncate => "cut",
        Excess::Drop => "left out",
    };
    let most = length.most;
    (count > 0).then(|| format!("{count} rows were longer than {most} tokens and were {happened}"))
}

/// Fewer rows than this all train.
pub const ROWS_TO_HOLD_OUT: usize = 40;
