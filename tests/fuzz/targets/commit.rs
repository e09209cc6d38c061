//! Any bytes as the encoding of: commit.
#![no_main]

use conclave_protocol::message::Commit as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
