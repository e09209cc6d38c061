//! A stand-in for the engine: an order takes some time and gives a delta drawn from the seed.

use conclave_crypto::digest::Digest;

use super::{Chance, Terms};
use crate::floats::Floats;
use crate::names::{Factor, Height, Round};

/// An order that is being worked at.
#[derive(Debug, Clone)]
pub(super) struct Training {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) factor: Factor,
    pub(super) local_steps: u32,
    pub(super) adapter: Floats,
    pub(super) digest: Digest,
    /// Orders of this place so far: what it trains differs each time, as batches lost in a crash do.
    pub(super) attempt: u64,
}

impl Training {
    /// The delta: small values of both signs, and a few beyond the clamp.
    #[expect(
        clippy::cast_precision_loss,
        clippy::float_arithmetic,
        reason = "a delta is made of floats; this is the engine's side of the door"
    )]
    pub(super) fn delta(&self, seed: u64, place: usize) -> Vec<f32> {
        let place = u64::try_from(place).unwrap_or(u64::MAX);
        let purpose = format!(
            "conclave/sim/delta {place} {} {}",
            self.height.0, self.attempt
        );
        let mut chance = Chance::new(seed, &purpose);
        let count = Terms::layout().count(self.factor);
        (0..count)
            .map(|_| {
                let fine = chance.within(1, 4_000_000) as f32 / 16_000_000.0;
                let signed = if chance.percent(50) { fine } else { -fine };
                if chance.percent(3) {
                    signed * 40.0
                } else {
                    signed
                }
            })
            .collect()
    }
}
