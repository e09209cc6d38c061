//! The network of a node: who can be reached, what is said to all, what is said to one, what is fetched.
//!
//! ```text
//! driver ── Network ──────▶ swarm ◀── TCP / QUIC, noise, yamux ──▶ peers
//!        ◀─ NetworkEvent ──
//! ```
//! A peer's id *is* its member key. Only members are talked to: strangers are turned away and counted, or, where the
//! charter admits newcomers, have a moment to show an invitation. Gossip carries what concerns everybody, a stream of
//! frames what concerns one peer, and blobs (masked vectors, adapters) are pulled over streams, resumable, from any
//! holder.

mod behaviour;
mod count;
mod direct;
mod directory;
mod door;
pub mod frame;
mod gate;
mod listen;
mod names;
mod swarm;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::{IdentityKey, PublicKey};
use conclave_protocol::input::Verdict;
use conclave_protocol::letter::{Bytes, Letter};
use conclave_protocol::output::Topic;
use conclave_protocol::refusal::Refusal;
use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use self::count::Counters;
use crate::store::{Blobs, StoreError};

pub use names::{member_of, met, peer_of};

/// Where a node listens, what it tells others of that, and whom it asks first.
#[derive(Debug, Clone, Default)]
pub struct Addressing {
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// What to tell others about where we are, beside the addresses we listen at.
    pub announce: Vec<Multiaddr>,
    /// Where somebody of the federation may be met, with or without `/p2p/…`.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether a stranger has a moment to show what makes the driver [`Network::admit`] it.
    pub guests: bool,
}

/// What the network tells the driver.
#[derive(Debug)]
pub enum NetworkEvent {
    /// An envelope came.
    Received {
        /// Who handed it over (not necessarily its author).
        from: PublicKey,
        /// The envelope.
        bytes: Vec<u8>,
        /// If it came by gossip: to be given to [`Network::judged`], or it is not passed on.
        gossip: Option<GossipId>,
    },
    /// A member can be reached now.
    Connected {
        /// Who.
        peer: PublicKey,
        /// Where it is, as it says.
        addresses: Vec<String>,
    },
    /// A member cannot be reached any more.
    Disconnected {
        /// Who.
        peer: PublicKey,
    },
    /// A blob arrived whole. Nobody has checked its bytes yet.
    Pulled {
        /// Its name.
        name: Digest,
        /// Its bytes, as many as were asked for.
        bytes: Bytes,
    },
    /// None of the holders gave the blob.
    PullFailed {
        /// Its name.
        name: Digest,
    },
    /// What was pulled cannot be written down.
    Disk {
        /// Why not.
        error: StoreError,
    },
    /// The node listens here.
    Listening {
        /// The address as bound.
        address: Multiaddr,
    },
    /// It does not any more: an interface went away.
    ListeningEnded {
        /// The address as it was bound.
        address: Multiaddr,
    },
    /// A peer that is no member was turned away.
    Stranger,
    /// A member broke off a stream by what no honest node sends.
    Offence {
        /// Who.
        from: PublicKey,
        /// In what way.
        refusal: Refusal,
    },
}

/// Names one gossiped message until it is judged.
#[derive(Debug, Clone)]
pub struct GossipId {
    message: libp2p::gossipsub::MessageId,
    from: libp2p::PeerId,
    length: usize,
}

/// What has gone over the wire so far: the bytes of all streams, without the framing of the connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// Why the network cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An address to listen at is taken.
    #[error(
        "{address} is in use by another program: stop it, or set another address with --listen"
    )]
    InUse {
        /// The address.
        address: Multiaddr,
    },
    /// An address to listen at is impossible.
    #[error("cannot listen at {address}: {detail}; set another address with --listen")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// The system's words.
        detail: String,
    },
    /// The transport cannot be made.
    #[error("cannot start the network: {detail}; see to the machine's network settings")]
    Transport {
        /// What failed.
        detail: String,
    },
}

/// The handle on the running network. When the last one is dropped, the network stops.
#[derive(Debug, Clone)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    overflow: Overflow,
    counters: Arc<Counters>,
}

/// Orders for which the queue had no room, and how many of them wait: those that follow wait behind them.
#[derive(Debug, Clone)]
struct Overflow {
    orders: mpsc::UnboundedSender<Command>,
    waiting: Arc<AtomicUsize>,
}

