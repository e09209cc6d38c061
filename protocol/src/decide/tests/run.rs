//! One height among several engines: a virtual clock, a lossy network, crashes, and an eye on what is signed.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::decide::wire::VoteBody;
use crate::decide::*;
use crate::envelope::Kind;
use crate::letter::Letter;
use crate::time::Span;

/// A message on its way.
#[derive(Clone)]
pub(super) enum Mail {
    Said(Envelope),
    Decided(Vec<u8>, Certificate),
}

pub(super) enum Event {
    Arrive(usize, Mail),
    Wake(usize),
    /// Time to repeat to somebody what one has heard.
    Gossip(usize),
    Restart(usize),
    /// The host learns what makes every record valid.
    Learn(usize),
}

pub(super) struct Node {
    pub(super) key: IdentityKey,
    pub(super) decider: Option<Decider>,
    pub(super) wal: Vec<Bytes>,
    pub(super) appends: usize,
    pub(super) decided: Option<(Vec<u8>, Certificate)>,
    pub(super) evidence: Vec<Evidence>,
    /// Records whose judgement it owes until it has learned.
    pub(super) owed: Vec<Digest>,
    pub(super) learned: bool,
    pub(super) awake: Option<Time>,
}

/// What a run does beside the plain course.
#[derive(Clone, Default)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) height: u64,
    pub(super) seed: u64,
    pub(super) loss_percent: u64,
    /// Node, number of the append, and whether the entry is durable when it dies.
    pub(super) crashes: Vec<(usize, usize, bool)>,
    /// The log is lost in the crash: the control.
    pub(super) forget: bool,
    /// When a node's host can judge at all.
    pub(super) late: BTreeMap<usize, u64>,
    /// Nodes that never run.
    pub(super) down: BTreeSet<usize>,
    /// Nodes whose records are invalid.
    pub(super) liars: BTreeSet<usize>,
    /// No repetition beside the core's own.
    pub(super) silent_gossip: bool,
}

pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) rng: ChaCha8Rng,
    pub(super) now: Time,
    pub(super) events: BTreeMap<(Time, u64), Event>,
    pub(super) count: u64,
    pub(super) nodes: Vec<Node>,
    /// Everything ever sent, by slot: the monitor's eye.
    pub(super) sent: BTreeMap<SentSlot, BTreeSet<Vec<u8>>>,
    pub(super) prevotes: BTreeSet<(usize, Digest)>,
    pub(super) crashed: usize,
}

pub(super) type SentSlot = (MemberId, u32, u32);

pub(super) const SESS: SessId = SessId(Digest([7; 32]));
pub(super) const LIMIT: Time = Time(600_000);

pub(super) fn key(node: usize) -> IdentityKey {
    let mut seed = [9; 32];
    seed[0] = u8::try_from(node).unwrap();
    IdentityKey::from_bytes(&seed)
}

pub(super) fn id(node: usize) -> MemberId {
    MemberId(u32::try_from(node).unwrap() * 3 + 1)
}

pub(super) fn voters(nodes: usize) -> Vec<Voter> {
    (0..nodes)
        .map(|node| Voter {
            member: id(node),
            key: key(node).public(),
        })
        .collect()
}

pub(super) const TIMERS: ConsensusTimers = ConsensusTimers {
    base: Span(1000),
    step: Span(500),
};

pub(super) fn fresh(plan: &Plan, node: usize) -> Decider {
    let height = Height(plan.height);
    Decider::new(height, SESS, Some(id(node)), voters(plan.nodes), TIMERS)
}

