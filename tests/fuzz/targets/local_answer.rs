//! Any bytes as what answers at the port of a node: one sentence if it is no node.
#![no_main]

use conclave::local::body;
use conclave::testnet::view::View;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for answer in [bytes, &[b"HTTP/1.0 200 OK\r\n\r\n", bytes].concat()] {
        if let Err(reason) = body::<View>(answer) {
            assert!(reason.len() < 4096 && !reason.contains('\n'), "{reason}");
        }
    }
});
