//! The one door out: everything that a member wants from the world.
//!
//! Outputs are performed in order. A [`Output::Store`] is durable (fsync) before any later output is performed;
//! runs of neighbouring stores may share one transaction.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use crate::floats::Floats;
use crate::letter::{Bytes, Letter};
use crate::names::{Factor, Height, Round};
use crate::record::Cause;

/// What the member asks of the driver.
#[derive(Debug)]
pub enum Output {
    /// Make this durable before anything that follows.
    Store(Write),
    /// Say this to the whole federation, by gossip.
    Publish {
        /// Which topic.
        topic: Topic,
        /// One encoded envelope.
        bytes: Letter,
    },
    /// Say this to one peer, directly; lost if it is not connected.
    Send {
        /// Its identity.
        to: PublicKey,
        /// One encoded envelope.
        bytes: Letter,
    },
    /// Fetch a blob: from the own tables, else from any of these peers, in this order; answered by `Input::Pulled` or
    /// `Input::PullFailed`. Every node serves what stands in its tables [`Table::Vectors`], [`Table::Shards`] and
    /// [`Table::Adapters`] under the blob's name.
    Pull {
        /// The name: Merkle root of a masked vector, of a shard or of a shard's sum, or digest of an adapter.
        name: Digest,
        /// Its length in bytes, known from a signed message: more is refused.
        length: u64,
        /// Who may have it.
        from: Vec<PublicKey>,
    },
    /// For the engine.
    Order(Order),
    /// For the operator.
    Report(Report),
}

/// The gossip topics, each under the charter's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Everything but consensus.
    Control,
    /// Proposals, votes, certificates.
    Vote,
}

/// One change of the durable state.
#[derive(Clone, PartialEq, Eq)]
pub struct Write {
    /// Which table.
    pub table: Table,
    /// The key: its encoding sorts as the thing does (big-endian heights).
    pub key: Vec<u8>,
    /// The value, or `None` to delete.
    pub value: Option<Bytes>,
}

/// The durable tables. All but [`Table::Secrets`] stand in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Decided records with their certificates, by height.
    Ledger,
    /// The own slot-unique envelopes, by slot: after a restart the same bytes are sent again.
    Outbox,
    /// The reveal-once journal: session to record digest.
    Journal,
    /// The consensus engine's write-ahead log, by height and index.
    Wal,
    /// Envelopes of others in the open sessions.
    Inbox,
    /// Masked vectors of the open sessions, by Merkle root (32 bytes): served to peers.
    Vectors,
    /// Shards of masked vectors of the open sessions, and of their sums, by Merkle root (32 bytes): served to peers.
    /// `Member::open` needs their keys only: the driver may leave the values out.
    Shards,
    /// Certified adapters (f32 little-endian), by digest (32 bytes): served to peers.
    Adapters,
    /// Small facts: counters, the newest seen, privacy spending.
    Facts,
    /// One file a key, mode 0600, outside the database; deletion unlinks the file and syncs its folder.
    /// The key is the file's name.
    Secrets,
}

/// The whole durable state, as the driver hands it to `Member::open`.
pub type Stored = BTreeMap<(Table, Vec<u8>), Bytes>;

/// What the engine is to do.
#[derive(Debug, Clone)]
pub enum Order {
    /// Train the factor from this adapter. A newer order replaces an older one.
    Train {
        /// The height, to be named in the answer.
        height: Height,
        /// The round's number, for the learning-rate schedule and for display.
        round: Round,
        /// How many rounds the charter runs.
        rounds: u32,
        /// Which coordinates move.
        factor: Factor,
        /// The adapter to start from: all coordinates, in the layout's order.
        adapter: Floats,
        /// Its digest.
        digest: Digest,
        /// Optimiser steps.
        local_steps: u32,
        /// The seed of the batches: bound to the session.
        seed: [u8; 32],
    },
    /// Stop training for this height: its result is no longer wanted.
    Cancel {
        /// The height of the order.
        height: Height,
    },
    /// A new certified (or just opened) adapter: write it to `adapters/<round>/`, evaluate it.
    Adopt {
        /// The height that opened it.
        height: Height,
        /// The round that opened it.
        round: Round,
        /// All coordinates.
        adapter: Floats,
        /// Its digest.
        digest: Digest,
    },
}

/// What the operator is told. Machine-readable: the driver writes each as a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The member has entered a phase of a height.
    Phase {
        /// The height.
        height: Height,
        /// Its round, if it has sharers.
        round: Option<Round>,
        /// Which.
        phase: Phase,
    },
    /// The own dealing of the session that is being set up is acknowledged by enough holders.
    /// (The moment at which `testnet --kill` strikes.)
    Dealt {
        /// The height whose session was dealt for.
        height: Height,
    },
    /// A record was decided.
    Decided {
        /// The height.
        height: Height,
        /// Its round, if it had sharers.
        round: Option<Round>,
        /// The record's digest: the new ledger head.
        head: Digest,
        /// Who dealt (fixed one height before).
        sharers: Vec<PublicKey>,
        /// Whose masked vectors count; `None` for a null record.
        survivors: Option<Vec<PublicKey>>,
        /// The members of the height after next.
        members_after_next: Vec<PublicKey>,
        /// Why the sum before was spent, if it was.
        spent: Option<Cause>,
        /// Members convicted by evidence.
        convicted: Vec<PublicKey>,
    },
    /// The sum was opened and the new adapter stands.
    Opened {
        /// The height.
        height: Height,
        /// The round.
        round: Round,
        /// Digest of the new adapter.
        adapter: Digest,
        /// Whose pair keys were rebuilt (the dropouts).
        rebuilt: Vec<PublicKey>,
    },
    /// The own vector was masked and committed.
    Submitted {
        /// The height.
        height: Height,
        /// Coordinates.
        coordinates: u64,
        /// Coordinates that the clamp changed.
        clipped: u64,
        /// Bytes of the masked vector.
        bytes: u64,
        /// The round whose delta, left out then, is in this one. R63
        carried: Option<Round>,
    },
    /// Why nothing moves: said once when it begins and again when it changes.
    Waiting {
        /// One sentence that names whom it waits for.
        reason: String,
    },
    /// Something went wrong and the member went on.
    Warning {
        /// One sentence.
        reason: String,
    },
    /// The job is done: the last result is certified and a quorum holds the closing record.
    Finished {
        /// The ledger's head.
        head: Digest,
        /// The certified adapter.
        adapter: Digest,
    },
    /// The member has left, or cannot leave in order. R66
    Left {
        /// Why it could not leave in order.
        reason: Option<String>,
    },
    /// The member stops for a reason that an operator must see to.
    Halted {
        /// One sentence: what, where, what to do.
        reason: String,
    },
}

/// The phases of a height.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub enum Phase {
    /// Waiting for members to meet, or for set-up to complete.
    Advertise,
    /// Dealing shares.
    Deal,
    /// Training.
    Train,
    /// Submitting the masked vector, waiting for the others'.
    Submit,
    /// Deciding the record.
    Decide,
    /// Revealing shares.
    Reveal,
    /// Opening the sum.
    Open,
}

impl core::fmt::Debug for Write {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let length = self.value.as_ref().map(Bytes::len);
        write!(
            f,
            "Write({:?}, {} key bytes, {length:?} value bytes)",
            self.table,
            self.key.len()
        )
    }
}
