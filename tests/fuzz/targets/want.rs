//! Any bytes as the encoding of: want.
#![no_main]

use conclave_protocol::message::Want as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
