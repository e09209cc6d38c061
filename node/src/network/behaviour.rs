//! The libp2p protocols that a node speaks, and how each is set.

use std::sync::Arc;
use std::time::Duration;

use conclave_crypto::digest::Digest;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::futures::future::Either;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{PeerId, Transport as _, dns, identify, noise, ping, quic, tcp, yamux};

use super::count::{Counted, Counters};
use super::door::Door;
use super::names::protocol;
use super::{NetworkError, NetworkSetup};

/// Everything a node speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) door: Door,
    pub(super) limits: connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) gossip: gossipsub::Behaviour,
    pub(super) streams: libp2p_stream::Behaviour,
}

/// The two topics of a federation.
pub(super) struct Topics {
    pub(super) control: IdentTopic,
    pub(super) vote: IdentTopic,
}

impl Topics {
    pub(super) fn new(charter: &Digest) -> Self {
        Self {
            control: IdentTopic::new(format!("/conclave/{charter}/ctl")),
            vote: IdentTopic::new(format!("/conclave/{charter}/vote")),
        }
    }
}

impl Behaviour {
    pub(super) fn new(
        setup: &NetworkSetup<'_>,
        keypair: &Keypair,
        topics: &Topics,
    ) -> Result<Self, NetworkError> {
        let me = keypair.public().to_peer_id();
        let mut behaviour = Self {
            door: Door::new(setup.addressing.guests),
            limits: connection_limits::Behaviour::new(limits()),
            identify: identify::Behaviour::new(
                identify::Config::new(
                    protocol(&setup.charter, "identify").to_string(),
                    keypair.public(),
                )
                .with_agent_version(concat!("conclave/", env!("CARGO_PKG_VERSION")).to_owned())
                .with_push_listen_addr_updates(true),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new()
                    .with_interval(PING)
                    .with_timeout(PING_TIMEOUT),
            ),
            kad: directory(me, &setup.charter),
            gossip: gossip(setup.envelope_max)?,
            streams: libp2p_stream::Behaviour::new(),
        };
        for topic in [&topics.control, &topics.vote] {
            behaviour
                .gossip
                .subscribe(topic)
                .map_err(|error| NetworkError::Transport {
                    detail: error.to_string(),
                })?;
        }
        Ok(behaviour)
    }
}

/// TCP and QUIC, encrypted and authenticated by noise and TLS under the member key, every stream counted.
pub(super) fn transport(
    keypair: &Keypair,
    counters: &Arc<Counters>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetworkError> {
    let fault = |detail: String| NetworkError::Transport { detail };
    let noise = noise::Config::new(keypair).map_err(|e| fault(e.to_string()))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(quic::Config::new(keypair))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let both = quic.or_transport(tcp).map(|either, _| match either {
        Either::Left(connection) | Either::Right(connection) => connection,
    });
    let counters = Arc::clone(counters);
    let named = dns::tokio::Transport::system(both).map_err(|e| fault(e.to_string()))?;
    Ok(named
        .map(move |(peer, muxer), _| {
            let counted = Counted::new(muxer, counters.start(peer));
            (peer, StreamMuxerBox::new(counted))
        })
        .boxed())
}

/// Messages are named by their content, checked before they are passed on, and large enough for an inline vector.
/// An envelope carries its author's signature, verified once by whoever takes it: gossip adds none of its own, which
/// would be verified for each of the copies that a mesh brings.
fn gossip(envelope_max: usize) -> Result<gossipsub::Behaviour, NetworkError> {
    let fault = |detail: String| NetworkError::Transport { detail };
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message: &gossipsub::Message| {
            let topic = message.topic.as_str().as_bytes();
            let digest = Digest::of("conclave/v1/gossip", &[topic, &[0], &message.data]);
            MessageId::new(digest.as_bytes())
        })
        .max_transmit_size(envelope_max.saturating_add(GOSSIP_OVERHEAD))
        .flood_publish(false)
        .idontwant_on_publish(true)
        .connection_handler_queue_len(QUEUE)
        .publish_queue_duration(PUBLISH_PATIENCE)
        .forward_queue_duration(FORWARD_PATIENCE)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(Duration::from_millis(700))
        .build()
        .map_err(|e| fault(e.to_string()))?;
    gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)
        .map_err(|e| fault(e.to_owned()))
}

/// Kademlia of this federation alone, always as a full participant.
fn directory(me: PeerId, charter: &Digest) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(protocol(charter, "kad"));
    config.set_query_timeout(Duration::from_secs(20));
    config.set_periodic_bootstrap_interval(Some(Duration::from_secs(60)));
    let mut kad = kad::Behaviour::with_config(me, MemoryStore::new(me), config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

/// Bounds on connections: they cost bounded memory, whoever calls; members need far fewer.
fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(128))
        .with_max_pending_outgoing(Some(256))
        .with_max_established_per_peer(Some(4))
        .with_max_established(Some(1024))
}

/// Bytes that gossipsub adds to an envelope: topic, author, sequence number, signature.
const GOSSIP_OVERHEAD: usize = 4096;
/// Messages that may wait for one peer.
const QUEUE: usize = 1024;
/// How long an own message may wait for a slow peer.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(30);
/// How long another's message may wait for a slow peer (the library's one second drops on slow links).
const FORWARD_PATIENCE: Duration = Duration::from_secs(15);
/// Between two signs of life on an idle connection.
const PING: Duration = Duration::from_secs(5);
/// When a connection without answer counts as broken.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
