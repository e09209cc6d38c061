//! Any bytes as an exported ledger, and after its first line.
#![no_main]

use conclave::commands::ledger::file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _parsed = file::parse(bytes);
    let _parsed = file::parse(&[file::FIRST_LINE, bytes].concat());
});
