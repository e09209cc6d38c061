//! Negative controls: protocols with one rule left out, each caught by the checker that is there to catch it.
//!
//! Where a control needs two certificates for one height, which honest voters never give, what the adversary would see
//! is built here from the broken rule and from the sound one, and given to the solver behind I-PRIV.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;
use conclave_protocol::envelope::Kind;
use conclave_protocol::names::{Height, MemberId, SessId, SumId};
use conclave_protocol::params;
use conclave_protocol::shard::sum::Tally;
use conclave_protocol::shard::tag::{self, Challenge};
use conclave_protocol::sim::check::privacy::solver::{Vector, View};
use conclave_protocol::sim::{Crash, Faults, Point, Script, Strike, Terms, World, check};
use conclave_protocol::time::Time;

/// The latest end of a run, in virtual time.
const LIMIT: Time = Time(300_000);

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
    assert_eq!(broken.lightest(), Ok(Some(ids(&[2]))), "x_2 stands open");
    let sound = holding(Journal::Session).after(&steps);
    assert_eq!(sound.lightest(), Ok(None));
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
    assert_eq!(broken.lightest(), Ok(Some(ids(&[0]))), "x_0 stands open");
    assert_eq!(two_records_before(sid).lightest(), Ok(None));
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
    assert_eq!(broken.lightest(), Ok(Some(ids(&[2]))), "x_2 stands open");
    assert_eq!(two_records_at(false).lightest(), Ok(None));
}

/// Four members: place 0 is cut off while height 2 is proposed, and the first that decides is cut off at once, until
/// the others have given up and decided for themselves.
fn forked(seed: u64, controls: &[(usize, Script)]) -> Option<World> {
    let world = |splits| {
        let faults = Faults {
            controls: controls.to_vec(),
            splits,
            ..Faults::default()
        };
        World::new(Terms::new(seed, 4), faults)
    };
    let mut first = world(Vec::new());
    let at = first
        .run(LIMIT, |world| world.watch().proposed.len() >= 2)
        .ok()?;
    let cut = |to| (vec![0], Time(at.0 + 1), to);
    let decided = |world: &World| {
        let mut decided = world.watch().decisions.keys();
        decided
            .find(|(height, _)| *height == Height(2))
            .map(|(_, place)| *place)
    };
    let mut second = world(vec![cut(LIMIT)]);
    let at = second.run(LIMIT, |world| decided(world).is_some()).ok()?;
    let lonely = vec![decided(&second)?];
    let away = (lonely, Time(at.0 + 1), Time(at.0 + 25_000));
    let mut third = world(vec![cut(Time(at.0 + 6000)), away]);
    let _stuck = third.run(Time(at.0 + 40_000), |_| false);
    Some(third)
}

// R24: consensus decides, not the first quorum of signatures.
#[test]
fn a_decider_that_signs_once_forks() {
    let everybody: Vec<_> = (0..4).map(|place| (place, Script::SignOnce)).collect();
    let caught = (0..60).find(|seed| {
        let world = forked(*seed, &everybody);
        world.is_some_and(|world| check::agreement::check(&world).is_err())
    });
    let seed = caught.expect("no seed of 60 forks the decider that signs once");
    let sound = forked(seed, &[]).expect("consensus decides");
    assert_eq!(check::all(&sound), Ok(()));
}

/// Who has sent a precommit of the first consensus round of height 2.
fn locked(world: &World) -> Vec<MemberId> {
    let watch = world.watch();
    let precommits = watch.slots.keys().filter(|(sess, kind, _, spot)| {
        let scene = watch.scenes.get(sess);
        *kind == Kind::Vote && *spot == (0, 2) && scene.is_some_and(|s| s.height == Height(2))
    });
    precommits.map(|(_, _, sender, _)| *sender).collect()
}

/// Four members, of which 0 submits just behind T_submit and 3 never. So a null record is proposed; 3 has restarted and
/// finds it too early. When 0 or 2 locks on it first, they are cut off from the others: 1 waits no longer then and
/// votes for nothing. Meanwhile 0's vector makes a sum possible. `None` if somebody else locks too early.
fn late_vector(seed: u64, controls: &[(usize, Script)]) -> Option<World> {
    let restart = Crash {
        place: 3,
        strike: Strike::AfterDealt { height: 2 },
        point: Point::AfterSend,
        back_after: Some(3000),
        rollback: false,
    };
    let world = |splits| {
        let faults = Faults {
            training: (1005, 1040),
            slow: vec![(0, 20), (3, 2000)],
            crashes: vec![restart],
            controls: controls.to_vec(),
            splits,
            ..Faults::default()
        };
        World::new(Terms::new(seed, 4), faults)
    };
    let mut first = world(Vec::new());
    let at = first.run(LIMIT, |world| !locked(world).is_empty()).ok()?;
    if !locked(&first).iter().all(|who| [0, 2].contains(&who.0)) {
        return None;
    }
    let mut second = world(vec![(vec![0, 2], Time(at.0 + 1), Time(at.0 + 6000))]);
    let _stuck = second.finish(Time(500_000));
    Some(second)
}

