//! Any bytes as an exported ledger, and after its first line.
#![no_main]

use conclave::commands::ledger::file;

const BEGIN: &[u8] = b"conclave ledger 1\n";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _parsed = file::parse(bytes);
    let _parsed = file::parse(&[BEGIN, bytes].concat());
});
