//! Any bytes as the encoding of: leave.
#![no_main]

use conclave_protocol::message::Leave as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
