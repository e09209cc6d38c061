//! Where the trainer takes its examples from: memory, or anything else that can give the n-th one.

use std::borrow::Cow;

use super::data::{DataError, Example};

/// A numbered set of examples.
pub trait Examples: std::fmt::Debug + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// The tokens of one, without fetching it.
    fn length(&self, index: usize) -> usize;

    /// One of them.
    fn example(&self, index: usize) -> Result<Cow<'_, Example>, DataError>;

    /// Where its row stood, for messages.
    fn place(&self, index: usize) -> String {
        format!("example {}", index + 1)
    }
}

impl Examples for Vec<Example> {
    fn count(&self) -> usize {
        self.len()
    }

    fn length(&self, index: usize) -> usize {
        self[index].ids.len()
    }

    fn example(&self, index: usize) -> Result<Cow<'_, Example>, DataError> {
        Ok(Cow::Borrowed(&self[index]))
    }
}
