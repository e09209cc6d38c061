//! Any bytes as the encoding of: decided.
#![no_main]

use conclave_protocol::message::Decided as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
