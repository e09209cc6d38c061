//! What the targets of the node share: whole files to change, and the changes.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use conclave::learn::model::Model;
use conclave::learn::model::config::Config;
use conclave::learn::weights::Weight;
use conclave::scenario::base;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::pieces;

/// A folder of one's own.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Puts a file into a folder.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).expect("the folder can be written");
}

/// A whole file with changes: each piece is a place, and what is written over the bytes there; the file is cut at the
/// place of an empty one. The piece's first byte counts to the place, so that large files can be reached everywhere.
pub fn changed(whole: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for ([low, middle], piece) in pieces(changes) {
        let (high, over) = piece.split_first().unwrap_or((&0, &[]));
        let place = u32::from_le_bytes([low, middle, *high, 0]) as usize % whole.len().max(1);
        if over.is_empty() {
            bytes.truncate(place);
        }
        for (old, new) in bytes.iter_mut().skip(place).zip(over) {
            *old = *new;
        }
    }
    bytes
}

/// A JSON object with other values: each piece is the number of a key, its own or one of these, and its value, JSON or
/// else a text.
pub fn reworded(whole: &str, keys: &[&str], changes: &[u8]) -> String {
    let mut object: Map<String, Value> = serde_json::from_str(whole).expect("an object");
    let keys: Vec<_> = object
        .keys()
        .cloned()
        .chain(keys.iter().map(|key| (*key).to_owned()))
        .collect();
    for ([low, high], value) in pieces(changes) {
        let key = &keys[usize::from(u16::from_le_bytes([low, high])) % keys.len()];
        let text = || Value::from(String::from_utf8_lossy(value));
        let value = serde_json::from_slice(value).unwrap_or_else(|_| text());
        object.insert(key.clone(), value);
    }
    Value::Object(object).to_string()
}

/// A small model whose words are those of the embedded one.
pub fn model() -> Model {
    let config = Config::parse(CONFIG, Path::new("config.json")).expect("a whole configuration");
    let mut count = 0_u16;
    let take = |_: &str, shape: &[usize]| {
        let next = || {
            count = count.wrapping_add(1);
            f32::from(count % 251) / 251.0 - 0.5
        };
        let values = std::iter::repeat_with(next).take(shape.iter().product());
        Ok::<_, Infallible>(Weight::owned(values.collect(), shape.to_vec()))
    };
    let Ok(model) = Model::build(config, take);
    model
}

/// The embedded model in a folder.
pub fn base() -> TempDir {
    let folder = folder();
    base::unpack(folder.path()).expect("the folder can be written");
    folder
}

/// The configuration of [`model`].
pub const CONFIG: &str = r#"{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 258, "max_position_embeddings": 64,
    "tie_word_embeddings": true, "bos_token_id": 256, "eos_token_id": 257}"#;
