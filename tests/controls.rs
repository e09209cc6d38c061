//! Negative controls: protocols with one rule left out, each caught by the checker that is there to catch it.
//!
//! Where a control needs two certificates for one height, which honest voters never give, what the adversary would see
//! is built here from the broken rule and from the sound one, and given to the solver behind I-PRIV.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;
use conclave_protocol::names::{MemberId, SessId, SumId};
use conclave_protocol::params;
use conclave_protocol::sim::check::privacy::solver::{Vector, View};

fn ids(ids: &[u32]) -> BTreeSet<MemberId> {
    ids.iter().copied().map(MemberId).collect()
}

/// What a holder's journal keeps apart: sessions, or single targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    /// The protocol's: one record a session. R30
    Session,
    /// The broken one: one record a target.
    Target,
}

/// What happens to the honest holders of a session, in this order.
enum Step {
    /// They get their shares of these dealers.
    Shares(&'static [u32]),
    /// A certified record with these survivors arrives.
    Certificate(&'static [u32]),
}

/// A session of `n` members, all sharers, the last `corrupt` of them the adversary's.
struct Holding {
    n: u32,
    corrupt: u32,
    threshold: usize,
    journal: Journal,
}

impl Holding {
    fn honest(&self) -> BTreeSet<MemberId> {
        (0..self.n - self.corrupt).map(MemberId).collect()
    }

    /// The adversary's view when all honest holders go through the same steps.
    fn after(&self, steps: &[Step]) -> View {
        let mut view = View {
            threshold: self.threshold,
            corrupt: (self.n - self.corrupt..self.n).map(MemberId).collect(),
            vectors: Vec::new(),
            shown: BTreeMap::new(),
            whole: BTreeSet::new(),
            least: 3 - usize::try_from(self.corrupt).expect("small"),
        };
        for member in self.honest() {
            view.vectors.push(Vector {
                member,
                sid: SumId(Digest([1; 32])),
                sharers: (0..self.n).map(MemberId).collect(),
                root: Digest([u8::try_from(member.0).expect("small"); 32]),
            });
        }
        let (mut held, mut certificates) = (BTreeSet::new(), Vec::new());
        // Which record each target, or the session, is bound to.
        let mut bound: BTreeMap<Option<MemberId>, usize> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Shares(dealers) => held.extend(ids(dealers)),
                Step::Certificate(survivors) => certificates.push(ids(survivors)),
            }
            // The newest certificate first: what is still free is shown under it.
            for (number, survivors) in certificates.iter().enumerate().rev() {
                for dealer in &held {
                    let name = match self.journal {
                        Journal::Session => None,
                        Journal::Target => Some(*dealer),
                    };
                    if *bound.entry(name).or_insert(number) != number {
                        continue;
                    }
                    let secret = if survivors.contains(dealer) {
                        Secret::SelfSeed
                    } else {
                        Secret::PairKey
                    };
                    view.shown.insert((*dealer, secret), self.honest());
                }
            }
        }
        view
    }
}

// R1 R30: S = {0, 1, 2} is opened while the shares of 0 and 1 are late; S' = {2, 3, X} then hands out their pair keys.
#[test]
fn a_journal_for_each_target_opens_one_vector() {
    let steps = [
        Step::Shares(&[2, 3, 4]),
        Step::Certificate(&[0, 1, 2]),
        Step::Certificate(&[2, 3, 4]),
        Step::Shares(&[0, 1]),
    ];
    let holding = |journal| Holding {
        n: 5,
        corrupt: 1,
        // ⌊(n + c)/2⌋ + 1
        threshold: 4,
        journal,
    };
    let broken = holding(Journal::Target).after(&steps);
    assert_eq!(broken.lightest(), Some(ids(&[2])), "x_2 stands open");
    let sound = holding(Journal::Session).after(&steps);
    assert_eq!(sound.lightest(), None);
}

