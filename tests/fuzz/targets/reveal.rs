//! Any bytes as the encoding of: reveal.
#![no_main]

use conclave_protocol::message::Reveal as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
