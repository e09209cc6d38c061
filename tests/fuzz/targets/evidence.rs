//! Any bytes as the encoding of: evidence.
#![no_main]

use conclave_protocol::evidence::Evidence as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
