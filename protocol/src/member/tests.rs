//! Members in a small world of their own: one queue in virtual time, everything delivered or lost by a seed.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::single_range_in_vec_init,
    reason = "tests print their seed and make up small numbers"
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use conclave_crypto::digest::Digest;
use conclave_crypto::ladder::Delta;
use conclave_crypto::sign::{IdentityKey, PublicKey};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::Member;
use crate::charter::{self, Charter, Founder, Timers};
use crate::input::Input;
use crate::layout::Layout;
use crate::message::Invite;
use crate::names::Height;
use crate::output::{Order, Output, Report, Stored, Table};
use crate::params;
use crate::setup::Setup;
use crate::status::Outcome;
use crate::time::{Span, Time};

/// Coordinates of the test adapter: four of A, six of B.
const LEN: usize = 10;

struct Node {
    key: [u8; 32],
    member: Option<Member>,
    stored: Stored,
    reports: Vec<Report>,
    /// Every delta trained, by height.
    trained: BTreeMap<Height, Vec<f32>>,
    invite: Option<Invite>,
    starts: u8,
    /// Crash at this many outputs from now.
    fuse: Option<usize>,
    died_at: Option<Time>,
}

struct Net {
    charter: Charter,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    inputs: BTreeMap<u64, Input>,
    count: u64,
    now: Time,
    rng: ChaCha20Rng,
    /// Of a thousand messages, so many are lost.
    loss: u32,
    /// Kill this node when it trains at this height.
    kill: Option<(usize, Height)>,
    restart_after: Option<Span>,
    train_ms: u64,
}

fn identity(index: usize) -> IdentityKey {
    IdentityKey::from_bytes(&[u8::try_from(index).unwrap() + 1; 32])
}

fn charter(founders: usize, rounds: u32, inline_limit: u64) -> Charter {
    let members = (0..founders).map(|index| Founder {
        name: format!("m{index}"),
        key: identity(index).public(),
    });
    Charter {
        federation: charter::Federation {
            name: "test".into(),
            protocol: 1,
            nonce: [7; 32],
        },
        model: charter::Model {
            digest: Digest([1; 32]),
            architecture: "llama".into(),
        },
        adapter: charter::Adapter {
            method: charter::Method::Lora,
            lora_r: 2,
            lora_alpha: 4,
            target_modules: charter::Targets::AllLinear,
            aggregation: charter::Combination::Alternating,
            seed: 0,
        },
        round: charter::Rounds {
            rounds,
            local_steps: 3,
            timers: Timers::testnet(),
        },
        aggregation: charter::Aggregation {
            inline_limit,
            absent_rounds: 2,
            ..charter::Aggregation::default()
        },
        admission: charter::Admission::Invite,
        members: members.collect(),
    }
    .checked()
    .unwrap()
}

fn layout() -> Layout {
    Layout {
        shape: Digest([3; 32]),
        len: LEN,
        a: vec![0..4],
        b: vec![4..10],
    }
}

impl Net {
    fn new(founders: usize, rounds: u32, seed: u64) -> Self {
        Self::with(charter(founders, rounds, 262_144), founders, seed)
    }

    fn with(charter: Charter, nodes: usize, seed: u64) -> Self {
        println!("seed {seed}");
        let mut net = Self {
            charter,
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            inputs: BTreeMap::new(),
            count: 0,
            now: Time(0),
            rng: ChaCha20Rng::seed_from_u64(seed),
            loss: 0,
            kill: None,
            restart_after: None,
            train_ms: 2000,
        };
        for index in 0..nodes {
            net.nodes.push(Node {
                key: *identity(index).to_bytes(),
                member: None,
                stored: Stored::new(),
                reports: Vec::new(),
                trained: BTreeMap::new(),
                invite: None,
                starts: 0,
                fuse: None,
                died_at: None,
            });
        }
        net
    }

    fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.starts += 1;
        let setup = Setup {
            charter: self.charter.clone(),
            identity: IdentityKey::from_bytes(&node.key),
            name: format!("m{index}"),
            examples: 64 << index.min(3),
            layout: layout(),
            initial: (0..LEN).map(|i| i as f32 / 8.0).collect(),
            invite: node.invite.clone(),
        };
        let seed = [node.starts * 16 + u8::try_from(index).unwrap(); 32];
        let member = Member::open(setup, node.stored.clone(), self.now, seed).unwrap();
        node.member = Some(member);
        node.died_at = None;
        let key = |index: usize| identity(index).public();
        for other in 0..self.nodes.len() {
            if other != index && self.nodes[other].member.is_some() {
                self.push(index, 5, Input::Connected { peer: key(other) });
                self.push(other, 5, Input::Connected { peer: key(index) });
            }
        }
        self.drain(index);
    }

    fn crash(&mut self, index: usize) {
        self.nodes[index].member = None;
        self.nodes[index].died_at = Some(self.now);
        for other in 0..self.nodes.len() {
            if other != index {
                self.push(
                    other,
                    5,
                    Input::Disconnected {
                        peer: identity(index).public(),
                    },
                );
            }
        }
    }

    fn push(&mut self, to: usize, after: u64, input: Input) {
        self.count += 1;
        self.inputs.insert(self.count, input);
        self.queue
            .push(Reverse((self.now + Span(after), self.count, to)));
    }

    fn carry(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if self.nodes[to].member.is_none() || self.rng.next_u32() % 1000 < self.loss {
            return;
        }
        let after = 5 + u64::from(self.rng.next_u32() % 40);
        let from = identity(from).public();
        self.push(
            to,
            after,
            Input::Received {
                from,
                bytes: bytes.to_vec(),
            },
        );
    }

    /// Performs a node's outputs, in order; a burning fuse ends it in the middle.
    fn drain(&mut self, index: usize) {
        loop {
            let node = &mut self.nodes[index];
            let Some(output) = node.member.as_mut().and_then(Member::poll) else {
                break;
            };
            if let Some(fuse) = &mut node.fuse {
                if *fuse == 0 {
                    node.fuse = None;
                    self.crash(index);
                    return;
                }
                *fuse -= 1;
            }
            self.perform(index, output);
        }
        if let Some(at) = self.nodes[index].member.as_ref().and_then(Member::deadline) {
            let after = at.0.saturating_sub(self.now.0).max(1);
            self.push(index, after, Input::Wake);
        }
    }

    fn perform(&mut self, index: usize, output: Output) {
        match output {
            Output::Store(write) => {
                let key = (write.table, write.key);
                match write.value {
                    Some(value) => drop(self.nodes[index].stored.insert(key, value)),
                    None => drop(self.nodes[index].stored.remove(&key)),
                }
            }
            Output::Publish { bytes, .. } => {
                for to in 0..self.nodes.len() {
                    if to != index {
                        self.carry(index, to, &bytes);
                    }
                }
            }
            Output::Send { to, bytes } => {
                if let Some(to) = (0..self.nodes.len()).find(|i| identity(*i).public() == to) {
                    self.carry(index, to, &bytes);
                }
            }
            Output::Pull { name, from, .. } => {
                let held = |key: &PublicKey| {
                    let node = (0..self.nodes.len()).find(|i| identity(*i).public() == *key)?;
                    self.nodes[node].member.as_ref()?;
                    let stored = &self.nodes[node].stored;
                    let row = |table| stored.get(&(table, name.as_bytes().to_vec())).cloned();
                    row(Table::Vectors).or_else(|| row(Table::Adapters))
                };
                let input = match from.iter().find_map(held) {
                    Some(bytes) => Input::Pulled { name, bytes },
                    None => Input::PullFailed { name },
                };
                self.push(index, 30, input);
            }
            Output::Order(Order::Train {
                height,
                factor,
                adapter,
                ..
            }) => {
                let count = layout().count(factor);
                let spread = |i: usize| {
                    let x = (height.0 as f32).mul_add(0.013, (index + 1) as f32 * 0.031);
                    x * (i as f32 - 2.5) + adapter[0] * 0.01
                };
                let values: Vec<f32> = (0..count).map(spread).collect();
                self.nodes[index].trained.insert(height, values.clone());
                let delta = Delta::new(values).unwrap();
                let after = self.train_ms + u64::from(self.rng.next_u32() % 500);
                if self.kill == Some((index, height)) {
                    self.kill = None;
                    self.crash(index);
                    return;
                }
                self.push(index, after, Input::Trained { height, delta });
            }
            Output::Order(Order::Cancel { .. } | Order::Adopt { .. }) => {}
            Output::Report(report) => self.nodes[index].reports.push(report),
        }
    }

    fn finished(&self, index: usize) -> bool {
        self.nodes[index]
            .member
            .as_ref()
            .is_some_and(|member| member.status().finished)
    }

    /// Runs until the given nodes are finished; panics with what they wait for when the time is over.
    fn run(&mut self, whom: &[usize], seconds: u64) {
        let end = self.now + Span::seconds(seconds);
        while !whom.iter().all(|index| self.finished(*index)) {
            if self.now > end {
                for index in 0..self.nodes.len() {
                    for report in self.nodes[index].reports.iter().rev().take(40).rev() {
                        println!("{index}: {report:?}");
                    }
                    let status = self.nodes[index].member.as_ref().map(Member::status);
                    println!("{index}: {status:#?}");
                }
                panic!("not finished after {seconds} virtual seconds");
            }
            self.step();
        }
    }

    fn step(&mut self) {
        let Some(Reverse((at, count, to))) = self.queue.pop() else {
            panic!("nothing is due")
        };
        self.now = self.now.max(at);
        let input = self.inputs.remove(&count).unwrap();
        if let Some(member) = &mut self.nodes[to].member {
            let now = self.now;
            let _verdict = member.handle(now, input);
            self.drain(to);
        }
        if let Some(after) = self.restart_after {
            for index in 0..self.nodes.len() {
                if self.nodes[index]
                    .died_at
                    .is_some_and(|died| died + after <= self.now)
                {
                    self.start(index);
                }
            }
        }
    }

    fn member(&self, index: usize) -> &Member {
        self.nodes[index].member.as_ref().unwrap()
    }

    /// Every opened round's adapter equals the plain weighted sum of its survivors' clipped, quantised deltas.
    fn check_sums(&self, whom: usize) {
        let member = self.member(whom);
        let scale = self.charter.scale();
        let mut adapter: Vec<f32> = (0..LEN).map(|i| i as f32 / 8.0).collect();
        for past in member.status().history {
            if past.outcome != Outcome::Opened {
                continue;
            }
            let factor = params::factor(&layout(), past.round);
            let mut sum = vec![0i64; layout().count(factor)];
            let mut total = 0u64;
            for key in past.survivors.unwrap() {
                let node = (0..self.nodes.len())
                    .find(|i| identity(*i).public() == key)
                    .unwrap();
                let weight = params::weight_class(&self.charter, 64 << node.min(3));
                total += u64::from(weight);
                let delta = &self.nodes[node].trained[&past.height];
                for (total, value) in sum.iter_mut().zip(delta) {
                    let clipped = value.clamp(-scale.clamp(), scale.clamp());
                    *total += i64::from(scale.quantise(clipped)) * i64::from(weight);
                }
            }
            let ring: Vec<u32> = sum
                .iter()
                .map(|x| i32::try_from(*x).unwrap().cast_unsigned())
                .collect();
            let old = layout().gather(factor, &adapter);
            let new = scale.apply(&old, &ring, total);
            layout().scatter(factor, &new, &mut adapter);
        }
        let digest = conclave_crypto::fixed::adapter_digest(&layout().shape, &adapter);
        assert_eq!(
            member.ledger().certified(),
            Some(digest),
            "the adapter is not the plain sum"
        );
    }

    fn check_agreement(&self, whom: &[usize]) {
        let heads: BTreeSet<_> = whom
            .iter()
            .map(|index| self.member(*index).status().ledger_head)
            .collect();
        let adapters: BTreeSet<_> = whom
            .iter()
            .map(|index| self.member(*index).adapter())
            .map(|a| a.unwrap().0)
            .collect();
        assert_eq!((heads.len(), adapters.len()), (1, 1));
    }

    fn rounds(&self, whom: usize) -> (u32, u32) {
        let status = self.member(whom).status();
        (status.rounds_opened, status.rounds_null)
    }
}

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

