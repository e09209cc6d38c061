//! Members in a small world of their own, up to equal heads and the plain sum.

mod kept;
mod net;
mod recall;

use self::net::{Net, charter, identity};
use crate::input::Input;
use crate::memory;
use crate::message::Invite;
use crate::names::{Height, MemberId};
use crate::output::Table;
use crate::time::{Span, Time};

// R1 R2 R4 R10 R11 R12 R13 R14 R15 R20 R21 R22 R31 R32 R34 R45 R46: the ordinary way through.
#[test]
fn five_members_open_three_rounds_to_the_plain_sum() {
    let mut net = Net::new(5, 3, 1);
    for index in 0..5 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3, 4], 300);
    net.check_agreement(&[0, 1, 2, 3, 4]);
    net.check_sums(0);
    assert_eq!(net.rounds(0), (3, 0));
    let status = net.member(2).status();
    assert_eq!(
        (
            status.rounds_contributed,
            status.refused.total(),
            status.warnings
        ),
        (3, 0, 0)
    );
}

// R21 R23 R32 R33: the dead are not waited for beyond T_quiet, and their masks come off.
#[test]
fn a_member_killed_while_it_trains_drops_out_and_its_pair_key_is_rebuilt() {
    let mut net = Net::new(5, 3, 2);
    net.kill = Some((1, Height(3)));
    for index in 0..5 {
        net.start(index);
    }
    let alive = [0, 2, 3, 4];
    net.run(&alive, 600);
    net.check_agreement(&alive);
    net.check_sums(0);
    assert_eq!(net.rounds(0), (3, 0));
    let past = net.member(0).status().history[1].clone();
    assert_eq!(past.rebuilt, [identity(1).public()]);
    assert_eq!(past.survivors.map(|s| s.len()), Some(4));
}

// R35 R51: records are asked for, and the certified adapter is taken over.
#[test]
fn a_killed_member_that_returns_catches_up_and_contributes_again() {
    let mut net = Net::new(5, 5, 3);
    net.kill = Some((1, Height(3)));
    net.restart_after = Some(Span::seconds(18));
    for index in 0..5 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3, 4], 900);
    net.check_agreement(&[0, 1, 2, 3, 4]);
    net.check_sums(1);
    let status = net.member(1).status();
    assert!(
        status.rounds_contributed >= 3,
        "{}",
        status.rounds_contributed
    );
}

// R14 R17: the secrets are unspent, so it trains again and submits once.
#[test]
fn a_killed_member_that_returns_before_the_deadline_submits_in_the_same_session() {
    let mut net = Net::new(5, 2, 4);
    net.kill = Some((3, Height(2)));
    net.restart_after = Some(Span::seconds(2));
    for index in 0..5 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3, 4], 600);
    net.check_sums(3);
    let history = net.member(0).status().history;
    assert!(
        history
            .iter()
            .all(|past| past.survivors.as_ref().map(Vec::len) == Some(5))
    );
}

// R50: what gossip loses is asked for.
#[test]
fn a_fifth_of_all_messages_may_be_lost() {
    for seed in 10..14 {
        let mut net = Net::new(4, 3, seed);
        net.loss = 200;
        for index in 0..4 {
            net.start(index);
        }
        net.run(&[0, 1, 2, 3], 1200);
        net.check_agreement(&[0, 1, 2, 3]);
        net.check_sums(0);
    }
}

// R2 R21 R23 R24: too few vectors make a null round, by the same decision; the next round is won.
#[test]
fn a_round_with_too_few_vectors_is_null_and_the_next_is_won() {
    let mut net = Net::new(5, 3, 21);
    net.failing = [0, 2, 4].map(|index| (index, Height(3))).into();
    for index in 0..5 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3, 4], 2000);
    net.check_agreement(&[0, 1, 2, 3, 4]);
    net.check_sums(1);
    assert_eq!(net.rounds(3), (2, 1));
    assert!(net.member(1).status().history[1].survivors.is_none());
}

// R21 R32: one whose engine fails is not waited for beyond T_quiet, and its secret is rebuilt.
#[test]
fn a_member_whose_engine_fails_drops_out_of_the_round() {
    let mut net = Net::new(5, 2, 22);
    net.failing = [(4, Height(2))].into();
    for index in 0..5 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3, 4], 100);
    net.check_sums(4);
    assert_eq!(
        (net.rounds(0), net.member(4).status().rounds_contributed),
        ((2, 0), 1)
    );
}

// R16: pulled by their root.
#[test]
fn large_vectors_are_pulled() {
    let mut net = Net::with(charter(5, 3, 16), 5, 5);
    for index in 0..5 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3, 4], 300);
    net.check_agreement(&[0, 1, 2, 3, 4]);
    net.check_sums(4);
    assert_eq!(net.rounds(0), (3, 0));
}

