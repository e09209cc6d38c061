//! Open: t shares of each secret rebuild it, the dealings are checked, the masks come off, the sum is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use conclave_crypto::dealing::{self, Secret};
use conclave_crypto::digest::Digest;
use conclave_crypto::fixed;
use conclave_crypto::mask::{self, MaskSeed, Sign};
use zeroize::Zeroizing;

use crate::desk::Desk;
use crate::floats::Floats;
use crate::memo::Function;
use crate::message::Reveal;
use crate::names::{MemberId, SumId};
use crate::session::Session;
use crate::session::gathering::Gathering;
use crate::session::pieces::{Pieces, Seeds, Target};
use crate::session::submit::pair_seed;
use crate::time::Time;

/// What the opening of a sum has gathered.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// What the record calls for.
    pub(crate) called: Option<Called>,
    /// Shares that we revealed.
    pub(crate) revealed: usize,
    /// The keys, dealings and boxes that our shares were looked for in last.
    pub(crate) shares_at: Option<u64>,
    /// All recorded keys and dealings are here: what a record names stays.
    pub(crate) dealt: bool,
    /// Under which context all recorded Commits are here.
    pub(crate) fits: Option<SumId>,
    /// Reveals not sorted yet.
    pub(crate) reveals: BTreeMap<MemberId, (Digest, Arc<Reveal>)>,
    /// Shares that fit.
    pub(crate) pieces: Pieces,
    /// Where vectors are summed in shards: the sums that are being gathered.
    pub(crate) gathering: Option<Gathering>,
    /// What came out.
    pub(crate) result: Option<Outcome>,
}

/// The sum that a record calls for.
#[derive(Debug, Clone)]
pub(crate) struct Called {
    pub(crate) record: Digest,
    pub(crate) sid: SumId,
    pub(crate) survivors: BTreeMap<MemberId, Digest>,
    /// When the record was decided here.
    pub(crate) since: Time,
}

/// What an opening came to.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The new adapter.
    Opened { digest: Digest, adapter: Floats },
    /// A coordinate that no inputs within the clamp can give.
    OutOfRange,
    /// Dealers whose dealing is not the one that they bound themselves to.
    Guilty(Vec<MemberId>),
}

impl Session {
    /// R32, R33, R34. Opens the sum when everything for it is here; done once.
    pub(crate) fn open(&mut self, desk: &mut Desk) {
        if self.opening.result.is_some() || !self.can_rebuild() {
            return;
        }
        if self.is_sharded(desk) {
            self.open_shards(desk);
            return;
        }
        if self.survivors_vectors().is_none() {
            return;
        }
        let (Some(seeds), Some(called)) = (self.rebuild(desk), &self.opening.called) else {
            return;
        };
        // The record names its chain, and with it leaves, vectors and adapter: the same seeds give all the same.
        let all = Zeroizing::new(seeds.values().map(|seed| **seed).collect::<Vec<_>>());
        let arguments: [&[u8]; 2] = [called.record.as_bytes(), all.as_flattened()];
        let apply = || self.apply(desk, &seeds);
        let outcome = desk.memo.once(Function::Sum, &arguments, apply);
        self.opening.result.clone_from(&outcome);
    }

    fn apply(&self, desk: &Desk, seeds: &Seeds) -> Option<Outcome> {
        let (vectors, work) = (self.survivors_vectors()?, self.work.as_ref()?);
        let zero = || vec![0; work.coordinates];
        let outcome = self.judge_dealings(desk, seeds);
        outcome.or_else(|| self.unmask(desk, seeds, &vectors, zero()))
    }

    /// R34. Takes the masks off the sum: the record, the seeds and the sum give it all.
    pub(super) fn apply_sum(&self, desk: &Desk, seeds: &Seeds, total: Vec<u32>) -> Option<Outcome> {
        // A large sum is not copied for nothing.
        if !desk.memo.remembers() {
            return self.unmask(desk, seeds, &[], total);
        }
        let record = self.opening.called.as_ref()?.record;
        let all = Zeroizing::new(seeds.values().map(|seed| **seed).collect::<Vec<_>>());
        let sum: Vec<_> = total.iter().map(|word| word.to_le_bytes()).collect();
        let arguments = [record.as_bytes(), all.as_flattened(), sum.as_flattened()];
        let apply = || self.unmask(desk, seeds, &[], total);
        let outcome = desk.memo.once(Function::Sum, &arguments, apply);
        outcome.as_ref().clone()
    }

    fn can_rebuild(&self) -> bool {
        let targets = self.work.as_ref().map_or(0, |work| work.sharers.len());
        let enough = self.opening.pieces.suffice(targets, self.roster.quorum());
        self.opening.called.is_some() && enough
    }

