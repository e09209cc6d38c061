//! Any bytes as a row of a ledger: nothing that was not signed is taken.
#![no_main]

use conclave_protocol::ledger::verify_chain;
use conclave_protocol::sim::Terms;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let charter = Terms::new(1, 4).charter();
    assert!(verify_chain(&charter, None, [bytes]).is_err());
});
