//! Whole heights under loss, reordering, crashes and lies, over seeds, with a monitor for double signatures.

mod run;

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use self::run::{Plan, Run, SESS, TIMERS, id, key, voters};
use super::wire::{ProposalBody, VoteBody};
use super::*;
use crate::envelope::Kind;
use crate::letter::Letter;
use crate::refusal::Refusal;

/// Runs a plan that must decide, agree and sign once.
fn sound(plan: Plan) -> Run {
    let label = format!(
        "seed {} nodes {} height {} crashes {:?}",
        plan.seed, plan.nodes, plan.height, plan.crashes
    );
    let mut run = Run::new(plan);
    run.go().unwrap_or_else(|stuck| panic!("{label}: {stuck}"));
    assert!(run.agreed(), "{label}: two records");
    assert_eq!(run.double_signed(), 0, "{label}: a slot with two messages");
    run
}

fn plan(nodes: usize, height: u64, seed: u64) -> Plan {
    Plan {
        nodes,
        height,
        seed,
        ..Plan::default()
    }
}

#[test]
fn every_size_decides_in_round_zero_without_faults() {
    for nodes in [1, 2, 3, 4, 5, 7, 10] {
        for height in 1..=3 {
            let run = sound(plan(nodes, height, height));
            assert_eq!(run.round(), 0, "{nodes} voters, height {height}");
            let turn = usize::try_from(height).unwrap() % nodes;
            let (record, certificate) = run.nodes[0].decided.clone().unwrap();
            assert_eq!(
                record,
                format!("record {turn} 0").into_bytes(),
                "turns rotate with the height"
            );
            assert!(certificate.signatures.len() >= quorum(nodes));
        }
    }
}

#[test]
fn up_to_three_all_must_sign_and_from_four_a_quorum() {
    for nodes in [1, 2, 3] {
        assert_eq!(quorum(nodes), nodes);
    }
    assert_eq!((quorum(4), quorum(5), quorum(6), quorum(7)), (3, 4, 5, 5));
    for (nodes, decides) in [(2, false), (3, false), (4, true), (5, true)] {
        let mut plan = plan(nodes, 1, 5);
        plan.down = BTreeSet::from([nodes - 1]);
        assert_eq!(
            Run::new(plan).go().is_ok(),
            decides,
            "{nodes} voters, one down"
        );
    }
    let mut two_down = plan(5, 1, 5);
    two_down.down = BTreeSet::from([3, 4]);
    assert!(Run::new(two_down).go().is_err());
}

#[test]
fn agreement_under_loss_and_reordering() {
    for seed in 0..20 {
        for (nodes, loss_percent) in [(4, 20), (7, 20), (4, 50)] {
            let mut plan = plan(nodes, 1 + seed, seed);
            plan.loss_percent = loss_percent;
            sound(plan);
        }
    }
}

#[test]
fn a_silent_proposer_costs_a_round() {
    let mut plan = plan(4, 4, 1);
    plan.down = BTreeSet::from([0]);
    assert_eq!(sound(plan).round(), 1, "the turn goes on with the round");
}

#[test]
fn a_crash_at_every_append_of_every_node_signs_nothing_twice() {
    // One round of consensus writes about eight entries a node; with late data there are several rounds.
    for (appends, late) in [(8, None), (20, Some(3000))] {
        let mut hits = 0;
        for node in 0..4 {
            for append in 1..=appends {
                for durable in [false, true] {
                    let mut plan = plan(4, 1, 1000 + u64::try_from(append).unwrap());
                    plan.crashes = vec![(node, append, durable)];
                    plan.loss_percent = 10;
                    plan.late = late.into_iter().flat_map(|at| [(2, at), (3, at)]).collect();
                    hits += sound(plan).crashed;
                }
            }
        }
        assert!(
            hits >= 7 * appends,
            "only {hits} of {} crashes struck",
            8 * appends
        );
    }
}

#[test]
fn crashes_at_random_under_loss_and_late_data_sign_nothing_twice() {
    for seed in 0..60 {
        sound(random_crashes(seed));
    }
}

#[test]
fn without_the_log_the_monitor_sees_double_signatures() {
    let mut caught = 0;
    for seed in 0..60 {
        let mut plan = random_crashes(seed);
        plan.forget = true;
        let mut run = Run::new(plan);
        // A control may also get stuck or fork; what counts here is what the monitor sees.
        let _outcome = run.go();
        caught += usize::from(run.double_signed() > 0);
    }
    assert!(
        caught > 0,
        "the monitor saw nothing in 60 runs that forget their logs"
    );
}

fn random_crashes(seed: u64) -> Plan {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |below: u64| rng.next_u64() % below;
    let nodes = if draw(2) == 0 { 4 } else { 7 };
    let mut plan = plan(nodes, 1 + draw(5), seed);
    plan.loss_percent = draw(40);
    for _ in 0..=draw(4) {
        let node = usize::try_from(draw(u64::try_from(nodes).unwrap())).unwrap();
        let append = usize::try_from(1 + draw(30)).unwrap();
        plan.crashes.push((node, append, draw(2) == 0));
    }
    if draw(3) == 0 {
        plan.late = BTreeMap::from([(0, draw(4000))]);
    }
    plan
}

#[test]
fn an_invalid_proposal_gets_no_prevote() {
    for seed in 0..5 {
        let mut plan = plan(4, 1, seed);
        plan.liars = BTreeSet::from([1]);
        let run = sound(plan);
        let lie = record_digest(b"record 1 0");
        for honest in [0, 2, 3] {
            assert!(
                !run.prevotes.contains(&(honest, lie)),
                "seed {seed}: node {honest} prevoted a lie"
            );
        }
        assert_eq!(run.round(), 1, "the next one's record is decided");
    }
}

