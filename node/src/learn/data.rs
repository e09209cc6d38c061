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
mod chunks;
mod columnar;
mod corpus;
mod preview;
mod read;
mod row;
mod split;
mod table;
mod tokens;

pub(in crate::learn) use chat::{json, template};
pub(in crate::learn) use tokens::tokenizer;

pub use chance::Chance;
pub use corpus::{Corpus, Excess, Length, Part};
pub use preview::{histogram, preview};
pub use read::{Each, labels_among, read_rows, visit_rows};
pub use row::{Form, Place, Row, Turn};
pub use split::{MEMBER_ROWS_MIN, Split, hold_out, set_aside, split};
pub use tokens::{Example, Tokenised, Tokens};

use std::path::{Path, PathBuf};

use crate::learn::model::config::ConfigError;

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
    #[error("{} holds no data file; put .jsonl, .csv (also .gz) or .parquet files there", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// Data without one row.
    #[error("{} holds no row; give at least one", path.display())]
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
    /// A line, a record or a row of a table that is no row of ours.
    #[error("{at}: {what}")]
    Malformed {
        /// File and line.
        at: Place,
        /// What is wrong and the way out, naming the field.
        what: String,
    },
    /// The model's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The folder of real models and data, or a loud word that the test is skipped.
    fn shared() -> Option<PathBuf> {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
        let folder = std::env::var_os("CONCLAVE_SHARED").map_or_else(beside, PathBuf::from);
        if folder.join("data").is_dir() && folder.join("models/stories260K").is_dir() {
            return Some(folder);
        }
        let place = folder.display();
        let said = writeln!(
            std::io::stderr(),
            "SKIPPED: {place} has no data; set CONCLAVE_SHARED"
        );
        said.expect("stderr takes a line");
        None
    }

    #[test]
    fn every_data_set_at_hand_loads() {
        let Some(shared) = shared() else { return };
        for (folder, rows) in [
            ("20newsgroups", 18_846),
            ("banking77", 13_083),
            ("clinc150", 23_700),
            ("e2e_nlg", 51_426),
            ("gsm8k", 8_792),
            ("medical_abstracts", 2_888),
            ("medquad", 16_407),
            ("pubmedqa", 1_000),
            ("sms_spam", 5_574),
            ("tiny_shakespeare", 7_222),
        ] {
            let mut count = 0;
            let each = &mut |_| {
                count += 1;
                Ok(())
            };
            visit_rows(&shared.join("data").join(folder), each).expect(folder);
            assert_eq!(count, rows, "{folder}");
        }
    }

    #[test]
    fn real_data_is_read_split_and_tokenised() {
        let Some(shared) = shared() else { return };
        let rows = read_rows(&shared.join("data/medquad")).expect("medquad");
        assert_eq!(rows.len(), 16_407);
        let by = "by:source".parse().expect("a split");
        let dealt = split(rows, &by, 9, 1).expect("nine institutes");
        let mut sizes: Vec<_> = dealt.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [270, 559, 729, 769, 981, 1088, 1192, 5389, 5430]);

        let rows = read_rows(&shared.join("data/e2e_nlg/train.jsonl.gz")).expect("e2e");
        let how = "dirichlet:0.5".parse().expect("a split");
        let dealt = split(rows, &how, 5, 1).expect("five members");
        assert_eq!(dealt.iter().map(Vec::len).sum::<usize>(), 42_061);
        let (_, held) = hold_out(dealt.into_iter().flatten().collect(), 5, 1);
        assert_eq!(held.len(), 100);

        let tokens = Tokens::open(&shared.join("models/stories260K")).expect("a tokenizer");
        let tokenised = tokens.tokenise_all(&held, 512).expect("tokenised");
        assert_eq!(
            (tokenised.examples.len(), tokenised.cut, tokenised.unscored),
            (100, 0, 0)
        );
        for (row, example) in held.iter().zip(&tokenised.examples) {
            assert_eq!(
                (example.ids[0], example.ids.last()),
                (1, Some(&2)),
                "<s> before, </s> behind"
            );
            let completion: Vec<u32> = example
                .ids
                .iter()
                .zip(&example.scored)
                .filter_map(|(&id, &scored)| scored.then_some(id))
                .collect();
            let text = tokens.decode(&completion).expect("text");
            assert_eq!(
                Some(text.trim()),
                row.field("completion").as_deref().map(str::trim)
            );
        }
        assert_eq!(
            tokens.prompt("").expect("ids"),
            [1],
            "an empty prompt is BOS alone"
        );
    }
}
