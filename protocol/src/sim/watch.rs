//! The eye of the world: everything ever stored, sent, decided and adopted, across all restarts.
//!
//! It only notes; the checkers of [`super::check`] judge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use super::{Diary, Point};
use crate::decide::slot_of;
use crate::envelope::{Envelope, Kind};
use crate::message::{self, Commit, Reveal, Seal};
use crate::names::{Factor, Height, MemberId, SessId};
use crate::output::Phase;
use crate::record::Cause;

/// A decided record as one member reported it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// The record's digest.
    pub head: Digest,
    /// Who dealt.
    pub sharers: Vec<PublicKey>,
    /// Whose vectors count.
    pub survivors: Option<Vec<PublicKey>>,
    /// The members of the height after next.
    pub members_after_next: Vec<PublicKey>,
    /// Why the sum before was spent.
    pub spent: Option<Cause>,
    /// Who was convicted.
    pub convicted: Vec<PublicKey>,
}

/// A delta that a member handed to its core, with what it was trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The factor.
    pub factor: Factor,
    /// Digest of the adapter that it was trained from.
    pub from: Digest,
    /// That adapter.
    pub adapter: Arc<Vec<f32>>,
    /// The delta's coordinates.
    pub delta: Vec<f32>,
    /// An earlier delta that went into the vector beside it: of which height, and its coordinates.
    pub carried: Option<(Height, Vec<f32>)>,
}

/// The share of one holder that was made public: session, dealer, which secret, the record, the holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// The session.
    pub sess: SessId,
    /// Whose secret.
    pub dealer: MemberId,
    /// Which.
    pub which: Secret,
    /// Under which record.
    pub record: Digest,
    /// Who showed it.
    pub holder: MemberId,
}

/// An adapter with its digest.
pub type Adopted = (Digest, Arc<Vec<f32>>);

/// Names a slot: session, kind, sender, and the receiver, round or step that tells slots of a kind apart.
pub type SlotName = (SessId, Kind, MemberId, (u32, u32));

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Decisions by height and place; more than one differing is a fork.
    pub decisions: BTreeMap<(Height, usize), BTreeSet<Decision>>,
    /// Adapters adopted by height and place.
    pub adopted: BTreeMap<(Height, usize), Vec<Adopted>>,
    /// The deltas whose masked vectors were stored or sent, by height, place and Merkle root.
    pub committed: BTreeMap<(Height, usize), BTreeMap<Digest, Trained>>,
    /// The roots that each member committed to in a session, stored or sent.
    pub roots: BTreeMap<(SessId, MemberId), BTreeSet<Digest>>,
    /// Masked vectors that were sent while the seeds of their mask still stood on the disk.
    pub late_masks: BTreeSet<(Height, usize)>,
    /// The shares that were sent.
    pub shown: BTreeSet<Shown>,
    /// The records under which each member revealed, stored or sent.
    pub revealed: BTreeMap<(SessId, MemberId), BTreeSet<Digest>>,
    /// The bodies sent in each slot that has room for one.
    pub slots: BTreeMap<SlotName, BTreeSet<Digest>>,
    /// Whose pair keys were rebuilt, by height and place.
    pub rebuilt: BTreeMap<(Height, usize), Vec<PublicKey>>,
    /// Vectors submitted, by height and place.
    pub submitted: BTreeSet<(Height, usize)>,
    /// Dealings acknowledged, by height and place.
    pub dealt: BTreeSet<(Height, usize)>,
    /// Who finished, with which head and adapter.
    pub finished: BTreeMap<usize, (Digest, Digest)>,
    /// Who left, and why not in order.
    pub left: BTreeMap<usize, Option<String>>,
    /// Who halted and why.
    pub halted: BTreeMap<usize, String>,
    /// Warnings, in their order.
    pub warnings: Vec<(usize, String)>,
    /// Crashes that struck: phase, point, and whether it was the proposer of its height.
    pub struck: BTreeSet<(Phase, Point, bool)>,
    /// Messages refused by somebody: who, and why.
    pub refused: Vec<(usize, String)>,
    /// Running digest of all outputs: equal for equal runs.
    pub trace: Digest,
    /// Outputs so far.
    pub outputs: u64,
    /// When what happened.
    pub diary: Diary,
}

impl Watch {
    /// Notes an envelope that a member sent or stored as its own.
    pub fn envelope(&mut self, bytes: &[u8]) {
        let Ok(envelope) = Envelope::from_bytes(bytes) else {
            return;
        };
        let (sess, sender) = (envelope.sess, envelope.sender);
        match envelope.kind {
            Kind::Commit => {
                if let Ok(commit) = message::decode::<Commit>(&envelope.body) {
                    let roots = self.roots.entry((sess, sender)).or_default();
                    roots.insert(commit.root);
                }
            }
            Kind::Reveal => self.reveal(&envelope),
            _ => {}
        }
        self.slot(&envelope);
    }

    fn reveal(&mut self, envelope: &Envelope) {
        let Ok(reveal) = message::decode::<Reveal>(&envelope.body) else {
            return;
        };
        let revealed = self.revealed.entry((envelope.sess, envelope.sender));
        revealed.or_default().insert(reveal.record);
        self.shown.extend(reveal.shares.iter().map(|share| Shown {
            sess: envelope.sess,
            dealer: share.dealer,
            which: share.which,
            record: reveal.record,
            holder: envelope.sender,
        }));
    }

    fn slot(&mut self, envelope: &Envelope) {
        let place = match envelope.kind {
            Kind::KeyAd | Kind::Deal | Kind::Commit | Kind::SumCommit | Kind::Tags => Some((0, 0)),
            Kind::Seal => message::decode::<Seal>(&envelope.body)
                .ok()
                .map(|seal| (seal.to.0, 0)),
            Kind::Vote | Kind::Proposal => slot_of(envelope),
            _ => None,
        };
        if let Some(place) = place {
            let slot = (envelope.sess, envelope.kind, envelope.sender, place);
            let body = Digest::of("conclave/sim/body", &[&envelope.body]);
            self.slots.entry(slot).or_default().insert(body);
        }
    }

    /// Mixes what happened into the trace.
    pub fn trace(&mut self, what: &[u8]) {
        self.outputs = self.outputs.saturating_add(1);
        self.trace = Digest::of("conclave/sim/trace", &[self.trace.as_bytes(), what]);
    }
}
