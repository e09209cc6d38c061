//! What implementers get wrong, one test each.

#[path = "worlds.rs"]
mod worlds;

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::{self, Secret, Share};
use conclave_crypto::sign::IdentityKey;
use conclave_protocol::decide::slot_of;
use conclave_protocol::envelope::{Envelope, Kind};
use conclave_protocol::input::{Input, Verdict};
use conclave_protocol::ledger::{self, Ledger};
use conclave_protocol::member::Member;
use conclave_protocol::message::{self, Ack, Deal, Decided, Reveal};
use conclave_protocol::names::{Height, MemberId};
use conclave_protocol::output::{Phase, Stored, Table};
use conclave_protocol::record::Record;
use conclave_protocol::refusal::Refusal;
use conclave_protocol::sim::{Faults, Point, Strike, Terms, World};
use conclave_protocol::time::Time;

use self::worlds::{Outcome, crash, left_out, logged, said, with};

/// Five founders; member 0 advertises its keys for height 2 and dies before it deals: W is 0 to 4, U is 1 to 4.
fn without_the_first() -> Outcome<World> {
    let strike = Strike::InPhase {
        phase: Phase::Deal,
        skip: 0,
    };
    let world = logged(
        Terms::new(3, 5),
        with(vec![crash(0, strike, Point::BeforeStore, None)]),
    )?;
    assert_eq!(ids(&world, 2, true), [1, 2, 3, 4], "the sharers");
    assert_eq!(ids(&world, 2, false), [1, 2, 3, 4], "the survivors");
    Ok(world)
}

/// Five founders; member 2 trains so long that height 2, which it proposes, is decided without it.
fn without_the_proposer() -> Outcome<World> {
    let faults = Faults {
        slow: vec![(2, 60)],
        ..Faults::default()
    };
    let world = logged(Terms::new(4, 5), faults)?;
    assert_eq!(ids(&world, 2, true), [0, 1, 2, 3, 4], "the sharers");
    assert_eq!(ids(&world, 2, false), [0, 1, 3, 4], "the survivors");
    Ok(world)
}

/// The sharers or survivors of a height, as ids.
fn ids(world: &World, height: u64, sharers: bool) -> Vec<u32> {
    let record = |height| {
        chain(world)
            .entry(Height(height))
            .map(|entry| entry.record.as_ref())
    };
    let ids = if sharers {
        record(height - 1).map(Record::sharer_ids)
    } else {
        record(height).map(Record::survivor_ids)
    };
    let ids = ids.unwrap_or_default();
    ids.into_iter().map(|id| id.0).collect()
}

fn chain(world: &World) -> &Ledger {
    world.longest().expect("somebody runs")
}

// R1: Shamir's x is the place among the members of the height, never among the sharers.
#[test]
fn x_is_the_place_in_w_not_in_u() -> Outcome {
    let world = without_the_first()?;
    let deals: BTreeMap<_, _> = said(&world, Kind::Deal)
        .into_iter()
        .map(|deal| ((deal.sess, deal.sender), deal.body))
        .collect();
    let sess = chain(&world).session_id(Height(2)).ok_or("no session")?;
    let mut judged = 0;
    for envelope in said(&world, Kind::Reveal) {
        if envelope.sess != sess {
            continue;
        }
        let reveal: Reveal = message::decode(&envelope.body).map_err(|error| error.to_string())?;
        for shown in &reveal.shares {
            let deal = deals.get(&(sess, shown.dealer)).ok_or("no such dealing")?;
            let deal: Deal = message::decode(deal).map_err(|error| error.to_string())?;
            let leaves = match shown.which {
                Secret::SelfSeed => deal.own,
                Secret::PairKey => deal.pair,
            };
            let share = Share {
                share: shown.share,
                salt: shown.salt,
            };
            // Member i is at place i of W, and at place i − 1 of U.
            let holder = usize::try_from(envelope.sender.0).expect("small");
            let leaf = |x: usize| {
                let x = u8::try_from(x).expect("small");
                dealing::leaf(&sess.0, shown.dealer.0, shown.which, x, &share)
            };
            assert_eq!(leaves[holder], leaf(holder + 1), "x is the place in W + 1");
            assert_ne!(leaves[holder - 1], leaf(holder), "x is the place in U + 1");
            judged += 1;
        }
    }
    assert!(judged >= 16, "only {judged} shares were shown");
    Ok(())
}

// R15: masks are over the sharers; a key that was advertised and never dealt masks nothing.
#[test]
fn masks_are_over_u_not_w() -> Outcome {
    let world = without_the_first()?;
    let sess = chain(&world).session_id(Height(2)).ok_or("no session")?;
    let adverts = said(&world, Kind::KeyAd).into_iter();
    let mut adverts = adverts.filter(|advert| advert.sess == sess);
    assert!(
        adverts.any(|advert| advert.sender == MemberId(0)),
        "its key was never known"
    );
    // I-SUM has judged the opened sum; nobody's pair key was needed for it.
    let opened = world.watch().rebuilt.get(&(Height(2), 1));
    assert_eq!(opened, Some(&Vec::new()));
    Ok(())
}

