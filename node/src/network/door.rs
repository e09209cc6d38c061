//! Who may hold a connection: members; and where the charter admits newcomers, for a short while whoever comes to show
//! an invitation.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// The list of members, and the guests of the moment.
#[derive(Debug)]
pub(super) struct Door {
    members: BTreeSet<PeerId>,
    /// Callers that are no members, with when they came.
    guests: BTreeMap<PeerId, Instant>,
    /// Whether there are guests at all.
    open: bool,
}

/// A peer that is no member was turned away.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no member of this federation")]
pub(super) struct NoMember(PeerId);

impl Door {
    /// A door for members alone, or, where it is `open`, for guests too.
    pub(super) fn new(open: bool) -> Self {
        Self {
            members: BTreeSet::new(),
            guests: BTreeMap::new(),
            open,
        }
    }

    /// From now on this peer is a member.
    pub(super) fn admit(&mut self, peer: PeerId) {
        self.guests.remove(&peer);
        self.members.insert(peer);
    }

    /// This peer is no member any more.
    pub(super) fn dismiss(&mut self, peer: &PeerId) {
        self.members.remove(peer);
    }

    /// Whether this peer is a member.
    pub(super) fn knows(&self, peer: &PeerId) -> bool {
        self.members.contains(peer)
    }

    /// Guests whose time is over; they are forgotten, and to be disconnected.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<PeerId> {
        let over = |since: &Instant| now.saturating_duration_since(*since) > STAY;
        let late = self.guests.iter().filter(|(_, since)| over(since));
        let gone = late.map(|(peer, _)| *peer).collect();
        self.guests.retain(|_, since| !over(since));
        gone
    }

    /// Whether this caller may come in.
    fn lets_in(&mut self, peer: PeerId) -> bool {
        if self.knows(&peer) || self.guests.contains_key(&peer) {
            return true;
        }
        let room = self.open && self.guests.len() < GUESTS;
        if room {
            self.guests.insert(peer, Instant::now());
        }
        room
    }

    fn member(&self, peer: PeerId) -> Result<(), ConnectionDenied> {
        if self.knows(&peer) {
            Ok(())
        } else {
            Err(ConnectionDenied::new(NoMember(peer)))
        }
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.lets_in(peer) {
            Ok(dummy::ConnectionHandler)
        } else {
            Err(ConnectionDenied::new(NoMember(peer)))
        }
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        peer.map_or(Ok(()), |peer| self.member(peer))?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.member(peer)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event
            && closed.remaining_established == 0
        {
            self.guests.remove(&closed.peer_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// Guests at a time: they cannot take the places of members.
const GUESTS: usize = 16;
/// How long a guest may take to show an invitation.
const STAY: Duration = Duration::from_secs(10);
