//! What arrives: checked against the rules, heard once, and only then shown to the core.

use arc_malachitebft_core_consensus::Input as Fed;
use arc_malachitebft_core_types::VoteType;
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::IdentityKey;

use super::context::Ctx;
use super::shell::{self, Slot};
use super::wire::{
    self, LIVENESS_MAX, LivenessBody, PROPOSAL_MAX, ProposalBody, VOTE_MAX, VoteBody,
};
use super::{Decider, Effect};
use crate::envelope::{Envelope, Kind};
use crate::input::Verdict;
use crate::letter::Letter;
use crate::names::Height;
use crate::refusal::Refusal;

/// Liveness messages remembered against repetition; forgotten together when there are more.
const CERTIFICATES_MAX: usize = 1024;
/// Rounds ahead of the own for which votes and proposals are taken: the core's own bound.
const ROUNDS_AHEAD: u32 = 10;

impl Decider {
    /// One envelope of this session.
    pub(super) fn receive(&mut self, letter: &Letter, key: &IdentityKey) -> Verdict {
        let Ok(envelope) = letter.envelope() else {
            return Verdict::Refused(Refusal::Malformed);
        };
        if envelope.sess != self.shell.sess || envelope.seq != 0 {
            return Verdict::Refused(Refusal::Rule);
        }
        if self.shell.voters.key(envelope.sender).is_none() {
            return Verdict::Refused(Refusal::Stranger);
        }
        let taken = match envelope.kind {
            Kind::Liveness => self.take_certificate(envelope, letter, key),
            Kind::Vote | Kind::Proposal => self.take_said(envelope, letter, key),
            _ => Err(Verdict::Refused(Refusal::Rule)),
        };
        taken.map_or_else(|verdict| verdict, |()| Verdict::Accepted)
    }

    /// Shows a heard vote or proposal to the core, and a new record to the host.
    pub(super) fn feed_said(&mut self, said: Fed<Ctx>, key: &IdentityKey) {
        let record = match &said {
            Fed::Proposal(proposal) => Some(proposal.value.digest()),
            _ => None,
        };
        self.feed(said, key);
        if let Some(digest) = record
            && !self.done
            && !self.judged.contains_key(&digest)
            && let Some((round, proposer, record)) = self.proposed.get(&digest)
            && self.shown.insert(digest)
        {
            self.shell.outbox.push_back(Effect::Judge {
                round: *round,
                proposer: *proposer,
                record: record.clone(),
            });
        }
    }

    /// A vote or proposal that follows the rules, and its slot.
    pub(super) fn read(
        &self,
        envelope: &Envelope,
        said: impl FnOnce() -> Option<Fed<Ctx>>,
    ) -> Result<(Slot, Fed<Ctx>), Refusal> {
        let vote = envelope.kind == Kind::Vote;
        if envelope.body.len() > if vote { VOTE_MAX } else { PROPOSAL_MAX } {
            return Err(Refusal::Oversized);
        }
        let said = said().ok_or(Refusal::Malformed)?;
        let (height, slot) = match &said {
            Fed::Vote(vote) => (vote.height, shell::slot_of(vote)),
            Fed::Proposal(proposal) => {
                let round = wire::number(proposal.round);
                let earlier = proposal.pol_round.as_u32();
                let backwards = earlier.is_none_or(|earlier| earlier < round);
                if !backwards || self.proposer(round) != envelope.sender {
                    return Err(Refusal::Rule);
                }
                (proposal.height, (round, envelope.sender, None))
            }
            _ => return Err(Refusal::Malformed),
        };
        if height != self.height.into() {
            return Err(Refusal::Rule);
        }
        Ok((slot, said))
    }

    /// Keeps the record of a proposal, so that the host can be asked about it.
    pub(super) fn register(&mut self, said: &Fed<Ctx>, slot: Slot) {
        if let Fed::Proposal(proposal) = said {
            let value = &proposal.value;
            let first = (slot.0, slot.1, value.record().clone());
            self.proposed.entry(value.digest()).or_insert(first);
        }
    }