impl Run {
    pub(super) fn new(plan: Plan) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
        let nodes = (0..plan.nodes)
            .map(|node| Node {
                key: key(node),
                decider: Some(fresh(&plan, node)).filter(|_| !plan.down.contains(&node)),
                wal: Vec::new(),
                appends: 0,
                decided: None,
                evidence: Vec::new(),
                owed: Vec::new(),
                learned: !plan.late.contains_key(&node),
                awake: None,
            })
            .collect();
        let mut run = Self {
            rng: ChaCha8Rng::from_seed(seed),
            now: Time(0),
            events: BTreeMap::new(),
            count: 0,
            nodes,
            sent: BTreeMap::new(),
            prevotes: BTreeSet::new(),
            crashed: 0,
            plan,
        };
        for node in 0..run.plan.nodes {
            if run.plan.down.contains(&node) {
                continue;
            }
            let late = run.draw(300);
            run.at(late, Event::Restart(node));
            run.at(500 + late, Event::Gossip(node));
            if let Some(at) = run.plan.late.get(&node).copied() {
                run.at(at, Event::Learn(node));
            }
        }
        run
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    pub(super) fn at(&mut self, delay: u64, event: Event) {
        self.count += 1;
        self.events
            .insert((self.now + Span(delay), self.count), event);
    }

    pub(super) fn send(&mut self, to: usize, mail: Mail) {
        if let Mail::Said(envelope) = &mail
            && let Some((round, step)) = slot_of(envelope)
        {
            let slot = (envelope.sender, round, step);
            self.sent
                .entry(slot)
                .or_default()
                .insert(envelope.body.clone());
        }
        if self.draw(100) >= self.plan.loss_percent {
            let delay = 5 + self.draw(150);
            self.at(delay, Event::Arrive(to, mail));
        }
    }

    /// Runs until every running node has decided; the value is the time that it took.
    pub(super) fn go(&mut self) -> Result<Time, String> {
        loop {
            let running = |node: usize| !self.plan.down.contains(&node);
            if (0..self.plan.nodes)
                .filter(|node| running(*node))
                .all(|node| self.nodes[node].decided.is_some())
            {
                return Ok(self.now);
            }
            let Some(((now, _), event)) = self.events.pop_first() else {
                return Err(format!("seed {}: nothing more happens", self.plan.seed));
            };
            self.now = now;
            if now > LIMIT {
                return Err(format!("seed {}: undecided at {now:?}", self.plan.seed));
            }
            self.happen(event);
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(node, mail) => self.arrive(node, mail),
            Event::Wake(node) => {
                self.nodes[node].awake = None;
                self.tell(node, Feed::Wake);
            }
            Event::Gossip(node) => {
                self.gossip(node);
                self.at(500, Event::Gossip(node));
            }
            Event::Restart(node) => self.open(node),
            Event::Learn(node) => {
                self.nodes[node].learned = true;
                for record in core::mem::take(&mut self.nodes[node].owed) {
                    self.tell(
                        node,
                        Feed::Judged {
                            record,
                            valid: true,
                        },
                    );
                }
            }
        }
    }

    /// Starts the engine: the one that has been listening, or after a crash a new one with the log.
    pub(super) fn open(&mut self, node: usize) {
        let plan = &self.plan;
        let state = &mut self.nodes[node];
        if plan.forget && state.appends > 0 {
            state.wal.clear();
        }
        let decider = state.decider.get_or_insert_with(|| fresh(plan, node));
        decider
            .start(self.now, &state.wal, &state.key)
            .expect("the log replays");
        state.owed.clear();
        self.drain(node);
    }

    pub(super) fn arrive(&mut self, node: usize, mail: Mail) {
        match mail {
            Mail::Said(envelope) => self.tell(node, Feed::Letter(&Letter::of(envelope))),
            Mail::Decided(record, certificate) => self.tell(
                node,
                Feed::Certificate {
                    record,
                    certificate,
                },
            ),
        }
    }

    pub(super) fn gossip(&mut self, node: usize) {
        let peer = usize::try_from(self.draw(u64::try_from(self.plan.nodes).unwrap())).unwrap();
        if self.plan.silent_gossip || peer == node {
            return;
        }
        if let Some((record, certificate)) = self.nodes[node].decided.clone() {
            self.send(peer, Mail::Decided(record, certificate));
            return;
        }
        let Some(decider) = &self.nodes[node].decider else {
            return;
        };
        for envelope in decider.envelopes().cloned().collect::<Vec<_>>() {
            self.send(peer, Mail::Said(envelope));
        }
    }

