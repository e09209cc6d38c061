//! JSON Lines into rows: a file or a folder, plain or gzip, every fault named by file, line, field.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use super::DataError;

/// Where a row stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1.
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
}

/// One line of a data set.
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
        let form = form(&fields).map_err(wrong)?;
        Ok(Self { form, fields, at })
    }

    /// The field `name` as text: strings as they are, other values as their JSON; `None` if absent.
    pub fn field(&self, name: &str) -> Option<String> {
        match self.fields.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// The row as one line of JSON without its line break.
    pub fn to_line(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }
}

/// Reads every row of a file, or of each data file (`.jsonl`, `.json`, each also `.gz`) of a folder
/// in name order.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, DataError> {
    let mut rows = Vec::new();
    for file in data_files(path)? {
        read_file(&file, &mut rows)?;
    }
    if rows.is_empty() {
        return Err(DataError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(rows)
}

fn data_files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if !path.metadata().map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir().map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().to_lowercase());
        let name = name.unwrap_or_default();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let known = [".jsonl", ".json"]
            .iter()
            .any(|suffix| plain.ends_with(suffix));
        if known && !name.starts_with('.') && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(DataError::NoFiles {
            path: path.to_owned(),
        });
    }
    Ok(files)
}

fn read_file(path: &Path, rows: &mut Vec<Row>) -> Result<(), DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let zipped = file
        .fill_buf()
        .map_err(unreadable)?
        .starts_with(&[0x1f, 0x8b]);
    let text: Box<dyn Read> = if zipped {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut text = BufReader::new(text);
    let file: Arc<Path> = Arc::from(path);
    let mut bytes = Vec::new();
    for line in 1.. {
        let at = Place {
            file: Arc::clone(&file),
            line,
        };
        bytes.clear();
        let taken = text
            .read_until(b'\n', &mut bytes)
            .map_err(|error| DataError::Malformed {
                at: at.clone(),
                what: format!(
                    "the file cannot be read on: {error}; it may be truncated, fetch it again"
                ),
            })?;
        if taken == 0 {
            break;
        }
        let Ok(words) = std::str::from_utf8(&bytes) else {
            return Err(DataError::Malformed {
                at,
                what: "no valid UTF-8; save the file as UTF-8".into(),
            });
        };
        let words = if line == 1 {
            words.trim_start_matches('\u{feff}')
        } else {
            words
        };
        if !words.trim().is_empty() {
            rows.push(Row::parse(words.trim(), at)?);
        }
    }
    Ok(())
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
    let names: Vec<_> = fields.keys().map(String::as_str).take(8).collect();
    let found = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    Err(format!(
        "no field text, prompt and completion, or messages (found: {found}); add one"
    ))
}

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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        (dir, path)
    }

    fn complaint(line: &str) -> String {
        let (_dir, path) = written(
            "rows.jsonl",
            format!("{{\"text\": \"fine\"}}\n{line}\n").as_bytes(),
        );
        read_rows(&path).expect_err("refused").to_string()
    }

    #[test]
    fn the_three_forms_are_read() {
        let lines = "\u{feff}{\"text\": \"a\", \"label\": 3}\n\n{\"prompt\": \"q\", \"completion\": \"r\"}\r\n\
                     {\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, \
                     {\"role\": \"assistant\", \"content\": \"yo\"}]}";
        let (_dir, path) = written("rows.jsonl", lines.as_bytes());
        let rows = read_rows(&path).expect("read");
        assert_eq!(rows[0].form, Form::Text("a".into()));
        assert_eq!(rows[0].field("label").as_deref(), Some("3"));
        assert_eq!(
            rows[1].form,
            Form::Pair {
                prompt: "q".into(),
                completion: "r".into()
            }
        );
        assert_eq!(rows[1].at.line, 3);
        assert_eq!(rows[1].to_line(), r#"{"prompt":"q","completion":"r"}"#);
        assert!(matches!(&rows[2].form, Form::Turns(turns) if turns.len() == 2));
    }

    #[test]
    fn a_fault_names_file_line_and_field() {
        for (line, expected) in [
            (
                "{\"text\": \"unterminated",
                "no valid JSON: it ends too early",
            ),
            ("not json", "no valid JSON: it is malformed at column 2"),
            ("[1, 2]", "a JSON array"),
            ("7", "no JSON object"),
            ("{\"text\": 7}", "field text is a number"),
            ("{\"prompt\": \"q\"}", "field completion is missing"),
            ("{\"completion\": \"q\"}", "field prompt is missing"),
            ("{\"question\": \"q\"}", "(found: question)"),
            ("{\"messages\": {}}", "field messages is an object"),
            (
                "{\"messages\": [{\"role\": \"assistant\"}]}",
                "field messages[0].content is missing",
            ),
            (
                "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
                "no turn of the role assistant",
            ),
        ] {
            let said = complaint(line);
            assert!(
                said.contains("rows.jsonl:2: ") && said.contains(expected),
                "{line}: {said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn a_folder_gives_its_data_files_in_name_order_and_ignores_the_rest() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).expect("written");
        };
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(b"{\"text\": \"first\"}\n").expect("zipped");
        write("a.jsonl.gz", &zip.finish().expect("zipped"));
        write("b.jsonl", b"{\"text\": \"second\"}\n");
        write("README.md", b"not a row");
        write(".hidden.jsonl", b"not a row");
        let rows = read_rows(dir.path()).expect("read");
        let texts: Vec<_> = rows.iter().filter_map(|row| row.field("text")).collect();
        assert_eq!(texts, ["first", "second"]);
    }

    #[test]
    fn missing_empty_broken_and_truncated_files_are_refused() {
        let (dir, path) = written("empty.jsonl", b"\n\n");
        assert!(matches!(read_rows(&path), Err(DataError::Empty { .. })));
        assert!(matches!(
            read_rows(&dir.path().join("none")),
            Err(DataError::Unreadable { .. })
        ));
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(
            read_rows(dir.path()),
            Err(DataError::NoFiles { .. })
        ));
        let (_dir, path) = written("latin.jsonl", b"{\"text\": \"caf\xe9\"}");
        assert!(
            read_rows(&path)
                .expect_err("refused")
                .to_string()
                .contains("latin.jsonl:1: no valid UTF-8")
        );
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all("{\"text\": \"many words\"}\n".repeat(50).as_bytes())
            .expect("zipped");
        let bytes = zip.finish().expect("zipped");
        let (_dir, path) = written("cut.jsonl.gz", &bytes[..bytes.len() / 2]);
        assert!(
            read_rows(&path)
                .expect_err("refused")
                .to_string()
                .contains("truncated")
        );
    }
}
