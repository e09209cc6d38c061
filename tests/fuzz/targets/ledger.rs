//! Any bytes as a row of a ledger: nothing that was not signed is taken.
#![no_main]

use std::sync::LazyLock;

use conclave_protocol::charter::Charter;
use conclave_protocol::ledger::verify_chain;
use conclave_protocol::sim::Terms;

static CHARTER: LazyLock<Charter> = LazyLock::new(|| Terms::new(1, 4).charter());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(verify_chain(&CHARTER, None, [bytes]).is_err());
});
