//! Any bytes as the encoding of: claim.
#![no_main]

use conclave_protocol::claim::Claim as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
