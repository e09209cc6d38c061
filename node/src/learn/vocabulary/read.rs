//! A tokenizer from the keys of a GGUF file.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use candle_core::quantized::gguf_file::Value as Key;
use serde_json::{Map, Value, json};

use super::splits::Split;
use super::{
    BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, added, byte_piece, whole,
};
use crate::learn::model::gguf::Gguf;

/// The tokens of a file with what it says of each.
struct Table<'a> {
    gguf: &'a Gguf,
    tokens: Vec<&'a str>,
    kinds: Vec<i32>,
}

/// `tokenizer.json`, or what is wrong with the file.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Value, String> {
    let table = Table::read(gguf)?;
    match text(gguf, "model")? {
        "gpt2" => table.byte_level(),
        "llama" => table.pieces(),
        other => Err(format!(
            "tokenizer.ggml.model = {other:?} is not supported; supported are gpt2 and llama"
        )),
    }
}

/// `tokenizer_config.json`: the chat template and the words that it uses.
pub(super) fn settings(gguf: &Gguf) -> Value {
    let mut settings = Map::new();
    if let Some(Key::String(template)) = gguf.key("tokenizer.chat_template") {
        settings.insert("chat_template".into(), json!(template));
    }
    let tokens = strings(gguf, "tokens").unwrap_or_default();
    for name in ["bos", "eos"] {
        let id = id(gguf, name).ok().flatten();
        if let Some(token) = id.and_then(|id| tokens.get(id)) {
            settings.insert(format!("{name}_token"), json!(token));
        }
    }
    Value::Object(settings)
}

impl<'a> Table<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self, String> {
        let tokens = strings(gguf, "tokens")?;
        let kinds = match gguf.key("tokenizer.ggml.token_type") {
            None => vec![NORMAL; tokens.len()],
            Some(Key::Array(kinds)) if kinds.len() == tokens.len() => {
                let kind = |kind: &Key| whole(kind).and_then(|n| i32::try_from(n).ok());
                let kinds = kinds.iter().map(kind).collect::<Option<_>>();
                kinds.ok_or("tokenizer.ggml.token_type must hold whole numbers")?
            }
            Some(_) => return Err("tokenizer.ggml.token_type must say one of each token".into()),
        };
        Ok(Self {
            gguf,
            tokens,
            kinds,
        })
    }

    fn byte_level(&self) -> Result<Value, String> {
        let split = Split::called(text(self.gguf, "pre")?)?;
        let merges = strings(self.gguf, "merges")?;
        let merges: Option<Vec<_>> = merges.into_iter().map(parted).collect();
        let merges = merges.ok_or("tokenizer.ggml.merges must hold pairs with a space between")?;
        let normalizer = if split.nfc {
            json!({"type": "NFC"})
        } else {
            Value::Null
        };
        self.assembled(
            split.bos,
            &json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            &normalizer,
            &split.json(),
            &json!({
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": split.whole, "vocab": self.vocabulary(), "merges": merges,
            }),
        )
    }

    fn pieces(&self) -> Result<Value, String> {
        let merges = match self.gguf.key("tokenizer.ggml.merges") {
            Some(_) => {
                let merges = strings(self.gguf, "merges")?.into_iter().map(parted);
                let merges: Option<Vec<_>> = merges.collect();
                merges.ok_or("tokenizer.ggml.merges must hold pairs with a space between")?
            }
            None => self.merges()?,
        };
        let unknown = id(self.gguf, "unknown")?;
        let unknown = unknown.or_else(|| self.kinds.iter().position(|kind| *kind == UNKNOWN));
        let unknown = unknown.and_then(|id| self.tokens.get(id));
        let prefix = flag(self.gguf, "add_space_prefix")?.unwrap_or(true);
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let mut normalizers = vec![replace(" ", SPACE)];
        let mut decoders = vec![
            replace(SPACE, " "),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        self.assembled(
            true,
            &json!({"type": "Sequence", "decoders": decoders}),
            &json!({"type": "Sequence", "normalizers": normalizers}),
            &Value::Null,
            &json!({
                "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": self.vocabulary(), "merges": merges,
            }),
        )
    }

    fn assembled(
        &self,
        bos: bool,
        decoder: &Value,
        normalizer: &Value,
        pre_tokenizer: &Value,
        model: &Value,
    ) -> Result<Value, String> {
        let kinds = self.kinds.iter().enumerate();
        let whole = kinds.filter(|(_, kind)| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind));
        let whole = whole.map(|(id, kind)| added(id, self.tokens[id], *kind != USER_DEFINED));
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": whole.collect::<Vec<_>>(), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": self.ends(bos)?,
            "decoder": decoder, "model": model,
        }))
    }

    /// What stands around a text.
    fn ends(&self, bos: bool) -> Result<Value, String> {
        let mut special = Map::new();
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        for (name, otherwise) in [("bos", bos), ("eos", false)] {
            if !flag(self.gguf, &format!("add_{name}_token"))?.unwrap_or(otherwise) {
                continue;
            }
            let id = id(self.gguf, name)?;
            let token = id.and_then(|id| Some((id, *self.tokens.get(id)?)));
            let Some((id, token)) = token else { continue };
            let entry = json!({"SpecialToken": {"id": token, "type_id": 0}});
            single.insert(if name == "bos" { 0 } else { single.len() }, entry);
            special.insert(
                token.to_owned(),
                json!({"id": token, "ids": [id], "tokens": [token]}),
            );
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        let mut pair = single.clone();
        pair.push(json!({"Sequence": {"id": "B", "type_id": 0}}));
        Ok(
            json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}),
        )
    }

    /// The tokens with their ids; the first of two that are spelled alike.
    fn vocabulary(&self) -> Map<String, Value> {
        let mut all = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kinds[id] != UNUSED {
                all.entry(*token).or_insert(json!(id));
            }
        }
        all
    }

    /// The merges that the scores of SentencePiece mean: for each piece all ways to part it in two others, the best
    /// piece first, as `transformers` orders them.
    fn merges(&self) -> Result<Vec<[String; 2]>, String> {
        let scores = match self.gguf.key("tokenizer.ggml.scores") {
            Some(Key::Array(scores)) if scores.len() == self.tokens.len() => scores,
            _ => return Err("tokenizer.ggml.scores must hold one of each token".into()),
        };
        let scores: Option<Vec<f32>> = scores.iter().map(|score| score.to_f32().ok()).collect();
        let scores = scores.filter(|scores| scores.iter().all(|score| score.is_finite()));
        let scores = scores.ok_or("tokenizer.ggml.scores must hold numbers")?;
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(token).or_insert(id);
        }
        let text = |id: usize| {
            let kind = self.kinds[id];
            kind != BYTE
                && kind != CONTROL
                && kind != UNKNOWN
                && kind != UNUSED
                && !byte_piece(self.tokens[id])
        };
        let mut all = Vec::new();
        for (id, piece) in self.tokens.iter().enumerate().filter(|(id, _)| text(*id)) {
            let mut ways = BTreeMap::new();
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                    ways.insert((l, r), (scores[id], [left, right]));
                }
            }
            all.extend(ways.into_values());
        }
        let length = |part: &str| part.chars().count();
        all.sort_by(|(a, [al, ar]), (b, [bl, br])| {
            let lengths = |l: &str, r: &str| Reverse((length(l), length(r)));
            b.total_cmp(a).then(lengths(al, ar).cmp(&lengths(bl, br)))
        });
        Ok(all
            .into_iter()
            .map(|(_, pair)| pair.map(str::to_owned))
            .collect())
    }
}

