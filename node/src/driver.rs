//! The only loop: the inputs that are there into the member, its outputs performed in order, then the next.
//!
//! `Store` before `Send`: what is to be stored becomes durable, together, before anything later happens.
//! The loop sleeps on one deadline. It never decides anything: rules stand in the protocol.

mod clock;
mod durable;
mod guests;
mod peers;
mod rounds;
mod told;

use std::time::Duration;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;
use conclave_protocol::input::{Input, Verdict};
use conclave_protocol::letter::Letter;
use conclave_protocol::member::Member;
use conclave_protocol::names::Height;
use conclave_protocol::output::Topic;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::clock::Clock;
pub use self::guests::Guests;
use self::guests::is_join;
pub use self::peers::Peers;
pub use self::rounds::Sights;
pub use self::told::Told;
use crate::api::{Ask, Question};
use crate::learn::engine::{Engine, EngineReport};
use crate::network::{GossipId, Network, NetworkEvent};
use crate::store::{Store, StoreError};

/// Everything that the loop joins.
#[derive(Debug)]
pub struct Driver {
    /// The protocol.
    pub member: Member,
    /// Its durable state.
    pub store: Store,
    /// The federation.
    pub network: Network,
    /// What the network says.
    pub events: mpsc::Receiver<NetworkEvent>,
    /// The trainer.
    pub engine: Engine,
    /// Questions of the local API.
    pub asks: mpsc::Receiver<Ask>,
    /// What the operator is told.
    pub told: Told,
    /// The clock, which goes on while the machine's may jump.
    pub clock: Clock,
    /// Newcomers that may talk to us.
    pub guests: Guests,
    /// Whether the store may have lost what this node had said, and the others have yet to tell it.
    pub doubtful: bool,
}

/// How a node's life ended in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The job is done.
    Finished {
        /// The ledger's head.
        head: Digest,
        /// The certified adapter.
        adapter: Digest,
    },
    /// It left the federation in order, or could not: the reason then.
    Left {
        /// Why the others still count on it.
        reason: Option<String>,
    },
    /// The operator stopped it.
    Stopped,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Leave in order, then stop.
    Leave,
    /// Stop at once.
    Now,
}

/// Why a node stopped otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The durable state failed: nothing was said that is not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The protocol stopped the member.
    #[error("{reason}")]
    Halted {
        /// What, where, and what to do.
        reason: String,
    },
    /// The network's task ended.
    #[error("the network stopped unexpectedly: start the node again, nothing durable was lost")]
    Network,
}

/// How long events are taken one after the other, if they are there, before what they lead to is done.
const TOGETHER: Duration = Duration::from_millis(5);

/// How long the end of the job waits for the engine's last evaluation.
const EVALUATION_WAIT: Duration = Duration::from_secs(120);

impl Driver {
    /// Runs until the job is done, the operator stops it, or it cannot go on. After a [`Stop::Leave`] it goes on until
    /// a record has released it, at most for `patience`; a second one, or [`Stop::Now`], ends it at once.
    pub async fn run(
        mut self,
        mut stops: mpsc::Receiver<Stop>,
        patience: Duration,
    ) -> Result<(End, Told), DriverError> {
        let ended = self.turn(&mut stops, patience).await;
        self.told
            .leave(&self.member.status(), self.network.counters());
        self.network.close().await;
        ended.map(|end| (end, self.told))
    }

