//! What a member says of itself when asked.

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use crate::names::{Height, Round};
use crate::output::Phase;
use crate::refusal::Refusals;

/// A snapshot: everything that the local API shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Our identity.
    pub member: PublicKey,
    /// Our name, if the ledger has one.
    pub name: Option<String>,
    /// The height that is being worked at.
    pub height: Height,
    /// Its round; the last one for a height without sharers.
    pub round: Round,
    /// Rounds of the charter.
    pub rounds: u32,
    /// Where we stand.
    pub phase: Phase,
    /// Optimiser steps done and ordered, while training.
    pub progress: Option<(u32, u32)>,
    /// The ledger's head.
    pub ledger_head: Digest,
    /// The newest adapter that we hold (opened or certified).
    pub adapter: Option<Digest>,
    /// Rounds whose sum is certified or opened here.
    pub rounds_opened: u32,
    /// Rounds that ended null or spent.
    pub rounds_null: u32,
    /// Rounds in whose survivors we are.
    pub rounds_contributed: u32,
    /// Examples we train on.
    pub examples: u64,
    /// Every round so far.
    pub history: Vec<Past>,
    /// Why nothing moves, naming whom we wait for.
    pub waiting: Option<String>,
    /// Warnings so far.
    pub warnings: u64,
    /// Messages refused so far.
    pub refused: Refusals,
    /// The job is done.
    pub finished: bool,
    /// Why we stopped.
    pub halted: Option<String>,
}

/// One round that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The height.
    pub height: Height,
    /// The round.
    pub round: Round,
    /// How it ended.
    pub outcome: Outcome,
    /// Who dealt.
    pub sharers: Vec<PublicKey>,
    /// Whose vectors count.
    pub survivors: Option<Vec<PublicKey>>,
    /// Whose pair keys were rebuilt.
    pub rebuilt: Vec<PublicKey>,
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Decided; the sum is not certified yet.
    Decided,
    /// The sum is certified.
    Opened,
    /// No survivors.
    Null,
    /// Survivors, but no sum.
    Spent,
}
