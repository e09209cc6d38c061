//! The one door in: everything that can happen to a member.

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use crate::letter::{Bytes, Letter};
use crate::names::Height;

/// What the driver tells the member.
#[derive(Debug)]
pub enum Input {
    /// The bytes of one envelope arrived, by gossip or from a peer directly; `from` is the peer that handed it over.
    Received {
        /// The identity of the peer that handed the bytes over (not necessarily their author).
        from: PublicKey,
        /// One encoded envelope.
        bytes: Letter,
    },
    /// A peer can be reached now: time for anti-entropy.
    Connected {
        /// Its identity.
        peer: PublicKey,
    },
    /// A peer cannot be reached any more.
    Disconnected {
        /// Its identity.
        peer: PublicKey,
    },
    /// The engine has finished the training that [`crate::output::Order::Train`] asked for.
    Trained {
        /// The height of the order.
        height: Height,
        /// The change of the factor's coordinates, in the order of the layout.
        delta: conclave_crypto::ladder::Delta,
    },
    /// The engine is at step `done` of `of`.
    Progress {
        /// The height of the order.
        height: Height,
        /// Optimiser steps done.
        done: u32,
        /// Optimiser steps ordered.
        of: u32,
    },
    /// The engine could not train.
    TrainFailed {
        /// The height of the order.
        height: Height,
        /// What, where, and what to do.
        reason: String,
    },
    /// A blob that [`crate::output::Output::Pull`] asked for has arrived. Its bytes are not trusted yet.
    Pulled {
        /// The name under which it was asked for.
        name: Digest,
        /// The whole blob.
        bytes: Bytes,
    },
    /// A blob that [`crate::output::Output::Store`] made durable, as it stands there: the member uses these bytes (of a
    /// mapped file, say) and lets its own go. A driver that keeps blobs in memory anyway leaves it out.
    Stored {
        /// Its name.
        name: Digest,
        /// The whole blob, the same bytes as were stored.
        bytes: Bytes,
    },
    /// Nobody of those named could hand over the blob.
    PullFailed {
        /// The name under which it was asked for.
        name: Digest,
    },
    /// The operator wants to leave in order: answered by `Report::Left`. R66
    Leave,
    /// The deadline of `Member::deadline` has passed.
    Wake,
}

/// What became of an input: tells the driver whether gossip may be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New and sound: forward it.
    Accepted,
    /// Sound but known already, too old, or not judgeable yet: neither forward nor punish.
    Ignored,
    /// Unsound: do not forward; counted against the peer that handed it over.
    Refused(crate::refusal::Refusal),
}