// R15: the sign of a pair's mask follows the ids, seen from either and from who takes it off.
#[test]
fn signs_follow_ids_not_places() -> Outcome {
    // Member 0 never deals, so places among the sharers are not ids; member 2 drops out in the middle of them.
    let dealing = Strike::InPhase {
        phase: Phase::Deal,
        skip: 0,
    };
    let dealt = Strike::AfterDealt { height: 2 };
    let faults = with(vec![
        crash(0, dealing, Point::BeforeStore, Some(30_000)),
        crash(3, dealt, Point::AfterSend, Some(40_000)),
    ]);
    let mut terms = Terms::new(6, 7);
    terms.rounds = 3;
    let world = logged(terms, faults)?;
    let rebuilt = world.watch().rebuilt.iter();
    let mut dropouts = rebuilt.flat_map(|(_, rebuilt)| rebuilt);
    assert!(
        dropouts.any(|key| Some(*key) == world.key(3)),
        "nobody's pair masks were taken off"
    );
    Ok(())
}

// R63: what is carried is added before the clamp: I-SUM clamps the sum, and here that differs from summing the clamped.
#[test]
#[expect(clippy::cast_precision_loss, reason = "the clamp is a small fraction")]
fn a_carried_delta_is_added_before_the_clip() -> Outcome {
    let mut differs = false;
    for seed in 0..6 {
        let world = left_out(seed)?;
        let clip = world.terms().charter().aggregation.clip;
        let clip = clip.numerator() as f32 / clip.denominator() as f32;
        for trained in world.watch().committed.values().flat_map(BTreeMap::values) {
            let Some((_, carried)) = &trained.carried else {
                continue;
            };
            let mut both = trained.delta.iter().zip(carried);
            differs |= both.any(|(new, old)| {
                let late = new.clamp(-clip, clip) + old.clamp(-clip, clip);
                let right = (new + old).clamp(-clip, clip);
                (late - right).abs() > 1.0e-3
            });
        }
    }
    assert!(differs, "nothing was carried that the clamp changes");
    Ok(())
}

// R30: the journal is durable before the Reveal leaves, whatever store is lost.
#[test]
fn a_reveal_waits_for_the_journal() -> Outcome {
    for (point, skip) in [
        (Point::BeforeStore, 0),
        (Point::AfterStore, 0),
        (Point::AfterStore, 1),
    ] {
        let phase = Phase::Reveal;
        let strike = Strike::InPhase { phase, skip };
        let world = logged(
            Terms::new(8, 4),
            with(vec![crash(1, strike, point, Some(500))]),
        )?;
        assert!(!world.watch().struck.is_empty(), "nobody died");
        assert!(!world.watch().shown.is_empty(), "nothing was revealed");
    }
    Ok(())
}

// R10 R17: seeds and session keys stand in their files and nowhere else, so that unlinking them is enough.
#[test]
fn secrets_never_enter_the_database() -> Outcome {
    let strike = Strike::AfterDealt { height: 3 };
    let world = logged(
        Terms::new(9, 5),
        with(vec![crash(2, strike, Point::AfterSend, Some(9000))]),
    )?;
    let stores = world.watch().stored.as_deref().unwrap_or_default();
    let files = stores
        .iter()
        .filter(|(_, table, _)| *table == Table::Secrets);
    let secrets: BTreeSet<[u8; 32]> = files
        .flat_map(|(_, _, value)| value.as_chunks::<32>().0.to_vec())
        .collect();
    assert!(secrets.len() >= 40, "only {} secrets", secrets.len());
    for (place, table, value) in stores
        .iter()
        .filter(|(_, table, _)| *table != Table::Secrets)
    {
        let mut parts = value.windows(32);
        assert!(
            !parts.any(|part| part
                .try_into()
                .is_ok_and(|part: [u8; 32]| secrets.contains(&part))),
            "place {place} stored a secret in {table:?}"
        );
    }
    Ok(())
}

// R8: the bytes that came are what is parsed and verified; nothing is put right by encoding it again.
#[test]
fn what_came_is_verified_not_its_re_encoding() {
    let terms = Terms::new(10, 4);
    let setup = terms.setup(&terms.charter(), 0);
    let mut member = Member::open(setup, Stored::new(), Time(0), [1; 32]).expect("opens");
    let sess = member.ledger().session_id(Height(2)).expect("known");
    let key: IdentityKey = terms.identity(1);
    let mut receive = |bytes: Vec<u8>| {
        let from = key.public();
        member.handle(
            Time(1),
            Input::Received {
                from,
                bytes: bytes.into(),
            },
        )
    };
    let ack = message::encode(&Ack {
        dealings: Vec::new(),
    });
    let sign = |body| Envelope::sign(&key, Kind::Ack, sess, MemberId(1), 1, body).to_bytes();
    // A body with a byte behind its end, properly signed: decoding and encoding again would hide the byte.
    let longer = [ack.as_slice(), &[0]].concat();
    assert_eq!(receive(sign(longer)), Verdict::Refused(Refusal::Malformed));
    // The signature of the shorter body does not cover the longer one, nor the other way round.
    let mut behind = sign(ack.clone());
    behind.push(0);
    assert_eq!(receive(behind), Verdict::Refused(Refusal::Malformed));
    assert_eq!(receive(sign(ack)), Verdict::Accepted);
}

