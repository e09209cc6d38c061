//! Any bytes as the encoding of: recall.
#![no_main]

use conclave_protocol::message::Recall as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
