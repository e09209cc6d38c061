//! Private text on its way to the trainer: read, tokenised, marked for scoring, split and held out.
//!
//! ```text
//! files --read_rows--> Row --Tokens::tokenise--> Example { ids, scored }
//!                       |
//!                       +--split, hold_out--> one member's rows and those that only measure
//! ```
//! Every choice comes from a seed, never from the order of a hash map, so that two runs agree.

mod chance;
mod chat;
mod preview;
mod read;
mod split;
mod tokens;

pub use chance::Chance;
pub use preview::{histogram, preview};
pub use read::{Form, Place, Row, Turn, read_rows};
pub use split::{MEMBER_ROWS_MIN, Split, hold_out, split};
pub use tokens::{Example, Tokenised, Tokens};

use std::path::{Path, PathBuf};

/// Why text could not be used: each one sentence of what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be opened or read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder without one data file.
    #[error("{} holds no data file; put .jsonl or .jsonl.gz files there", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// Data without one row.
    #[error("{} holds no row; give at least one JSON object a line", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// Rows, but none with a token that counts.
    #[error(
        "none of the {rows} rows leaves a token to score within sequence_len {sequence_len}; \
         give longer texts or a larger sequence_len"
    )]
    NothingScored {
        /// How many rows there are.
        rows: usize,
        /// The cut, in tokens.
        sequence_len: usize,
    },
    /// A line that is no row.
    #[error("{at}: {what}")]
    Malformed {
        /// File and line.
        at: Place,
        /// What is wrong and the way out, naming the field.
        what: String,
    },
    /// A tokenizer, its configuration or the model's that cannot be used.
    #[error("{}: {what}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong and the way out.
        what: String,
    },
    /// Words that describe no split.
    #[error("split {given:?} is none; write iid, dirichlet:ALPHA (a number above 0) or by:FIELD")]
    UnknownSplit {
        /// What was given.
        given: String,
    },
    /// A split that the rows do not allow.
    #[error("{0}")]
    Split(String),
}

impl DataError {
    pub(crate) fn tokenizer(path: &Path, what: impl Into<String>) -> Self {
        Self::Tokenizer {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}
