//! Any bytes as the encoding of: join.
#![no_main]

use conclave_protocol::message::Join as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
