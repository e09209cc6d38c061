//! The bodies of consensus envelopes and the entries of its log, as bytes: bincode, fixed-size integers,
//! little-endian, limited in size, and canonical: `encode(decode(x)) == x`.

use arc_malachitebft_core_consensus::{Input, LivenessMsg, ProposedValue};
use arc_malachitebft_core_types::{
    NilOrVal, PolkaCertificate, PolkaSignature, Round, RoundCertificate, RoundCertificateType,
    RoundSignature, SignedMessage, SignedProposal, SignedVote, Timeout, TimeoutKind, Validity,
    ValueOrigin, VoteType,
};
use bincode::{Decode, Encode};
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::Signature;

use super::context::{Address, ChainHeight, Ctx, Proposal, Value, Vote};
use crate::envelope::{Envelope, Kind};
use crate::names::{Height, MemberId, SessId};

/// The longest body of a proposal, record included.
pub const PROPOSAL_MAX: usize = 4 << 20;
/// The longest body of a vote.
pub const VOTE_MAX: usize = 64;
/// The longest body of a polka or round certificate: 255 voters.
pub const LIVENESS_MAX: usize = 64 << 10;
/// The longest entry of the log: a proposal in its envelope.
const ENTRY_MAX: usize = PROPOSAL_MAX + 1024;

/// The two steps of a consensus round that are voted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Step {
    /// The first vote: is this the value?
    Prevote,
    /// The second vote: a quorum said so.
    Precommit,
}

/// Body of a [`Kind::Vote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct VoteBody {
    pub(super) height: Height,
    pub(super) round: u32,
    pub(super) step: Step,
    /// The record's digest, or nil.
    pub(super) record: Option<Digest>,
}

/// Body of a [`Kind::Proposal`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct ProposalBody {
    pub(super) height: Height,
    pub(super) round: u32,
    /// The earlier round in which a quorum prevoted this record.
    pub(super) pol_round: Option<u32>,
    pub(super) record: Value,
}

/// Body of a [`Kind::Liveness`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum LivenessBody {
    /// A quorum of prevotes for one record.
    Polka(Polka),
    /// Why a round was entered.
    Round {
        height: Height,
        round: u32,
        /// f + 1 votes of the round itself, instead of a quorum of precommits of the one before.
        skip: bool,
        votes: Vec<(Step, Option<Digest>, MemberId, Signature)>,
    },
}

/// A quorum of prevotes for one record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Polka {
    height: Height,
    round: u32,
    record: Digest,
    votes: Vec<(MemberId, Signature)>,
}

/// One entry of the write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Entry {
    /// A vote or proposal, of anybody.
    Said(Envelope),
    /// The host's judgement of a record.
    Judged {
        round: u32,
        proposer: MemberId,
        record: Value,
        valid: bool,
    },
    /// A timer ran out.
    Elapsed { timer: Timer, round: u32 },
    /// A polka taken from a liveness message.
    Polka(Polka),
}

/// The timers that the log records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Timer {
    Propose,
    Prevote,
    Precommit,
    Rebroadcast,
}

/// Encodes canonically.
pub(super) fn encode<T: Encode>(value: &T) -> Vec<u8> {
    let config = bincode::config::standard().with_fixed_int_encoding();
    bincode::encode_to_vec(value, config).expect("encoding into memory does not fail")
}

/// Decodes what is canonical, has nothing behind it, and is not longer than `LIMIT`.
pub(super) fn decode<const LIMIT: usize, T: Encode + Decode<()>>(bytes: &[u8]) -> Option<T> {
    let config = bincode::config::standard()
        .with_fixed_int_encoding()
        .with_limit::<LIMIT>();
    let (value, read) = bincode::decode_from_slice(bytes, config).ok()?;
    (read == bytes.len() && encode(&value) == bytes).then_some(value)
}

