//! Submit: the delta climbs the ladder, the mask is used up, and the masked vector is announced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::dealing;
use conclave_crypto::digest::Digest;
use conclave_crypto::ladder::{Carried, Delta, Masked, NetMask, Noise};
use conclave_crypto::mask::{MaskSeed, Sign};
use conclave_crypto::merkle;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::Bytes;
use crate::message::{Commit, Have};
use crate::names::{MemberId, SumId};
use crate::output::{Report, Table};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::session::claims::Claims;
use crate::session::pull::Pulls;
use crate::time::Time;

/// Bytes of a vector or shard, the table that they stand in, and their name.
pub(super) type Blob = (Table, Digest, Bytes);

/// Masked vectors: announced, held, and said to be held.
#[derive(Debug, Default)]
pub(crate) struct Submissions {
    pub(crate) commits: BTreeMap<MemberId, Committed>,
    /// By Merkle root.
    pub(crate) vectors: BTreeMap<Digest, Bytes>,
    /// The Commits whose vectors each member says it holds.
    pub(crate) haves: BTreeMap<MemberId, Arc<Have>>,
    pub(crate) claims: Claims,
    /// Members whose announced vector is not here.
    pub(super) apart: BTreeSet<MemberId>,
    /// Sharers whose vector does not count as held under the height's terms.
    pub(crate) lacking: Vec<MemberId>,
    /// Counts Commits, vectors and masking contexts; and what was counted when [`Self::lacking`] was found.
    pub(crate) news: u64,
    pub(super) found_at: Option<u64>,
    /// The news that was said with our last Have.
    pub(super) said_at: Option<u64>,
    pub(super) have_at: Option<Time>,
    /// When each pull may be repeated.
    pub(super) pulls: Pulls,
    /// Trained, but a sharer's keys are still missing.
    pending: Option<Delta>,
    /// R63. A copy of the submitted delta, until the record says whether it counts.
    kept: Option<Carried>,
    /// When the last vector came in: was announced, or counted first.
    pub(crate) last: Option<Time>,
}

/// An announced vector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    pub(crate) digest: Digest,
    pub(crate) sid: SumId,
    pub(crate) root: Digest,
    pub(crate) length: u64,
    /// When it was announced here.
    pub(crate) since: Time,
}

impl Session {
    /// The engine is done: the delta waits for nothing but the keys of all sharers.
    pub(crate) fn trained(&mut self, desk: &mut Desk, delta: Delta) {
        let Some(work) = &self.work else { return };
        if delta.len() != work.coordinates {
            let (got, want) = (delta.len(), work.coordinates);
            desk.warn(format!(
                "the engine's delta has {got} coordinates, the factor {want}; it is dropped"
            ));
            return;
        }
        self.submissions.pending = Some(delta);
    }

    /// R15, R17. Masks the delta under the sharers' keys; stores the vector, erases the secrets, then speaks.
    pub(crate) fn submit(&mut self, desk: &mut Desk) {
        if self.submissions.pending.is_none() || !self.may_submit(desk) {
            return;
        }
        let (Some(me), Some(net)) = (self.me(desk), self.net_mask(desk)) else {
            return;
        };
        let (Some(work), Some(delta)) = (&self.work, self.submissions.pending.take()) else {
            return;
        };
        let Some(terms) = &work.terms else { return };
        let Some(weight) = self.adverts.known.get(&me).map(|advert| advert.body.weight) else {
            return;
        };
        // R63  What an earlier round of the factor left out is added, before the clamp.
        self.submissions.kept = Some(delta.keep());
        let carried = desk.take_carried(work.factor, work.round);
        let delta = match &carried {
            Some((_, left_out)) => delta.carry(left_out),
            None => delta,
        };
        let carried = carried.map(|(round, _)| round);
        let clipped = delta.clip(&desk.scale);
        let changed = clipped.changed();
        let masked = clipped
            .encode(&desk.scale, weight)
            .noise(Noise::None)
            .mask(net);
        let (sid, bytes) = (terms.sid, masked.length());
        let coordinates = u64::try_from(work.coordinates).unwrap_or(u64::MAX);
        desk.report(Report::Submitted {
            height: self.height,
            coordinates,
            clipped: changed,
            bytes,
            carried,
        });
        let made = if self.is_sharded(desk) {
            self.cut_vector(desk, sid, masked)
        } else {
            Some(self.whole_vector(desk, sid, masked))
        };
        let Some((body, blobs)) = made else { return };
        let letter = desk.sign(Kind::Commit, self.sess, 0, &body);
        // R17  Durable order: the Commit, its vector, then (take_commit) the secrets go, then the Commit is sent. The
        // Commit is first: a crash behind it leaves a member that is no survivor, never one that masks a second vector.
        self.say_with(desk, &letter, |desk| {
            for (table, name, bytes) in blobs {
                desk.store(table, name.as_bytes().to_vec(), bytes);
            }
        });
    }

