//! Any bytes as the encoding of: seal.
#![no_main]

use conclave_protocol::message::Seal as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
