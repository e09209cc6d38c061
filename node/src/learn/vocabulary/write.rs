//! The keys by which a GGUF file holds a tokenizer.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use candle_core::quantized::gguf_file::Value as Key;
use serde_json::{Value, json};

use super::splits::{SPLITS, Split};
use super::{BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary, byte_piece};
use crate::guard::guarded;
use crate::learn::data::{DataError, tokenizer};
use crate::learn::model::config::Config;
use crate::learn::model::gguf::Gguf;

/// A token with its score and type, by id.
type Tokens = Vec<(String, f32, i32)>;

/// The keys of a model's tokenizer; of a folder without one that there is none.
pub fn keys(model: &Path, config: &Config) -> Result<Vec<(String, Key)>, DataError> {
    let named = |(name, key): (&str, Key)| (format!("tokenizer.ggml.{name}"), key);
    let mut bos = config.bos;
    let eos = config.eos.first().copied();
    let mut keys: Vec<(String, Key)> = Vec::new();
    if mute(model) {
        keys.push(named(("model", Key::String(NONE.into()))));
    } else {
        let vocabulary = Vocabulary::open(model)?;
        let path = model.join("tokenizer.json");
        let wrong = |what: String| DataError::tokenizer(&path, format!("{what}; export as merged"));
        let json = serde_json::from_slice(&vocabulary.tokenizer);
        let json = json.map_err(|e| wrong(e.to_string()))?;
        let tokenizer = tokenizer(&vocabulary.tokenizer).map_err(wrong)?;
        let more = described(&json, config.vocabulary).map_err(wrong)?;
        keys.extend(more.into_iter().map(named));
        // What the tokenizer itself puts around a text.
        let around = guarded(|| tokenizer.encode("", true)).and_then(Result::ok);
        let around = around.ok_or_else(|| wrong("it does not read the empty text".into()))?;
        let around = around.get_ids();
        let first = around.first().copied();
        bos = bos.or_else(|| first.filter(|_| first != eos));
        for (name, id) in [("add_bos_token", bos), ("add_eos_token", eos)] {
            let put = id.is_some_and(|id| around.contains(&id));
            keys.push(named((name, Key::Bool(put))));
        }
        if let Some(template) = crate::learn::data::template(model, &vocabulary.settings) {
            keys.push(("tokenizer.chat_template".into(), Key::String(template)));
        }
    }
    for (name, id) in [("bos_token_id", bos), ("eos_token_id", eos)] {
        keys.extend(id.map(|id| named((name, Key::U32(id)))));
    }
    Ok(keys)
}

/// Whether a model's folder has no tokenizer at all.
fn mute(model: &Path) -> bool {
    if model.join("tokenizer.json").exists() {
        return false;
    }
    let Some(path) = Gguf::find(model) else {
        return true;
    };
    Gguf::open(&path).is_ok_and(|gguf| match gguf.key("tokenizer.ggml.model") {
        None => true,
        Some(kind) => kind.to_string().is_ok_and(|kind| kind == NONE),
    })
}

/// How llama.cpp calls that there is no tokenizer.
const NONE: &str = "none";

/// The keys of a `tokenizer.json`, for a model of so many tokens.
fn described(json: &Value, count: usize) -> Result<Vec<(&'static str, Key)>, String> {
    let model = &json["model"];
    // Files of old leave the kind out; what has merges is BPE.
    let bpe = model["type"] == "BPE" || model["type"].is_null() && model["merges"].is_array();
    if !bpe {
        return Err(format!(
            "GGUF has no tokenizer of the kind {}; only BPE can be written",
            model["type"]
        ));
    }
    let merges = merges(model)?;
    let mut keys = if model["byte_fallback"] == true {
        pieces(json)?
    } else {
        byte_level(json, merges.is_empty())?
    };
    let tokens = tokens(json, count, &merges)?;
    if model["byte_fallback"] == true && !scored(&tokens, &merges) {
        return Err("its merges are not those that SentencePiece's scores would mean".into());
    }
    keys.push((
        "tokens",
        array(&tokens, |(token, _, _)| Key::String(token.clone())),
    ));
    keys.push(("scores", array(&tokens, |(_, score, _)| Key::F32(*score))));
    keys.push(("token_type", array(&tokens, |(_, _, kind)| Key::I32(*kind))));
    keys.push((
        "merges",
        array(&merges, |[l, r]| Key::String(format!("{l} {r}"))),
    ));
    if let Some(unknown) = model["unk_token"].as_str() {
        let id = tokens.iter().position(|(token, _, _)| token == unknown);
        let id = id.and_then(|id| u32::try_from(id).ok());
        keys.extend(id.map(|id| ("unknown_token_id", Key::U32(id))));
    }
    Ok(keys)
}

/// Byte-level BPE: the way to part texts must be one that llama.cpp has. Without merges none matters.
fn byte_level(json: &Value, unmerged: bool) -> Result<Vec<(&'static str, Key)>, String> {
    let nfc = match &json["normalizer"] {
        Value::Null => false,
        kind if kind["type"] == "NFC" => true,
        _ => return Err("GGUF has no place for its normalizer".into()),
    };
    let bytes = json["pre_tokenizer"].to_string().contains("\"ByteLevel\"");
    let split = match Split::like(&json["pre_tokenizer"]) {
        None if unmerged && bytes => &SPLITS[0],
        None => {
            return Err("llama.cpp has no pre-tokenizer that parts texts as it does".into());
        }
        Some(split) => split,
    };
    let whole = json["model"]["ignore_merges"] == true;
    if !unmerged && (split.nfc, split.whole) != (nfc, whole) {
        return Err("llama.cpp has no pre-tokenizer with its normalizer and ignore_merges".into());
    }
    let word = |word: &str| Key::String(word.to_owned());
    Ok(vec![("model", word("gpt2")), ("pre", word(split.names[0]))])
}

