//! The record: what one height decides.

use std::sync::Arc;

use bincode::{Decode, Encode};
use conclave_crypto::digest::Digest;

use crate::decide::Certificate;
use crate::envelope::Envelope;
use crate::evidence::Evidence;
use crate::letter::Bytes;
use crate::memo::{Function, Remembered};
use crate::message::{self, Malformed};
use crate::names::{Height, MemberId, SumId};

/// What one height decides, for all members alike.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// The epoch of the ledger.
    pub epoch: u32,
    /// The height.
    pub height: Height,
    /// The digest of the record before.
    pub before: Digest,
    /// Whose masked vectors count; none for a null record.
    pub survivors: Option<Survivors>,
    /// Who shares in the next height: empty when fewer than the minimum dealt.
    pub sharers_next: Vec<Sharer>,
    /// The Joins that this record admits, ascending by key.
    pub joins: Vec<Envelope>,
    /// The Leaves that this record releases, ascending by sender.
    pub leaves: Vec<Envelope>,
    /// The members of the height after next, ascending.
    pub members_after_next: Vec<MemberId>,
    /// What became of the height before.
    pub previous: Previous,
    /// Signed contradictions, ascending by member: whoever is convicted never shares again.
    pub evidence: Vec<Evidence>,
}

/// The survivors of a height.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Survivors {
    /// The masking context of all their vectors.
    pub sid: SumId,
    /// Ascending by member: the digest of its Commit.
    pub commits: Vec<(MemberId, Digest)>,
}

/// A dealer that enough holders can open.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Sharer {
    /// The dealer.
    pub member: MemberId,
    /// The digest of its KeyAd.
    pub key_ad: Digest,
    /// The digest of its Deal.
    pub deal: Digest,
    /// Who acknowledged this pair, ascending, the dealer among them.
    pub ackers: Vec<MemberId>,
}

/// What became of the sum that the record before called for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Previous {
    /// It called for none.
    None,
    /// It was opened: the digest of the new adapter.
    Opened(Digest),
    /// It could not be opened: everyone returns to the last certified adapter.
    Spent {
        /// Why.
        cause: Cause,
        /// Whose dealing is proved false, ascending.
        culprits: Vec<MemberId>,
        /// Holders that withheld shares which they had acknowledged, ascending.
        silent: Vec<MemberId>,
    },
}

/// Why a sum was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Cause {
    /// Dealings are proved false.
    Dealing,
    /// A coordinate that no inputs within the clamp can give.
    Range,
    /// Too few shares were revealed in time.
    Withheld,
}

/// A record in the chain, with what proves it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The record.
    pub record: Arc<Record>,
    /// Its digest.
    pub digest: Digest,
    /// Its encoding.
    pub bytes: Bytes,
    /// The quorum's signatures.
    pub certificate: Certificate,
}

impl Record {
    /// `SHA-256("conclave/v1/record" ‖ encoding)`.
    pub fn digest_of(bytes: &[u8]) -> Digest {
        Digest::of("conclave/v1/record", &[bytes])
    }

    /// Parses an encoded record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        message::decode(bytes)
    }

    /// The encoding.
    pub fn to_bytes(&self) -> Vec<u8> {
        message::encode(self)
    }

    /// The members whose vectors count.
    pub fn survivor_ids(&self) -> Vec<MemberId> {
        let commits = self.survivors.as_ref().map(|s| s.commits.as_slice());
        commits
            .unwrap_or_default()
            .iter()
            .map(|(member, _)| *member)
            .collect()
    }

    /// The members that share in the next height.
    pub fn sharer_ids(&self) -> Vec<MemberId> {
        self.sharers_next
            .iter()
            .map(|sharer| sharer.member)
            .collect()
    }
}

impl Entry {
    /// Parses a record beside its certificate; nothing is verified yet.
    pub fn new(bytes: &[u8], certificate: Certificate) -> Result<Self, Malformed> {
        Self::known(&Remembered::default(), bytes, certificate)
    }

    /// The same; members that remember together share the record and its bytes.
    pub(crate) fn known(
        memo: &Remembered,
        bytes: &[u8],
        certificate: Certificate,
    ) -> Result<Self, Malformed> {
        let digest = Record::digest_of(bytes);
        let parse = || {
            let record = Record::from_bytes(bytes).ok()?;
            Some((Arc::new(record), Bytes::copy_from_slice(bytes)))
        };
        let known = memo.once(Function::Entry, &[digest.as_bytes()], parse);
        let (record, bytes) = known.as_ref().clone().ok_or(Malformed)?;
        Ok(Self {
            record,
            digest,
            bytes,
            certificate,
        })
    }
}
