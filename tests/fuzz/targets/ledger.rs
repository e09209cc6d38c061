//! Any bytes as a row of a ledger: nothing that was not signed is taken.
#![no_main]

use conclave_fuzz::CHARTER;
use conclave_protocol::ledger::verify_chain;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(verify_chain(&CHARTER, None, [bytes]).is_err());
});
