//! Any line as a row of a data file: what is taken is written out and read back.
#![no_main]

use std::path::Path;

use conclave::learn::data::{Place, Row};

libfuzzer_sys::fuzz_target!(|line: &str| {
    let at = || Place {
        file: Path::new("data.jsonl").into(),
        line: 1,
    };
    if let Ok(row) = Row::parse(line, at()) {
        Row::parse(&row.to_line(), at()).expect("its own line is a row");
    }
});