    pub(super) fn tell(&mut self, node: usize, feed: Feed<'_>) {
        let now = self.now;
        let state = &mut self.nodes[node];
        if let Some(decider) = &mut state.decider {
            let verdict = decider.handle(now, feed, &state.key);
            assert!(
                !matches!(verdict, Verdict::Refused(_)),
                "an honest message was refused: {verdict:?}"
            );
        }
        self.drain(node);
    }

    pub(super) fn drain(&mut self, node: usize) {
        while let Some(effect) = self.nodes[node].decider.as_mut().and_then(Decider::poll) {
            self.perform(node, effect);
        }
        let state = &mut self.nodes[node];
        let deadline = state.decider.as_ref().and_then(Decider::deadline);
        if let Some(at) = deadline.filter(|at| state.awake.is_none_or(|awake| *at < awake)) {
            state.awake = Some(at);
            let delay = at - self.now;
            self.at(delay.0, Event::Wake(node));
        }
    }

    pub(super) fn perform(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Wal(entry) => self.append(node, entry),
            Effect::Publish(envelope) => {
                for peer in (0..self.plan.nodes).filter(|peer| *peer != node) {
                    self.send(peer, Mail::Said(envelope.clone()));
                }
                if let Some(body) = wire::decode::<VOTE_MAX, VoteBody>(&envelope.body)
                    .filter(|_| envelope.kind == Kind::Vote)
                    && body.step == Step::Prevote
                    && let Some(record) = body.record
                {
                    let own = record_digest(format!("record {node} {}", body.round).as_bytes());
                    let knows = self.nodes[node].learned || record == own;
                    assert!(knows, "node {node} prevoted what it could not judge");
                    self.prevotes.insert((node, record));
                }
            }
            Effect::NeedValue { round } => {
                let record = format!("record {node} {round}").into_bytes();
                self.tell(node, Feed::Value(record));
            }
            Effect::Judge {
                proposer, record, ..
            } => {
                let record = record_digest(&record);
                if self.plan.liars.iter().any(|liar| id(*liar) == proposer) {
                    self.tell(
                        node,
                        Feed::Judged {
                            record,
                            valid: false,
                        },
                    );
                } else if self.nodes[node].learned {
                    self.tell(
                        node,
                        Feed::Judged {
                            record,
                            valid: true,
                        },
                    );
                } else {
                    self.nodes[node].owed.push(record);
                }
            }
            Effect::Decided {
                record,
                certificate,
            } => {
                certificate
                    .verify(SESS, &voters(self.plan.nodes))
                    .expect("the certificate holds");
                assert_eq!(certificate.record, record_digest(&record));
                self.nodes[node].decided = Some((record.to_vec(), certificate));
            }
            Effect::Evidence(evidence) => self.nodes[node].evidence.push(*evidence),
            Effect::Fault(reason) => panic!("seed {}: node {node}: {reason}", self.plan.seed),
        }
    }

    pub(super) fn append(&mut self, node: usize, entry: Vec<u8>) {
        let state = &mut self.nodes[node];
        state.appends += 1;
        let appends = state.appends;
        let crash = self
            .plan
            .crashes
            .iter()
            .find(|(who, when, _)| *who == node && *when == appends);
        match crash {
            Some((_, _, durable)) => {
                if *durable {
                    state.wal.push(entry.into());
                }
                state.decider = None;
                state.awake = None;
                self.crashed += 1;
                self.at(800, Event::Restart(node));
            }
            None => state.wal.push(entry.into()),
        }
    }

    /// Slots in which a sender said two things.
    pub(super) fn double_signed(&self) -> usize {
        self.sent.values().filter(|bodies| bodies.len() > 1).count()
    }

    pub(super) fn agreed(&self) -> bool {
        let records: BTreeSet<_> = self
            .nodes
            .iter()
            .filter_map(|node| node.decided.as_ref())
            .map(|(record, _)| record)
            .collect();
        records.len() <= 1
    }

    pub(super) fn round(&self) -> u32 {
        let decided = self.nodes.iter().filter_map(|node| node.decided.as_ref());
        decided
            .map(|(_, certificate)| certificate.round)
            .max()
            .unwrap()
    }
}
