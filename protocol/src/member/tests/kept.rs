//! Sums that are kept for those that cannot reach their makers, and those that are lost.

use std::collections::BTreeSet;

use conclave_crypto::digest::Digest;

use super::net::{Net, charter};
use crate::envelope::{Envelope, Kind};
use crate::message::{self, SumCommit};
use crate::names::Height;
use crate::outbox;
use crate::output::Table;

/// Names of shards and sums that a node holds.
fn shards(net: &Net, index: usize) -> BTreeSet<Digest> {
    let rows = outbox::table(&net.nodes[index].stored, Table::Shards);
    let names = rows.map(|(name, _)| Digest(name.try_into().unwrap()));
    names.collect()
}

/// Names of the sums that a node committed to.
fn sums(net: &Net, index: usize) -> BTreeSet<Digest> {
    let rows = outbox::table(&net.nodes[index].stored, Table::Outbox);
    let envelopes = rows.map(|(_, row)| Envelope::from_bytes(row).unwrap());
    let commits = envelopes.filter(|envelope| envelope.kind == Kind::SumCommit);
    let commits = commits.map(|envelope| message::decode::<SumCommit>(&envelope.body).unwrap());
    commits
        .flat_map(|commit| commit.sums)
        .map(|(_, name)| name)
        .collect()
}

// R77: a sum that others made is kept across a restart, whether the adapter is open by then or not.
#[test]
fn a_kept_sum_stays_after_a_crash_of_its_keeper() {
    for opened in [false, true] {
        let mut net = Net::with(charter(8, 3, 0), 8, 10);
        for index in 0..8 {
            net.start(index);
        }
        let kept = |net: &Net, index: usize| -> BTreeSet<Digest> {
            let others = (0..8).filter(|other| *other != index);
            let others: BTreeSet<_> = others.flat_map(|other| sums(net, other)).collect();
            let own = sums(net, index);
            let here = shards(net, index);
            let kept = here
                .intersection(&others)
                .filter(|name| !own.contains(name));
            kept.copied().collect()
        };
        let is_open = |net: &Net, index: usize| {
            let fact = outbox::opened_fact(Height(2));
            outbox::value(&net.nodes[index].stored, Table::Facts, &fact).is_some()
        };
        let keeper = loop {
            net.step();
            let keeps =
                |index: &usize| is_open(&net, *index) == opened && !kept(&net, *index).is_empty();
            if let Some(keeper) = (0..8).find(keeps) {
                break keeper;
            }
        };
        let before = kept(&net, keeper);
        net.crash(keeper);
        net.start(keeper);
        assert_eq!(kept(&net, keeper), before, "opened: {opened}");
        let all = [0, 1, 2, 3, 4, 5, 6, 7];
        net.run(&all, 900);
        net.check_agreement(&all);
        net.check_sums(keeper);
    }
}

// R77: where all is summed from the vectors, an own sum that proves damaged is not had from others.
#[test]
fn an_own_sum_that_is_lost_is_made_from_the_vectors_where_all_are() {
    let mut net = Net::with(charter(8, 3, 0), 8, 11);
    for index in 0..8 {
        net.start(index);
    }
    let maker = loop {
        net.step();
        if let Some(maker) = (0..8).find(|index| !sums(&net, *index).is_empty()) {
            break maker;
        }
    };
    // After a start no sum is in memory.
    let made = sums(&net, maker);
    net.crash(maker);
    net.start(maker);
    let member = net.nodes[maker].member.as_mut().unwrap();
    let session = member.sessions.get_mut(&Height(2)).unwrap();
    assert!(session.sum_again(&member.desk));
    let damaged = |name: &Digest| (maker, name.as_bytes().to_vec());
    net.damaged = made.iter().map(damaged).collect();
    net.pulls.clear();
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    net.run(&all, 900);
    net.check_agreement(&all);
    net.check_sums(maker);
    for name in &made {
        let pulls = net.pulls.iter().filter(|pull| **pull == (maker, *name));
        assert_eq!(pulls.count(), 1, "it is looked for at home only");
    }
}