    /// A masked vector in one piece: inside its Commit while it is small, else durable before that is said.
    fn whole_vector(&mut self, desk: &Desk, sid: SumId, masked: Masked) -> (Commit, Vec<Blob>) {
        let length = masked.length();
        let vector = Bytes::from_owner(masked);
        let root = merkle::root(&vector);
        let small = length <= desk.charter.aggregation.inline_limit;
        let (inline, blobs) = if small {
            (Some(vector.to_vec()), Vec::new())
        } else {
            self.submissions.vectors.insert(root, vector.clone());
            (None, vec![(Table::Vectors, root, vector)])
        };
        let shards = Vec::new();
        let commit = Commit {
            sid,
            root,
            length,
            inline,
            shards,
        };
        (commit, blobs)
    }

    /// R63. The height is decided: a delta that its record leaves out is kept for the factor's next round, if it was
    /// trained from the adapter that is certified now.
    pub(crate) fn carry(&mut self, desk: &mut Desk, survivors: &[MemberId], certified: Digest) {
        let submissions = &mut self.submissions;
        let pending = submissions.pending.take();
        let kept = submissions.kept.take();
        let kept = kept.or_else(|| pending.as_ref().map(Delta::keep));
        let (Some(kept), Some(work)) = (kept, &self.work) else {
            return;
        };
        let counts = desk.me.is_some_and(|me| survivors.contains(&me));
        let sound = work
            .terms
            .as_ref()
            .is_some_and(|terms| terms.digest == certified);
        if !counts && sound {
            desk.carried.insert(work.factor, (work.round, kept));
        }
    }

    /// R15. The own mask and one with each other sharer: + for the lower id. `None` while a key is missing.
    fn net_mask(&self, desk: &Desk) -> Option<NetMask> {
        let (me, work) = (desk.me?, self.work.as_ref()?);
        let (secrets, terms) = (self.adverts.secrets.as_ref()?, work.terms.as_ref()?);
        let key = dealing::mask_key(&secrets.seed_m, &self.sess.0);
        let public = key.public();
        let own = MaskSeed::own(
            &dealing::self_secret(&secrets.seed_b, &self.sess.0),
            &terms.sid.0,
        );
        let mut net = NetMask::new(desk.charter.aggregation.prg);
        net.add(own, Sign::Plus);
        let others = work.sharers.values().filter(|sharer| sharer.member != me);
        let adverts = others
            .clone()
            .filter_map(|sharer| self.recorded_advert(sharer));
        desk.memo.meet(&key, adverts.map(|advert| advert.body.mask));
        for sharer in others {
            let other = self.recorded_advert(sharer)?.body.mask;
            let shared = desk
                .memo
                .agree(&key, &other)
                .expect("an advert with a weak key is refused");
            let (mine, theirs) = ((me, &public), (sharer.member, &other));
            let (seed, sign) = pair_seed(&shared, &terms.sid, mine, theirs);
            net.add(seed, sign);
        }
        Some(net)
    }

    pub(crate) fn take_commit(
        &mut self,
        desk: &mut Desk,
        sender: MemberId,
        digest: Digest,
        body: &Arc<Commit>,
    ) -> Result<(), Refusal> {
        let most = u64::try_from(desk.layout.len)
            .unwrap_or(u64::MAX)
            .saturating_mul(4);
        if body.length == 0 || body.length > most || !body.length.is_multiple_of(4) {
            return Err(Refusal::Rule);
        }
        let (sid, root, length) = (body.sid, body.root, body.length);
        if let Some(vector) = &body.inline {
            let fits = u64::try_from(vector.len()) == Ok(length) && merkle::root(vector) == root;
            if !fits || length > desk.charter.aggregation.inline_limit {
                return Err(Refusal::Rule);
            }
        }
        self.sharding.take_commit(sender, digest, body)?;
        if let Some(vector) = &body.inline {
            let vector = Bytes::from(vector.clone());
            self.submissions.vectors.insert(root, vector);
        }
        // R17  An own Commit is known: the mask is used, whatever brought it.
        if desk.me == Some(sender) && self.adverts.secrets.is_some() {
            self.erase_secrets(desk);
        }
        let commit = Committed {
            digest,
            sid,
            root,
            length,
            since: desk.now,
        };
        self.submissions.commits.insert(sender, commit);
        self.submissions.stir();
        if self.submissions.vectors.contains_key(&root) {
            self.submissions.apart.remove(&sender);
        } else {
            self.submissions.apart.insert(sender);
        }
        self.submissions.last = Some(desk.now);
        Ok(())
    }
}

/// The seed of the mask between two sharers, seen from the first, and its sign: + for the lower id.
pub(crate) fn pair_seed(
    shared: &conclave_crypto::agree::Shared,
    sid: &SumId,
    (me, mine): (MemberId, &conclave_crypto::agree::ExchangePublic),
    (other, theirs): (MemberId, &conclave_crypto::agree::ExchangePublic),
) -> (MaskSeed, Sign) {
    let (lower, higher) = (me.min(other), me.max(other));
    let seed = MaskSeed::pair(shared, &sid.0, mine, theirs, lower.0, higher.0);
    (seed, if me < other { Sign::Plus } else { Sign::Minus })
}
