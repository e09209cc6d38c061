//! Any bytes as a checkpoint, and any contents under a checksum that fits: what is taken is written out and read back.
#![no_main]

use conclave::learn::checkpoint::{Checkpoint, sealed};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for file in [bytes, &sealed(bytes)] {
        if let Ok(checkpoint) = Checkpoint::parse(file) {
            let written = checkpoint.to_bytes();
            let again = Checkpoint::parse(&written).expect("what was read can be written");
            assert_eq!(again.to_bytes(), written);
        }
    }
});