    /// Checks, keeps and feeds a vote or proposal that was not heard before.
    fn take_said(
        &mut self,
        envelope: &Envelope,
        letter: &Letter,
        key: &IdentityKey,
    ) -> Result<(), Verdict> {
        let said = || Some(letter.read(wire::said).ok()?.as_ref().clone());
        let (slot, said) = self.read(envelope, said).map_err(Verdict::Refused)?;
        let heard = self.shell.heard.get(&slot);
        if heard.is_some_and(|heard| heard.contains(envelope))
            || slot.0 > self.round().saturating_add(ROUNDS_AHEAD)
        {
            return Err(Verdict::Ignored);
        }
        if !self.is_signed(envelope, letter) {
            return Err(Verdict::Refused(Refusal::Signature));
        }
        self.shell
            .note(slot, envelope.clone())
            .map_err(Verdict::Refused)?;
        self.register(&said, slot);
        if self.started {
            self.feed_said(said, key);
        } else {
            self.early.push(said);
        }
        Ok(())
    }

    /// Whether the signature is the sender's.
    fn is_signed(&self, envelope: &Envelope, letter: &Letter) -> bool {
        let sender = self.shell.voters.key(envelope.sender);
        sender.is_some_and(|sender| letter.verify(sender).is_ok())
    }

    /// Checks and feeds a polka or round certificate.
    fn take_certificate(
        &mut self,
        envelope: &Envelope,
        letter: &Letter,
        key: &IdentityKey,
    ) -> Result<(), Verdict> {
        if envelope.body.len() > LIVENESS_MAX {
            return Err(Verdict::Refused(Refusal::Oversized));
        }
        let name = Digest::of("conclave/v1/liveness", &[&envelope.body]);
        // Before the start it says nothing yet: it is repeated as long as it matters.
        if !self.started || self.certificates.contains(&name) {
            return Err(Verdict::Ignored);
        }
        let body: LivenessBody = wire::decode::<LIVENESS_MAX, _>(&envelope.body)
            .ok_or(Verdict::Refused(Refusal::Malformed))?;
        if body.height() != self.height {
            return Err(Verdict::Refused(Refusal::Rule));
        }
        if !self.is_signed(envelope, letter) {
            return Err(Verdict::Refused(Refusal::Signature));
        }
        self.shell.forged = false;
        self.feed(body.input(), key);
        if self.shell.forged {
            return Err(Verdict::Refused(Refusal::Signature));
        }
        if self.certificates.len() >= CERTIFICATES_MAX {
            self.certificates.clear();
        }
        self.certificates.insert(name);
        Ok(())
    }
}

/// Consensus round and step (0 propose, 1 prevote, 2 precommit) of a vote or proposal: each sender fills each once.
pub fn slot_of(envelope: &Envelope) -> Option<(u32, u32)> {
    match wire::said(envelope)? {
        Fed::Proposal(proposal) => Some((proposal.round.as_u32()?, 0)),
        Fed::Vote(vote) => Some((
            vote.round.as_u32()?,
            1u32.saturating_add(u32::from(vote.kind == VoteType::Precommit)),
        )),
        _ => None,
    }
}

/// R8. Whether a consensus message of a height has the form of one, before there is an engine that could judge it.
pub(crate) fn check_form(height: Height, envelope: &Envelope) -> Result<(), Refusal> {
    let body = envelope.body.as_slice();
    let (most, at) = match envelope.kind {
        Kind::Vote => (
            VOTE_MAX,
            wire::decode::<VOTE_MAX, VoteBody>(body).map(|body| body.height),
        ),
        Kind::Proposal => (
            PROPOSAL_MAX,
            wire::decode::<PROPOSAL_MAX, ProposalBody>(body).map(|body| body.height),
        ),
        Kind::Liveness => (
            LIVENESS_MAX,
            wire::decode::<LIVENESS_MAX, LivenessBody>(body).map(|body| body.height()),
        ),
        _ => return Err(Refusal::Rule),
    };
    if body.len() > most {
        return Err(Refusal::Oversized);
    }
    if at.ok_or(Refusal::Malformed)? == height && envelope.seq == 0 {
        Ok(())
    } else {
        Err(Refusal::Rule)
    }
}
