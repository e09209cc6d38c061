//! Any text as a model's `generation_config.json`, and a whole one with other values: the texts of the model end where
//! its configuration says, whatever ends there are besides.
#![no_main]

use std::sync::LazyLock;

use conclave::learn::data::Tokens;
use conclave_fuzz::node::{base, put, reworded};
use tempfile::TempDir;

const FILE: &str = "generation_config.json";

const WHOLE: &str = r#"{"bos_token_id": 256, "eos_token_id": [257, 3], "max_length": 64, "do_sample": true}"#;

static FOLDER: LazyLock<(TempDir, Vec<u32>)> = LazyLock::new(|| {
    let folder = base();
    let ends = Tokens::open(folder.path()).expect("the embedded model");
    let ends = ends.ends().to_vec();
    (folder, ends)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = match bytes.split_first() {
        None => return,
        Some((0, text)) => String::from_utf8_lossy(text).into_owned(),
        Some((_, changes)) => reworded(WHOLE, &["eos_token_id", "unknown"], changes),
    };
    let (folder, usual) = &*FOLDER;
    put(folder.path(), FILE, text.as_bytes());
    match Tokens::open(folder.path()) {
        Ok(tokens) => {
            assert!(tokens.ends().is_sorted_by(|a, b| a < b));
            assert!(usual.iter().all(|end| tokens.ends().contains(end)));
        }
        Err(error) => assert!(error.to_string().contains(FILE), "{error}"),
    }
});
