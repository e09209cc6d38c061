//! Any bytes as the encoding of: certificate.
#![no_main]

use conclave_protocol::decide::Certificate as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
