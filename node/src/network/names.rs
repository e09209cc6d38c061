//! Member keys as peer ids, and the texts of addresses at which members were met.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;
use libp2p::identity::{self, ed25519};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

/// The peer id of a member; none for bytes that libp2p takes for no key.
pub fn peer_of(member: &PublicKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(member.as_bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The member key of a peer; none if its identity is of another kind than Ed25519, or spelt in another way than
/// [`peer_of`] does: a member has one peer id.
pub fn member_of(peer: &PeerId) -> Option<PublicKey> {
    // A peer id is a multihash: for short keys the identity hash, that is the encoded key itself.
    let bytes = peer.to_bytes();
    let [IDENTITY, _length, encoded @ ..] = bytes.as_slice() else {
        return None;
    };
    let key = identity::PublicKey::try_decode_protobuf(encoded).ok()?;
    let member = PublicKey::from_bytes(&key.try_into_ed25519().ok()?.to_bytes()).ok()?;
    (peer_of(&member)? == *peer).then_some(member)
}

/// Where members were met, as the store remembers it; what is no key or no address is passed over.
pub fn met(stored: BTreeMap<Vec<u8>, Vec<String>>) -> Vec<(PublicKey, Vec<Multiaddr>)> {
    let parse = |(key, addresses): (Vec<u8>, Vec<String>)| {
        let key = <[u8; 32]>::try_from(key.as_slice()).ok()?;
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        // An empty text is an address too, of nowhere.
        let addresses = addresses.filter(|address: &Multiaddr| !address.is_empty());
        Some((PublicKey::from_bytes(&key).ok()?, addresses.collect()))
    };
    stored.into_iter().filter_map(parse).collect()
}

/// The name of one of our protocols in one federation: others do not even negotiate it.
pub(super) fn protocol(charter: &Digest, what: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/conclave/{charter}/{what}/1"))
        .expect("it begins with a slash")
}

/// The code of the identity multihash.
const IDENTITY: u8 = 0;

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::*;

    #[test]
    fn what_is_no_key_or_no_address_is_passed_over() {
        let key = IdentityKey::from_bytes(&[1; 32]).public();
        let at = |text: &str| text.to_owned();
        let stored = BTreeMap::from([
            (
                key.as_bytes().to_vec(),
                vec![at("/ip4/10.0.0.1/tcp/4"), at("torn/tc"), at("")],
            ),
            (vec![7; 31], vec![at("/ip4/10.0.0.2/tcp/4")]),
        ]);
        let address = "/ip4/10.0.0.1/tcp/4".parse().expect("an address");
        assert_eq!(met(stored), [(key, vec![address])]);
    }

    #[test]
    fn a_peer_id_is_a_member_key() {
        for seed in 0..20 {
            let member = IdentityKey::from_bytes(&[seed; 32]).public();
            assert_eq!(member_of(&peer_of(&member).unwrap()), Some(member));
        }
        assert_eq!(member_of(&PeerId::random()), None);
    }

    #[test]
    fn another_spelling_of_a_key_is_no_peer() {
        let member = IdentityKey::from_bytes(&[1; 32]).public();
        let plain = peer_of(&member).unwrap().to_bytes();
        // A field that nobody knows, behind those of the key.
        let mut longer = [plain.as_slice(), &[0x18, 0]].concat();
        longer[1] += 2;
        let other = PeerId::from_bytes(&longer).unwrap();
        assert_ne!(other.to_bytes(), plain);
        assert_eq!(member_of(&other), None);
    }
}
