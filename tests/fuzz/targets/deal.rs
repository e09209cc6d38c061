//! Any bytes as the encoding of: deal.
#![no_main]

use conclave_protocol::message::Deal as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