    async fn turn(
        &mut self,
        stops: &mut mpsc::Receiver<Stop>,
        patience: Duration,
    ) -> Result<End, DriverError> {
        let mut leave_by: Option<Instant> = None;
        let mut end = self.perform()?;
        loop {
            if let Some(end) = end.take() {
                if matches!(end, End::Finished { .. }) {
                    self.finish(stops).await;
                }
                return Ok(end);
            }
            let wake = self.clock.until(self.member.deadline());
            tokio::select! {
                biased;
                Some(stop) = stops.recv() => {
                    if stop == Stop::Now || leave_by.is_some() || !self.reaches_quorum() {
                        return Ok(End::Stopped);
                    }
                    leave_by = Some(Instant::now() + patience);
                    self.told.leaving = true;
                    tracing::warn!("leaving in order; a second signal stops at once");
                    self.handle(Input::Leave);
                }
                () = sleep_until(leave_by.unwrap_or_else(Instant::now)), if leave_by.is_some() => {
                    let reason = format!("no record released it within {} s", patience.as_secs());
                    return Ok(End::Left { reason: Some(reason) });
                }
                Some(ask) = self.asks.recv() => {
                    self.answer(ask);
                    continue;
                }
                report = self.engine.next() => match report {
                    Some(report) => self.learned(report),
                    None => return Err(DriverError::Halted { reason: "the engine stopped unexpectedly".to_owned() }),
                },
                event = self.events.recv() => {
                    self.take(event)?;
                    // What has come meanwhile shares the writes to the disk.
                    let end = Instant::now() + TOGETHER;
                    while Instant::now() < end && let Ok(event) = self.events.try_recv() {
                        self.take(Some(event))?;
                    }
                }
                () = sleep(wake) => {
                    self.handle(Input::Wake);
                }
            }
            end = self.perform()?;
        }
    }

    /// Whether enough members are connected to decide anything: only then can a record release this one.
    fn reaches_quorum(&self) -> bool {
        let ledger = self.member.ledger();
        let roster = ledger.roster(ledger.next());
        roster.is_some_and(|roster| self.told.peers.connected() + 1 >= roster.quorum())
    }

    /// Gives one input to the member. Masks may be grown in it: other tasks go on meanwhile.
    fn handle(&mut self, input: Input) -> Verdict {
        let now = self.clock.now();
        tokio::task::block_in_place(|| self.member.handle(now, input))
    }

    fn take(&mut self, event: Option<NetworkEvent>) -> Result<(), DriverError> {
        match event {
            Some(NetworkEvent::Disk { error }) => return Err(error.into()),
            Some(event) => self.heard(event),
            None => return Err(DriverError::Network),
        }
        Ok(())
    }

