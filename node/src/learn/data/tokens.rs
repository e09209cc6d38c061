//! Rows into token ids, with the tokens that count for the loss marked.

use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::{Encoding, Tokenizer};

use super::chat::{Chat, json, special};
use super::{DataError, Form, Place, Row, Turn};
use crate::guard::guarded;
use crate::learn::model::config::Config;
use crate::learn::model::config::keys::Keys;
use crate::learn::vocabulary::Vocabulary;
use crate::said::first_line;

/// One row as the trainer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids, at most `sequence_len`.
    pub ids: Vec<u32>,
    /// Whether each token counts as a target; as long as `ids`, the first never does.
    pub scored: Vec<bool>,
}

impl Example {
    /// How many tokens count for the loss.
    pub fn targets(&self) -> usize {
        self.scored.iter().filter(|&&scored| scored).count()
    }
}

/// All rows of a data set as examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenised {
    /// The rows with at least one scored token, in their order.
    pub examples: Vec<Example>,
    /// How many rows were cut to `sequence_len`.
    pub cut: usize,
    /// How many rows were left out because no token of theirs counts.
    pub unscored: usize,
}

/// A model's tokenizer with what it needs to score rows.
#[derive(Debug)]
pub struct Tokens {
    tokenizer: Tokenizer,
    /// How many tokens the model knows.
    vocabulary: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
    chat: Option<Chat>,
    classes: Vec<String>,
}

impl Tokens {
    /// Opens `tokenizer.json` and, if present, the chat template of a model's folder.
    pub fn open(model: &Path) -> Result<Self, DataError> {
        let config = Config::read(model)?;
        let vocab_size = config.vocabulary;
        let known = |id: &u32| (*id as usize) < vocab_size;
        let bos = config.bos.filter(known);
        let eos = config.eos.first().copied().filter(known);
        let path = model.join("tokenizer.json");
        let vocabulary = Vocabulary::open(model)?;
        let mut tokenizer = tokenizer(&vocabulary.tokenizer)
            .map_err(|what| DataError::tokenizer(&path, format!("{what}; fetch it again")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| {
            DataError::tokenizer(&path, format!("truncation stays on: {error}; remove it"))
        })?;
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0) as usize;
        if highest >= vocab_size {
            let what = format!(
                "the tokenizer has ids up to {highest}, but the model's vocab_size is {vocab_size}; \
                 use the tokenizer that belongs to the model"
            );
            return Err(DataError::tokenizer(&path, what));
        }
        Ok(Self {
            ends: ends(model, config.eos, &tokenizer, &vocabulary.settings)?,
            vocabulary: vocab_size,
            tokenizer,
            bos,
            eos,
            chat: Chat::open(model, &vocabulary.settings)?,
            classes: Vec::new(),
        })
    }

    /// For an encoder that tells these labels apart: rows become their text, with the number of the label behind it.
    #[must_use]
    pub fn telling_apart(self, classes: &[String]) -> Self {
        let classes = classes.to_vec();
        Self { classes, ..self }
    }

    /// The labels that an encoder tells apart; empty for a model that continues texts.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// A label by its number, for an encoder.
    pub fn class(&self, number: u32) -> Option<&str> {
        self.classes.get(number as usize).map(String::as_str)
    }

