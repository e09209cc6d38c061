//! How byte-level tokenizers part a text before they merge: llama.cpp's names (`tokenizer.ggml.pre`) and Hugging Face's
//! JSON.

use serde_json::{Value, json};

/// One way to part texts.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a property of its own"
)]
pub(super) struct Split {
    /// How llama.cpp calls it; the first name is written.
    pub(super) names: &'static [&'static str],
    /// The expression that parts a text before its bytes are spelled; empty: that of GPT-2.
    regex: &'static str,
    /// Whether every digit stands alone.
    digits: bool,
    /// Whether the text is normalised to NFC before.
    pub(super) nfc: bool,
    /// Whether a part that is a token as it stands is not merged up to it.
    pub(super) whole: bool,
    /// Whether texts begin with BOS where the file does not say.
    pub(super) bos: bool,
}

/// All that are known.
pub(super) const SPLITS: [Split; 4] = [
    Split {
        names: &["gpt-2"],
        regex: "",
        digits: false,
        nfc: false,
        whole: false,
        bos: false,
    },
    Split {
        names: &["llama-bpe", "llama3", "llama-v3"],
        regex: LLAMA3,
        digits: false,
        nfc: false,
        whole: true,
        bos: true,
    },
    Split {
        names: &["qwen2", "deepseek-r1-qwen"],
        regex: QWEN2,
        digits: false,
        nfc: true,
        whole: false,
        bos: false,
    },
    Split {
        names: &["smollm", "starcoder"],
        regex: "",
        digits: true,
        nfc: false,
        whole: false,
        bos: false,
    },
];

impl Split {
    /// By llama.cpp's name.
    pub(super) fn called(name: &str) -> Result<&'static Self, String> {
        let found = SPLITS.iter().find(|split| split.names.contains(&name));
        found.ok_or_else(|| {
            let names = SPLITS.map(|split| split.names.join(", ")).join(", ");
            format!("tokenizer.ggml.pre = {name:?} is not supported; supported are {names}")
        })
    }

    /// By Hugging Face's JSON.
    pub(super) fn like(pre_tokenizer: &Value) -> Option<&'static Self> {
        SPLITS.iter().find(|split| {
            let same = parts(&split.json());
            !same.is_empty() && parts(pre_tokenizer) == same
        })
    }

    /// Hugging Face's `pre_tokenizer`.
    pub(super) fn json(&self) -> Value {
        let bytes = |regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": regex})
        };
        let sequence = |first| json!({"type": "Sequence", "pretokenizers": [first, bytes(self.regex.is_empty())]});
        if self.digits {
            sequence(json!({"type": "Digits", "individual_digits": true}))
        } else if self.regex.is_empty() {
            bytes(true)
        } else {
            let pattern = json!({"Regex": self.regex});
            sequence(
                json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false}),
            )
        }
    }
}

/// What a pre-tokenizer does, step by step, without what changes no token.
fn parts(pre_tokenizer: &Value) -> Vec<Value> {
    let steps = match &pre_tokenizer["pretokenizers"] {
        Value::Array(steps) => steps.clone(),
        _ => vec![pre_tokenizer.clone()],
    };
    let known = |mut step: Value| {
        if let Value::Object(keys) = &mut step {
            keys.remove("trim_offsets");
            if keys.get("type").is_some_and(|kind| kind == "ByteLevel") {
                keys.entry("use_regex").or_insert(Value::Bool(true));
            }
        }
        step
    };
    steps.into_iter().map(known).collect()
}

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
