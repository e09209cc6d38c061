//! Tokenizers of GGUF files: from a file's keys to Hugging Face's JSON, and back.
//!
//! Two kinds go both ways: byte-level BPE (`gpt2`), with one of the ways to part texts that llama.cpp names, and
//! SentencePiece's BPE (`llama`), whose scores and the ranks of Hugging Face's merges say the same.

use std::path::Path;

use candle_core::quantized::gguf_file;
use serde_json::{Value, json};

use super::data::DataError;
use super::model::gguf::Gguf;

mod read;
mod splits;
pub mod write;

/// A tokenizer's files, as they lie in a folder or as a GGUF file means them.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`, with its chat template; null where there is none.
    pub settings: Value,
}

impl Vocabulary {
    /// Of a model's folder: each file that lies there, else what the GGUF file beside it holds.
    pub fn open(model: &Path) -> Result<Self, DataError> {
        let own = model.join("tokenizer.json");
        if !own.exists()
            && let Some(path) = Gguf::find(model)
        {
            let mut vocabulary = Self::of(&path)?;
            if let Some(settings) = settings(model)? {
                vocabulary.settings = settings;
            }
            return Ok(vocabulary);
        }
        let tokenizer = std::fs::read(&own).map_err(|source| {
            let path = own.clone();
            DataError::Unreadable { path, source }
        })?;
        let settings = match (settings(model)?, Gguf::find(model)) {
            (Some(settings), _) => settings,
            (None, Some(path)) => {
                let gguf = Gguf::open(&path);
                gguf.map_or(Value::Null, |gguf| read::settings(&gguf))
            }
            (None, None) => Value::Null,
        };
        Ok(Self {
            tokenizer,
            settings,
        })
    }

    /// Of a GGUF file.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        let wrong = |what: String| {
            let what = format!("{what}; put the model's tokenizer.json beside it");
            DataError::tokenizer(path, what)
        };
        let gguf = Gguf::open(path).map_err(|e| DataError::tokenizer(path, e.to_string()))?;
        let tokenizer = read::tokenizer(&gguf).map_err(wrong)?;
        Ok(Self {
            tokenizer: tokenizer.to_string().into_bytes(),
            settings: read::settings(&gguf),
        })
    }
}

/// `tokenizer_config.json`, if there is one.
fn settings(model: &Path) -> Result<Option<Value>, DataError> {
    let path = model.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    super::data::json(&path).map(Some)
}

/// SentencePiece's name of a byte that no piece covers.
fn byte_piece(piece: &str) -> bool {
    let hex = piece
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// SentencePiece's space.
const SPACE: &str = "\u{2581}";

/// `llama_token_type` of a piece of text.
const NORMAL: i32 = 1;
/// Of the piece that stands for what is unknown.
const UNKNOWN: i32 = 2;
/// Of one that steers, and is no text.
const CONTROL: i32 = 3;
/// Of one that is always taken whole.
const USER_DEFINED: i32 = 4;
/// Of one that fills the table up.
const UNUSED: i32 = 5;
/// Of a byte.
const BYTE: i32 = 6;

/// One of Hugging Face's `added_tokens`.
fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special})
}

