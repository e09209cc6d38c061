//! Who is to be reached, where, and when to try again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The members' addresses and the state of the tries to reach them.
#[derive(Debug)]
pub(super) struct Directory {
    me: PeerId,
    peers: BTreeMap<PeerId, Entry>,
    bootstrap: Vec<Bootstrap>,
}

/// One try to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Try {
    /// A member, at these addresses and at those that Kademlia knows.
    Member(PeerId, Vec<Multiaddr>),
    /// Whoever answers at a bootstrap address.
    Address(Multiaddr),
}

#[derive(Debug, Default)]
struct Entry {
    addresses: BTreeSet<Multiaddr>,
    connected: bool,
    tries: Tries,
}

#[derive(Debug)]
struct Bootstrap {
    address: Multiaddr,
    /// Who answered there.
    peer: Option<PeerId>,
    tries: Tries,
}

/// How often something was tried in vain, and when to try again.
#[derive(Debug, Default, Clone, Copy)]
struct Tries {
    count: u32,
    next: Option<Instant>,
}

impl Directory {
    /// A directory of `members`; an address in `bootstrap` may end in `/p2p/…`.
    pub(super) fn new(
        me: PeerId,
        members: impl IntoIterator<Item = PeerId>,
        bootstrap: Vec<Multiaddr>,
    ) -> Self {
        let bootstrap = bootstrap
            .into_iter()
            .map(|address| Bootstrap {
                peer: peer_in(&address),
                address,
                tries: Tries::default(),
            })
            .collect();
        let mut directory = Self {
            me,
            peers: BTreeMap::new(),
            bootstrap,
        };
        for member in members {
            directory.admit(member);
        }
        directory
    }

    /// The peers that bootstrap addresses name.
    pub(super) fn named(&self) -> Vec<PeerId> {
        self.bootstrap.iter().filter_map(|at| at.peer).collect()
    }

    /// Keeps contact with this member from now on; false if it did already.
    pub(super) fn admit(&mut self, member: PeerId) -> bool {
        if member == self.me || self.peers.contains_key(&member) {
            return false;
        }
        self.peers.insert(member, Entry::default());
        true
    }

    /// Keeps contact no more.
    pub(super) fn dismiss(&mut self, guest: &PeerId) {
        self.peers.remove(guest);
    }

    /// Notes where a member is; true if that is news.
    pub(super) fn learn(&mut self, peer: &PeerId, address: Multiaddr) -> bool {
        let Some(entry) = self.peers.get_mut(peer) else {
            return false;
        };
        if entry.addresses.len() >= ADDRESSES && !entry.addresses.contains(&address) {
            entry.addresses.pop_first();
        }
        entry.addresses.insert(address)
    }

    /// Where a member is, as far as is known.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers
            .get(peer)
            .map(|entry| entry.addresses.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// A connection stands; `at` is the address that was dialled, if we did.
    pub(super) fn connected(&mut self, peer: PeerId, at: Option<&Multiaddr>) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.connected = true;
            entry.tries = Tries::default();
        }
        for bootstrap in &mut self.bootstrap {
            if at.is_some_and(|at| without_peer(at) == without_peer(&bootstrap.address)) {
                bootstrap.peer = Some(peer);
                bootstrap.tries = Tries::default();
            }
        }
    }

    /// The last connection to a peer is gone: it is tried again soon.
    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.connected = false;
            entry.tries = Tries::default();
        }
    }

    /// Members that are connected.
    pub(super) fn reached(&self) -> impl Iterator<Item = PeerId> + '_ {
        let connected = self.peers.iter().filter(|(_, entry)| entry.connected);
        connected.map(|(peer, _)| *peer)
    }

    /// Members that are not connected, the ones without any address first.
    pub(super) fn missing(&self) -> Vec<PeerId> {
        let missing = self.peers.iter().filter(|(_, entry)| !entry.connected);
        let mut missing: Vec<_> = missing
            .map(|(peer, entry)| (!entry.addresses.is_empty(), *peer))
            .collect();
        missing.sort_unstable();
        missing.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Whether somebody is still to be found.
    pub(super) fn incomplete(&self) -> bool {
        self.peers.values().any(|entry| !entry.connected)
    }

    /// What to try now; each try puts the next one off, twice as long every time.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Try> {
        let mut tries = Vec::new();
        if !self.incomplete() {
            return tries;
        }
        for bootstrap in &mut self.bootstrap {
            let known = bootstrap.peer;
            let reached = known.is_some_and(|peer| {
                peer == self.me || self.peers.get(&peer).is_some_and(|entry| entry.connected)
            });
            if !reached && bootstrap.tries.take(now) {
                tries.push(Try::Address(bootstrap.address.clone()));
            }
        }
        for (peer, entry) in &mut self.peers {
            if !entry.connected && entry.tries.take(now) {
                let addresses = entry.addresses.iter().cloned().collect();
                tries.push(Try::Member(*peer, addresses));
            }
        }
        tries
    }
}