    /// R32. Any t shares give the same seed, or the dealing is proved false below: whoever has them gets what the
    /// record calls for.
    pub(crate) fn rebuild(&self, desk: &Desk) -> Option<Arc<Seeds>> {
        let called = self.opening.called.as_ref()?;
        let rebuild = || {
            let threshold = self.roster.quorum();
            let seeds = self.opening.pieces.rebuild(&self.targets(), threshold)?;
            Some(Arc::new(seeds))
        };
        let record = called.record.as_bytes();
        let seeds = desk.memo.once(Function::Seeds, &[record], rebuild);
        seeds.as_ref().clone()
    }

    /// R33. Derives every rebuilt dealing again: guilty if the leaves or the mask key differ from the recorded ones.
    fn guilty(&self, desk: &Desk, seeds: &Seeds) -> BTreeSet<MemberId> {
        let (threshold, holders) = (small(self.roster.quorum()), small(self.roster.len()));
        let false_dealing = |(dealer, which): &Target, seed: &Zeroizing<[u8; 32]>| {
            let sess = &self.sess.0;
            let again = desk
                .memo
                .derive(seed, sess, dealer.0, *which, threshold, holders);
            let deal = self.dealings.deals.get(dealer).map(|dealt| &dealt.body);
            let advert = self.adverts.known.get(dealer).map(|advert| &advert.body);
            match which {
                Secret::SelfSeed => deal.is_none_or(|deal| deal.own != again.leaves()),
                Secret::PairKey => {
                    let public = dealing::mask_key(seed, sess).public();
                    deal.is_none_or(|deal| deal.pair != again.leaves())
                        || advert.is_none_or(|advert| advert.mask != public)
                }
            }
        };
        let guilty = seeds
            .iter()
            .filter(|(target, seed)| false_dealing(target, seed));
        guilty.map(|((dealer, _), _)| *dealer).collect()
    }

    /// R33. What the rebuilt dealings come to, if one of them is false.
    pub(crate) fn judge_dealings(&self, desk: &Desk, seeds: &Seeds) -> Option<Outcome> {
        let guilty = self.guilty(desk, seeds);
        (!guilty.is_empty()).then(|| Outcome::Guilty(guilty.into_iter().collect()))
    }

    /// The vectors of the survivors; none while one is missing.
    fn survivors_vectors(&self) -> Option<Vec<&[u8]>> {
        let called = self.opening.called.as_ref()?;
        let vector = |(member, digest): (&MemberId, &Digest)| {
            let (commit, vector) = self.vector_of(*member)?;
            (commit.digest == *digest).then_some(vector.as_ref())
        };
        called.survivors.iter().map(vector).collect()
    }

    /// R34. Adds the vectors to the sum, takes the masks off, and applies it in one fixed order.
    pub(crate) fn unmask(
        &self,
        desk: &Desk,
        seeds: &Seeds,
        vectors: &[&[u8]],
        mut sum: Vec<u32>,
    ) -> Option<Outcome> {
        let (work, called) = (self.work.as_ref()?, self.opening.called.as_ref()?);
        let terms = work.terms.as_ref()?;
        let mut weight: u64 = 0;
        for member in called.survivors.keys() {
            let class = self.adverts.known.get(member)?.body.weight;
            weight = weight.saturating_add(class.into());
        }
        let mut masks = Vec::new();
        for ((dealer, which), seed) in seeds {
            match which {
                Secret::SelfSeed => {
                    let secret = dealing::self_secret(seed, &self.sess.0);
                    masks.push((MaskSeed::own(&secret, &called.sid.0), Sign::Minus));
                }
                Secret::PairKey => {
                    let key = dealing::mask_key(seed, &self.sess.0);
                    let public = key.public();
                    for survivor in called.survivors.keys() {
                        let theirs = self.adverts.known.get(survivor)?.body.mask;
                        let shared = desk.memo.agree(&key, &theirs).ok()?;
                        // Seen from the dropout the sign is the opposite of the survivor's: adding takes it off.
                        let (dropout, other) = ((*dealer, &public), (*survivor, &theirs));
                        masks.push(pair_seed(&shared, &called.sid, dropout, other));
                    }
                }
            }
        }
        let prg = desk.charter.aggregation.prg;
        mask::sum_into(vectors, &masks, prg, &mut sum);
        if !desk.scale.is_in_range(&sum, weight) {
            return Some(Outcome::OutOfRange);
        }
        let mut adapter = terms.adapter.to_vec();
        desk.layout.each(work.factor, &mut adapter, |part, begin| {
            let end = begin.saturating_add(part.len());
            if let Some(sum) = sum.get(begin..end) {
                desk.scale.apply(part, sum, weight);
            }
        });
        let digest = fixed::adapter_digest(&desk.layout.shape, &adapter);
        Some(Outcome::Opened {
            digest,
            adapter: adapter.into(),
        })
    }
}

fn small(n: usize) -> u8 {
    u8::try_from(n).expect("a charter allows at most 200 members")
}
