//! The noise that the charter asks for, added to the ring elements of a delta.

use core::fmt;

/// The noise that the charter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Nothing is added: the charter has no `[privacy]`.
    None,
}

impl Noise {
    /// Adds the noise to ring elements in place.
    pub(crate) fn add_to(self, _elements: &mut [u32]) {
        match self {
            Self::None => {}
        }
    }
}

/// One sentence for the operator: what this noise protects against, and what not.
impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str(
                "no noise: the charter asks for no differential privacy, so every member sees the exact sum and \
                 whatever can be inferred from it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_adds_nothing_and_says_so() {
        let mut elements = [1, u32::MAX, 3];
        Noise::None.add_to(&mut elements);
        assert_eq!(elements, [1, u32::MAX, 3]);
        assert!(Noise::None.to_string().starts_with("no noise"));
    }
}