impl Entry {
    /// The bytes of an input that the core wants logged; `None` for those that are never logged.
    pub(super) fn of(sess: SessId, input: &Input<Ctx>) -> Option<Self> {
        match input {
            Input::Vote(vote) => Some(Self::Said(vote_envelope(sess, vote))),
            Input::Proposal(proposal) => Some(Self::Said(proposal_envelope(sess, proposal))),
            Input::ProposedValue(value, _) => Some(Self::Judged {
                round: value.round.as_u32()?,
                proposer: value.proposer.0,
                record: value.value.clone(),
                valid: value.validity.is_valid(),
            }),
            Input::TimeoutElapsed(timeout) => Some(Self::Elapsed {
                timer: Timer::of(timeout.kind)?,
                round: timeout.round.as_u32()?,
            }),
            Input::PolkaCertificate(polka) => Some(Self::Polka(Polka::of(polka))),
            Input::StartHeight(..)
            | Input::RoundCertificate(_)
            | Input::Propose(_)
            | Input::SyncValueResponse(_) => None,
        }
    }

    /// The entry's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses an entry and turns it into the core's input again.
    pub(super) fn parse(height: Height, bytes: &[u8]) -> Option<(Self, Input<Ctx>)> {
        let entry: Self = decode::<ENTRY_MAX, _>(bytes)?;
        let input = match &entry {
            Self::Said(envelope) => said(envelope)?,
            Self::Judged {
                round,
                proposer,
                record,
                valid,
            } => Input::ProposedValue(
                ProposedValue {
                    height: height.into(),
                    round: Round::new(*round),
                    valid_round: Round::Nil,
                    proposer: Address(*proposer),
                    value: record.clone(),
                    validity: Validity::from_bool(*valid),
                },
                ValueOrigin::Consensus,
            ),
            Self::Elapsed { timer, round } => {
                Input::TimeoutElapsed(Timeout::new(Round::new(*round), timer.kind()))
            }
            Self::Polka(polka) => Input::PolkaCertificate(polka.certificate()),
        };
        Some((entry, input))
    }
}

impl Timer {
    pub(super) fn of(kind: TimeoutKind) -> Option<Self> {
        match kind {
            TimeoutKind::Propose => Some(Self::Propose),
            TimeoutKind::Prevote => Some(Self::Prevote),
            TimeoutKind::Precommit => Some(Self::Precommit),
            TimeoutKind::Rebroadcast => Some(Self::Rebroadcast),
            TimeoutKind::FinalizeHeight(_) => None,
        }
    }

    fn kind(self) -> TimeoutKind {
        match self {
            Self::Propose => TimeoutKind::Propose,
            Self::Prevote => TimeoutKind::Prevote,
            Self::Precommit => TimeoutKind::Precommit,
            Self::Rebroadcast => TimeoutKind::Rebroadcast,
        }
    }
}

impl Polka {
    fn of(polka: &PolkaCertificate<Ctx>) -> Self {
        Self {
            height: Height(polka.height.0),
            round: number(polka.round),
            record: polka.value_id,
            votes: polka
                .polka_signatures
                .iter()
                .map(|vote| (vote.address.0, vote.signature))
                .collect(),
        }
    }

    fn certificate(&self) -> PolkaCertificate<Ctx> {
        PolkaCertificate {
            height: self.height.into(),
            round: Round::new(self.round),
            value_id: self.record,
            polka_signatures: self
                .votes
                .iter()
                .map(|(member, signature)| PolkaSignature::new(Address(*member), *signature))
                .collect(),
        }
    }
}

impl LivenessBody {
    /// What is published for a liveness message; `None` for a bare vote, which travels as a vote.
    pub(super) fn of(message: &LivenessMsg<Ctx>) -> Option<Self> {
        match message {
            LivenessMsg::Vote(_) => None,
            LivenessMsg::PolkaCertificate(polka) => Some(Self::Polka(Polka::of(polka))),
            LivenessMsg::SkipRoundCertificate(certificate) => Some(Self::of_round(certificate)),
        }
    }

    pub(super) fn of_round(certificate: &RoundCertificate<Ctx>) -> Self {
        Self::Round {
            height: Height(certificate.height.0),
            round: number(certificate.round),
            skip: certificate.cert_type == RoundCertificateType::Skip,
            votes: certificate
                .round_signatures
                .iter()
                .map(|vote| {
                    let (step, record) = (step(vote.vote_type), record(&vote.value_id));
                    (step, record, vote.address.0, vote.signature)
                })
                .collect(),
        }
    }

    pub(super) fn height(&self) -> Height {
        match self {
            Self::Polka(polka) => polka.height,
            Self::Round { height, .. } => *height,
        }
    }

