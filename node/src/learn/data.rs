//! Examples to learn from.

/// One tokenised row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether token `i` counts as a target; never token 0.
    pub scored: Vec<bool>,
}