// R16: an author that hands wrong bytes to some of the others leaves nobody out, itself neither.
#[test]
fn a_holder_of_wrong_bytes_keeps_nobody_from_the_right_ones() {
    let mut net = Net::with(charter(5, 3, 16), 5, 8);
    net.garbles = [(0, 1), (0, 2)].into();
    for index in 0..5 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3, 4], 300);
    net.check_agreement(&[0, 1, 2, 3, 4]);
    for past in net.member(1).status().history {
        let survivors = past.survivors.map(|survivors| survivors.len());
        assert_eq!(survivors, Some(5), "height {}", past.height.0);
    }
    assert_eq!(net.rounds(0), (3, 0));
}

// R72: a shard that is found to be damaged at home is had from others, and stands there again.
#[test]
fn a_damaged_shard_is_pulled_again() {
    // In some worlds the others have made the sums before the holder needs its shards.
    let again = (7..13).filter(|seed| is_had_again(*seed)).count();
    assert!(
        again >= 3,
        "a damaged shard was had again in {again} of 6 worlds"
    );
}

/// A member comes back, and all its shards are damaged: whether one that it reads then stands there again.
fn is_had_again(seed: u64) -> bool {
    let mut net = Net::with(charter(8, 3, 0), 8, seed);
    for index in 0..8 {
        net.start(index);
    }
    let shards = |net: &Net, index: usize| -> Vec<Vec<u8>> {
        let rows = net.nodes[index].stored.keys();
        let shards = rows.filter(|(table, _)| *table == Table::Shards);
        shards.map(|(_, name)| name.clone()).collect()
    };
    let holder = loop {
        net.step();
        if let Some(index) = (0..8).find(|index| shards(&net, *index).len() >= 4) {
            break index;
        }
    };
    // Shards are read when they are summed; after a start none of them is in memory.
    net.crash(holder);
    let damaged = shards(&net, holder);
    net.damaged = damaged.iter().map(|name| (holder, name.clone())).collect();
    net.start(holder);
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    let over = |net: &Net| all.iter().all(|index| net.finished(*index));
    while net.damaged.len() == damaged.len() && !over(&net) {
        net.step();
    }
    let found = |name: &&Vec<u8>| !net.damaged.contains(&(holder, (*name).clone()));
    let first = damaged.iter().find(found).cloned();
    let again = |net: &Net| {
        first
            .as_ref()
            .is_some_and(|first| shards(net, holder).contains(first))
    };
    while !again(&net) && !over(&net) {
        net.step();
    }
    let had_again = again(&net);
    net.run(&all, 900);
    net.check_agreement(&all);
    had_again
}

// R9: T_genesis after a quorum met, the others begin.
#[test]
fn a_founder_that_comes_late_is_waited_for_or_taken_in_later() {
    let mut net = Net::new(5, 4, 6);
    for index in 0..4 {
        net.start(index);
    }
    while net.now < Time(121_500) {
        net.step();
    }
    net.start(4);
    net.run(&[0, 1, 2, 3, 4], 600);
    net.check_agreement(&[0, 1, 2, 3, 4]);
    net.check_sums(4);
}

// R5 R17 R25 R30: stored before said, the log replayed, nothing said twice.
#[test]
fn crashes_at_any_output_lose_nothing_and_say_nothing_twice() {
    for seed in 0..40u64 {
        let mut net = Net::new(5, 2, 100 + seed);
        net.restart_after = Some(Span(1500));
        net.loss = if seed % 2 == 0 { 0 } else { 100 };
        for index in 0..5 {
            net.start(index);
        }
        let victim = usize::try_from(seed % 5).unwrap();
        net.nodes[victim].fuse = Some(usize::try_from(seed * 3).unwrap());
        net.run(&[0, 1, 2, 3, 4], 900);
        net.check_agreement(&[0, 1, 2, 3, 4]);
        net.check_sums(victim);
        for index in 0..5 {
            let refused = net.member(index).status().refused;
            assert_eq!(
                refused.of(crate::refusal::Refusal::Equivocation),
                0,
                "{refused:?}"
            );
        }
    }
}

// R24 R36: what was judged valid and what is open survives in the stored state.
#[test]
fn all_crash_and_go_on() {
    let mut net = Net::new(4, 3, 7);
    for index in 0..4 {
        net.start(index);
    }
    while net.member(0).status().height < Height(3) {
        net.step();
    }
    for index in 0..4 {
        net.crash(index);
    }
    net.restart_after = Some(Span::seconds(1));
    net.push(0, 1500, Input::Wake);
    net.run(&[0, 1, 2, 3], 900);
    net.check_agreement(&[0, 1, 2, 3]);
    net.check_sums(0);
}

