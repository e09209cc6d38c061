//! Any bytes as the encoding of: have.
#![no_main]

use conclave_protocol::message::Have as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
