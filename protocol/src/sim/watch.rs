//! The eye of the world: everything ever stored, sent, decided and adopted, across all restarts.
//!
//! It only notes; the checkers of [`super::check`] judge.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use super::byzantine::Motion;
use super::check::privacy::solver::Vector;
use super::seen::Seen;
use super::{Diary, Point};
use crate::decide::slot_of;
use crate::envelope::{Envelope, Kind};
use crate::floats::Floats;
use crate::ledger::Ledger;
use crate::letter::{Bytes, Letter};
use crate::message::{Ack, Acked, Commit, Have, Reveal, Seal};
use crate::names::{Factor, Height, MemberId, SessId, SumId};
use crate::output::{Phase, Table};
use crate::record::Record;

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
    pub adapter: Floats,
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

/// A session in which an honest member masked a vector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scene {
    /// Its height.
    pub height: Height,
    /// Its members: every one holds shares.
    pub roster: Vec<MemberId>,
    /// The vectors that honest members masked in it, stored or sent.
    pub vectors: BTreeSet<Vector>,
}

/// An adapter with its digest.
pub type Adopted = (Digest, Floats);

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
    /// The first letter sent in each slot that has room for one, by its digest: a signature follows from what it signs.
    pub slots: BTreeMap<SlotName, Digest>,
    /// What else was sent in such slots.
    pub contradicted: BTreeMap<SlotName, BTreeSet<Digest>>,
    /// Whose pair keys were rebuilt, by height and place.
    pub rebuilt: BTreeMap<(Height, usize), Vec<PublicKey>>,
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
    /// The sessions in which honest members masked vectors.
    pub scenes: BTreeMap<SessId, Scene>,
    /// The roots of all vectors that anybody announced.
    pub announced: BTreeSet<Digest>,
    /// The Commits that anybody said, by their digest: whose, under which masking context.
    pub commits: BTreeMap<Digest, (MemberId, SumId)>,
    /// The acknowledgements that anybody said, by session and holder.
    pub acks: BTreeMap<(SessId, MemberId), BTreeSet<Acked>>,
    acks_said: Seen,
    noted: Seen,
    /// By Commit: the shards of its vector that somebody besides its author has said that it holds.
    pub witnessed: BTreeMap<Digest, BTreeSet<u32>>,
    /// Never forgotten: each counts for the Commits that were known when it was said first.
    haves_said: BTreeSet<Digest>,
    /// The survivors of the records that anybody proposed, by the record's digest.
    pub proposed: BTreeMap<Digest, Vec<(MemberId, Digest)>>,
    /// Precommits of honest places for records with a vector that they did not hold: place, height, whose vector.
    pub unheld: Vec<(usize, Height, MemberId)>,
    /// Reveals of honest places that left before their journal was durable.
    pub early_reveals: Vec<(usize, SessId)>,
    /// Everything that was said, in its order, where the world keeps a log.
    pub said: Option<Vec<Letter>>,
    /// Everything that was stored, in its order, where the world keeps a log.
    pub stored: Option<Vec<(usize, Table, Bytes)>>,
    /// Messages of honest places that are no canonical encoding.
    pub uncanonical: Vec<(usize, Kind)>,
    /// Running digest of all outputs: equal for equal runs.
    pub trace: Digest,
    /// When what happened.
    pub diary: Diary,
}

impl Watch {
    /// Notes an envelope that a member sent or stored as its own.
    pub fn envelope(&mut self, letter: &Letter) {
        let Ok(envelope) = letter.envelope() else {
            return;
        };
        // What is stored is said behind that, and handed on by others.
        if !self.noted.is_new(letter.digest()) {
            return;
        }
        let (sess, sender) = (envelope.sess, envelope.sender);
        match envelope.kind {
            Kind::Commit => {
                if let Ok(commit) = letter.body::<Commit>() {
                    let roots = self.roots.entry((sess, sender)).or_default();
                    roots.insert(commit.root);
                }
            }
            Kind::Reveal => self.reveal(letter, envelope),
            _ => {}
        }
        self.slot(letter, envelope);
    }

