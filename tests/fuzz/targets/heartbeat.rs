//! Any bytes as the encoding of: heartbeat.
#![no_main]

use conclave_protocol::message::Heartbeat as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
