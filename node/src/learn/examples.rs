//! Where the trainer takes its examples from: memory, or anything else that can give the n-th one.

use std::borrow::Cow;

use super::data::{DataError, Example, Place};

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

/// Examples in memory, with the places of their rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// The examples.
    pub examples: Vec<Example>,
    /// As many places, or none.
    pub places: Vec<Place>,
}

impl Placed {
    /// Examples that stood nowhere.
    pub const fn unplaced(examples: Vec<Example>) -> Self {
        let places = Vec::new();
        Self { examples, places }
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

impl Examples for Placed {
    fn count(&self) -> usize {
        self.examples.len()
    }

    fn length(&self, index: usize) -> usize {
        self.examples[index].ids.len()
    }

    fn example(&self, index: usize) -> Result<Cow<'_, Example>, DataError> {
        Ok(Cow::Borrowed(&self.examples[index]))
    }

    fn place(&self, index: usize) -> String {
        match self.places.get(index) {
            Some(place) => place.to_string(),
            None => self.examples.place(index),
        }
    }
}
