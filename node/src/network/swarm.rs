//! The swarm's loop: orders of the driver in, what the network says out.
//!
//! Orders are always taken, so the driver never waits for the network while the network waits for the driver; peers
//! are listened to only while there is room for what they say.

mod events;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conclave_protocol::input::Verdict;
use conclave_protocol::letter::Letter;
use conclave_protocol::output::Topic;
use futures::StreamExt as _;
use libp2p::gossipsub::{MessageAcceptance, PublishError};
use libp2p::identity::Keypair;
use libp2p::swarm::Swarm;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, StreamProtocol, kad};
use tokio::sync::mpsc;

use super::behaviour::{Behaviour, Topics, transport};
use super::count::Counters;
use super::direct::{self, Direct};
use super::directory::{Directory, Try};
use super::listen::{listen, useful};
use super::names::{peer_of, protocol};
use super::transfer::{self, Wanted};
use super::{Command, GossipId, NetworkError, NetworkEvent, NetworkSetup};
use crate::store::Blobs;

/// The swarm with all that its loop holds.
pub(super) struct Loop {
    swarm: Swarm<Behaviour>,
    directory: Directory,
    direct: Direct,
    topics: Topics,
    /// The discovery key of the federation.
    charter: kad::RecordKey,
    blob: StreamProtocol,
    /// What stands in the own tables.
    home: Blobs,
    /// To the driver.
    heard: mpsc::Sender<NetworkEvent>,
    /// What the driver has had no room for yet.
    pending: VecDeque<NetworkEvent>,
    /// What streams have brought.
    inward: (mpsc::Sender<NetworkEvent>, mpsc::Receiver<NetworkEvent>),
    /// Large messages that were found sound, and when they are passed on.
    held: VecDeque<(Instant, GossipId)>,
    /// Members whose connection was told of.
    told: BTreeSet<PeerId>,
    /// Where guests are, as they say, until they are admitted.
    guests: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Strangers that were already complained about.
    strangers: BTreeSet<PeerId>,
    next_search: Instant,
}

impl Loop {
    /// Makes the swarm and binds its addresses.
    pub(super) fn new(
        setup: NetworkSetup<'_>,
        counters: &Arc<Counters>,
        heard: mpsc::Sender<NetworkEvent>,
    ) -> Result<Self, NetworkError> {
        let keypair =
            Keypair::ed25519_from_bytes(setup.identity.to_bytes().to_vec()).map_err(|error| {
                NetworkError::Transport {
                    detail: error.to_string(),
                }
            })?;
        let me = keypair.public().to_peer_id();
        let topics = Topics::new(&setup.charter);
        let mut swarm = Swarm::new(
            transport(&keypair, counters)?,
            Behaviour::new(&setup, &keypair, &topics)?,
            me,
            libp2p::swarm::Config::with_tokio_executor()
                .with_idle_connection_timeout(Duration::from_secs(24 * 3600)),
        );
        for address in &setup.addressing.listen {
            listen(&mut swarm, address)?;
        }
        for address in &setup.addressing.announce {
            swarm.add_external_address(address.clone());
        }
        let inward = mpsc::channel(INWARD);
        let (direct, blob) = streams(&swarm, &setup, &inward.0)?;
        let mut looped = Self {
            directory: Directory::new(me, None, setup.addressing.bootstrap),
            direct,
            topics,
            charter: kad::RecordKey::new(setup.charter.as_bytes()),
            blob,
            home: setup.blobs.clone(),
            heard,
            pending: VecDeque::new(),
            inward,
            held: VecDeque::new(),
            told: BTreeSet::new(),
            guests: BTreeMap::new(),
            strangers: BTreeSet::new(),
            next_search: Instant::now(),
            swarm,
        };
        looped.admit(setup.members.iter().filter_map(peer_of));
        let named = looped.directory.named();
        looped.admit(named);
        for (member, addresses) in setup.known {
            let Some(peer) = peer_of(&member) else {
                continue;
            };
            for address in addresses {
                looped.learn(peer, address);
            }
        }
        Ok(looped)
    }

