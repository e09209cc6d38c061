//! Any bytes as the encoding of: invite.
#![no_main]

use conclave_protocol::message::Invite as Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conclave_fuzz::total::<Value>(bytes));