// R43 R44: admitted by invitation, removed by absence.
#[test]
fn an_invited_member_joins_and_an_absent_one_is_removed() {
    let mut net = Net::with(charter(5, 7, 262_144), 6, 8);
    net.train_ms = 4000;
    let digest = net.charter.digest();
    let invite = Invite::sign(&identity(0), digest, MemberId(0), [1; 16], None, 1, 0);
    net.nodes[5].invite = Some(invite);
    for index in 0..5 {
        net.start(index);
    }
    net.kill = Some((2, Height(4)));
    while net.member(0).status().height < Height(3) {
        net.step();
    }
    net.start(5);
    let alive = [0, 1, 3, 4, 5];
    net.run(&alive, 1500);
    net.check_agreement(&alive);
    net.check_sums(5);
    let status = net.member(5).status();
    assert!(
        status.rounds_contributed >= 1,
        "the newcomer never contributed"
    );
    let roster = net
        .member(0)
        .ledger()
        .roster(net.member(0).ledger().head())
        .unwrap();
    assert!(
        roster.member(&identity(2).public()).is_none(),
        "the absent one is still a member"
    );
    assert!(roster.member(&identity(5).public()).is_some());
}

// R43: removal never brings the members down to three times the corrupt ones.
#[test]
fn the_last_spare_member_is_never_removed() {
    let mut net = Net::new(4, 6, 23);
    net.kill = Some((3, Height(2)));
    for index in 0..4 {
        net.start(index);
    }
    net.run(&[0, 1, 2], 900);
    net.check_sums(0);
    let ledger = net.member(0).ledger();
    assert_eq!(ledger.roster(ledger.head()).unwrap().len(), 4);
}

// R44: an invitation admits as many as it says, and nobody without one.
#[test]
fn an_invitation_is_used_up() {
    let mut net = Net::with(charter(4, 9, 262_144), 7, 24);
    let digest = net.charter.digest();
    let invite = Invite::sign(&identity(1), digest, MemberId(1), [2; 16], None, 1, 0);
    let forged = Invite::sign(&identity(6), digest, MemberId(1), [3; 16], None, 9, 0);
    net.nodes[4].invite = Some(invite.clone());
    net.nodes[5].invite = Some(invite);
    net.nodes[6].invite = Some(forged);
    for index in 0..7 {
        net.start(index);
    }
    net.run(&[0, 1, 2, 3], 900);
    let ledger = net.member(0).ledger();
    let roster = ledger.roster(ledger.head()).unwrap();
    let inside = |index| roster.member(&identity(index).public()).is_some();
    assert_eq!(roster.len(), 5);
    assert!(inside(4) != inside(5) && !inside(6));
}

// R3 R40 R41 R42: the chain proves itself.
#[test]
fn a_stored_ledger_verifies_from_genesis_and_a_changed_one_does_not() {
    let mut net = Net::new(3, 2, 9);
    for index in 0..3 {
        net.start(index);
    }
    net.run(&[0, 1, 2], 300);
    let rows = crate::outbox::table(&net.nodes[0].stored, Table::Ledger);
    let rows: Vec<_> = rows.map(|(_, row)| row.to_vec()).collect();
    let verify = |rows: &[Vec<u8>]| {
        crate::ledger::verify_chain(&net.charter, None, rows.iter().map(Vec::as_slice))
    };
    let verified = verify(&rows).unwrap();
    assert_eq!(verified.head, net.member(1).status().ledger_head);
    assert!(verified.finished);
    for row in 0..rows.len() {
        for at in (0..rows[row].len()).step_by(31) {
            let mut changed = rows.clone();
            changed[row][at] ^= 1;
            assert!(verify(&changed).is_err(), "byte {at} of record {row}");
        }
    }
    assert!(verify(&rows[1..]).is_err());
}