/// A whole number of a key.
fn whole(value: &gguf_file::Value) -> Option<u64> {
    use gguf_file::Value as V;
    match value {
        V::U8(n) => Some((*n).into()),
        V::U16(n) => Some((*n).into()),
        V::U32(n) => Some((*n).into()),
        V::U64(n) => Some(*n),
        V::I8(n) => u64::try_from(*n).ok(),
        V::I16(n) => u64::try_from(*n).ok(),
        V::I32(n) => u64::try_from(*n).ok(),
        V::I64(n) => u64::try_from(*n).ok(),
        V::F32(_) | V::F64(_) | V::Bool(_) | V::String(_) | V::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::gguf_file::Value as Key;
    use tokenizers::Tokenizer;

    use super::*;
    use crate::learn::export::container;

    fn word(word: &str) -> Key {
        Key::String(word.into())
    }

    fn words(words: &[&str]) -> Key {
        Key::Array(words.iter().map(|w| word(w)).collect())
    }

    fn kinds(kinds: &[i32]) -> Key {
        Key::Array(kinds.iter().map(|kind| Key::I32(*kind)).collect())
    }

    /// The tokenizer of a file with these keys.
    fn of(keys: &[(&str, Key)]) -> Result<Tokenizer, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let named = |(key, value): &(&str, Key)| (format!("tokenizer.ggml.{key}"), value.clone());
        let mut all = vec![("general.architecture".to_owned(), word("llama"))];
        all.extend(keys.iter().map(named));
        let mut file = std::fs::File::create(&path).unwrap();
        container::write(&mut file, &all, &[]).unwrap();
        let vocabulary = Vocabulary::of(&path).map_err(|e| e.to_string())?;
        Ok(Tokenizer::from_bytes(&vocabulary.tokenizer).unwrap())
    }

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, true).unwrap().get_ids().to_vec()
    }

    /// Byte-level: letters, merges up to `abc` and one that is there whole, tokens of all kinds.
    fn letters(pre: &str) -> Vec<(&'static str, Key)> {
        let tokens = [
            "a", "b", "c", "1", "ab", "abc", "<s>", "<tool>", "[PAD]", "cab", "\u{120}", "ca",
        ];
        vec![
            ("model", word("gpt2")),
            ("pre", word(pre)),
            ("tokens", words(&tokens)),
            ("merges", words(&["a b", "ab c"])),
            ("token_type", kinds(&[1, 1, 1, 1, 1, 1, 3, 4, 5, 1, 1, 1])),
            ("bos_token_id", Key::U32(6)),
        ]
    }

    #[test]
    fn byte_level_files_part_and_merge_as_their_kind_does() {
        let gpt2 = of(&letters("gpt-2")).unwrap();
        assert_eq!(ids(&gpt2, "abc<tool>cab 11"), [5, 7, 2, 4, 10, 3, 3]);
        assert_eq!(
            gpt2.token_to_id("[PAD]"),
            None,
            "what fills the table up is no word"
        );
        // A word that is a token as it stands is not merged up to it; BOS is put in front.
        let llama3 = of(&letters("llama-bpe")).unwrap();
        assert_eq!(ids(&llama3, "cab<s>"), [6, 9, 6]);
        let mut quiet = letters("llama3");
        quiet.push(("add_bos_token", Key::Bool(false)));
        assert_eq!(ids(&of(&quiet).unwrap(), "cab"), [9]);
        // Digits by three, alone, or all together.
        let digits = |pre: &str| {
            let mut keys = letters(pre);
            keys[2].1 = words(&[
                "1", "11", "111", "1111", "x", "y", "<s>", "z", "[", "v", "w", "u",
            ]);
            keys[3].1 = words(&["1 1", "11 1", "11 11"]);
            keys.push(("add_bos_token", Key::Bool(false)));
            ids(&of(&keys).unwrap(), "1111")
        };
        assert_eq!(digits("gpt-2"), [3]);
        assert_eq!(digits("llama-v3"), [2, 0]);
        assert_eq!(digits("qwen2"), [0, 0, 0, 0]);
        assert_eq!(digits("smollm"), [0, 0, 0, 0]);
    }

    #[test]
    fn scores_say_what_is_merged_first() {
        let tokens = [
            "<unk>", "<s>", "\u{2581}", "a", "b", "c", "ab", "bc", "abc", "<0x64>", "<e>",
        ];
        let scores = |ab: f32, bc: f32| {
            let scores = [0.0, 0.0, -9.0, 0.0, 0.0, 0.0, ab, bc, -5.0, 0.0, 0.0];
            Key::Array(scores.iter().map(|score| Key::F32(*score)).collect())
        };
        let keys = |scores: Key| {
            vec![
                ("model", word("llama")),
                ("tokens", words(&tokens)),
                ("scores", scores),
                ("token_type", kinds(&[2, 3, 1, 1, 1, 1, 1, 1, 1, 6, 4])),
                ("bos_token_id", Key::U32(1)),
            ]
        };
        let left = of(&keys(scores(-1.0, -2.0))).unwrap();
        assert_eq!(ids(&left, "abbc"), [1, 2, 6, 7]);
        assert_eq!(
            ids(&left, "abc<e>"),
            [1, 2, 8, 10],
            "either way leads to it"
        );
        assert_eq!(
            ids(&left, "dé"),
            [1, 2, 9, 0],
            "a byte, and what is unknown"
        );
        let mut bare = keys(scores(-2.0, -1.0));
        bare.push(("add_space_prefix", Key::Bool(false)));
        bare.push(("add_bos_token", Key::Bool(false)));
        assert_eq!(ids(&of(&bare).unwrap(), "abc b"), [8, 2, 4]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_key_with_the_way_out() {
        let without = |name: &str| {
            let keys = letters("gpt-2").into_iter().filter(|(key, _)| *key != name);
            of(&keys.collect::<Vec<_>>()).unwrap_err()
        };
        let with = |name: &'static str, value: Key| {
            let mut keys = letters("llama-bpe");
            keys.retain(|(key, _)| *key != name);
            keys.push((name, value));
            of(&keys).unwrap_err()
        };
        for (said, word) in [
            (
                of(&letters("tekken")).unwrap_err(),
                "qwen2, deepseek-r1-qwen, smollm",
            ),
            (without("pre"), "tokenizer.ggml.pre is missing"),
            (without("model"), "tokenizer.ggml.model is missing"),
            (
                without("tokens"),
                "tokenizer.ggml.tokens must be a list of words",
            ),
            (
                with("model", word("t5")),
                "\"t5\" is not supported; supported are gpt2 and llama",
            ),
            (with("merges", words(&["ab"])), "pairs with a space between"),
            (with("token_type", kinds(&[1])), "tokenizer.ggml.token_type"),
            (
                with("bos_token_id", word("<s>")),
                "tokenizer.ggml.bos_token_id",
            ),
            (
                with("add_bos_token", word("yes")),
                "tokenizer.ggml.add_bos_token",
            ),
        ] {
            assert!(
                said.contains(word) && said.contains("put the model's tokenizer.json"),
                "{said}"
            );
        }
    }
}
