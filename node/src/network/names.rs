//! A peer id is a member key in another spelling.

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;
use libp2p::identity::{self, ed25519};
use libp2p::{PeerId, StreamProtocol};

/// The peer id of a member; none for bytes that libp2p takes for no key.
pub fn peer_of(member: &PublicKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(member.as_bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The member key of a peer; none if its identity is of another kind than Ed25519.
pub fn member_of(peer: &PeerId) -> Option<PublicKey> {
    // A peer id is a multihash: for short keys the identity hash, that is the encoded key itself.
    let bytes = peer.to_bytes();
    let [IDENTITY, _length, encoded @ ..] = bytes.as_slice() else {
        return None;
    };
    let key = identity::PublicKey::try_decode_protobuf(encoded).ok()?;
    PublicKey::from_bytes(&key.try_into_ed25519().ok()?.to_bytes()).ok()
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
    fn a_peer_id_is_a_member_key() {
        for seed in 0..20 {
            let member = IdentityKey::from_bytes(&[seed; 32]).public();
            assert_eq!(member_of(&peer_of(&member).unwrap()), Some(member));
        }
        assert_eq!(member_of(&PeerId::random()), None);
    }
}
