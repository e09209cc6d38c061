//! Any bytes as the encoding of: key_ad.
#![no_main]

use conclave_protocol::message::KeyAd as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