// R22: the proposer need not be a survivor: it proposes what it holds.
#[test]
fn a_proposer_may_be_no_survivor() -> Outcome {
    let world = without_the_proposer()?;
    let decided = chain(&world).record_digest(Height(2));
    let sess = chain(&world).session_id(Height(2)).ok_or("no session")?;
    let proposals = said(&world, Kind::Proposal).into_iter();
    let mut own = proposals.filter(|said| said.sess == sess && said.sender == MemberId(2));
    assert!(
        own.any(|said| {
            // Height, round, no earlier round, length: 21 bytes before the record.
            let record = said.body.get(21..).map(Record::digest_of);
            slot_of(&said) == Some((0, 0)) && record == decided
        }),
        "the record was not its own"
    );
    Ok(())
}

// R31: a holder outside S reveals like everybody else.
#[test]
fn a_holder_outside_s_reveals() -> Outcome {
    let world = without_the_proposer()?;
    let decided = chain(&world).record_digest(Height(2));
    let shown = world.watch().shown.iter();
    let mut own = shown.filter(|shown| Some(shown.record) == decided);
    assert!(own.any(|shown| shown.holder == MemberId(2)));
    Ok(())
}

// R31: a member holds a share of its own secret, and shows it.
#[test]
fn everybody_shows_its_own_share_too() -> Outcome {
    let world = logged(Terms::new(11, 4), Faults::default())?;
    for height in [2, 3] {
        let decided = chain(&world).record_digest(Height(height));
        for id in ids(&world, height, false) {
            let shown = world.watch().shown.iter();
            let mut own = shown.filter(|shown| Some(shown.record) == decided);
            assert!(
                own.any(|shown| shown.holder == MemberId(id) && shown.dealer == MemberId(id)),
                "member {id} at height {height}"
            );
        }
    }
    Ok(())
}

// R25: a restarted proposer says the proposal that its log holds, not a new one.
#[test]
fn a_replayed_log_proposes_nothing_new() -> Outcome {
    let (mut proposals, mut deaths) = (0, 0);
    for (seed, skip, back) in [
        (12, 0, 100),
        (13, 1, 100),
        (14, 2, 900),
        (15, 3, 100),
        (16, 4, 900),
    ] {
        let strike = Strike::AtHeight {
            height: 2,
            phase: Phase::Decide,
            skip,
        };
        let world = logged(
            Terms::new(seed, 4),
            with(vec![crash(2, strike, Point::AfterSend, Some(back))]),
        )?;
        deaths += world.watch().struck.len();
        let sess = chain(&world).session_id(Height(2)).ok_or("no session")?;
        let own = said(&world, Kind::Proposal).into_iter();
        let own = own.filter(|said| said.sess == sess && said.sender == MemberId(2));
        let mut rounds: BTreeMap<_, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for proposal in own {
            rounds
                .entry(slot_of(&proposal))
                .or_default()
                .insert(proposal.body);
        }
        proposals += rounds.len();
        assert!(
            rounds.values().all(|bodies| bodies.len() == 1),
            "seed {seed}: two proposals in one slot"
        );
    }
    assert!(proposals >= 3 && deaths >= 3, "{proposals}, {deaths}");
    Ok(())
}

// R40 R41: a null record is a link of the chain like any other.
#[test]
fn a_null_record_is_verified_like_any_other() -> Outcome {
    let faults = Faults {
        failing_percent: 100,
        heal: Some(Time(30_000)),
        ..Faults::default()
    };
    let mut terms = Terms::new(15, 4);
    terms.rounds = 3;
    let charter = terms.charter();
    let world = logged(terms, faults)?;
    let chain = chain(&world);
    let entries: Vec<_> = (1..=chain.head().0)
        .filter_map(|height| chain.entry(Height(height)))
        .collect();
    let rows: Vec<Vec<u8>> = entries
        .iter()
        .map(|entry| {
            message::encode(&Decided {
                record: entry.bytes.to_vec(),
                certificate: entry.certificate.clone(),
            })
        })
        .collect();
    let verify = |skipped: Option<usize>| {
        let rows = rows.iter().enumerate();
        let rows = rows.filter(|(at, _)| Some(*at) != skipped);
        ledger::verify_chain(&charter, None, rows.map(|(_, row)| row.as_slice()))
    };
    let verified = verify(None).map_err(|broken| broken.to_string())?;
    assert!(verified.rounds_null >= 1, "no round was null");
    let null = |height: usize| {
        let record = &entries[height].record;
        height > 0 && height + 1 < rows.len() && record.survivors.is_none()
    };
    let nulls: Vec<_> = (0..rows.len()).filter(|at| null(*at)).collect();
    assert!(!nulls.is_empty());
    for at in nulls {
        assert!(
            verify(Some(at)).is_err(),
            "record {} was not missed",
            at + 1
        );
    }
    Ok(())
}