/// What the driver tells the swarm.
#[derive(Debug)]
enum Command {
    Publish {
        topic: Topic,
        letter: Letter,
    },
    Send {
        to: PublicKey,
        letter: Letter,
    },
    Pull {
        name: Digest,
        length: u64,
        from: Vec<PublicKey>,
    },
    Judged {
        gossip: GossipId,
        verdict: Verdict,
    },
    Admit {
        members: Vec<PublicKey>,
    },
    Dismiss {
        guests: Vec<PublicKey>,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

/// Starts the network of the federation of `charter`, inside a tokio runtime.
///
/// `members` is everybody that is or was a member, `known` where they were met before. Envelopes may be as long as a
/// vector of `inline_limit` bytes needs; `blobs` is what peers may fetch.
pub fn start(
    identity: &IdentityKey,
    charter: Digest,
    members: Vec<PublicKey>,
    addressing: Addressing,
    known: Vec<(PublicKey, Vec<Multiaddr>)>,
    inline_limit: u64,
    blobs: Blobs,
) -> Result<(Network, mpsc::Receiver<NetworkEvent>), NetworkError> {
    let (commands, orders) = mpsc::channel(COMMANDS);
    let (tell, heard) = mpsc::channel(HEARD);
    let counters = Arc::new(Counters::default());
    let inline = usize::try_from(inline_limit).unwrap_or(usize::MAX);
    let setup = NetworkSetup {
        identity,
        charter,
        members,
        addressing,
        known,
        envelope_max: inline.max(RECORD).saturating_add(ENVELOPE_OVERHEAD),
        blobs,
    };
    let swarm = swarm::Loop::new(setup, &counters, tell)?;
    tokio::spawn(swarm.run(orders));
    let overflow = Overflow::behind(&commands);
    let network = Network {
        commands,
        overflow,
        counters,
    };
    Ok((network, heard))
}

impl Network {
    /// Says an envelope to the whole federation.
    pub fn publish(&self, topic: Topic, letter: impl Into<Letter>) {
        let letter = letter.into();
        self.tell(Command::Publish { topic, letter });
    }

    /// Says an envelope to one peer; lost if it is not connected.
    pub fn send(&self, to: PublicKey, letter: impl Into<Letter>) {
        let letter = letter.into();
        self.tell(Command::Send { to, letter });
    }

    /// Fetches a blob of `length` bytes from the first of these peers that gives it whole; one that dies on the way
    /// is followed by the next from where it stopped. Answered by [`NetworkEvent::Pulled`] or
    /// [`NetworkEvent::PullFailed`].
    pub fn pull(&self, name: Digest, length: u64, from: Vec<PublicKey>) {
        self.tell(Command::Pull { name, length, from });
    }

    /// Lets a gossiped message pass on, or stops it.
    pub fn judged(&self, gossip: GossipId, verdict: Verdict) {
        self.tell(Command::Judged { gossip, verdict });
    }

    /// Talks to these members, or invited newcomers, too from now on.
    pub fn admit(&self, members: Vec<PublicKey>) {
        self.tell(Command::Admit { members });
    }

    /// Talks to these newcomers no more.
    pub fn dismiss(&self, guests: Vec<PublicKey>) {
        self.tell(Command::Dismiss { guests });
    }

    /// What has gone over the wire.
    pub fn counters(&self) -> Traffic {
        self.counters.all.traffic()
    }

    /// What has gone to and from one peer.
    pub fn counters_of(&self, peer: &PublicKey) -> Traffic {
        let known = peer_of(peer).and_then(|peer| self.counters.of(&peer));
        known.map_or_else(Traffic::default, |count| count.traffic())
    }

    /// Stops the network once what is queued has been sent, within two seconds.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close { done }).await.is_ok() {
            tokio::time::timeout(CLOSING, closed).await.ok();
        }
    }

    /// Hands a command over. The swarm always takes them; should it be so far behind that the queue is full, messages
    /// are lost as on any network, but an order that is answered waits.
    fn tell(&self, command: Command) {
        let order = matches!(
            command,
            Command::Pull { .. } | Command::Admit { .. } | Command::Dismiss { .. }
        );
        if order && self.overflow.waiting.load(Ordering::SeqCst) > 0 {
            return self.overflow.push(command);
        }
        match self.commands.try_send(command) {
            Ok(()) => {}
            Err(error) if order => self.overflow.push(error.into_inner()),
            Err(_) => tracing::warn!("the network is too far behind: a message is lost"),
        }
    }
}

impl Overflow {
    /// Hands what comes over in its order, as soon as the queue has room, until the network ends.
    fn behind(commands: &mpsc::Sender<Command>) -> Self {
        let (orders, mut late) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (commands, left) = (commands.downgrade(), waiting.clone());
        tokio::spawn(async move {
            while let Some(order) = late.recv().await {
                let Some(commands) = commands.upgrade() else {
                    break;
                };
                commands.send(order).await.ok();
                left.fetch_sub(1, Ordering::SeqCst);
            }
        });
        Self { orders, waiting }
    }

    fn push(&self, order: Command) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // The other end is gone with the network.
        self.orders.send(order).ok();
    }
}

/// What a network is made of.
struct NetworkSetup<'a> {
    identity: &'a IdentityKey,
    charter: Digest,
    members: Vec<PublicKey>,
    addressing: Addressing,
    known: Vec<(PublicKey, Vec<Multiaddr>)>,
    envelope_max: usize,
    blobs: Blobs,
}

/// The longest record that a proposal carries, in bytes.
const RECORD: usize = 4 << 20;
/// What an envelope adds to its longest part, in bytes.
const ENVELOPE_OVERHEAD: usize = 64 << 10;
/// How long closing may take.
const CLOSING: Duration = Duration::from_secs(2);
/// Commands that may wait for the swarm.
const COMMANDS: usize = 8192;
/// Events that may wait for the driver.
const HEARD: usize = 256;

#[cfg(test)]
mod tests;