    /// The ids that a text to be continued begins with; BOS alone for the empty text.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let ids = self.encode(text, true)?;
        if ids.is_empty() {
            Ok(self.bos.into_iter().collect())
        } else {
            Ok(ids)
        }
    }

    /// The ids by which a text is followed by its label: a line break, the label, EOS.
    pub fn label(&self, label: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = self.encode(&format!("\n{label}"), false)?;
        ids.extend(self.eos);
        Ok(ids)
    }

    /// The ids that end a generated text.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether there is a chat template.
    pub fn converses(&self) -> bool {
        self.chat.is_some()
    }

    /// The ids of a conversation up to where the assistant begins to speak; at least one.
    pub fn conversation_so_far(&self, turns: &[Turn], at: &Place) -> Result<Vec<u32>, DataError> {
        let chat = self.chat.as_ref().ok_or_else(|| no_template(at))?;
        let ids = self.encode(&chat.text(turns, true, at)?, false)?;
        if ids.is_empty() {
            let what = "the model's chat template makes nothing of it; fetch the model again";
            let (at, what) = (at.clone(), what.into());
            return Err(DataError::Malformed { at, what });
        }
        Ok(ids)
    }

    /// The text of `ids`, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        let text = guarded(|| self.tokenizer.decode(ids, true));
        let text = text.ok_or_else(|| self.fault(BROKEN))?;
        text.map_err(|error| self.fault(&first_line(&error.to_string())))
    }

    /// One row as token ids, and whether it had to be cut to `sequence_len`.
    ///
    /// `text` is scored whole, `prompt` and `completion` on the completion, `messages` on the
    /// assistant's turns; the first two are followed by EOS where the model has one.
    pub fn tokenise(&self, row: &Row, sequence_len: usize) -> Result<(Example, bool), DataError> {
        if !self.classes.is_empty() {
            let place = |label: &str| self.classes.iter().position(|class| class == label);
            let number = |label: &str| place(label).and_then(|place| u32::try_from(place).ok());
            return self.classified(row, sequence_len, number);
        }
        let mut shortened = false;
        let (mut ids, mut scored) = match &row.form {
            Form::Text(text) => {
                let ids = self.encode(text, true)?;
                let scored = vec![true; ids.len()];
                (ids, scored)
            }
            Form::Pair { prompt, completion } => {
                let mut ids = self.encode(prompt, true)?;
                let mut scored = vec![false; ids.len()];
                ids.extend(self.encode(completion, false)?);
                scored.resize(ids.len(), true);
                (ids, scored)
            }
            Form::Turns(_) => self.conversation(row)?,
            Form::Labelled { text, label } => {
                let label = self.label(label)?;
                let mut ids = self.encode(text, true)?;
                // The text is cut, never the label.
                shortened = ids.len() + label.len() > sequence_len;
                ids.truncate(sequence_len.saturating_sub(label.len()));
                let mut scored = vec![false; ids.len()];
                ids.extend(label);
                scored.resize(ids.len(), true);
                (ids, scored)
            }
        };
        if let (Some(eos), Form::Text(_) | Form::Pair { .. }) = (self.eos, &row.form) {
            ids.push(eos);
            scored.push(true);
        }
        let cut = shortened || ids.len() > sequence_len;
        ids.truncate(sequence_len);
        scored.truncate(sequence_len);
        if let Some(first) = scored.first_mut() {
            *first = false;
        }
        Ok((Example { ids, scored }, cut))
    }

    /// The text that an encoder reads, cut to `sequence_len` in front of its last special token.
    pub fn text(&self, text: &str, sequence_len: usize) -> Result<(Vec<u32>, bool), DataError> {
        let mut ids = self.encode(text, true)?;
        let cut = ids.len() > sequence_len;
        if let (true, Some(&end)) = (cut, ids.last()) {
            ids.truncate(sequence_len.saturating_sub(1));
            ids.push(end);
        }
        Ok((ids, cut))
    }

    /// A text with the number of its label behind it, which alone is scored.
    pub(super) fn classified(
        &self,
        row: &Row,
        sequence_len: usize,
        number: impl Fn(&str) -> Option<u32>,
    ) -> Result<(Example, bool), DataError> {
        let wrong = |what: String| DataError::Malformed {
            at: row.at.clone(),
            what,
        };
        let Form::Labelled { text, label } = &row.form else {
            return Err(wrong("the model is an encoder; give text and label".into()));
        };
        let class = number(label).ok_or_else(|| {
            let known = self.classes.len();
            let what = format!("label {label:?} is none of the {known} that the model tells apart");
            wrong(format!("{what}; mend or remove the row"))
        })?;
        let (mut ids, cut) = self.text(text, sequence_len)?;
        if ids.is_empty() {
            return Err(wrong("field text is empty; give some words".into()));
        }
        let mut scored = vec![false; ids.len()];
        ids.push(class);
        scored.push(true);
        Ok((Example { ids, scored }, cut))
    }

    /// All rows, in their order; rows that leave nothing to score are counted and left out.
    pub fn tokenise_all(&self, rows: &[Row], sequence_len: usize) -> Result<Tokenised, DataError> {
        let examples: Vec<(Example, bool)> = rows
            .par_iter()
            .map(|row| self.tokenise(row, sequence_len))
            .collect::<Result<_, _>>()?;
        let cut = examples.iter().filter(|(_, cut)| *cut).count();
        let examples = examples.into_iter().map(|(example, _)| example);
        let examples: Vec<Example> = examples.filter(|example| example.targets() > 0).collect();
        if examples.is_empty() {
            return Err(DataError::NothingScored {
                rows: rows.len(),
                sequence_len,
            });
        }
        let unscored = rows.len() - examples.len();
        Ok(Tokenised {
            examples,
            cut,
            unscored,
        })
    }

    fn conversation(&self, row: &Row) -> Result<(Vec<u32>, Vec<bool>), DataError> {
        let (Form::Turns(turns), Some(chat)) = (&row.form, &self.chat) else {
            return Err(no_template(&row.at));
        };
        let (whole, spoken) = chat.render(turns, &row.at)?;
        let encoding = guarded(|| self.tokenizer.encode(whole.as_str(), false));
        let encoding = self.whole(encoding)?;
        let ids = self.known(encoding.get_ids())?;
        let within = |&(start, end): &(usize, usize)| {
            spoken
                .iter()
                .any(|range| start < range.end && end.max(start + 1) > range.start)
        };
        let scored = encoding.get_offsets().iter().map(within).collect();
        Ok((ids, scored))
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, DataError> {
        let encoding = guarded(|| self.tokenizer.encode_fast(text, special));
        let encoding = self.whole(encoding)?;
        self.known(encoding.get_ids())
    }

    /// What the tokenizer made of a text, if it did not fail.
    fn whole(&self, made: Option<tokenizers::Result<Encoding>>) -> Result<Encoding, DataError> {
        let made = made.ok_or_else(|| self.fault(BROKEN))?;
        made.map_err(|error| self.fault(&first_line(&error.to_string())))
    }

    /// Ids that the model knows: what a tokenizer puts around a text need not be among its tokens.
    fn known(&self, ids: &[u32]) -> Result<Vec<u32>, DataError> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            None => Ok(ids.to_vec()),
            Some(id) => Err(self.fault(&format!(
                "it gives the id {id}, and the model's vocab_size is {}",
                self.vocabulary
            ))),
        }
    }

    #[expect(
        clippy::unused_self,
        reason = "only an open tokenizer can fail at a text"
    )]
    fn fault(&self, error: &str) -> DataError {
        let what = format!("the tokenizer failed on a text: {error}; fetch the model again");
        DataError::tokenizer(Path::new("tokenizer.json"), what)
    }
}