#[test]
fn late_validity_is_waited_for_in_silence() {
    // Two of four learn after 300 ms, before the propose timer: decided in round 0.
    let mut soon = plan(4, 1, 3);
    soon.late = BTreeMap::from([(2, 300), (3, 300)]);
    assert_eq!(sound(soon).round(), 0);
    // After three seconds round 0 is lost; a later round decides.
    let mut late = plan(4, 1, 3);
    late.late = BTreeMap::from([(2, 3000), (3, 3000)]);
    assert!(sound(late).round() > 0);
}

#[test]
fn a_certificate_survives_its_encoding_and_forged_ones_are_refused() {
    let run = sound(plan(4, 1, 8));
    let (record, certificate) = run.nodes[0].decided.clone().unwrap();
    let bytes = wire::encode(&certificate);
    let again: Certificate = wire::decode::<4096, _>(&bytes).unwrap();
    assert_eq!(again, certificate);
    let voters = voters(4);
    let check = |certificate: &Certificate| certificate.verify(SESS, &voters);
    assert_eq!(check(&certificate), Ok(()));

    let mut fewer = certificate.clone();
    fewer.signatures.truncate(2);
    assert!(matches!(
        check(&fewer),
        Err(CertificateError::Quorum { signed: 2, .. })
    ));
    let mut twice = certificate.clone();
    twice.signatures[1] = twice.signatures[0];
    assert!(matches!(check(&twice), Err(CertificateError::Order(_))));
    let mut other = certificate.clone();
    other.record = record_digest(b"another");
    assert!(matches!(check(&other), Err(CertificateError::Signature(_))));
    let mut round = certificate.clone();
    round.round += 1;
    assert!(matches!(check(&round), Err(CertificateError::Signature(_))));
    let mut stranger = certificate.clone();
    stranger.signatures.last_mut().unwrap().0 = MemberId(99);
    assert!(matches!(
        check(&stranger),
        Err(CertificateError::Stranger(MemberId(99)))
    ));
    assert!(
        certificate
            .verify(SessId(Digest([8; 32])), &voters)
            .is_err()
    );

    // It ends the height of one who has heard nothing; a forged one does not.
    let mut fresh = Decider::new(Height(1), SESS, None, voters.clone(), TIMERS);
    let key = key(0);
    let forged = Feed::Certificate {
        record: b"another".to_vec(),
        certificate: certificate.clone(),
    };
    assert_eq!(
        fresh.handle(Time(0), forged, &key),
        Verdict::Refused(Refusal::Rule)
    );
    let feed = Feed::Certificate {
        record: record.clone(),
        certificate: other,
    };
    assert!(matches!(
        fresh.handle(Time(0), feed, &key),
        Verdict::Refused(_)
    ));
    assert!(!fresh.decided());
    let feed = Feed::Certificate {
        record,
        certificate,
    };
    assert_eq!(fresh.handle(Time(0), feed, &key), Verdict::Accepted);
    assert!(fresh.decided());
}

#[test]
fn messages_that_break_the_rules_are_refused() {
    let mut decider = Decider::new(Height(1), SESS, Some(id(0)), voters(4), TIMERS);
    let own = key(0);
    decider.start(Time(0), &[], &own).unwrap();
    let mut tell = |envelope: &Envelope| {
        let letter = Letter::of(envelope.clone());
        decider.handle(Time(1), Feed::Letter(&letter), &own)
    };
    let vote = |node: usize, record: Option<Digest>| {
        let body = wire::encode(&VoteBody {
            height: Height(1),
            round: 0,
            step: Step::Prevote,
            record,
        });
        Envelope::sign(&key(node), Kind::Vote, SESS, id(node), 0, body)
    };
    let good = vote(1, None);
    assert_eq!(tell(&good), Verdict::Accepted);
    assert_eq!(tell(&good), Verdict::Ignored, "a duplicate");
    let mut bent = vote(2, None);
    bent.signature.0[5] ^= 1;
    assert_eq!(tell(&bent), Verdict::Refused(Refusal::Signature));
    let mut stranger = vote(2, None);
    stranger.sender = MemberId(77);
    assert_eq!(tell(&stranger), Verdict::Refused(Refusal::Stranger));
    let mut long = vote(2, None);
    long.body.push(0);
    assert_eq!(tell(&long), Verdict::Refused(Refusal::Malformed));
    long.body.resize(200, 0);
    assert_eq!(tell(&long), Verdict::Refused(Refusal::Oversized));
    let body = wire::encode(&ProposalBody {
        height: Height(1),
        round: 0,
        pol_round: None,
        record: Value::new(vec![1]),
    });
    let usurper = Envelope::sign(&key(2), Kind::Proposal, SESS, id(2), 0, body);
    assert_eq!(
        tell(&usurper),
        Verdict::Refused(Refusal::Rule),
        "not its turn"
    );
    // Two votes for one slot are evidence, once.
    assert_eq!(tell(&vote(1, Some(Digest([1; 32])))), Verdict::Accepted);
    let mut evidence = 0;
    while let Some(effect) = decider.poll() {
        evidence += usize::from(matches!(effect, Effect::Evidence(_)));
    }
    assert_eq!(evidence, 1);
}

#[test]
fn an_unreadable_log_is_amnesia_not_a_hang() {
    let mut decider = Decider::new(Height(1), SESS, Some(id(0)), voters(4), TIMERS);
    let torn = vec![vec![1, 2, 3].into()];
    assert!(matches!(
        decider.start(Time(0), &torn, &key(0)),
        Err(StartError::Unreadable { index: 0, .. })
    ));
}
