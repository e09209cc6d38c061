//! Any text as a model's chat template, and a usual one with changes: a conversation becomes the model's tokens, each
//! marked or not, or one sentence says why it does not.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use conclave::learn::data::{Place, Row, Tokens};
use conclave_fuzz::node::{base, changed, put};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(base);

const USUAL: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'].strip() }}\
    {% generation %}{{ eos_token }}{% endgeneration %}{% endfor %}{% set x = namespace(n=range(9) | list) %}\
    {%- if add_generation_prompt %}{{ '<|assistant|>' * 2 }}{% else %}{{ x.n | join(',') ~ 'a' }}{% endif %}";

const LINE: &str = r#"{"messages": [{"role": "user", "content": " caf\u00e9 "}, {"role": "assistant",
    "content": "yo"}, {"role": "user", "content": ""}, {"role": "assistant", "content": "{{ so }}"}]}"#;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let template = match mode % 2 {
        0 => rest.to_vec(),
        _ => changed(USUAL.as_bytes(), rest),
    };
    let template = String::from_utf8_lossy(&template);
    put(FOLDER.path(), "chat_template.jinja", template.as_bytes());
    let Ok(tokens) = Tokens::open(FOLDER.path()) else {
        return;
    };
    let at = Place {
        file: Path::new("rows.jsonl").into(),
        line: 1,
    };
    let row = Row::parse(LINE, at).expect("a row");
    match tokens.tokenise(&row, 64) {
        Ok((example, _)) => {
            assert_eq!(example.ids.len(), example.scored.len());
            assert!(example.ids.len() <= 64 && example.ids.iter().all(|id| *id < 258));
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
});
