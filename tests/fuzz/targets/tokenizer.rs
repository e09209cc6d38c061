//! Any bytes as a model's tokenizer, and a whole one with changes: what opens gives the model's own tokens, and reads
//! them back.
#![no_main]

use std::path::Path;

use conclave::learn::data::{Place, Row, Tokens};
use conclave_fuzz::node::{CONFIG, base, changed, folder, put};

const TEXT: &str = "A word, 12 words: caf\u{e9}\u{301} \u{1f600}\n\tand </s> more";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let base = base();
        std::fs::read(base.path().join("tokenizer.json")).expect("it was written")
    });
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let file = match mode % 2 {
        0 => rest.to_vec(),
        _ => changed(&WHOLE, rest),
    };
    let folder = folder();
    put(folder.path(), "config.json", CONFIG.as_bytes());
    put(folder.path(), "tokenizer.json", &file);
    let Ok(tokens) = Tokens::open(folder.path()) else {
        return;
    };
    if let Ok(ids) = tokens.prompt(TEXT) {
        assert!(ids.iter().all(|id| *id < 258));
        let _text = tokens.decode(&ids);
    }
    let line = serde_json::json!({ "prompt": TEXT, "completion": TEXT }).to_string();
    let at = Place {
        file: Path::new("rows.jsonl").into(),
        line: 1,
    };
    let row = Row::parse(&line, at).expect("a row");
    if let Ok((example, _)) = tokens.tokenise(&row, 40) {
        assert_eq!(example.ids.len(), example.scored.len());
        assert!(example.ids.len() <= 40 && example.ids.iter().all(|id| *id < 258));
    }
});