/// SentencePiece: spaces become marks, with or without one in front.
fn pieces(json: &Value) -> Result<Vec<(&'static str, Key)>, String> {
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let steps = match &json["normalizer"] {
        Value::Null => Vec::new(),
        Value::Object(keys) if keys.get("type").is_some_and(|kind| kind == "Sequence") => {
            keys["normalizers"].as_array().cloned().unwrap_or_default()
        }
        step => vec![step.clone()],
    };
    let metaspace = &json["pre_tokenizer"];
    let prefix = if metaspace.is_null() && steps == [prepend, replace.clone()] {
        true
    } else if metaspace.is_null() && steps == [replace] {
        false
    } else if steps.is_empty()
        && metaspace["type"] == "Metaspace"
        && metaspace["replacement"] == SPACE
        && metaspace["split"] != true
    {
        metaspace["prepend_scheme"] != "never"
    } else {
        return Err("GGUF has no place for its normalizer and pre-tokenizer".into());
    };
    let word = |word: &str| Key::String(word.to_owned());
    Ok(vec![
        ("model", word("llama")),
        ("pre", word("default")),
        ("add_space_prefix", Key::Bool(prefix)),
    ])
}

/// Every token by its id, with what fills the table up.
fn tokens(json: &Value, count: usize, merges: &[[String; 2]]) -> Result<Tokens, String> {
    let sentences = json["model"]["byte_fallback"] == true;
    let fill = |id| (format!("[PAD{id}]"), -1e4, UNUSED);
    let mut tokens: Tokens = (0..count).map(fill).collect();
    let mut ranks: HashMap<String, f32> = HashMap::new();
    let mut rank = 0.0;
    for [left, right] in merges {
        ranks.entry(format!("{left}{right}")).or_insert_with(|| {
            rank -= 1.0;
            rank
        });
    }
    let mut put = |id: &Value, token: &str, kind: i32| {
        let at = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let place = at.and_then(|at| tokens.get_mut(at));
        let place = place.ok_or_else(|| {
            format!("the token {token:?} has the id {id}, but the model has {count} tokens")
        })?;
        let score = match (sentences, ranks.get(token)) {
            (false, _) | (true, None) => 0.0,
            (true, Some(score)) => *score,
        };
        *place = (token.to_owned(), score, kind);
        Ok::<(), String>(())
    };
    let vocabulary = json["model"]["vocab"].as_object();
    for (token, id) in vocabulary.ok_or("model.vocab is missing")? {
        let unknown = json["model"]["unk_token"] == token.as_str();
        let kind = match sentences {
            true if unknown => UNKNOWN,
            true if byte_piece(token) => BYTE,
            _ => NORMAL,
        };
        put(id, token, kind)?;
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let content = token["content"].as_str().unwrap_or_default();
        let unknown = sentences && json["model"]["unk_token"] == content;
        let kind = match token["special"] == true {
            _ if unknown => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        put(&token["id"], content, kind)?;
    }
    Ok(tokens)
}

/// Whether scores, which are all that llama.cpp looks at, mean these merges: every way to make a piece of two others is
/// one, and those of one piece stand together.
fn scored(tokens: &Tokens, merges: &[[String; 2]]) -> bool {
    let pieces = tokens.iter().filter(|(_, _, kind)| *kind == NORMAL);
    let pieces: HashSet<&str> = pieces.map(|(piece, _, _)| piece.as_str()).collect();
    let given: HashSet<(&str, &str)> = merges.iter().map(|[l, r]| (&**l, &**r)).collect();
    let given_all = pieces.iter().all(|piece| {
        let ways = piece
            .char_indices()
            .skip(1)
            .map(|(at, _)| piece.split_at(at));
        let mut ways = ways.filter(|(l, r)| pieces.contains(l) && pieces.contains(r));
        ways.all(|way| given.contains(&way))
    });
    let mut made: Vec<String> = merges.iter().map(|[l, r]| format!("{l}{r}")).collect();
    made.dedup();
    let together = made.len() == made.iter().collect::<HashSet<_>>().len();
    given_all && together
}

fn merges(model: &Value) -> Result<Vec<[String; 2]>, String> {
    let pair = |merge: &Value| {
        let [left, right] = match merge {
            Value::String(merge) => {
                let (left, right) = merge.split_once(' ')?;
                [left, right]
            }
            merge => [merge.get(0)?.as_str()?, merge.get(1)?.as_str()?],
        };
        // A space parts the two in the file.
        let good = !left.is_empty() && !left.contains(' ') && !right.contains(' ');
        good.then(|| [left.to_owned(), right.to_owned()])
    };
    let merges = model["merges"].as_array().into_iter().flatten().map(pair);
    let merges: Option<_> = merges.collect();
    merges.ok_or_else(|| "its merges have spaces, for which GGUF has no place".into())
}

fn array<T>(items: &[T], key: impl Fn(&T) -> Key) -> Key {
    Key::Array(items.iter().map(key).collect())
}
