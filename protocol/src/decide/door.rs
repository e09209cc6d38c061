//! What goes into the engine of a height and what comes out of it.

use arc_malachitebft_core_types::{Timeout, TimeoutKind};
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use super::Certificate;
use crate::envelope::Envelope;
use crate::letter::{Bytes, Letter};
use crate::names::{Height, MemberId};
use crate::time::Span;

/// The longest a timer of the engine runs.
const TIMER_MAX: Span = Span::seconds(60);

/// One who votes at a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its index in the members table.
    pub member: MemberId,
    /// Its identity key.
    pub key: PublicKey,
}

/// How long the engine waits in consensus round k: `base + k · step` for a proposal, `(k + 1) · step` for votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsensusTimers {
    /// For a proposal in round 0, and between repetitions of the own votes.
    pub base: Span,
    /// For votes in round 0, and added each round to all.
    pub step: Span,
}

/// What the host tells the engine.
#[derive(Debug)]
pub enum Feed<'a> {
    /// A proposal, vote or liveness message of this session, from anybody.
    Letter(&'a Letter),
    /// The answer to [`Effect::NeedValue`]: the encoded record.
    Value(Vec<u8>),
    /// The answer to [`Effect::Judge`]. Valid is for good; invalid only for what can never be valid.
    Judged {
        /// Digest of the record.
        record: Digest,
        /// Its validity.
        valid: bool,
    },
    /// A decision that others made.
    Certificate {
        /// The encoded record.
        record: Vec<u8>,
        /// What certifies it.
        certificate: Certificate,
    },
    /// The deadline has passed.
    Wake,
}

/// What the engine asks of the host, to be performed in order.
#[derive(Debug)]
pub enum Effect {
    /// Append this entry to the log of the height, durably before any later effect.
    Wal(Vec<u8>),
    /// Say this to all voters.
    Publish(Envelope),
    /// It is the own turn: answer with [`Feed::Value`] before the propose timer runs out, or not at all.
    NeedValue {
        /// The consensus round.
        round: u32,
    },
    /// Is this record valid? Answer with [`Feed::Judged`] once; stay silent while it may still become valid.
    Judge {
        /// The consensus round in which it was first proposed.
        round: u32,
        /// Who proposed it.
        proposer: MemberId,
        /// The encoded record.
        record: Bytes,
    },
    /// The height is decided; nothing follows.
    Decided {
        /// The encoded record.
        record: Bytes,
        /// The quorum's signatures.
        certificate: Certificate,
    },
    /// Somebody signed two different messages for one slot.
    Evidence(Box<Evidence>),
    /// The core gave an input up: a defect to be reported.
    Fault(String),
}

/// Two verified messages of one sender for one slot.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Evidence {
    /// The one that was known first.
    pub first: Envelope,
    /// The one that contradicts it.
    pub second: Envelope,
}

/// Why a height cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An entry of the log is unreadable: what this member signed is unknown, so it must not sign at this height.
    #[error(
        "entry {index} of the consensus log of height {} is unreadable; follow this height without voting",
        .height.0
    )]
    Unreadable {
        /// The height.
        height: Height,
        /// The entry's number.
        index: usize,
    },
    /// The replay derived another vote than the log holds.
    #[error(
        "the replay of the consensus log of height {} failed: {reason}; follow this height without voting",
        .height.0
    )]
    Diverged {
        /// The height.
        height: Height,
        /// The core's words.
        reason: String,
    },
}

impl ConsensusTimers {
    /// How long a timer of the core runs.
    pub(super) fn span(self, timeout: Timeout) -> Span {
        let round = u64::from(timeout.round.as_u32().unwrap_or_default());
        let grown =
            |from: Span, steps: u64| Span(from.0.saturating_add(self.step.0.saturating_mul(steps)));
        let span = match timeout.kind {
            TimeoutKind::Propose | TimeoutKind::Rebroadcast => grown(self.base, round),
            TimeoutKind::Prevote | TimeoutKind::Precommit => grown(self.step, round),
            TimeoutKind::FinalizeHeight(_) => Span::default(),
        };
        span.min(TIMER_MAX)
    }
}
