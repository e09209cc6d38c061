//! Our types as the consensus core wants to see them. Nothing of this file leaves `decide`.

use core::fmt;
use std::sync::Arc;

use arc_malachitebft_core_types::{
    self as core_types, LinearTimeouts, NilOrVal, Round, SignedExtension, SigningScheme, VoteType,
    VotingPower,
};
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::{PublicKey, Signature};

pub(super) use super::value::Value;
use crate::names::{Height, MemberId};

/// The types of this federation's consensus. It carries nothing: everything is in the voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ctx;

/// A member's address: its index in the members table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(pub(super) MemberId);

/// The height of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChainHeight(pub(super) u64);

/// One prevote or precommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    pub(super) height: ChainHeight,
    pub(super) round: Round,
    pub(super) kind: VoteType,
    pub(super) value: NilOrVal<Digest>,
    pub(super) voter: Address,
}

/// One proposal; the whole record is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) height: ChainHeight,
    pub(super) round: Round,
    pub(super) value: Value,
    pub(super) pol_round: Round,
    pub(super) proposer: Address,
}

/// Parts are never streamed: the record travels inside the proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoPart;

/// A voter with weight one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    address: Address,
    key: PublicKey,
}

/// The voters of a height in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators(Arc<Vec<Validator>>);

/// Ed25519 through [`crate::envelope::Envelope`]; the core itself never encodes or signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ed25519;

impl Validators {
    /// Sorts the voters by id; the first key of an id counts.
    pub(super) fn new(voters: &[super::Voter]) -> Self {
        let mut validators: Vec<Validator> = voters
            .iter()
            .map(|voter| Validator {
                address: Address(voter.member),
                key: voter.key,
            })
            .collect();
        validators.sort_by_key(|validator| validator.address);
        validators.dedup_by_key(|validator| validator.address);
        Self(Arc::new(validators))
    }

    /// Whose turn it is: the turns rotate with the height and with the round.
    pub(super) fn proposer(&self, height: u64, round: u32) -> Option<&Validator> {
        let count = u64::try_from(self.0.len()).ok()?;
        let turn = height.wrapping_add(u64::from(round)).checked_rem(count)?;
        self.0.get(usize::try_from(turn).ok()?)
    }

    pub(super) fn key(&self, member: MemberId) -> Option<&PublicKey> {
        let found = self
            .0
            .binary_search_by_key(&Address(member), |validator| validator.address)
            .ok()?;
        self.0.get(found).map(|validator| &validator.key)
    }
}

impl Validator {
    pub(super) fn member(&self) -> MemberId {
        self.address.0
    }
}

impl From<Height> for ChainHeight {
    fn from(height: Height) -> Self {
        Self(height.0)
    }
}

impl fmt::Display for ChainHeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.fmt(f)
    }
}

impl core_types::Context for Ctx {
    type Address = Address;
    type Height = ChainHeight;
    type ProposalPart = NoPart;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = LinearTimeouts;
    type Value = Value;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(
        &self,
        voters: &'a Validators,
        height: ChainHeight,
        round: Round,
    ) -> &'a Validator {
        voters
            .proposer(height.0, round.as_u32().unwrap_or_default())
            .expect("Decider::new refuses an empty set of voters")
    }

    fn new_proposal(
        &self,
        height: ChainHeight,
        round: Round,
        value: Value,
        pol_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal {
            height,
            round,
            value,
            pol_round,
            proposer,
        }
    }

    fn new_prevote(
        &self,
        height: ChainHeight,
        round: Round,
        value: NilOrVal<Digest>,
        voter: Address,
    ) -> Vote {
        Vote {
            height,
            round,
            kind: VoteType::Prevote,
            value,
            voter,
        }
    }

    fn new_precommit(
        &self,
        height: ChainHeight,
        round: Round,
        value: NilOrVal<Digest>,
        voter: Address,
    ) -> Vote {
        Vote {
            height,
            round,
            kind: VoteType::Precommit,
            value,
            voter,
        }
    }
}

impl core_types::Address for Address {}

impl core_types::Height for ChainHeight {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

impl core_types::Value for Value {
    type Id = Digest;

    fn id(&self) -> Digest {
        self.digest()
    }
}

impl core_types::ProposalPart<Ctx> for NoPart {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

impl core_types::Proposal<Ctx> for Proposal {
    fn height(&self) -> ChainHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Value {
        &self.value
    }

    fn take_value(self) -> Value {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

impl core_types::Vote<Ctx> for Vote {
    fn height(&self) -> ChainHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Digest> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Digest> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.voter
    }

    fn extension(&self) -> Option<&SignedExtension<Ctx>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Ctx>> {
        None
    }

    fn extend(self, _: SignedExtension<Ctx>) -> Self {
        self
    }
}

impl core_types::Validator<Ctx> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn voting_power(&self) -> VotingPower {
        1
    }
}

impl core_types::ValidatorSet<Ctx> for Validators {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> VotingPower {
        VotingPower::try_from(self.0.len()).unwrap_or(VotingPower::MAX)
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.0
            .iter()
            .find(|validator| validator.address == *address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.0.get(index)
    }
}

impl SigningScheme for Ed25519 {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
        bytes.try_into().map(Signature).map_err(|_| "64 bytes")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, &'static str> {
        let bytes = bytes.try_into().map_err(|_| "32 bytes")?;
        PublicKey::from_bytes(bytes).map_err(|_| "a point of the curve")
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}
