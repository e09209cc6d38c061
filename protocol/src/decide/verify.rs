//! The core's questions whether a signature or certificate is sound.

use std::collections::BTreeSet;

use arc_malachitebft_core_consensus::ConsensusMsg;
use arc_malachitebft_core_types::{
    CertificateError, CommitCertificate, Context as _, NilOrVal, PolkaCertificate,
    RoundCertificate, RoundCertificateType, SignedMessage, SignedVote,
};

use super::context::Ctx;
use super::shell::{Shell, slot_of};
use super::wire::{self, Step};
use super::{honest, quorum};

impl Shell {
    pub(super) fn verify_message(&self, message: &SignedMessage<Ctx, ConsensusMsg<Ctx>>) -> bool {
        match &message.message {
            ConsensusMsg::Vote(vote) => {
                let signed = SignedMessage::new(vote.clone(), message.signature);
                self.verify_vote(&signed)
            }
            ConsensusMsg::Proposal(proposal) => {
                let signed = SignedMessage::new(proposal.clone(), message.signature);
                let slot = (wire::number(proposal.round), proposal.proposer.0, None);
                self.verified(slot, &wire::proposal_envelope(self.sess, &signed))
            }
        }
    }

    fn verify_vote(&self, vote: &SignedVote<Ctx>) -> bool {
        self.verified(slot_of(vote), &wire::vote_envelope(self.sess, vote))
    }

    pub(super) fn verify_polka(
        &mut self,
        polka: &PolkaCertificate<Ctx>,
    ) -> Result<(), CertificateError<Ctx>> {
        let votes: Vec<_> = polka.votes(&Ctx).collect();
        let checked = self.verify_votes(&votes, quorum(self.count()));
        self.forged = checked.is_err();
        checked
    }

    pub(super) fn verify_round(
        &mut self,
        round: &RoundCertificate<Ctx>,
    ) -> Result<(), CertificateError<Ctx>> {
        let votes: Vec<_> = round.votes(&Ctx).collect();
        let checked = match round.cert_type {
            RoundCertificateType::Skip => self.verify_votes(&votes, honest(self.count())),
            RoundCertificateType::Precommit => match votes
                .iter()
                .find(|vote| slot_of(vote).2 == Some(Step::Prevote))
            {
                Some(vote) => Err(CertificateError::InvalidVoteType(vote.voter)),
                None => self.verify_votes(&votes, quorum(self.count())),
            },
        };
        self.absorb(votes, checked)
    }

    pub(super) fn verify_commit(
        &self,
        commit: &CommitCertificate<Ctx>,
    ) -> Result<(), CertificateError<Ctx>> {
        let votes: Vec<_> = commit
            .commit_signatures
            .iter()
            .map(|vote| {
                let value = NilOrVal::Val(commit.value_id);
                let precommit = Ctx.new_precommit(commit.height, commit.round, value, vote.address);
                SignedMessage::new(precommit, vote.signature)
            })
            .collect();
        self.verify_votes(&votes, quorum(self.count()))
    }

    /// Enough different voters, each with a signature of its own.
    fn verify_votes(
        &self,
        votes: &[SignedVote<Ctx>],
        needed: usize,
    ) -> Result<(), CertificateError<Ctx>> {
        let mut signers = BTreeSet::new();
        for vote in votes {
            if self.voters.key(vote.voter.0).is_none() {
                return Err(CertificateError::UnknownValidator(vote.voter));
            }
            if !signers.insert(vote.voter) {
                return Err(CertificateError::DuplicateVote(vote.voter));
            }
            if !self.verify_vote(vote) {
                return Err(CertificateError::VerificationError(None));
            }
        }
        if signers.len() < needed {
            return Err(CertificateError::NotEnoughVotingPower {
                signed: weight(signers.len()),
                total: weight(self.count()),
                expected: weight(needed),
            });
        }
        Ok(())
    }

    /// Keeps the votes of a sound round certificate, which the core takes one by one. (Those of a polka it takes
    /// as a whole, so they may have to be heard again.)
    fn absorb(
        &mut self,
        votes: Vec<SignedVote<Ctx>>,
        checked: Result<(), CertificateError<Ctx>>,
    ) -> Result<(), CertificateError<Ctx>> {
        self.forged = checked.is_err();
        if checked.is_ok() {
            for vote in votes {
                // A full slot has its evidence already; the certificate stands all the same.
                let _kept = self.note(slot_of(&vote), wire::vote_envelope(self.sess, &vote));
            }
        }
        checked
    }
}

fn weight(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
