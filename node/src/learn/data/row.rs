//! One row of a data set, whatever file it came from: its fields, where it stood, and what is to be learnt from it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::DataError;
use crate::said::beginning;

/// Where a row stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line on which it begins, or its number in a Parquet file; both count from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One speaker's words in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user`, `assistant`, or what the chat template knows.
    pub role: String,
    /// The words.
    pub content: String,
}

/// What a row asks the trainer to learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// `text`: all of it is scored.
    Text(String),
    /// `prompt` and `completion`: the completion is scored.
    Pair {
        /// What is given.
        prompt: String,
        /// What is to be learnt.
        completion: String,
    },
    /// `messages`: the assistant's turns are scored.
    Turns(Vec<Turn>),
    /// `label` behind a text, of its own line: the label is scored. No file asks for it, [`Row::labelled`] does.
    Labelled {
        /// What is given.
        text: String,
        /// What is to be learnt.
        label: String,
    },
}

impl Form {
    /// Bytes of text.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Pair { prompt, completion } => prompt.len() + completion.len(),
            Self::Turns(turns) => turns.iter().map(|turn| turn.content.len()).sum(),
            Self::Labelled { text, label } => text.len() + label.len(),
        }
    }
}

/// One row of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The text in one of the three known forms.
    pub form: Form,
    /// The whole object, for splits by a field and for writing it out again.
    pub fields: Map<String, Value>,
    /// Where it was read.
    pub at: Place,
}

impl Row {
    /// Parses one line of JSON.
    pub fn parse(line: &str, at: Place) -> Result<Self, DataError> {
        let wrong = |what: String| DataError::Malformed {
            at: at.clone(),
            what,
        };
        let fields = match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => fields,
            Ok(Value::Array(_)) => {
                return Err(wrong(
                    "a JSON array; write one JSON object a line instead".into(),
                ));
            }
            Ok(_) => return Err(wrong("no JSON object; write one JSON object a line".into())),
            Err(error) => {
                let column = error.column();
                let why = if error.is_eof() {
                    "it ends too early"
                } else {
                    "it is malformed"
                };
                let what =
                    format!("no valid JSON: {why} at column {column}; mend or remove the line");
                return Err(wrong(what));
            }
        };
        Self::new(fields, at)
    }

    /// Makes a row of fields.
    pub fn new(fields: Map<String, Value>, at: Place) -> Result<Self, DataError> {
        match form(&fields) {
            Ok(form) => Ok(Self { form, fields, at }),
            Err(what) => Err(DataError::Malformed { at, what }),
        }
    }

    /// The row as one that asks for its label.
    pub fn labelled(mut self) -> Result<Self, DataError> {
        let wrong = |at: &Place, what: &str| DataError::Malformed {
            at: at.clone(),
            what: what.to_owned(),
        };
        let Some(label) = self.field("label").filter(|label| !label.is_empty()) else {
            let what = "field label is missing or empty, and labels are to be told apart; add it";
            return Err(wrong(&self.at, what));
        };
        let text = match self.form {
            Form::Text(text) | Form::Labelled { text, .. } => text,
            Form::Pair { prompt, .. } => prompt,
            Form::Turns(_) => {
                let what =
                    "a row of messages is scored on its turns, not on a label; give text and label";
                return Err(wrong(&self.at, what));
            }
        };
        self.form = Form::Labelled { text, label };
        Ok(self)
    }

    /// The field `name` as text: strings as they are, other values as their JSON; `None` if absent.
    pub fn field(&self, name: &str) -> Option<String> {
        text(self.fields.get(name)?)
    }

    /// The row as one line of JSON without its line break.
    pub fn to_line(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }
}

/// A value as text: strings as they are, others as their JSON; nothing for null.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn form(fields: &Map<String, Value>) -> Result<Form, String> {
    if let Some(messages) = fields.get("messages") {
        return turns(messages).map(Form::Turns);
    }
    if fields.contains_key("prompt") || fields.contains_key("completion") {
        let prompt = text_of(fields, "prompt")?;
        return Ok(Form::Pair {
            prompt,
            completion: text_of(fields, "completion")?,
        });
    }
    if fields.contains_key("text") {
        return text_of(fields, "text").map(Form::Text);
    }
    Err(format!(
        "no field text, prompt and completion, or messages (found: {}); add one",
        listed(fields.keys())
    ))
}

/// The columns that make a row of a table.
pub(super) const COLUMNS: [&str; 5] = ["text", "label", "prompt", "completion", "messages"];

/// What the columns of a table lack to make rows; `None` if nothing.
pub(super) fn lacking(columns: &[String]) -> Option<String> {
    let has = |name: &str| columns.iter().any(|column| column == name);
    let found = listed(columns);
    match (has("prompt"), has("completion")) {
        _ if has("messages") => None,
        (true, true) => None,
        (true, false) => Some(format!(
            "column completion is missing, which goes together with prompt (found: {found}); add it"
        )),
        (false, true) => Some(format!(
            "column prompt is missing, which goes together with completion (found: {found}); add it"
        )),
        (false, false) if has("text") => None,
        (false, false) => Some(format!(
            "no column text, prompt and completion, or messages (found: {found}); add or rename one"
        )),
    }
}

/// The first eight names with commas between.
fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let mut names: Vec<_> = names.into_iter().take(9).map(|name| shown(name)).collect();
    if names.len() > 8 {
        names[8] = "…".into();
    }
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// The beginning of somebody's name, on one line.
pub(super) fn shown(name: &str) -> String {
    beginning(name, NAME)
}

/// Characters of a name that are repeated.
const NAME: usize = 60;

fn text_of(fields: &Map<String, Value>, name: &str) -> Result<String, String> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("field {name} is {}; make it a string", kind(other))),
        None => Err(format!(
            "field {name} is missing; prompt and completion go together"
        )),
    }
}

fn turns(messages: &Value) -> Result<Vec<Turn>, String> {
    let Value::Array(messages) = messages else {
        return Err(format!(
            "field messages is {}; make it a list of role and content",
            kind(messages)
        ));
    };
    let mut turns = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let part = |name: &str| match message.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(format!(
                "field messages[{index}].{name} is {}; make it a string",
                kind(other)
            )),
            None => Err(format!("field messages[{index}].{name} is missing; add it")),
        };
        turns.push(Turn {
            role: part("role")?,
            content: part("content")?,
        });
    }
    if turns.iter().any(|turn| turn.role == "assistant") {
        Ok(turns)
    } else {
        Err("field messages has no turn of the role assistant; there is nothing to learn".into())
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
