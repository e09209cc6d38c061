//! The bodies of votes and proposals as a stranger to the engine writes them: by the formats of the specification.

use bincode::{Decode, Encode};
use conclave_crypto::digest::Digest;

use crate::decide::Step;
use crate::envelope::Envelope;
use crate::message;
use crate::names::Height;

/// The body of a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(in crate::sim) struct Ballot {
    pub(in crate::sim) height: Height,
    pub(in crate::sim) round: u32,
    pub(in crate::sim) step: Step,
    /// The record's digest, or nothing.
    pub(in crate::sim) record: Option<Digest>,
}

/// The body of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(in crate::sim) struct Motion {
    pub(in crate::sim) height: Height,
    pub(in crate::sim) round: u32,
    pub(in crate::sim) pol_round: Option<u32>,
    pub(in crate::sim) record: Vec<u8>,
}

impl Ballot {
    pub(in crate::sim) fn of(envelope: &Envelope) -> Option<Self> {
        message::decode(&envelope.body).ok()
    }
}

impl Motion {
    pub(in crate::sim) fn of(envelope: &Envelope) -> Option<Self> {
        message::decode(&envelope.body).ok()
    }
}
