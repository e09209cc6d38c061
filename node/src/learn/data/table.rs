//! CSV: a header that names the columns, then a row a record. Commas, semicolons or tabs part the fields, whichever
//! the header shows; quoted fields may hold all three, and line breaks.

use std::io::{BufRead, Read};

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::DataError;
use super::read::{Each, broken};
use super::row::{COLUMNS, Place, Row, lacking, shown};

const DELIMITERS: [u8; 3] = *b",;\t";

/// Whether a text begins with a header that names a known column.
pub(super) fn begins(first: &[u8]) -> bool {
    delimiter(first).is_some()
}

/// Gives each record of a table as a row; `file` is the place without a line.
pub(super) fn visit(
    mut text: impl BufRead,
    file: &Place,
    each: &mut Each<'_>,
) -> Result<(), DataError> {
    let at = |line| Place {
        line,
        ..file.clone()
    };
    let first = text.fill_buf().map_err(|error| broken(at(1), &error))?;
    if first.starts_with(MARK) {
        text.consume(MARK.len());
    }
    let first = text.fill_buf().map_err(|error| broken(at(1), &error))?;
    let delimiter = delimiter(first).unwrap_or(b',');
    let crlf = first
        .split(|byte| *byte == b'\n')
        .next()
        .is_some_and(|line| line.ends_with(b"\r"));
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(Watched {
            text,
            delimiter,
            within: Within::Beginning,
            ended: false,
        });
    let mut record = ByteRecord::new();
    let mut columns: Vec<String> = Vec::new();
    let mut last = 0;
    loop {
        let more = reader.read_byte_record(&mut record);
        if !more.map_err(|error| broken(at(last + 1), &std::io::Error::other(error)))? {
            break;
        }
        // The reader has counted the line breaks within the record, and the one behind it if that is a single byte.
        let behind = u64::from(!crlf && !reader.get_ref().ended);
        let within = record
            .iter()
            .flatten()
            .filter(|byte| **byte == b'\n')
            .count() as u64;
        let line = reader
            .position()
            .line()
            .saturating_sub(behind + within)
            .max(1);
        last = line;
        let parsed = if columns.is_empty() {
            header(&record).map(|names| columns = names).map(|()| None)
        } else {
            fields(&columns, &record).map(Some)
        };
        match parsed {
            Err(what) => return Err(DataError::Malformed { at: at(line), what }),
            Ok(None) => {}
            Ok(Some(fields)) => each(Row::new(fields, at(line))?)?,
        }
    }
    if reader.get_ref().within == Within::Quotes {
        let what = "a quoted field is never closed, so that all the rest of the file fell into it; close the quote";
        let (at, what) = (at(last), what.to_owned());
        return Err(DataError::Malformed { at, what });
    }
    Ok(())
}

/// The delimiter under which the first line names a known column.
fn delimiter(first: &[u8]) -> Option<u8> {
    let line = first.split(|byte| matches!(byte, b'\n' | b'\r')).next()?;
    let names = |delimiter: u8| line.split(move |byte| *byte == delimiter);
    let plain = |name: &[u8]| {
        String::from_utf8_lossy(name)
            .trim_matches([' ', '"'])
            .to_owned()
    };
    DELIMITERS
        .into_iter()
        .find(|&delimiter| names(delimiter).any(|name| COLUMNS.contains(&plain(name).as_str())))
}

fn header(record: &ByteRecord) -> Result<Vec<String>, String> {
    let mut columns: Vec<String> = Vec::with_capacity(record.len());
    for name in record {
        let name = std::str::from_utf8(name)
            .map_err(|_| "the header is no valid UTF-8; save the file as UTF-8")?;
        let name = name.trim();
        if columns.iter().any(|column| column == name) {
            let name = shown(name);
            return Err(format!(
                "column {name} stands in the header twice; rename one"
            ));
        }
        columns.push(name.to_owned());
    }
    lacking(&columns).map_or(Ok(columns), Err)
}

fn fields(columns: &[String], record: &ByteRecord) -> Result<Map<String, Value>, String> {
    let (found, expected) = (record.len(), columns.len());
    if found != expected {
        return Err(format!(
            "{found} fields, but the header names {expected}; quote fields that hold the separator or a line break"
        ));
    }
    let mut fields = Map::with_capacity(expected);
    for (column, field) in columns.iter().zip(record) {
        let text = std::str::from_utf8(field)
            .map_err(|_| shown(column))
            .map_err(|name| format!("field {name} is no valid UTF-8; save the file as UTF-8"))?;
        let value = if column == "messages" {
            serde_json::from_str(text)
                .map_err(|_| "field messages holds no JSON; write a list of role and content")?
        } else {
            Value::String(text.to_owned())
        };
        fields.insert(column.clone(), value);
    }
    Ok(fields)
}

/// A text that knows, as the reader of CSV does, whether a quoted field is open, and whether all of it was read.
struct Watched<R> {
    text: R,
    delimiter: u8,
    within: Within,
    ended: bool,
}