impl Tries {
    /// Whether it is time; if so, one more is counted.
    fn take(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let wait = FIRST.saturating_mul(1 << self.count.min(10)).min(LAST);
        self.count = self.count.saturating_add(1);
        self.next = Some(now + wait);
        true
    }
}

/// The address without `/p2p/…`.
fn without_peer(address: &Multiaddr) -> Multiaddr {
    address
        .iter()
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .collect()
}

fn peer_in(address: &Multiaddr) -> Option<PeerId> {
    address.iter().find_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    })
}

/// Addresses remembered for one member.
const ADDRESSES: usize = 16;
/// The first wait between two tries.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait between two tries.
const LAST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn tries_back_off_and_begin_anew_after_a_loss() {
        let (me, other) = (PeerId::random(), PeerId::random());
        let at = address("/ip4/10.0.0.1/tcp/1");
        let mut directory = Directory::new(me, [me, other], Vec::new());
        assert!(directory.learn(&other, at.clone()));
        assert!(!directory.learn(&other, at.clone()));
        let start = Instant::now();
        let due =
            |directory: &mut Directory, ms| directory.due(start + Duration::from_millis(ms)).len();
        assert_eq!(directory.due(start), [Try::Member(other, vec![at])]);
        assert_eq!(due(&mut directory, 200), 0);
        assert_eq!(due(&mut directory, 250), 1);
        assert_eq!(due(&mut directory, 700), 0);
        assert_eq!(due(&mut directory, 750), 1);
        directory.connected(other, None);
        assert!(!directory.incomplete());
        assert_eq!(due(&mut directory, 99_000), 0);
        directory.disconnected(&other);
        assert_eq!(due(&mut directory, 99_000), 1);
    }

    #[test]
    fn a_bootstrap_address_is_tried_until_its_owner_is_connected() {
        let (me, other, third) = (PeerId::random(), PeerId::random(), PeerId::random());
        let at = address("/ip4/10.0.0.1/tcp/1");
        let mut directory = Directory::new(me, [other, third], vec![at.clone()]);
        let start = Instant::now();
        let asks = |directory: &mut Directory, s| {
            let tries = directory.due(start + Duration::from_secs(s));
            tries.contains(&Try::Address(at.clone()))
        };
        assert!(asks(&mut directory, 0));
        assert!(asks(&mut directory, 20));
        directory.connected(other, Some(&at));
        assert!(!asks(&mut directory, 60));
        directory.disconnected(&other);
        assert!(asks(&mut directory, 61));
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let other = PeerId::random();
        let mut directory = Directory::new(PeerId::random(), [other], Vec::new());
        for port in 0..100 {
            directory.learn(&other, address(&format!("/ip4/10.0.0.1/tcp/{port}")));
        }
        assert_eq!(directory.addresses(&other).len(), ADDRESSES);
    }
}
