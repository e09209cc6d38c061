//! A small world: one queue in virtual time, everything delivered or lost by a seed.

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

use crate::charter::{self, Charter, Founder, Timers};
use crate::input::Input;
use crate::layout::Layout;
use crate::member::Member;
use crate::message::Invite;
use crate::names::Height;
use crate::output::{Order, Output, Report, Stored, Table};
use crate::params;
use crate::setup::Setup;
use crate::status::Outcome;
use crate::time::{Span, Time};

/// Coordinates of the test adapter: four of A, six of B.
pub(super) const LEN: usize = 10;

/// Where blobs stand.
const BLOBS: [Table; 3] = [Table::Vectors, Table::Shards, Table::Adapters];

pub(super) struct Node {
    pub(super) key: [u8; 32],
    pub(super) member: Option<Member>,
    pub(super) stored: Stored,
    pub(super) reports: Vec<Report>,
    /// Every delta trained, by height.
    pub(super) trained: BTreeMap<Height, Vec<f32>>,
    pub(super) invite: Option<Invite>,
    pub(super) starts: u8,
    /// Crash at this many outputs from now.
    pub(super) fuse: Option<usize>,
    pub(super) died_at: Option<Time>,
}

pub(super) struct Net {
    pub(super) charter: Charter,
    pub(super) nodes: Vec<Node>,
    pub(super) queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    pub(super) inputs: BTreeMap<u64, Input>,
    pub(super) count: u64,
    pub(super) now: Time,
    pub(super) rng: ChaCha20Rng,
    /// Of a thousand messages, so many are lost.
    pub(super) loss: u32,
    /// Kill this node when it trains at this height.
    pub(super) kill: Option<(usize, Height)>,
    pub(super) restart_after: Option<Span>,
    pub(super) train_ms: u64,
    /// Engines that fail.
    pub(super) failing: BTreeSet<(usize, Height)>,
    /// Who hands wrong bytes to whom.
    pub(super) garbles: BTreeSet<(usize, usize)>,
    /// Blobs that were asked for: by whom, and which.
    pub(super) pulls: Vec<(usize, Digest)>,
    /// Blobs that are found to be damaged when they are read.
    pub(super) damaged: BTreeSet<(usize, Vec<u8>)>,
}

pub(super) fn identity(index: usize) -> IdentityKey {
    IdentityKey::from_bytes(&[u8::try_from(index).unwrap() + 1; 32])
}

pub(super) fn charter(founders: usize, rounds: u32, inline_limit: u64) -> Charter {
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
            method: charter::Method::Lora(charter::Lora {
                r: 2,
                alpha: 4,
                ..charter::Lora::default()
            }),
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
            members_max: Charter::default_members_max(founders),
            ..charter::Aggregation::default()
        },
        admission: charter::Admission::Invite,
        members: members.collect(),
    }
    .checked()
    .unwrap()
}

pub(super) fn layout() -> Layout {
    Layout {
        shape: Digest([3; 32]),
        len: LEN,
        a: vec![0..4],
        b: vec![4..10],
    }
}

impl Net {
    pub(super) fn new(founders: usize, rounds: u32, seed: u64) -> Self {
        Self::with(charter(founders, rounds, 262_144), founders, seed)
    }

    pub(super) fn with(charter: Charter, nodes: usize, seed: u64) -> Self {
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
            failing: BTreeSet::new(),
            garbles: BTreeSet::new(),
            pulls: Vec::new(),
            damaged: BTreeSet::new(),
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

    pub(super) fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.starts += 1;
        let setup = Setup {
            charter: self.charter.clone(),
            identity: IdentityKey::from_bytes(&node.key),
            name: format!("m{index}"),
            examples: 64 << index.min(3),
            layout: layout(),
            initial: (0..LEN).map(|i| i as f32 / 8.0).collect::<Vec<_>>().into(),
            invite: node.invite.clone(),
            intact: true,
            memo: crate::memo::Remembered::default(),
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

    pub(super) fn crash(&mut self, index: usize) {
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

    pub(super) fn push(&mut self, to: usize, after: u64, input: Input) {
        self.count += 1;
        self.inputs.insert(self.count, input);
        self.queue
            .push(Reverse((self.now + Span(after), self.count, to)));
    }

    pub(super) fn carry(&mut self, from: usize, to: usize, bytes: &[u8]) {
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
                bytes: bytes.to_vec().into(),
            },
        );
    }

    /// Performs a node's outputs, in order; a burning fuse ends it in the middle.
    pub(super) fn drain(&mut self, index: usize) {
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

    pub(super) fn perform(&mut self, index: usize, output: Output) {
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
                self.pulls.push((index, name));
                if self.damaged.remove(&(index, name.as_bytes().to_vec())) {
                    for table in BLOBS {
                        let stored = &mut self.nodes[index].stored;
                        stored.remove(&(table, name.as_bytes().to_vec()));
                    }
                }
                let held = |node: usize| {
                    self.nodes[node].member.as_ref()?;
                    let row = |table| (table, name.as_bytes().to_vec());
                    let mut rows = BLOBS.into_iter().map(row);
                    let bytes = rows.find_map(|row| self.nodes[node].stored.get(&row).cloned())?;
                    let mut bytes = bytes.to_vec();
                    if self.garbles.contains(&(node, index)) {
                        bytes[0] ^= 1;
                    }
                    Some(bytes.into())
                };
                let node = |key: &PublicKey| {
                    (0..self.nodes.len()).find(|node| identity(*node).public() == *key)
                };
                let mut holders = core::iter::once(index).chain(from.iter().filter_map(node));
                let input = match holders.find_map(held) {
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
                if self.failing.contains(&(index, height)) {
                    let reason = "out of memory".to_owned();
                    self.push(index, 10, Input::TrainFailed { height, reason });
                    return;
                }
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

    pub(super) fn finished(&self, index: usize) -> bool {
        self.nodes[index]
            .member
            .as_ref()
            .is_some_and(|member| member.status().finished)
    }

    /// Runs until the given nodes are finished; panics with what they wait for when the time is over.
    pub(super) fn run(&mut self, whom: &[usize], seconds: u64) {
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

    pub(super) fn step(&mut self) {
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

    pub(super) fn member(&self, index: usize) -> &Member {
        self.nodes[index].member.as_ref().unwrap()
    }

    /// Every opened round's adapter equals the plain weighted sum of its survivors' clipped, quantised deltas.
    pub(super) fn check_sums(&self, whom: usize) {
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
            let mut part = layout().gather(factor, &adapter);
            scale.apply(&mut part, &ring, total);
            layout().scatter(factor, &part, &mut adapter);
        }
        let digest = conclave_crypto::fixed::adapter_digest(&layout().shape, &adapter);
        assert_eq!(
            member.ledger().certified(),
            Some(digest),
            "the adapter is not the plain sum"
        );
    }

    pub(super) fn check_agreement(&self, whom: &[usize]) {
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

    pub(super) fn rounds(&self, whom: usize) -> (u32, u32) {
        let status = self.member(whom).status();
        (status.rounds_opened, status.rounds_null)
    }
}