/// Where in a field a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Before its first byte.
    Beginning,
    /// A field without quotes around it: a quote in it is a letter.
    Letters,
    /// Between quotes.
    Quotes,
    /// Behind a quote that closes the field, unless another one follows.
    Closing,
}

impl Within {
    fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Quotes, b'"') => Self::Closing,
            (Self::Quotes, _) | (Self::Beginning | Self::Closing, b'"') => Self::Quotes,
            _ if byte == delimiter || matches!(byte, b'\n' | b'\r') => Self::Beginning,
            _ => Self::Letters,
        }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let taken = self.text.read(buffer)?;
        for byte in &buffer[..taken] {
            self.within = self.within.after(*byte, self.delimiter);
        }
        self.ended |= taken == 0;
        Ok(taken)
    }
}

const MARK: &[u8] = "\u{feff}".as_bytes();

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::row::Form;
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<Row>, String> {
        let file = Place {
            file: Arc::from(Path::new("rows.csv")),
            line: 0,
        };
        let mut rows = Vec::new();
        let each = &mut |row| {
            rows.push(row);
            Ok(())
        };
        visit(text.as_ref(), &file, each).map_err(|error| error.to_string())?;
        Ok(rows)
    }

    #[test]
    fn records_become_rows_with_all_their_columns() {
        let text =
            "\u{feff}\"text\",label,source\r\n\"one, \"\"two\"\"\nthree\",ham,a\r\n\r\nfour,spam,b";
        let rows = read(text).unwrap();
        assert_eq!(rows[0].form, Form::Text("one, \"two\"\nthree".into()));
        assert_eq!(rows[0].field("label").as_deref(), Some("ham"));
        assert_eq!((rows[0].at.line, rows[1].at.line), (2, 5));
        assert_eq!(rows[1].field("source").as_deref(), Some("b"));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn the_header_shows_the_delimiter() {
        let pair = Form::Pair {
            prompt: "a, b".into(),
            completion: "c".into(),
        };
        for text in [
            "prompt;completion\na, b;c\n",
            "id\tprompt\tcompletion\n1\ta, b\tc",
        ] {
            assert_eq!(read(text).unwrap()[0].form, pair, "{text}");
        }
        let turns =
            "messages\n\"[{\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"x\"\"}]\"\n";
        assert!(matches!(&read(turns).unwrap()[0].form, Form::Turns(turns) if turns.len() == 1));
        assert!(begins(b"label,text\n") && !begins(b"Once upon a text, there was\n"));
    }

    #[test]
    fn faults_name_the_row_and_the_field() {
        for (text, expected) in [
            (
                &b"id,question\n1,x"[..],
                "rows.csv:1: no column text, prompt and completion, or messages (found: id, question)",
            ),
            (
                b"prompt,label\nx,y",
                "rows.csv:1: column completion is missing",
            ),
            (
                b"text,text\nx,y",
                "rows.csv:1: column text stands in the header twice",
            ),
            (
                b"\"a\nb\",\"a\nb\"\nx,y",
                "rows.csv:1: column a b stands in the header twice",
            ),
            (b"\"a\nb\",c\nx,y", "(found: a b, c); add or rename one"),
            (
                b"text,label\nx,y\nx",
                "rows.csv:3: 1 fields, but the header names 2",
            ),
            (
                b"text,label\nx,y\na, b,y",
                "rows.csv:3: 3 fields, but the header names 2",
            ),
            (
                b"text,label\nx,y\n\ncaf\xe9,z",
                "rows.csv:4: field text is no valid UTF-8",
            ),
            (
                b"text\nx\n\"open\nnext\nmore\n",
                "rows.csv:3: a quoted field is never closed",
            ),
            (
                b"text\na 5\" pipe\n\"open",
                "rows.csv:3: a quoted field is never closed",
            ),
            (
                b"\xef\xbb\xbf\"text\"\nx\n\"say \"\"no\"\",\nmore\n",
                "rows.csv:3: a quoted field is never closed",
            ),
            (
                b"messages\nhello",
                "rows.csv:2: field messages holds no JSON",
            ),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(expected), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read("text\n").unwrap(), []);
    }

    #[test]
    fn a_quote_within_a_field_is_a_letter() {
        for (text, expected) in [
            ("text\na 5\" pipe\n", &["a 5\" pipe"][..]),
            ("text\na 5\" pipe\n\"x\ny\"\n", &["a 5\" pipe", "x\ny"]),
            ("text\na 5\" pipe\n\"x\"", &["a 5\" pipe", "x"]),
            ("text;id\n\"x\"y\"\nz;1", &[]),
            ("text\n\"x \"\"y\"\"\"\n", &["x \"y\""]),
        ] {
            let rows = read(text);
            if expected.is_empty() {
                assert!(rows.unwrap_err().contains("1 fields, but"), "{text}");
                continue;
            }
            let rows = rows.unwrap();
            let texts: Vec<String> = rows.iter().filter_map(|row| row.field("text")).collect();
            assert_eq!(texts, expected, "{text}");
        }
    }
}
