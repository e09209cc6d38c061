//! What the swarm says, turned into what the driver is told.

use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::{ConnectionDenied, DialError, ListenError, SwarmEvent};
use libp2p::{PeerId, gossipsub, identify, kad};

use super::Loop;
use crate::network::behaviour::BehaviourEvent;
use crate::network::door::NoMember;
use crate::network::names::member_of;
use crate::network::{GossipId, NetworkEvent};

impl Loop {
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint, ..
            } => self.on_connected(peer_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                ..
            } => self.on_disconnected(&peer_id),
            SwarmEvent::IncomingConnectionError {
                error: ListenError::Denied { cause },
                peer_id,
                ..
            }
            | SwarmEvent::OutgoingConnectionError {
                error: DialError::Denied { cause },
                peer_id,
                ..
            } => self.on_denied(peer_id, cause),
            SwarmEvent::OutgoingConnectionError { error, peer_id, .. } => {
                tracing::debug!(?peer_id, %error, "a call failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.pending.push_back(NetworkEvent::Listening { address });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.pending
                    .push_back(NetworkEvent::ListeningEnded { address });
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener stumbled");
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        let dialled = match endpoint {
            ConnectedPoint::Dialer { address, .. } => Some(address),
            ConnectedPoint::Listener { .. } => None,
        };
        self.directory.connected(peer, dialled);
        if self.swarm.behaviour().door.knows(&peer) {
            self.next_search = Instant::now();
        }
    }

    /// A member is told of once it has said where it is (or would not); a guest once it is let in.
    pub(super) fn introduce(&mut self, peer: PeerId) {
        if self.swarm.is_connected(&peer)
            && self.swarm.behaviour().door.knows(&peer)
            && self.told.insert(peer)
            && let Some(member) = member_of(&peer)
        {
            tracing::debug!(member = %member.short(), "connected");
            let addresses = self.directory.addresses(&peer);
            self.pending.push_back(NetworkEvent::Connected {
                peer: member,
                addresses: addresses.iter().map(ToString::to_string).collect(),
            });
        }
    }

    fn on_disconnected(&mut self, peer: &PeerId) {
        self.directory.disconnected(peer);
        self.direct.close(peer);
        self.guests.remove(peer);
        if self.told.remove(peer)
            && let Some(member) = member_of(peer)
        {
            tracing::debug!(member = %member.short(), "disconnected");
            self.pending
                .push_back(NetworkEvent::Disconnected { peer: member });
        }
    }

    fn on_denied(&mut self, peer: Option<PeerId>, cause: ConnectionDenied) {
        if cause.downcast::<NoMember>().is_ok() {
            self.count_stranger(peer);
        }
    }

    pub(super) fn count_stranger(&mut self, peer: Option<PeerId>) {
        self.pending.push_back(NetworkEvent::Stranger);
        if let Some(peer) = peer
            && self.strangers.len() < STRANGERS
            && self.strangers.insert(peer)
        {
            tracing::warn!(%peer, "a peer that is no member of this federation called");
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            }) => {
                if let Some(from) = member_of(&propagation_source) {
                    self.pending.push_back(NetworkEvent::Received {
                        from,
                        gossip: Some(GossipId {
                            message: message_id,
                            from: propagation_source,
                            length: message.data.len(),
                        }),
                        bytes: message.data,
                    });
                }
            }
            BehaviourEvent::Gossip(gossipsub::Event::SlowPeer {
                peer_id,
                failed_messages,
            }) => {
                tracing::debug!(%peer_id, ?failed_messages, "a peer takes messages too slowly");
            }
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let addresses = info.listen_addrs.into_iter().take(TOLD);
                if self.swarm.behaviour().door.knows(&peer_id) {
                    for address in addresses {
                        self.learn(peer_id, address);
                    }
                } else if self.swarm.is_connected(&peer_id) {
                    self.guests.insert(peer_id, addresses.collect());
                }
                self.introduce(peer_id);
            }
            BehaviourEvent::Identify(identify::Event::Error { peer_id, .. }) => {
                self.introduce(peer_id);
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            }) => {
                for peer in found.peers {
                    for address in peer.addrs.into_iter().take(TOLD) {
                        self.learn(peer.peer_id, address);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Strangers that are told of in the log, each once.
const STRANGERS: usize = 1024;
/// Addresses taken from one peer's word.
const TOLD: usize = 8;
