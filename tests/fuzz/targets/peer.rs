//! Any bytes as a peer's id: a member has one, and it is that one.
#![no_main]

use conclave::network::{member_of, peer_of};
use libp2p::PeerId;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // As they come, and as the key of one in any spelling.
    let spelt = [&[0, bytes.len().min(42) as u8], bytes].concat();
    for bytes in [bytes, &spelt] {
        let Ok(peer) = PeerId::from_bytes(bytes) else {
            continue;
        };
        if let Some(member) = member_of(&peer) {
            assert_eq!(peer_of(&member), Some(peer));
        }
    }
});