    fn heard(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Received {
                from,
                bytes,
                gossip,
            } => self.received(from, &Letter::from(bytes), gossip),
            NetworkEvent::Connected { peer, addresses } => {
                tracing::info!(peer = %peer.short(), "connected");
                if let Err(error) = self.store.remember(peer.as_bytes(), &addresses) {
                    tracing::warn!(%error, "the peer's addresses were not remembered");
                }
                self.told.peers.meet(peer, self.clock.now(), addresses);
                self.handle(Input::Connected { peer });
            }
            NetworkEvent::Disconnected { peer } => {
                tracing::info!(peer = %peer.short(), "disconnected");
                self.told.peers.lose(&peer);
                self.handle(Input::Disconnected { peer });
            }
            NetworkEvent::Pulled { name, bytes } => {
                self.handle(Input::Pulled { name, bytes });
            }
            // Whoever waits for the end of the job needs no blobs any more.
            NetworkEvent::Disk { error } => tracing::warn!(%error, "a blob was not written"),
            NetworkEvent::PullFailed { name } => {
                self.handle(Input::PullFailed { name });
            }
            NetworkEvent::Listening { address } => {
                tracing::info!(%address, "listening");
                self.told.listening.push(address);
            }
            NetworkEvent::ListeningEnded { address } => {
                tracing::info!(%address, "listening no more");
                self.told.listening.retain(|known| *known != address);
            }
            NetworkEvent::Stranger => self.told.strangers += 1,
            NetworkEvent::Offence { from, refusal } => {
                let ledger = self.member.ledger();
                self.told.peers.refuse(&from, ledger, refusal);
            }
        }
    }

    /// Guests that cannot enter any more are talked to no longer.
    fn see_off(&mut self) {
        let now = self.clock.now().0;
        let gone = self.guests.depart(self.member.ledger(), now);
        for guest in &gone {
            self.told.peers.forget(guest);
        }
        if !gone.is_empty() {
            self.network.dismiss(gone);
        }
    }

    fn received(&mut self, from: PublicKey, letter: &Letter, gossip: Option<GossipId>) {
        let (ledger, now) = (self.member.ledger(), self.clock.now().0);
        if self.guests.shows_invitation(ledger, from, letter, now) {
            tracing::info!(peer = %from.short(), "a newcomer shows its invitation");
            self.network.admit(vec![from]);
        }
        // A newcomer knows few: what it told one of us concerns all.
        let hand_on = gossip.is_none() && is_join(letter);
        let now = self.clock.now();
        self.told.peers.hear(&from, self.member.ledger(), now);
        let verdict = self.handle(Input::Received {
            from,
            bytes: letter.clone(),
        });
        if let Verdict::Refused(refusal) = verdict {
            let ledger = self.member.ledger();
            self.told.peers.refuse(&from, ledger, refusal);
            tracing::debug!(peer = %from, ?refusal, "refused a message");
        }
        if let Some(gossip) = gossip {
            self.network.judged(gossip, verdict);
        }
        if hand_on && verdict == Verdict::Accepted {
            self.network.publish(Topic::Control, letter.clone());
        }
    }

    fn learned(&mut self, report: EngineReport) {
        self.told.learned(&report);
        match report {
            EngineReport::Progress {
                height, done, of, ..
            } => {
                self.handle(Input::Progress { height, done, of });
            }
            EngineReport::Trained { height, delta, .. } => {
                self.handle(Input::Trained { height, delta });
            }
            EngineReport::Failed { height, reason } => {
                self.handle(Input::TrainFailed { height, reason });
            }
            EngineReport::Evaluated { .. } | EngineReport::Warning { .. } => {}
        }
    }

    fn answer(&self, ask: Ask) {
        let (ledger, network) = (self.member.ledger(), &self.network);
        let answer = match ask.question {
            Question::Status => self.told.status(&self.member.status(), network.counters()),
            Question::Peers => {
                let (me, now) = (self.member.status().member, self.clock.now());
                let (peers, strangers) = (&self.told.peers, self.told.strangers);
                peers.show(ledger, &me, now, strangers, |peer| {
                    network.counters_of(peer)
                })
            }
            Question::Rounds => rounds::show(ledger, &self.told.sights),
        };
        // The asker may have gone away meanwhile.
        let _gone = ask.reply.send(answer);
    }

    /// Notes how those that a round left out look from here, for whoever asks later why.
    fn look_at_missed(&mut self, height: Height) {
        let (ledger, now) = (self.member.ledger(), self.clock.now());
        let me = self.member.status().member;
        if ledger.round(height).is_none() {
            return;
        }
        for id in rounds::left_out(ledger, height) {
            let key = ledger.person(id).map(|person| person.key);
            if let Some(key) = key.filter(|key| *key != me) {
                let sight = self.told.peers.sight(&key, now);
                self.told.sights.note(height, key, sight);
            }
        }
    }

    /// The job is done: the last adapter is still being evaluated, and peers may still ask for the closing record.
    async fn finish(&mut self, stops: &mut mpsc::Receiver<Stop>) {
        let deadline = Instant::now() + EVALUATION_WAIT;
        while self.told.is_evaluating() {
            tokio::select! {
                Some(_) = stops.recv() => return,
                () = sleep_until(deadline) => {
                    tracing::warn!("the last adapter was not evaluated in time");
                    return;
                }
                Some(ask) = self.asks.recv() => self.answer(ask),
                Some(report) = self.engine.next() => self.told.learned(&report),
                Some(event) = self.events.recv() => {
                    self.heard(event);
                    if let Err(error) = self.perform() {
                        tracing::warn!(%error, "after the end");
                        return;
                    }
                }
            }
        }
    }
}
