//! The deterministic world: members driven through their one door by a virtual clock, a seeded network and faults.
//!
//! ```text
//!   World ── events by (time, number) ──> Place (one member, its disk, its engine)
//!     │                                      │  outputs, in order; a crash may strike at any of them
//!     │<──── messages, pulls, training ──────┘
//!     └── Watch: everything ever stored, sent, decided, adopted ──> the checkers of `check`
//! ```
//! The same seed gives the same run, byte for byte. Nothing of a member is mocked: what runs here is what the
//! node runs. The engine is a stand-in that answers an order with a delta drawn from the seed.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "a harness: an overflow in it shall be loud, and most kinds of output do not concern it"
)]

mod agenda;
pub mod byzantine;
pub mod check;
pub mod diary;
mod disk;
mod engine;
pub mod faults;
mod latency;
mod links;
mod network;
mod perform;
mod place;
mod report;
mod schedule;
mod seen;
mod serve;
mod shelf;
mod speak;
pub mod tally;
mod terms;
pub mod timeline;
mod turn;
mod view;
pub mod watch;
mod world;

pub use self::byzantine::Script;
pub use self::diary::Diary;
pub use self::faults::{Crash, Faults, Loss, Point, Strike};
pub use self::latency::Latency;
pub use self::schedule::Climate;
pub use self::tally::{Load, Tally, Traffic, Way};
pub use self::terms::Terms;
pub use self::watch::Watch;
pub use self::world::{Stuck, World};

use conclave_crypto::fraction::Fraction;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Chance, from a seed.
#[derive(Debug, Clone)]
pub struct Chance(ChaCha12Rng);

impl Chance {
    /// The stream of a seed for one purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let seed = conclave_crypto::digest::Digest::of(purpose, &[&seed.to_le_bytes()]);
        Self(ChaCha12Rng::from_seed(seed.0))
    }

    /// A number from `0..below`; 0 where that is empty.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0.next_u64().checked_rem(below).unwrap_or(0)
    }

    /// A number from `from..=to`.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        let width = to.saturating_sub(from).saturating_add(1);
        from.saturating_add(self.below(width))
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// True so probably, exactly.
    pub fn probably(&mut self, probability: &Fraction) -> bool {
        self.below(probability.denominator()) < probability.numerator()
    }

    /// An index of a list of this length.
    pub fn index(&mut self, len: usize) -> usize {
        let below = u64::try_from(len).unwrap_or(u64::MAX);
        usize::try_from(self.below(below)).unwrap_or(0)
    }

    /// 32 bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}