// R24: what was valid once stays valid; otherwise a lock on a null record and a late vector stand against each other.
#[test]
fn a_voter_that_judges_anew_deadlocks() {
    let everybody: Vec<_> = (0..4).map(|place| (place, Script::Unlatched)).collect();
    let mut caught = 0;
    for seed in 0..12 {
        let Some(mut world) = late_vector(seed, &everybody) else {
            continue;
        };
        if check::liveness::check(&world).is_ok() {
            continue;
        }
        caught += 1;
        let sound = late_vector(seed, &[]).expect("the same is locked first");
        assert_eq!(check::all(&sound), Ok(()), "seed {seed}");
        // One that has halted is no excuse for the three others; for two it is one.
        for (place, excused) in [(0, false), (1, true)] {
            let halted = &mut world.watch_mut().halted;
            halted.insert(place, "a planted reason".to_owned());
            assert_eq!(check::liveness::check(&world).is_ok(), excused);
        }
    }
    assert!(caught >= 3, "{caught} of 12 seeds stand still");
}

/// One place runs a script and is judged like an honest one.
fn broken(script: Script) -> World {
    let faults = Faults {
        controls: vec![(2, script)],
        ..Faults::default()
    };
    let mut world = World::new(Terms::new(5, 5), faults);
    let _end = world.finish(LIMIT);
    world
}

// R17: the same mask under another vector.
#[test]
fn a_vector_sent_again_with_another_delta_is_caught() {
    let world = broken(Script::ForkedCommit);
    assert!(check::mask::check(&world).is_err(), "I-MASK");
    // What is wrong with it: the difference of the two deltas is open.
    assert!(check::privacy::check(&world).is_err(), "I-PRIV");
}

// R5 R6: two words in one slot, by whoever says them.
#[test]
fn two_words_in_one_slot_are_caught() {
    for script in [
        Script::ForkedAdvert,
        Script::ForkedDeal,
        Script::ForkedCommit,
        Script::ForkedVote,
        Script::ForkedProposal,
    ] {
        let world = broken(script);
        assert!(check::slots::check(&world).is_err(), "{}", script.name());
    }
}

// R64: a conviction of somebody who is judged honest is caught: here one who dealt falsely.
#[test]
fn a_conviction_of_somebody_honest_is_caught() {
    assert!(check::fraud::check(&broken(Script::FalseDealing)).is_err());
}

// R8: what is no message of its kind is caught when somebody honest says it.
#[test]
fn a_message_of_another_form_is_caught() {
    assert!(check::canon::check(&broken(Script::Malformed)).is_err());
    assert!(check::canon::check(&broken(Script::Oversized)).is_err());
}

// R76: no tags fit a wrong sum, however many replicas agree on it; and a result that rests on one is caught.
#[test]
fn a_wrong_sum_fits_no_tags_and_its_result_is_caught() {
    let vectors: Vec<Vec<u8>> = (1..=5_u32)
        .map(|member| {
            let elements = (0..40_u32).map(|at| (member * 0x3111_1111).wrapping_mul(at + 7));
            elements.flat_map(u32::to_le_bytes).collect()
        })
        .collect();
    let mut tally = Tally::new(40);
    assert!(vectors.iter().all(|vector| tally.add(vector)));
    let right = tally.to_bytes();
    let mut wrong = right.clone();
    wrong[10] ^= 4;
    let challenge = Challenge(Digest([6; 32]));
    let shard = 3;
    let tags = vectors
        .iter()
        .map(|vector| challenge.of_vector(shard, vector))
        .fold(0, tag::add);
    let fits = |bytes: &[u8]| challenge.of_sum(shard, bytes, &mut [0; 40]) == tags;
    assert!(fits(&right) && !fits(&wrong), "with tags");
    // The checker sees one who believed it: a result off by one step of one coordinate.
    let mut world = World::new(Terms::new(5, 4), Faults::default());
    world.finish(LIMIT).expect("the run ends");
    assert_eq!(check::exactness::check(&world), Ok(()));
    let adopted = world.watch_mut().adopted.values_mut().next_back();
    let (_, adapter) = adopted.and_then(|all| all.last_mut()).expect("a result");
    let mut off = adapter.to_vec();
    off[0] = f32::from_bits(off[0].to_bits() ^ 1);
    *adapter = off.into();
    assert!(check::exactness::check(&world).is_err(), "I-SUM");
}