    /// Runs until the driver closes the network or is gone.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.swarm
            .behaviour_mut()
            .kad
            .start_providing(self.charter.clone())
            .ok();
        let heard = self.heard.clone();
        let done = loop {
            let room = self.pending.len() < PENDING;
            let release = self.held.front().map_or_else(Instant::now, |(due, _)| *due);
            tokio::select! {
                place = heard.reserve(), if !self.pending.is_empty() => {
                    let Ok(place) = place else { return };
                    if let Some(heard) = self.pending.pop_front() {
                        place.send(heard);
                    }
                }
                order = orders.recv() => match order {
                    None => return,
                    Some(Command::Close { done }) => break done,
                    Some(order) => self.obey(order),
                },
                Some(heard) = self.inward.1.recv(), if room => self.pending.push_back(heard),
                event = self.swarm.select_next_some(), if room => self.on_event(event),
                () = tokio::time::sleep_until(release.into()), if !self.held.is_empty() => {
                    self.release(Instant::now());
                }
                _ = tick.tick() => {
                    self.seek(Instant::now());
                    self.close_door(Instant::now());
                }
            }
        };
        self.drain().await;
        drop(self);
        done.send(()).ok();
    }

    /// Lets what is queued go out, for at most `DRAIN`.
    async fn drain(&mut self) {
        let mut tick = tokio::time::interval(GOODBYE);
        tick.tick().await;
        let end = Instant::now() + DRAIN;
        while Instant::now() < end {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                _ = tick.tick() => if self.direct.idle() { return },
            }
        }
    }

    fn obey(&mut self, order: Command) {
        match order {
            Command::Publish { topic, letter } => self.publish(topic, &letter),
            Command::Send { to, letter } => {
                if let Some(to) = peer_of(&to) {
                    self.send(to, letter);
                }
            }
            Command::Pull { name, length, from } => {
                let me = *self.swarm.local_peer_id();
                let holders = from.iter().filter_map(peer_of).filter(|peer| *peer != me);
                let wanted = Wanted {
                    name,
                    length,
                    holders: holders.collect(),
                };
                let control = self.swarm.behaviour().streams.new_control();
                let (blob, inward) = (self.blob.clone(), self.inward.0.clone());
                let home = self.home.clone();
                tokio::spawn(async move {
                    let event = match transfer::pull(control, blob, wanted, home).await {
                        Ok(Some(bytes)) => NetworkEvent::Pulled { name, bytes },
                        Ok(None) => NetworkEvent::PullFailed { name },
                        Err(error) => NetworkEvent::Disk { error },
                    };
                    inward.send(event).await.ok();
                });
            }
            Command::Judged { gossip, verdict } => {
                let acceptance = match verdict {
                    Verdict::Accepted => MessageAcceptance::Accept,
                    Verdict::Ignored => MessageAcceptance::Ignore,
                    Verdict::Refused(_) => MessageAcceptance::Reject,
                };
                if matches!(verdict, Verdict::Accepted) && gossip.length > LARGE {
                    self.held.push_back((Instant::now() + HOLD, gossip));
                } else {
                    self.report(&gossip, acceptance);
                }
            }
            Command::Dismiss { guests } => self.dismiss(guests.iter().filter_map(peer_of)),
            Command::Admit { members } => self.admit(members.iter().filter_map(peer_of)),
            Command::Close { .. } => {}
        }
    }

    fn report(&mut self, gossip: &GossipId, acceptance: MessageAcceptance) {
        self.swarm
            .behaviour_mut()
            .gossip
            .report_message_validation_result(&gossip.message, &gossip.from, acceptance);
    }

    /// Passes on the large messages that were held for long enough.
    fn release(&mut self, now: Instant) {
        while self.held.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, gossip)) = self.held.pop_front() {
                self.report(&gossip, MessageAcceptance::Accept);
            }
        }
    }

    /// Gossips; what gossip will not carry again, or cannot carry yet, goes to every connected member directly.
    fn publish(&mut self, topic: Topic, letter: &Letter) {
        let topic = match topic {
            Topic::Control => &self.topics.control,
            Topic::Vote => &self.topics.vote,
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        match gossip.publish(topic.hash(), letter.to_vec()) {
            Ok(_) => {}
            Err(PublishError::Duplicate | PublishError::NoPeersSubscribedToTopic) => {
                for peer in self.directory.reached().collect::<Vec<_>>() {
                    self.send(peer, letter.clone());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a message could not be published");
            }
        }
    }

    fn send(&mut self, to: PeerId, letter: Letter) {
        if !self.swarm.is_connected(&to) || !self.direct.send(to, letter) {
            tracing::debug!(%to, "a directed message is lost");
        }
    }

    /// Keeps contact with these peers from now on; one that came as a guest is told of now.
    fn admit(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        for peer in peers {
            if self.directory.admit(peer) {
                self.swarm.behaviour_mut().door.admit(peer);
                for address in self.guests.remove(&peer).unwrap_or_default() {
                    self.learn(peer, address);
                }
                if self.swarm.is_connected(&peer) {
                    self.directory.connected(peer, None);
                    self.introduce(peer);
                }
            }
        }
    }

    fn dismiss(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        for peer in peers {
            self.directory.dismiss(&peer);
            self.swarm.behaviour_mut().door.dismiss(&peer);
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
            self.swarm.disconnect_peer_id(peer).ok();
        }
    }

    /// Guests that showed no invitation in time are strangers.
    fn close_door(&mut self, now: Instant) {
        for peer in self.swarm.behaviour_mut().door.overdue(now) {
            if self.swarm.disconnect_peer_id(peer).is_ok() {
                self.count_stranger(Some(peer));
            }
        }
    }

    /// Notes where a member is.
    fn learn(&mut self, peer: PeerId, address: Multiaddr) {
        if useful(&address) && self.directory.learn(&peer, address.clone()) {
            self.swarm.behaviour_mut().kad.add_address(&peer, address);
        }
    }

    /// Tries whom we miss, and asks Kademlia for them.
    fn seek(&mut self, now: Instant) {
        for attempt in self.directory.due(now) {
            let options = match attempt {
                Try::Member(peer, addresses) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .addresses(addresses)
                    .extend_addresses_through_behaviour()
                    .build(),
                Try::Address(address) => DialOpts::unknown_peer_id().address(address).build(),
            };
            if let Err(error) = self.swarm.dial(options) {
                tracing::trace!(%error, "nobody to dial");
            }
        }
        if self.directory.incomplete() && now >= self.next_search {
            self.next_search = now + SEARCH;
            let kad = &mut self.swarm.behaviour_mut().kad;
            kad.bootstrap().ok();
            kad.get_providers(self.charter.clone());
            for peer in self.directory.missing().into_iter().take(SOUGHT) {
                kad.get_closest_peers(peer);
            }
        }
    }
}

/// Opens the doors for directed messages and blobs.
fn streams(
    swarm: &Swarm<Behaviour>,
    setup: &NetworkSetup<'_>,
    inward: &mpsc::Sender<NetworkEvent>,
) -> Result<(Direct, StreamProtocol), NetworkError> {
    let taken = |_| NetworkError::Transport {
        detail: "a stream protocol is registered twice".to_owned(),
    };
    let mut control = swarm.behaviour().streams.new_control();
    let direct = protocol(&setup.charter, "direct");
    let blob = protocol(&setup.charter, "blob");
    let incoming = control.accept(direct.clone()).map_err(taken)?;
    tokio::spawn(direct::listen(incoming, setup.envelope_max, inward.clone()));
    let incoming = control.accept(blob.clone()).map_err(taken)?;
    tokio::spawn(transfer::serve(incoming, setup.blobs.clone()));
    Ok((Direct::new(control, direct), blob))
}

/// Events that wait for the driver before peers are no longer listened to.
const PENDING: usize = 256;
/// Messages and blobs of streams that wait for the loop.
const INWARD: usize = 64;
/// A message longer than this is passed on late, in bytes.
const LARGE: usize = 16 << 10;
/// How late. Those who have it by then have said so, and are spared: where everybody has it from its author, nobody
/// sends it twice. (Without this, five nodes carry 2.3 times the bytes.)
const HOLD: Duration = Duration::from_millis(300);
/// How long gossip has to go out before the network closes.
const GOODBYE: Duration = Duration::from_millis(250);
/// How long directed messages have.
const DRAIN: Duration = Duration::from_millis(1500);
/// Members that one search asks for by name.
const SOUGHT: usize = 8;
/// Between two searches for members that are missing.
const SEARCH: Duration = Duration::from_secs(5);
