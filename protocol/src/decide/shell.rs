//! Everything around the core: what it asks for is answered here, synchronously, or put into the outbox.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arc_malachitebft_core_consensus::{Effect as Asked, Resumable, Resume, SignedConsensusMsg};
use arc_malachitebft_core_types::{
    CertificateError, CommitCertificate, SignedMessage, SignedVote, Timeout, ValidatorSet as _,
};
use conclave_crypto::sign::IdentityKey;

use super::context::{Ctx, Proposal, Validators, Vote};
use super::wire::{self, Entry, LivenessBody, Step, Timer};
use super::{Certificate, ConsensusTimers, Effect, Evidence};
use crate::envelope::{Envelope, Kind};
use crate::names::{Height, MemberId, SessId};
use crate::refusal::Refusal;
use crate::time::Time;

/// Different signed messages kept of one slot: enough to prove equivocation, and bounded.
const SLOT_MAX: usize = 3;

pub(super) type CoreError = arc_malachitebft_core_consensus::Error<Ctx>;

/// Where at most one message of a voter may stand: round, voter, and step (`None` for the proposal).
pub(super) type Slot = (u32, MemberId, Option<Step>);

/// The state beside the core's own.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) sess: SessId,
    pub(super) me: Option<MemberId>,
    pub(super) voters: Validators,
    pub(super) timing: ConsensusTimers,
    pub(super) now: Time,
    pub(super) outbox: VecDeque<Effect>,
    /// Verified votes and proposals of this height, own ones too.
    pub(super) heard: BTreeMap<Slot, Vec<Envelope>>,
    /// The running timers.
    pub(super) alarms: BTreeMap<(u32, u8), (Time, Timeout)>,
    /// The round for which the core waits for a value of ours.
    pub(super) wanted: Option<u32>,
    /// The certificate of the core's decision.
    pub(super) decided: Option<Certificate>,
    /// The log's entries while they are replayed: they are not appended again.
    pub(super) replayed: BTreeSet<Vec<u8>>,
    /// The core asked about a certificate and it was wrong.
    pub(super) forged: bool,
}

impl Shell {
    /// Answers one effect of the core.
    pub(super) fn perform(&mut self, asked: Asked<Ctx>, key: &IdentityKey) -> Resume<Ctx> {
        match asked {
            Asked::CancelAllTimeouts(r) => {
                self.alarms.clear();
                r.resume_with(())
            }
            Asked::CancelTimeout(timeout, r) => {
                if let Some(name) = name(timeout) {
                    self.alarms.remove(&name);
                }
                r.resume_with(())
            }
            Asked::ScheduleTimeout(timeout, r) => {
                self.schedule(timeout);
                r.resume_with(())
            }
            Asked::StartRound(_, _, _, _, r) | Asked::RestreamProposal(_, _, _, _, _, r) => {
                r.resume_with(())
            }
            Asked::PublishConsensusMsg(message, r) => {
                let envelope = match &message {
                    SignedConsensusMsg::Vote(vote) => wire::vote_envelope(self.sess, vote),
                    SignedConsensusMsg::Proposal(proposal) => {
                        wire::proposal_envelope(self.sess, proposal)
                    }
                };
                self.outbox.push_back(Effect::Publish(envelope));
                r.resume_with(())
            }
            Asked::PublishLivenessMsg(message, r) => {
                self.publish(LivenessBody::of(&message), key);
                r.resume_with(())
            }
            Asked::RepublishVote(vote, r) => {
                let envelope = wire::vote_envelope(self.sess, &vote);
                self.outbox.push_back(Effect::Publish(envelope));
                r.resume_with(())
            }
            Asked::RepublishRoundCertificate(certificate, r) => {
                self.publish(Some(LivenessBody::of_round(&certificate)), key);
                r.resume_with(())
            }
            Asked::GetValue(_, round, _, r) => {
                self.wanted = round.as_u32();
                r.resume_with(())
            }
            Asked::SignVote(vote, r) => r.resume_with(self.sign_vote(vote, key)),
            Asked::SignProposal(proposal, r) => r.resume_with(self.sign_proposal(proposal, key)),
            Asked::VerifySignature(message, _, r) => r.resume_with(self.verify_message(&message)),
            Asked::VerifyPolkaCertificate(certificate, _, _, r) => {
                r.resume_with(self.verify_polka(&certificate))
            }
            Asked::VerifyRoundCertificate(certificate, _, _, r) => {
                r.resume_with(self.verify_round(&certificate))
            }
            Asked::VerifyCommitCertificate(certificate, _, _, r) => {
                r.resume_with(self.verify_commit(&certificate))
            }
            Asked::WalAppend(_, input, r) => {
                self.append(&input);
                r.resume_with(())
            }
            Asked::Decide(certificate, _, r) => {
                self.decided = Some(certificate_of(&certificate));
                r.resume_with(())
            }
            Asked::Finalize(_, _, _, r)
            | Asked::CertVerifiedSyncValue(_, _, r)
            | Asked::CertRejectedSyncValue(_, _, _, r) => r.resume_with(()),
            // Extensions are disabled and sync is the host's: the core never asks these.
            Asked::ExtendVote(_, _, _, _, r) => r.resume_with(None),
            Asked::VerifyVoteExtension(_, _, _, _, _, _, r) => r.resume_with(Ok(())),
            Asked::VerifyExtendedCommitCertificate(_, _, _, _, r) => {
                r.resume_with(Err(CertificateError::VerificationError(None)))
            }
        }
    }