    pub(super) fn input(&self) -> Input<Ctx> {
        match self {
            Self::Polka(polka) => Input::PolkaCertificate(polka.certificate()),
            Self::Round {
                height,
                round,
                skip,
                votes,
            } => Input::RoundCertificate(RoundCertificate {
                height: (*height).into(),
                round: Round::new(*round),
                cert_type: if *skip {
                    RoundCertificateType::Skip
                } else {
                    RoundCertificateType::Precommit
                },
                round_signatures: votes
                    .iter()
                    .map(|(step, record, member, signature)| {
                        let value = record.map_or(NilOrVal::Nil, NilOrVal::Val);
                        RoundSignature::new(kind(*step), value, Address(*member), *signature)
                    })
                    .collect(),
            }),
        }
    }
}

/// The body that a voter signs.
pub(super) fn vote_body(vote: &Vote) -> Vec<u8> {
    encode(&VoteBody {
        height: Height(vote.height.0),
        round: number(vote.round),
        step: step(vote.kind),
        record: record(&vote.value),
    })
}

/// The body that a proposer signs.
pub(super) fn proposal_body(proposal: &Proposal) -> Vec<u8> {
    encode(&ProposalBody {
        height: Height(proposal.height.0),
        round: number(proposal.round),
        pol_round: proposal.pol_round.as_u32(),
        record: proposal.value.clone(),
    })
}

/// The envelope in which a vote travels: its signature is the envelope's.
pub(super) fn vote_envelope(sess: SessId, vote: &SignedVote<Ctx>) -> Envelope {
    Envelope {
        kind: Kind::Vote,
        sess,
        sender: vote.voter.0,
        seq: 0,
        body: vote_body(&vote.message),
        signature: vote.signature,
    }
}

/// The envelope in which a proposal travels.
pub(super) fn proposal_envelope(sess: SessId, proposal: &SignedProposal<Ctx>) -> Envelope {
    Envelope {
        kind: Kind::Proposal,
        sess,
        sender: proposal.proposer.0,
        seq: 0,
        body: proposal_body(&proposal.message),
        signature: proposal.signature,
    }
}

/// The core's input of a vote or proposal.
pub(super) fn said(envelope: &Envelope) -> Option<Input<Ctx>> {
    if envelope.kind == Kind::Proposal {
        let body = decode::<PROPOSAL_MAX, _>(&envelope.body)?;
        return Some(Input::Proposal(signed_proposal(envelope, body)));
    }
    let body = decode::<VOTE_MAX, _>(&envelope.body)?;
    (envelope.kind == Kind::Vote).then(|| Input::Vote(signed_vote(envelope, &body)))
}

/// Whose vote for which record an envelope is.
pub(super) fn voted(envelope: &Envelope) -> Option<(MemberId, Digest)> {
    let vote = envelope.kind == Kind::Vote;
    let body: VoteBody = decode::<VOTE_MAX, _>(&envelope.body).filter(|_| vote)?;
    Some((envelope.sender, body.record?))
}

/// The vote of an envelope.
fn signed_vote(envelope: &Envelope, body: &VoteBody) -> SignedVote<Ctx> {
    let vote = Vote {
        height: body.height.into(),
        round: Round::new(body.round),
        kind: kind(body.step),
        value: body.record.map_or(NilOrVal::Nil, NilOrVal::Val),
        voter: Address(envelope.sender),
    };
    SignedMessage::new(vote, envelope.signature)
}

/// The proposal of an envelope.
fn signed_proposal(envelope: &Envelope, body: ProposalBody) -> SignedProposal<Ctx> {
    let proposal = Proposal {
        height: ChainHeight(body.height.0),
        round: Round::new(body.round),
        value: body.record,
        pol_round: body.pol_round.map_or(Round::Nil, Round::new),
        proposer: Address(envelope.sender),
    };
    SignedMessage::new(proposal, envelope.signature)
}

/// A round that is defined, as all of votes, proposals and certificates are.
pub(super) fn number(round: Round) -> u32 {
    round.as_u32().unwrap_or_default()
}

pub(super) fn step(kind: VoteType) -> Step {
    match kind {
        VoteType::Prevote => Step::Prevote,
        VoteType::Precommit => Step::Precommit,
    }
}

fn kind(step: Step) -> VoteType {
    match step {
        Step::Prevote => VoteType::Prevote,
        Step::Precommit => VoteType::Precommit,
    }
}

fn record(value: &NilOrVal<Digest>) -> Option<Digest> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(digest) => Some(*digest),
    }
}
