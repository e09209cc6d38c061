//! Making a ticket in a member's name.

use std::path::Path;

use conclave_crypto::sign::PublicKey;
use conclave_protocol::charter::{Admission, Charter};
use conclave_protocol::ledger::{self, Broken};
use conclave_protocol::message::Invite;
use conclave_protocol::names::MemberId;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use rand::RngExt as _;
use serde::Deserialize;

use super::Ticket;
use crate::config::{self, ConfigError, NodeConfig};
use crate::keys::{self, KeyError};
use crate::local;
use crate::network::peer_of;
use crate::store::{self, StoreError};

/// What an invitation allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How many may enter by it.
    pub uses: u32,
    /// Milliseconds of Unix time after which it is void; 0 = never.
    pub expires: u64,
    /// Only the holder of this key may use it, if given.
    pub invitee: Option<PublicKey>,
}

/// Why no ticket can be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The charter is closed.
    #[error(
        "the charter {0:?} admits nobody (its admission mode is closed); \
         newcomers need a charter made with `conclave charter new --admission invite`"
    )]
    Closed(String),
    /// The identity is no member's.
    #[error(
        "the key {key} is no member of {federation:?} at present, so it cannot invite; ask a member for a ticket"
    )]
    Outside {
        /// The key of the folder.
        key: PublicKey,
        /// The federation.
        federation: String,
    },
    /// Nobody could call.
    #[error(
        "no address is known at which newcomers could call: start the node, or set `announce` in node.toml"
    )]
    Unreachable,
    /// The ledger here does not hold.
    #[error("the ledger here does not hold: {0}; start the node with --repair")]
    Ledger(#[from] Broken),
    /// The identity.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The durable state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `node.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What a running node says of where it is.
#[derive(Deserialize)]
struct Whereabouts {
    addresses: Vec<String>,
}

/// Signs an invitation as the member of this data folder, running or not, and puts a ticket together.
pub fn issue(dir: &Path, charter: Charter, terms: &Terms) -> Result<Ticket, IssueError> {
    if charter.admission == Admission::Closed {
        return Err(IssueError::Closed(charter.federation.name));
    }
    let identity = keys::open(dir)?;
    let key = identity.public();
    let Some(sponsor) = member_id(dir, &charter, &key)? else {
        return Err(IssueError::Outside {
            key,
            federation: charter.federation.name,
        });
    };
    let addresses = addresses(dir, &key)?;
    if addresses.is_empty() {
        return Err(IssueError::Unreachable);
    }
    let nonce = rand::rng().random();
    let invite = Invite::sign(
        &identity,
        charter.digest(),
        sponsor,
        nonce,
        terms.invitee,
        terms.uses,
        terms.expires,
    );
    Ok(Ticket {
        invite,
        addresses,
        charter,
    })
}

/// The member with this key, by the folder's ledger, or by the charter before the node has ever run.
fn member_id(
    dir: &Path,
    charter: &Charter,
    key: &PublicKey,
) -> Result<Option<MemberId>, IssueError> {
    let records = match store::read_ledger(dir) {
        Ok(ledger) => ledger.rows,
        Err(StoreError::Missing { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let records = records.iter().map(Vec::as_slice);
    let verified = ledger::verify_chain(charter, None, records)?;
    let mut members = verified.members.iter();
    Ok(members.find(|(_, known)| known == key).map(|(id, _)| *id))
}

/// Where the node may be called: as it says if it runs, else as its settings say.
fn addresses(dir: &Path, key: &PublicKey) -> Result<Vec<String>, IssueError> {
    if let Ok(said) = local::ask::<Whereabouts>(dir, local::STATUS) {
        return Ok(said.addresses);
    }
    let config = NodeConfig::open(dir)?;
    let announced = config::addresses("announce", config.announce.as_deref())?;
    let listening = config::addresses("listen", config.listen.as_deref())?;
    Ok(callable(&announced, &listening, key))
}

/// Where others may call a node: as its operator announces, or where it listens if nothing is announced.
pub fn callable(announced: &[Multiaddr], listening: &[Multiaddr], key: &PublicKey) -> Vec<String> {
    let announced = usable(announced, key);
    if announced.is_empty() {
        usable(listening, key)
    } else {
        announced
    }
}

/// Whether only this machine can call there.
pub fn is_near(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

/// The addresses that name a place, each with the member's peer id: public ones if there are any, else those of this
/// machine alone.
fn usable(addresses: &[Multiaddr], key: &PublicKey) -> Vec<String> {
    let named = |address: &&Multiaddr| {
        address.iter().all(|part| match part {
            Protocol::Ip4(ip) => !ip.is_unspecified(),
            Protocol::Ip6(ip) => !ip.is_unspecified(),
            Protocol::Tcp(port) | Protocol::Udp(port) => port != 0,
            _ => true,
        })
    };
    let named = addresses.iter().filter(named);
    let (near, far): (Vec<_>, Vec<_>) = named.partition(|address| is_near(address));
    let chosen = if far.is_empty() { near } else { far };
    let whose = |address: &Multiaddr| match peer_of(key) {
        Some(peer) if !address.iter().any(|part| matches!(part, Protocol::P2p(_))) => {
            address.clone().with(Protocol::P2p(peer)).to_string()
        }
        _ => address.to_string(),
    };
    let mut texts: Vec<String> = chosen.into_iter().map(whose).collect();
    texts.dedup();
    texts.truncate(ADDRESSES);
    texts
}

/// The most addresses of one node in a ticket.
const ADDRESSES: usize = 8;