    /// Notes what anybody says that decisions rest on.
    pub fn testimony(&mut self, letter: &Letter) {
        let Ok(envelope) = letter.envelope() else {
            return;
        };
        match envelope.kind {
            Kind::Commit => {
                if let Ok(commit) = letter.body::<Commit>() {
                    let said = (envelope.sender, commit.sid);
                    self.commits.insert(letter.digest(), said);
                    self.announced.insert(commit.root);
                }
            }
            Kind::Ack if self.acks_said.is_new(letter.digest()) => {
                if let Ok(ack) = letter.body::<Ack>() {
                    let by = self.acks.entry((envelope.sess, envelope.sender));
                    by.or_default().extend(&ack.dealings);
                }
            }
            Kind::Have if self.haves_said.insert(letter.digest()) => {
                if let Ok(have) = letter.body::<Have>() {
                    self.witness(envelope.sender, &have);
                }
            }
            Kind::Proposal => {
                if let Some(motion) = Motion::of(envelope)
                    && let Ok(record) = Record::from_bytes(&motion.record)
                {
                    let commits = record.survivors.map(|survivors| survivors.commits);
                    let digest = Record::digest_of(&motion.record);
                    self.proposed.insert(digest, commits.unwrap_or_default());
                }
            }
            _ => {}
        }
        if let Some(said) = &mut self.said {
            said.push(letter.clone());
        }
    }

    /// Notes what a member says that it holds of others' vectors.
    fn witness(&mut self, witness: MemberId, have: &Have) {
        for commit in &have.commits {
            let author = self.commits.get(commit).map(|(author, _)| *author);
            if author.is_some_and(|author| author != witness) {
                let shards = self.witnessed.entry(*commit).or_default();
                shards.extend(&have.shards);
            }
        }
    }

    /// Notes an honest member's masked vector, as its own chain has the session.
    pub fn masked(&mut self, envelope: &Envelope, commit: &Commit, ledger: &Ledger) {
        let Some(height) = ledger.session_height(&envelope.sess) else {
            return;
        };
        // Whoever hands it on may not know yet who shares.
        if ledger.next() < height {
            return;
        }
        let scene = self.scenes.entry(envelope.sess).or_default();
        if scene.roster.is_empty()
            && let Some(roster) = ledger.roster(height)
        {
            scene.height = height;
            scene.roster = roster.ids().collect();
        }
        scene.vectors.insert(Vector {
            member: envelope.sender,
            sid: commit.sid,
            sharers: ledger.sharer_ids(height).into_iter().collect(),
            root: commit.root,
        });
    }

    fn reveal(&mut self, letter: &Letter, envelope: &Envelope) {
        let Ok(reveal) = letter.body::<Reveal>() else {
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

    fn slot(&mut self, letter: &Letter, envelope: &Envelope) {
        let place = match envelope.kind {
            Kind::KeyAd | Kind::Deal | Kind::Commit | Kind::SumCommit | Kind::Tags => Some((0, 0)),
            Kind::Seal => letter.body::<Seal>().ok().map(|seal| (seal.to.0, 0)),
            Kind::Vote | Kind::Proposal => slot_of(envelope),
            _ => None,
        };
        if let Some(place) = place {
            let slot = (envelope.sess, envelope.kind, envelope.sender, place);
            let digest = letter.digest();
            if *self.slots.entry(slot).or_insert(digest) != digest {
                let others = self.contradicted.entry(slot).or_default();
                others.insert(digest);
            }
        }
    }

    /// Mixes what happened into the trace.
    pub fn trace(&mut self, what: &[u8]) {
        self.trace = Digest::of("conclave/sim/trace", &[self.trace.as_bytes(), what]);
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::super::seen::KEPT;
    use super::*;

    #[test]
    fn a_second_letter_in_a_slot_is_noted_however_late_it_comes() {
        let key = IdentityKey::from_bytes(&[1; 32]);
        let letter = |body: &[u8]| {
            let sess = SessId(Digest([2; 32]));
            Letter::sign(&key, Kind::Deal, sess, MemberId(3), 0, body.to_vec())
        };
        let (first, second) = (letter(b"1"), letter(b"2"));
        let mut watch = Watch::default();
        watch.envelope(&first);
        // Both generations are others.
        for seq in 0..2 * KEPT {
            watch
                .noted
                .is_new(Digest::of("other", &[&seq.to_le_bytes()]));
        }
        watch.envelope(&first);
        assert!(watch.contradicted.is_empty(), "the same again");
        watch.envelope(&second);
        watch.envelope(&first);
        let others: Vec<_> = watch.contradicted.values().flatten().collect();
        assert_eq!(others, [&second.digest()]);
    }
}