/// A merge as it is written: the first space behind the first character parts it.
fn parted(merge: &str) -> Option<[String; 2]> {
    let first = merge.chars().next()?.len_utf8();
    let at = first + merge.get(first..)?.find(' ')?;
    let (left, right) = (&merge[..at], &merge[at + 1..]);
    (!right.is_empty()).then(|| [left.to_owned(), right.to_owned()])
}

fn text<'a>(gguf: &'a Gguf, name: &str) -> Result<&'a str, String> {
    let key = format!("tokenizer.ggml.{name}");
    match gguf.key(&key) {
        Some(Key::String(text)) => Ok(text),
        Some(other) => Err(format!("{key} is {other:?}; it must be a word")),
        None => Err(format!("{key} is missing")),
    }
}

fn strings<'a>(gguf: &'a Gguf, name: &str) -> Result<Vec<&'a str>, String> {
    let wrong = || format!("tokenizer.ggml.{name} must be a list of words");
    let Some(Key::Array(list)) = gguf.key(&format!("tokenizer.ggml.{name}")) else {
        return Err(wrong());
    };
    let word = |value: &'a Key| value.to_string().ok().map(String::as_str);
    list.iter()
        .map(word)
        .collect::<Option<_>>()
        .ok_or_else(wrong)
}

fn flag(gguf: &Gguf, name: &str) -> Result<Option<bool>, String> {
    let key = format!("tokenizer.ggml.{name}");
    match gguf.key(&key) {
        None => Ok(None),
        Some(Key::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(format!("{key} is {other:?}; it must be true or false")),
    }
}

fn id(gguf: &Gguf, name: &str) -> Result<Option<usize>, String> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let number = |value: &Key| whole(value).and_then(|n| usize::try_from(n).ok());
    let wrong = || format!("{key} must be a token");
    let value = gguf.key(&key);
    value
        .map(|value| number(value).ok_or_else(wrong))
        .transpose()
}
