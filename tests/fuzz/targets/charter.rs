//! Any text as a charter: what is taken is written out and read back the same.
#![no_main]

use conclave_protocol::charter::Charter;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(charter) = Charter::parse(text) {
        let again = Charter::parse(&charter.to_toml()).expect("its own text is a charter");
        assert_eq!(
            again.digest(),
            charter.digest(),
            "another charter came back"
        );
    }
});
