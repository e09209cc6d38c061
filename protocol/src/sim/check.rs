//! The checkers: each judges one promise over everything that the watch saw, and knows nothing of the members' code.

pub mod agreement;
pub mod bytes;
pub mod canon;
pub mod exactness;
pub mod fraud;
pub mod liveness;
pub mod mask;
pub mod null;
pub mod opening;
pub mod privacy;
pub mod reveal;
pub mod slots;
pub mod validity;

use super::World;

/// A broken promise: which, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{promise} is broken: {what}")]
pub struct Violation {
    /// The promise's name.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    fn new(promise: &'static str, what: impl Into<String>) -> Self {
        Self {
            promise,
            what: what.into(),
        }
    }
}

/// Runs all checkers.
pub fn all(world: &World) -> Result<(), Violation> {
    agreement::check(world)?;
    exactness::check(world)?;
    reveal::check(world)?;
    opening::check(world)?;
    null::check(world)?;
    privacy::check(world)?;
    mask::check(world)?;
    slots::check(world)?;
    validity::check(world)?;
    fraud::check(world)?;
    canon::check(world)?;
    bytes::check(world)?;
    liveness::check(world)
}