#[test]
fn an_invited_member_joins_and_an_absent_one_is_removed() {
    let mut net = Net::with(charter(5, 7, 262_144), 6, 8);
    net.train_ms = 4000;
    let digest = net.charter.digest();
    let invite = Invite::sign(
        &identity(0),
        digest,
        crate::names::MemberId(0),
        [1; 16],
        None,
        1,
        0,
    );
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
    let key = crate::outbox::slot_key(Height(2), Kind::KeyAd, crate::names::MemberId(1));
    let good = Envelope::from_bytes(&stored[&(Table::Outbox, key)]).unwrap();
    let sign = |index: usize, kind, seq, body| {
        let sender = crate::names::MemberId(u32::try_from(index).unwrap());
        Envelope::sign(&identity(index), kind, sess, sender, seq, body).to_bytes()
    };
    let forged = Envelope {
        sender: crate::names::MemberId(2),
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
        let now = net.now;
        let member = net.nodes[0].member.as_mut().unwrap();
        let verdict = member.handle(now, Input::Received { from, bytes });
        let forged =
            verdict == Verdict::Refused(Refusal::Signature) && refusal == Refusal::Equivocation;
        assert!(
            forged || verdict == Verdict::Refused(refusal),
            "{verdict:?} instead of {refusal:?}"
        );
    }
    net.drain(0);
    net.run(&[0, 1, 2, 3], 300);
    assert_eq!(net.member(0).status().refused.total(), 7);
}