/// Four members, X = 3 the adversary's, with two certified records at height r − 1: in R all four share, in R' only
/// 0, 2 and X. Member 0 has seen R' alone, 1 and 2 have seen R. Record r follows R and counts every Commit under its
/// own sid.
fn two_records_before(sid_of: impl Fn(&Digest) -> SumId) -> View {
    let (record, other) = (Digest([1; 32]), Digest([2; 32]));
    let vector = |member, chain, sharers: &[u32]| Vector {
        member: MemberId(member),
        sid: sid_of(chain),
        sharers: ids(sharers),
        root: Digest([u8::try_from(member).expect("small"); 32]),
    };
    let vectors = vec![
        vector(0, &other, &[0, 2, 3]),
        vector(1, &record, &[0, 1, 2, 3]),
        vector(2, &record, &[0, 1, 2, 3]),
    ];
    let counts = |member: &MemberId| {
        let mut commits = vectors.iter();
        let commit = commits.find(|vector| vector.member == *member);
        commit.is_none_or(|commit| commit.sid == sid_of(&record))
    };
    // The proposer is X: it leaves 2 out if it can do without it.
    let fit: Vec<MemberId> = [0, 1, 3, 2]
        .map(MemberId)
        .into_iter()
        .filter(counts)
        .collect();
    let survivors: BTreeSet<_> = fit.into_iter().take(3).collect();
    let mut shown = BTreeMap::new();
    for dealer in ids(&[0, 1, 2, 3]) {
        let secret = if survivors.contains(&dealer) {
            Secret::SelfSeed
        } else {
            Secret::PairKey
        };
        // Only the holders on R reveal for the record that follows it.
        shown.insert((dealer, secret), ids(&[1, 2]));
    }
    View {
        threshold: params::quorum(4),
        corrupt: ids(&[3]),
        vectors,
        shown,
        whole: BTreeSet::new(),
        least: 2,
    }
}

// R4: the masking context names record r − 1.
#[test]
fn a_masking_context_without_the_record_before_opens_one_vector() {
    let sess = SessId(Digest([7; 32]));
    let (adapter, configuration) = (Digest([8; 32]), Digest([9; 32]));
    let sid = |record: &Digest| params::sum_id(&sess, record, &adapter, &configuration);
    let broken = two_records_before(|_| sid(&Digest::ZERO));
    assert_eq!(broken.lightest(), Some(ids(&[0])), "x_0 stands open");
    assert_eq!(two_records_before(sid).lightest(), None);
}

/// Four members, X = 3 the adversary's, with two certified records at height r: S = {0, 1, 2}, which only 2 has seen,
/// and S' = {0, 1, X}, which 0 and 1 have seen.
fn two_records_at(shortcut: bool) -> View {
    let sharers = ids(&[0, 1, 2, 3]);
    let vector = |member| Vector {
        member,
        sid: SumId(Digest([1; 32])),
        sharers: sharers.clone(),
        root: Digest([u8::try_from(member.0).expect("small"); 32]),
    };
    let mut view = View {
        threshold: params::quorum(4),
        corrupt: ids(&[3]),
        vectors: ids(&[0, 1, 2]).into_iter().map(vector).collect(),
        shown: BTreeMap::new(),
        whole: BTreeSet::new(),
        least: 2,
    };
    for (survivors, seen_by) in [
        (ids(&[0, 1, 2]), ids(&[2])),
        (ids(&[0, 1, 3]), ids(&[0, 1])),
    ] {
        for dealer in &sharers {
            let secret = if survivors.contains(dealer) {
                Secret::SelfSeed
            } else {
                Secret::PairKey
            };
            let shown = view.shown.entry((*dealer, secret)).or_default();
            shown.extend(&seen_by);
        }
        if shortcut {
            let named = seen_by.intersection(&survivors);
            view.whole
                .extend(named.map(|member| (*member, Secret::SelfSeed)));
        }
    }
    view
}

// R31: a survivor shows its share of its own seed, never the seed.
#[test]
fn a_survivor_that_shows_its_seed_itself_is_opened() {
    let broken = two_records_at(true);
    assert_eq!(broken.lightest(), Some(ids(&[2])), "x_2 stands open");
    assert_eq!(two_records_at(false).lightest(), None);
}
