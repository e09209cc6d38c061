//! Any bytes as the encoding of: envelope.
#![no_main]

use conclave_protocol::envelope::Envelope as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