    /// Whether the signature is the sender's, without asking twice for what was heard before.
    pub(super) fn verified(&self, slot: Slot, envelope: &Envelope) -> bool {
        let known = self
            .heard
            .get(&slot)
            .is_some_and(|said| said.contains(envelope));
        known
            || self
                .voters
                .key(envelope.sender)
                .is_some_and(|key| envelope.verify(key).is_ok())
    }

    /// Keeps a verified message; two different ones in a slot are evidence.
    /// Refuses what exceeds [`SLOT_MAX`]: the evidence is complete by then.
    pub(super) fn note(&mut self, slot: Slot, envelope: Envelope) -> Result<(), Refusal> {
        let said = self.heard.entry(slot).or_default();
        if said.contains(&envelope) {
            return Ok(());
        }
        if said.len() >= SLOT_MAX {
            return Err(Refusal::Equivocation);
        }
        if let Some(first) = said.first().filter(|first| first.body != envelope.body) {
            self.outbox.push_back(Effect::Evidence(Box::new(Evidence {
                first: first.clone(),
                second: envelope.clone(),
            })));
        }
        said.push(envelope);
        Ok(())
    }

    /// The timers that have run out, earliest first.
    pub(super) fn due(&mut self, now: Time) -> Option<Timeout> {
        let (name, (_, timeout)) = self
            .alarms
            .iter()
            .filter(|(_, (at, _))| *at <= now)
            .min_by_key(|(name, (at, _))| (*at, **name))
            .map(|(name, alarm)| (*name, *alarm))?;
        self.alarms.remove(&name);
        Some(timeout)
    }

    fn schedule(&mut self, timeout: Timeout) {
        let Some(name) = name(timeout) else {
            return;
        };
        let span = self.timing.span(timeout);
        self.alarms.insert(name, (self.now + span, timeout));
    }

    fn publish(&mut self, body: Option<LivenessBody>, key: &IdentityKey) {
        if let (Some(body), Some(me)) = (body, self.me) {
            let body = wire::encode(&body);
            let envelope = Envelope::sign(key, Kind::Liveness, self.sess, me, 0, body);
            self.outbox.push_back(Effect::Publish(envelope));
        }
    }

    fn append(&mut self, input: &arc_malachitebft_core_consensus::Input<Ctx>) {
        if self.me.is_none() {
            return;
        }
        if let Some(entry) = Entry::of(self.sess, input) {
            let bytes = entry.to_bytes();
            if !self.replayed.contains(&bytes) {
                self.outbox.push_back(Effect::Wal(bytes));
            }
        }
    }

    fn sign_vote(&mut self, vote: Vote, key: &IdentityKey) -> SignedVote<Ctx> {
        let body = wire::vote_body(&vote);
        let envelope = Envelope::sign(key, Kind::Vote, self.sess, vote.voter.0, 0, body);
        let slot = (
            wire::number(vote.round),
            vote.voter.0,
            Some(wire::step(vote.kind)),
        );
        let signed = SignedMessage::new(vote, envelope.signature);
        self.keep_own(slot, envelope);
        signed
    }

    fn sign_proposal(
        &mut self,
        proposal: Proposal,
        key: &IdentityKey,
    ) -> SignedMessage<Ctx, Proposal> {
        let body = wire::proposal_body(&proposal);
        let envelope = Envelope::sign(key, Kind::Proposal, self.sess, proposal.proposer.0, 0, body);
        let slot = (wire::number(proposal.round), proposal.proposer.0, None);
        let signed = SignedMessage::new(proposal, envelope.signature);
        self.keep_own(slot, envelope);
        signed
    }

    /// Keeps what the log holds.
    pub(super) fn recall(&mut self, slot: Slot, envelope: Envelope) {
        self.keep_own(slot, envelope);
    }

    /// An own message is kept even where the slot is full of forgeries under our lost key.
    fn keep_own(&mut self, slot: Slot, envelope: Envelope) {
        let said = self.heard.entry(slot).or_default();
        if !said.contains(&envelope) {
            said.push(envelope);
        }
    }

    /// How many vote.
    pub(super) fn count(&self) -> usize {
        self.voters.count()
    }
}

/// Runs one input through the core and answers all it asks.
#[expect(
    clippy::result_large_err,
    reason = "the core's error type, only ever shown to people"
)]
pub(super) fn feed(
    state: &mut arc_malachitebft_core_consensus::State<Ctx>,
    shell: &mut Shell,
    key: &IdentityKey,
    input: arc_malachitebft_core_consensus::Input<Ctx>,
) -> Result<(), CoreError> {
    arc_malachitebft_core_consensus::process!(
        input: input,
        state: state,
        metrics: &(),
        with: asked => Ok::<Resume<Ctx>, CoreError>(shell.perform(asked, key))
    )
}

/// Our form of the core's certificate.
fn certificate_of(commit: &CommitCertificate<Ctx>) -> Certificate {
    let mut signatures: Vec<_> = commit
        .commit_signatures
        .iter()
        .map(|vote| (vote.address.0, vote.signature))
        .collect();
    signatures.sort_unstable();
    signatures.dedup_by_key(|(member, _)| *member);
    Certificate {
        height: Height(commit.height.0),
        round: wire::number(commit.round),
        record: commit.value_id,
        signatures,
    }
}

pub(super) fn slot_of(vote: &SignedVote<Ctx>) -> Slot {
    (
        wire::number(vote.round),
        vote.voter.0,
        Some(wire::step(vote.kind)),
    )
}

/// A timer's name: there is at most one of each kind and round.
fn name(timeout: Timeout) -> Option<(u32, u8)> {
    let kind = match Timer::of(timeout.kind)? {
        Timer::Propose => 0,
        Timer::Prevote => 1,
        Timer::Precommit => 2,
        Timer::Rebroadcast => 3,
    };
    Some((wire::number(timeout.round), kind))
}
