//! The certificate of a decision: a quorum's precommits, checkable offline from the voters alone.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::Signature;

use super::wire::{Step, VoteBody, encode};
use super::{Voter, quorum};
use crate::envelope::{Envelope, Kind};
use crate::names::{Height, MemberId, SessId};

/// A quorum's signatures on a decision.
///
/// Each signature is that of the voter's precommit envelope, whose body follows from height, round and record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Certificate {
    /// The height that was decided.
    pub height: Height,
    /// The consensus round of the precommits.
    pub round: u32,
    /// Digest of the decided record ([`super::record_digest`]).
    pub record: Digest,
    /// Who signed, ascending.
    pub signatures: Vec<(MemberId, Signature)>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Fewer than a quorum of the voters signed.
    #[error("{signed} of {voters} voters signed, the quorum is {quorum}")]
    Quorum {
        /// How many signed.
        signed: usize,
        /// How many may vote.
        voters: usize,
        /// How many must.
        quorum: usize,
    },
    /// A signer is no voter of this height.
    #[error("member {} signed, but has no vote at this height", .0.0)]
    Stranger(MemberId),
    /// The signers are not in strictly ascending order.
    #[error("member {} stands twice or out of order among the signers", .0.0)]
    Order(MemberId),
    /// A signature does not verify.
    #[error("the signature of member {} does not belong to this decision", .0.0)]
    Signature(MemberId),
}

impl Certificate {
    /// Verifies that a quorum of `voters` precommitted exactly this record in this session.
    pub fn verify(&self, sess: SessId, voters: &[Voter]) -> Result<(), CertificateError> {
        let distinct: BTreeSet<MemberId> = voters.iter().map(|voter| voter.member).collect();
        let needed = quorum(distinct.len());
        if self.signatures.len() < needed {
            return Err(CertificateError::Quorum {
                signed: self.signatures.len(),
                voters: distinct.len(),
                quorum: needed,
            });
        }
        let mut last = None;
        for (member, signature) in &self.signatures {
            if last >= Some(*member) {
                return Err(CertificateError::Order(*member));
            }
            last = Some(*member);
            let voter = voters
                .iter()
                .find(|voter| voter.member == *member)
                .ok_or(CertificateError::Stranger(*member))?;
            self.envelope(sess, *member, *signature)
                .verify(&voter.key)
                .map_err(|_| CertificateError::Signature(*member))?;
        }
        Ok(())
    }

    /// The precommit envelope of one signer.
    fn envelope(&self, sess: SessId, member: MemberId, signature: Signature) -> Envelope {
        Envelope {
            kind: Kind::Vote,
            sess,
            sender: member,
            seq: 0,
            body: encode(&VoteBody {
                height: self.height,
                round: self.round,
                step: Step::Precommit,
                record: Some(self.record),
            }),
            signature,
        }
    }
}