// R6 R7 R8: refused, counted, survived.
#[test]
fn what_breaks_the_rules_is_refused_and_survived() {
    use crate::envelope::{Envelope, Kind};
    use crate::input::Verdict;
    use crate::refusal::Refusal;
    let mut net = Net::new(4, 1, 20);
    for index in 0..4 {
        net.start(index);
    }
    while !net.queue.is_empty() && net.now < Time(300) {
        net.step();
    }
    let sess = net.member(0).ledger().session_id(Height(2)).unwrap();
    let stored = &net.nodes[1].stored;
    let key = crate::outbox::slot_key(Height(2), Kind::KeyAd, MemberId(1));
    let good = Envelope::from_bytes(&stored[&(Table::Outbox, key)]).unwrap();
    let sign = |index: usize, kind, seq, body| {
        let sender = MemberId(u32::try_from(index).unwrap());
        Envelope::sign(&identity(index), kind, sess, sender, seq, body).to_bytes()
    };
    let forged = Envelope {
        sender: MemberId(2),
        ..good.clone()
    };
    let mut other = good.body.clone();
    other[40] ^= 1;
    let cases = [
        (vec![1, 2, 3], Refusal::Malformed),
        (sign(1, Kind::Ack, 99, vec![9; 200]), Refusal::Malformed),
        (sign(1, Kind::KeyAd, 0, vec![0; 4000]), Refusal::Oversized),
        (sign(7, Kind::Ack, 1, vec![0; 8]), Refusal::Stranger),
        (forged.to_bytes(), Refusal::Equivocation),
        (sign(1, Kind::KeyAd, 0, other), Refusal::Equivocation),
        (sign(1, Kind::Commit, 3, vec![0; 8]), Refusal::Rule),
    ];
    let from = identity(3).public();
    for (bytes, refusal) in cases {
        let bytes = bytes.into();
        let now = net.now;
        let member = net.nodes[0].member.as_mut().unwrap();
        let verdict = member.handle(now, Input::Received { from, bytes });
        let forged =
            verdict == Verdict::Refused(Refusal::Signature) && refusal == Refusal::Equivocation;
        let expected = if refusal == Refusal::Equivocation {
            Verdict::Ignored
        } else {
            Verdict::Refused(refusal)
        };
        assert!(
            forged || verdict == expected,
            "{verdict:?} instead of {expected:?}"
        );
    }
    net.drain(0);
    net.run(&[0, 1, 2, 3], 300);
    assert_eq!(net.member(0).status().refused.total(), 7);
}

// R44: one use is one use, in one record too.
#[test]
fn a_record_counts_the_uses_of_an_invitation() {
    let mut net = Net::with(charter(8, 9, 262_144), 11, 26);
    let digest = net.charter.digest();
    let invite = Invite::sign(&identity(1), digest, MemberId(1), [2; 16], None, 1, 0);
    for newcomer in 8..11 {
        net.nodes[newcomer].invite = Some(invite.clone());
    }
    for index in 0..11 {
        net.start(index);
    }
    let founders = [0, 1, 2, 3, 4, 5, 6, 7];
    net.run(&founders, 900);
    let ledger = net.member(0).ledger();
    assert_eq!(ledger.roster(ledger.head()).unwrap().len(), 9);
}

/// The vectors and shards that an open session names stay after a crash; what a crash left besides goes.
#[test]
fn blobs_that_nothing_names_are_erased_after_a_start() {
    // No vector is inline.
    let mut net = Net::with(charter(4, 5, 0), 4, 31);
    for index in 0..4 {
        net.start(index);
    }
    let vectors = |net: &Net| {
        let rows = net.nodes[0].stored.keys();
        rows.filter(|(table, _)| *table == Table::Vectors).count()
    };
    while vectors(&net) < 3 {
        net.step();
    }
    let before = vectors(&net);
    net.crash(0);
    for table in [Table::Vectors, Table::Shards] {
        let row = (table, vec![9; 32]);
        net.nodes[0].stored.insert(row, vec![1, 2, 3].into());
    }
    net.start(0);
    assert_eq!(vectors(&net), before);
    let shards = net.nodes[0].stored.keys();
    assert_eq!(
        shards.filter(|(table, _)| *table == Table::Shards).count(),
        0
    );
    net.run(&[0, 1, 2, 3], 900);
    net.check_agreement(&[0, 1, 2, 3]);
}

// R60 R61: an outbox row that cannot be read any more silences its session, and the one after next goes on.
#[test]
fn a_damaged_outbox_row_silences_its_session() {
    let mut net = Net::new(4, 5, 27);
    for index in 0..4 {
        net.start(index);
    }
    while net.member(0).status().height < Height(3) {
        net.step();
    }
    net.crash(0);
    // A longer silence that is stored already stays.
    let fact = (Table::Facts, memory::FACT.to_vec());
    let longer = 40_u64.to_be_bytes().to_vec();
    let before = net.nodes[0].stored.clone();
    let rows = net.nodes[0].stored.keys();
    let outbox = rows.filter(|(table, _)| *table == Table::Outbox);
    let row = outbox.max().cloned().expect("it has said something");
    let height = crate::outbox::key_height(&row.1).expect("a height");
    net.nodes[0]
        .stored
        .insert(row.clone(), vec![1, 2, 3].into());
    net.nodes[0]
        .stored
        .insert(fact.clone(), longer.clone().into());
    net.start(0);
    assert_eq!(net.member(0).desk.memory.silent(), Some(Height(40)));
    assert_eq!(net.nodes[0].stored[&fact], longer);
    net.crash(0);
    net.nodes[0].stored = before;
    net.nodes[0].stored.insert(row, vec![1, 2, 3].into());
    net.start(0);
    let silent = net.member(0).desk.memory.silent();
    assert_eq!(silent, Some(Height(height.0 + 2)));
    assert!(net.member(0).status().warnings > 0);
    net.run(&[0, 1, 2, 3], 900);
    net.check_agreement(&[0, 1, 2, 3]);
}
