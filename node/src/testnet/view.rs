//! What a node says of itself over its local API, as far as the supervisor reads it.

use serde::Deserialize;

/// One answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct View {
    /// Its key in hex.
    pub member: String,
    /// Its name; none before a record has admitted it.
    pub name: Option<String>,
    /// The round that it works at.
    pub round: u32,
    /// Where in the round.
    pub phase: String,
    /// Optimiser steps, while it trains.
    pub progress: Option<Progress>,
    /// Connected members.
    pub peers: u32,
    /// Its newest record, in hex.
    pub ledger_head: String,
    /// Its newest adapter, in hex.
    pub adapter_digest: Option<String>,
    /// Rounds won.
    pub rounds_opened: u32,
    /// Rounds lost.
    pub rounds_null: u32,
    /// Rounds whose sum holds its delta.
    pub rounds_contributed: u32,
    /// Rows that it trains on.
    pub examples: u64,
    /// Bytes so far.
    pub bytes_sent: u64,
    /// Bytes so far.
    pub bytes_received: u64,
    /// The rounds that were decided.
    pub history: Vec<Past>,
    /// Mean training loss by round.
    pub train_losses: Vec<Loss>,
    /// Held-out loss by round; round 0 is the base model.
    pub eval_losses: Vec<Loss>,
    /// Why nothing moves.
    pub waiting: Option<String>,
    /// The job is done.
    pub finished: bool,
    /// Why it stopped.
    pub halted: Option<String>,
}

/// How far training is.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u32,
    /// Steps ordered.
    pub of: u32,
    /// Loss of the last step.
    pub loss: Option<f64>,
}

/// A measured loss.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Loss {
    /// After which round.
    pub round: u32,
    /// Nats a token; absent where it is not finite.
    pub loss: Option<f64>,
    /// The share of first choices that were right, of a held-out loss.
    #[serde(default)]
    pub accuracy: Option<f64>,
}

/// A round that was decided. Members are keys in hex.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Past {
    /// Its height.
    pub height: u64,
    /// Its number, from 1.
    pub round: u32,
    /// `decided`, `opened`, `null` or `spent`.
    pub outcome: String,
    /// Who dealt.
    pub sharers: Vec<String>,
    /// Whose vectors count.
    pub survivors: Option<Vec<String>>,
    /// Whose pair keys were rebuilt.
    pub rebuilt: Vec<String>,
}

impl View {
    /// Rounds whose end is certified.
    pub const fn rounds_over(&self) -> u32 {
        self.rounds_opened + self.rounds_null
    }

    /// The last round whose survivors are decided; its sum may still be opened.
    pub fn decided(&self) -> u32 {
        self.history.last().map_or(0, |past| past.round)
    }

    /// Whether it trains in this round, its shares acknowledged and nothing submitted yet.
    pub fn trains(&self, round: u32) -> bool {
        self.round == round && self.phase == "train"
    }

    /// Steps done over the whole run, for telling progress from standstill.
    pub fn steps(&self) -> u64 {
        let now = self.progress.map_or(0, |progress| progress.done);
        (u64::from(self.round) << 32) + u64::from(now)
    }

    /// What was measured last on the held-out rows.
    pub fn eval_after(&self) -> Option<&Loss> {
        let last = self.eval_losses.iter().filter(|loss| loss.round > 0);
        last.max_by_key(|loss| loss.round)
    }

    /// What the base model scored on them.
    pub fn eval_before(&self) -> Option<&Loss> {
        self.eval_losses.iter().find(|loss| loss.round == 0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "what the tests list")]
    pub(crate) fn view(round: u32, phase: &str) -> Option<View> {
        Some(View {
            member: String::new(),
            name: None,
            round,
            phase: phase.to_owned(),
            progress: None,
            peers: 0,
            ledger_head: String::new(),
            adapter_digest: None,
            rounds_opened: 0,
            rounds_null: 0,
            rounds_contributed: 0,
            examples: 0,
            bytes_sent: 0,
            bytes_received: 0,
            history: Vec::new(),
            train_losses: Vec::new(),
            eval_losses: Vec::new(),
            waiting: None,
            finished: false,
            halted: None,
        })
    }
}
