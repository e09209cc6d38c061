//! Any bytes as the body of a vote or proposal, as its slot is read.
#![no_main]

use conclave_protocol::decide::slot_of;
use conclave_protocol::envelope::Envelope;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = Envelope::from_bytes(bytes) {
        let _slot = slot_of(&envelope);
    }
});
