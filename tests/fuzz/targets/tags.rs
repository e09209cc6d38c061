//! Any bytes as the encoding of: tags.
#![no_main]

use conclave_protocol::message::Tags as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
