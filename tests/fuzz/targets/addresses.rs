//! Any bytes as the addresses at which members were met: what is taken is what was written, and no more of it.
#![no_main]

use std::collections::BTreeMap;

use conclave::network::{met, peer_of};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (key, text) = bytes.split_at(bytes.len().min(32));
    let text = String::from_utf8_lossy(text);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    for (member, addresses) in met(BTreeMap::from([(key.to_vec(), lines.clone())])) {
        assert_eq!(member.as_bytes(), key);
        assert!(addresses.len() <= lines.len());
        let written: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let again = met(BTreeMap::from([(key.to_vec(), written)]));
        assert_eq!(again, [(member, addresses)]);
        let _peer = peer_of(&member);
    }
});
