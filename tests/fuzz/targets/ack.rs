//! Any bytes as the encoding of: ack.
#![no_main]

use conclave_protocol::message::Ack as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
