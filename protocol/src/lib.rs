//! The sans-IO core of conclave: one member of a federation as a value.
//!
//! `Member` takes `(now, Input)` and yields [`output::Output`]s. It knows no clock, socket, disk,
//! thread or float; the same value runs in the node, in the deterministic world and under fuzzing.
//! The rules it follows are numbered in `SPEC.md`; the code cites them as R1, R2, ….
#![forbid(unsafe_code)]
#![warn(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::float_arithmetic,
        clippy::float_cmp,
        clippy::indexing_slicing,
        clippy::wildcard_enum_match_arm,
        reason = "a test may panic: that is how it fails"
    )
)]

pub mod charter;
pub mod claim;
#[allow(
    clippy::wildcard_enum_match_arm,
    clippy::arithmetic_side_effects,
    reason = "the core's enums and rounds are its own"
)]
pub mod decide;
mod desk;
pub mod envelope;
pub mod evidence;
pub mod floats;
mod gone;
pub mod input;
mod journal;
pub mod layout;
pub mod ledger;
pub mod letter;
pub mod limits;
pub mod member;
pub mod membership;
pub mod memo;
mod memory;
pub mod message;
pub mod names;
pub mod nearest;
mod outbox;
pub mod output;
pub mod params;
mod places;
mod post;
pub mod record;
pub mod refusal;
pub mod roster;
mod session;
pub mod setup;
pub mod shard;
#[cfg(feature = "sim")]
pub mod sim;
pub mod status;
pub mod time;
