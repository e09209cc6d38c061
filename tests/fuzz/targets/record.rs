//! Any bytes as the encoding of: record.
#![no_main]

use conclave_protocol::record::Record as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