/// A tokenizer from the JSON of `tokenizer.json`, or why there is none.
pub(in crate::learn) fn tokenizer(json: &[u8]) -> Result<Tokenizer, String> {
    let read =
        guarded(|| Tokenizer::from_bytes(json)).ok_or("no tokenizer: its parts do not fit")?;
    read.map_err(|error| format!("no tokenizer: {}", first_line(&error.to_string())))
}

/// What is said of a tokenizer whose library panics at a text.
const BROKEN: &str = "its parts do not fit";

fn no_template(at: &Place) -> DataError {
    let what = "field messages needs a chat template, and the model's tokenizer_config.json has none; \
                give prompt and completion instead";
    DataError::Malformed {
        at: at.clone(),
        what: what.into(),
    }
}

/// The ids that end a text: those of the model, of its `generation_config.json`, and the tokenizer's own.
fn ends(
    model: &Path,
    mut ends: Vec<u32>,
    tokenizer: &Tokenizer,
    settings: &Value,
) -> Result<Vec<u32>, DataError> {
    let path = model.join("generation_config.json");
    if path.exists()
        && let Value::Object(json) = &json(&path)?
    {
        let keys = Keys { json, path: model };
        ends.extend(keys.tokens("eos_token_id"));
    }
    ends.extend(tokenizer.token_to_id(&special(settings, "eos_token")));
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Place;
    use super::*;

    const BYTES: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
        {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
        {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false},
        "post_processor": {"type": "TemplateProcessing",
          "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
          "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
          "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
          "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
          "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "U": 5, "A": 6, "|": 7}, "merges": []}}"#;

    fn model(config: &str, settings: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write =
            |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        let small = r#""hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1"#;
        write(
            "config.json",
            &config.replacen('{', &format!("{{{small}, "), 1),
        );
        write("tokenizer.json", BYTES);
        if let Some(settings) = settings {
            write("tokenizer_config.json", settings);
        }
        dir
    }

    fn row(line: &str) -> Row {
        Row::parse(
            line,
            Place {
                file: Arc::from(Path::new("rows.jsonl")),
                line: 1,
            },
        )
        .expect("a row")
    }

    fn marked(tokens: &Tokens, line: &str, sequence_len: usize) -> (Vec<u32>, String, bool) {
        let (example, cut) = tokens
            .tokenise(&row(line), sequence_len)
            .expect("tokenised");
        assert_eq!(example.ids.len(), example.scored.len());
        let marks = example
            .scored
            .iter()
            .map(|&scored| if scored { 'x' } else { '.' })
            .collect();
        (example.ids, marks, cut)
    }

    #[test]
    fn what_is_scored_follows_the_form() {
        let dir = model(
            r#"{"vocab_size": 8, "eos_token_id": [1, 0], "bos_token_id": 0}"#,
            None,
        );
        let tokens = Tokens::open(dir.path()).expect("opened");
        let marked = |line, most| marked(&tokens, line, most);
        assert_eq!(
            marked(r#"{"text": "abc"}"#, 64),
            (vec![0, 2, 3, 4, 1], ".xxxx".into(), false)
        );
        let pair = r#"{"prompt": "ab", "completion": "ca"}"#;
        assert_eq!(
            marked(pair, 64),
            (vec![0, 2, 3, 4, 2, 1], "...xxx".into(), false)
        );
        assert_eq!(marked(pair, 4), (vec![0, 2, 3, 4], "...x".into(), true));
        assert_eq!(
            marked(r#"{"prompt": "", "completion": "c"}"#, 64),
            (vec![0, 4, 1], ".xx".into(), false)
        );
        assert_eq!(tokens.prompt("").expect("ids"), [0]);
        assert_eq!(tokens.decode(&[0, 2, 3, 1]).expect("text"), "ab");
    }

    #[test]
    fn without_eos_none_is_added() {
        let dir = model(r#"{"vocab_size": 8}"#, None);
        let tokens = Tokens::open(dir.path()).expect("opened");
        assert_eq!(
            marked(&tokens, r#"{"text": "abc"}"#, 64),
            (vec![0, 2, 3, 4], ".xxx".into(), false)
        );
        let rows = [row(r#"{"text": "abcabc"}"#), row(r#"{"text": ""}"#)];
        let all = tokens.tokenise_all(&rows, 4).expect("tokenised");
        assert_eq!((all.examples.len(), all.cut, all.unscored), (1, 1, 1));
        let none = tokens
            .tokenise_all(&rows[1..], 4)
            .expect_err("refused")
            .to_string();
        assert!(none.contains("none of the 1 rows"), "{none}");
    }

    #[test]
    fn assistant_turns_are_scored_through_the_chat_template() {
        let template = r#"{"bos_token": {"content": "<s>"}, "chat_template":
            "{{ bos_token }}{% for m in messages %}WHO{{ m.content }}|{% endfor %}TURN"}"#
            .replace("WHO", "{{ 'A' if m.role == 'assistant' else 'U' }}")
            .replace("TURN", "{% if add_generation_prompt %}A{% endif %}");
        let dir = model(r#"{"vocab_size": 8, "eos_token_id": 1}"#, Some(&template));
        let tokens = Tokens::open(dir.path()).expect("opened");
        let line = r#"{"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"},
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "bb"}]}"#;
        let (ids, marks, _) = marked(&tokens, line, 64);
        assert_eq!(ids, [0, 5, 2, 3, 7, 6, 4, 7, 5, 2, 7, 6, 3, 3, 7]);
        assert_eq!(marks, "......xx....xxx");
        let mute = Some(r#"{"chat_template": "{% if messages %}{% endif %}"}"#);
        let mute = Tokens::open(model(r#"{"vocab_size": 8}"#, mute).path()).expect("opened");
        let at = row(line).at;
        let said = mute.conversation_so_far(&[], &at).expect_err("refused");
        assert!(said.to_string().contains("makes nothing of it"), "{said}");
        let bare = Tokens::open(model(r#"{"vocab_size": 8}"#, None).path()).expect("opened");
        let said = bare
            .tokenise(&row(line), 64)
            .expect_err("refused")
            .to_string();
        assert!(
            said.starts_with("rows.jsonl:1: field messages needs a chat template"),
            "{said}"
        );
    }

    #[test]
    fn a_tokenizer_that_does_not_fit_is_refused() {
        let dir = model(r#"{"vocab_size": 6}"#, None);
        let said = Tokens::open(dir.path()).expect_err("refused").to_string();
        assert!(
            said.contains("ids up to 7, but the model's vocab_size is 6"),
            "{said}"
        );
        let dir = model(r#"{"vocab_size": null}"#, None);
        let said = Tokens::open(dir.path()).expect_err("refused").to_string();
        assert!(
            said.contains("config.json: the key vocab_size is missing"),
            "{said}"
        );
        let dir = model(r#"{"vocab_size": 8}"#, None);
        let around = BYTES.replace(r#""ids": [0]"#, r#""ids": [9]"#);
        std::fs::write(dir.path().join("tokenizer.json"), around).expect("written");
        let tokens = Tokens::open(dir.path()).expect("opened");
        for said in [
            tokens.prompt("ab"),
            tokens.text("ab", 9).map(|(ids, _)| ids),
        ] {
            let said = said.expect_err("refused").to_string();
            assert!(said.contains("the id 9"), "{said}");
        }
        std::fs::write(dir.path().join("tokenizer.json"), &BYTES[..200]).expect("written");
        let said = Tokens::open(dir.path()).expect_err("refused").to_string();
        assert!(said.contains("tokenizer.json: no tokenizer: "), "{said}");
        std::fs::remove_file(dir.path().join("tokenizer.json")).expect("removed");
        assert!(matches!(
            Tokens::open(dir.path()),
            Err(DataError::Unreadable { .. })
        ));
    }

    #[test]
    fn an_encoder_reads_a_text_and_the_number_of_its_label() {
        let dir = model(
            r#"{"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}"#,
            None,
        );
        let classes = ["no", "yes"].map(str::to_owned);
        let tokens = Tokens::open(dir.path())
            .expect("opens")
            .telling_apart(&classes);
        let labelled = |line: &str| row(line).labelled().expect("a label");
        let whole = labelled(r#"{"text": "abc", "label": "yes"}"#);
        let (example, cut) = tokens.tokenise(&whole, 8).expect("tokens");
        assert_eq!((example.ids.len(), example.targets(), cut), (5, 1, false));
        assert_eq!(tokens.class(example.ids[4]), Some("yes"));
        let (shorter, cut) = tokens.tokenise(&whole, 3).expect("tokens");
        assert!(cut && shorter.ids.len() == 4 && shorter.ids[2..] == example.ids[3..]);
        let error = tokens.tokenise(&labelled(r#"{"text": "a", "label": "?"}"#), 8);
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("none of the 2"), "{error}");
        let mut bare: Value = serde_json::from_str(BYTES).expect("JSON");
        bare["post_processor"] = Value::Null;
        let bare = bare.to_string();
        std::fs::write(dir.path().join("tokenizer.json"), bare).expect("written");
        let tokens = Tokens::open(dir.path())
            .expect("opens")
            .telling_apart(&classes);
        let error = tokens.tokenise(&labelled(r#"{"text": "", "label": "yes"}"#), 8);
        let error = error.expect_err("refused").to_string();
        assert!(
            error.contains("rows.jsonl:1: field text is empty"),
            "{error}"
        );
    }
}
