//! Files into rows: JSON Lines, CSV or Parquet, a file or a folder, text also gzipped, every fault named by file, row,
//! field. Which form a file has is seen from its first bytes; its name decides only what these leave open.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::row::{Place, Row};
use super::{DataError, columnar, table};

/// Takes rows, one at a time; an error ends the reading.
pub type Each<'a> = dyn FnMut(Row) -> Result<(), DataError> + 'a;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lines,
    Table,
    Columnar,
}

/// Reads every row of a file, or of each data file (`.jsonl`, `.json`, `.csv`, `.tsv`, each also `.gz`, `.parquet`) of
/// a folder in name order.
pub fn read_rows(path: &Path) -> Result<Vec<Row>, DataError> {
    let mut rows = Vec::new();
    visit_rows(path, &mut |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

/// The same, row by row: no more than one row (of a Parquet file, one page a column) is in memory.
pub fn visit_rows(path: &Path, each: &mut Each<'_>) -> Result<(), DataError> {
    let mut any = false;
    let mut counted = |row| {
        any = true;
        each(row)
    };
    for file in data_files(path)? {
        visit_file(&file, &mut counted)?;
    }
    if any {
        Ok(())
    } else {
        Err(DataError::Empty {
            path: path.to_owned(),
        })
    }
}

/// The labels of rows that have been read, sorted, each once: their numbers are the same wherever the rows are read.
pub fn labels_among(rows: &[Row]) -> Result<Vec<String>, DataError> {
    let labels = rows
        .iter()
        .map(|row| Ok(row.clone().labelled()?.field("label")));
    let labels: BTreeSet<Option<String>> = labels.collect::<Result<_, DataError>>()?;
    Ok(labels.into_iter().flatten().collect())
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
        let text = [".jsonl", ".json", ".csv", ".tsv"];
        let known = text.iter().any(|suffix| plain.ends_with(suffix));
        let known = known || name.ends_with(".parquet");
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

fn visit_file(path: &Path, each: &mut Each<'_>) -> Result<(), DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let begin = beginning(&mut file, columnar::MAGIC.len()).map_err(unreadable)?;
    let at = |line| Place {
        file: Arc::from(path),
        line,
    };
    let wrong = |what: &str| DataError::Malformed {
        at: at(1),
        what: what.to_owned(),
    };
    if begin == columnar::MAGIC {
        let fixed = file.rewind();
        fixed.map_err(|_| wrong("Parquet cannot be read from a pipe; save it as a file"))?;
        return columnar::visit(file, &at(0), each);
    }
    let name = path.to_string_lossy().to_lowercase();
    if name.ends_with(".parquet") {
        return Err(wrong(
            "no Parquet file: it does not begin with PAR1; fetch it again, or name it after what it holds",
        ));
    }
    let zipped = begin.starts_with(&[0x1f, 0x8b]);
    // Never wound back: a pipe gives its bytes once.
    let file = Cursor::new(begin).chain(file);
    let mut text: Box<dyn Read> = if zipped {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let first = beginning(&mut text, BUFFER).map_err(|error| broken(at(1), &error))?;
    let kind = kind(&first, name.strip_suffix(".gz").unwrap_or(&name));
    let text = Cursor::new(first).chain(BufReader::with_capacity(BUFFER, text));
    match kind {
        Kind::Lines => visit_lines(text, &at(0), each),
        Kind::Table => table::visit(text, &at(0), each),
        Kind::Columnar => Err(wrong(
            "a gzipped Parquet file; unzip it, Parquet compresses by itself",
        )),
    }
}

/// The first bytes, as many as there are up to `most`.
fn beginning(text: &mut impl Read, most: usize) -> std::io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(most);
    text.take(most as u64).read_to_end(&mut first)?;
    Ok(first)
}

/// What a text is, from its beginning and the lower-case name of the file without `.gz`.
fn kind(first: &[u8], name: &str) -> Kind {
    if first.starts_with(columnar::MAGIC) {
        return Kind::Columnar;
    }
    let first = first.strip_prefix("\u{feff}".as_bytes()).unwrap_or(first);
    let ends = |suffixes: [&str; 2]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    match first.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Kind::Lines,
        _ if ends([".csv", ".tsv"]) => Kind::Table,
        _ if ends([".jsonl", ".json"]) => Kind::Lines,
        _ if table::begins(first) => Kind::Table,
        _ => Kind::Lines,
    }
}

fn visit_lines(mut text: impl BufRead, file: &Place, each: &mut Each<'_>) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    for line in 1.. {
        let at = Place {
            line,
            ..file.clone()
        };
        bytes.clear();
        let taken = text
            .read_until(b'\n', &mut bytes)
            .map_err(|error| broken(at.clone(), &error))?;
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
            each(Row::parse(words.trim(), at)?)?;
        }
    }
    Ok(())
}

/// A text that ends in the middle.
pub(super) fn broken(at: Place, error: &std::io::Error) -> DataError {
    let what = format!("the file cannot be read on: {error}; it may be truncated, fetch it again");
    DataError::Malformed { at, what }
}

const BUFFER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::row::Form;
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

    #[test]
    fn the_content_decides_the_form_and_a_folder_may_mix_them() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).expect("written");
        };
        let zipped = |text: &str| {
            let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            zip.write_all(text.as_bytes()).expect("zipped");
            zip.finish().expect("zipped")
        };
        write("a.csv.gz", &zipped("text,label\nfirst,x\n"));
        write("b.csv", b"{\"text\": \"second\"}\n");
        write("c.tsv", b"label\ttext\ny\tthird, with a comma\n");
        let rows = read_rows(dir.path()).expect("read");
        let texts: Vec<_> = rows.iter().filter_map(|row| row.field("text")).collect();
        assert_eq!(texts, ["first", "second", "third, with a comma"]);
        write("unnamed", b"label,text\ny,fourth\n");
        assert_eq!(
            read_rows(&dir.path().join("unnamed")).expect("read").len(),
            1
        );
        write("e.parquet.gz", &zipped("PAR1 and so on"));
        assert_eq!(
            read_rows(dir.path()).expect("read").len(),
            3,
            "no name of a data file"
        );
        let said = read_rows(&dir.path().join("e.parquet.gz"))
            .expect_err("refused")
            .to_string();
        assert!(said.contains("unzip it"), "{said}");
        write(
            "cut.csv.gz",
            &zipped(&format!("text\n{}", "many words\n".repeat(50)))[..40],
        );
        let said = read_rows(&dir.path().join("cut.csv.gz"))
            .expect_err("refused")
            .to_string();
        assert!(
            said.contains("truncated") && said.contains("cut.csv.gz:"),
            "{said}"
        );
    }

    #[test]
    fn a_pipe_is_read_once_from_its_beginning() {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(b"text\nzipped\n").expect("zipped");
        let parquet = "Parquet cannot be read from a pipe";
        for (bytes, expected) in [
            (&b"{\"text\": \"piped\"}\n"[..], Ok("piped")),
            (&zip.finish().expect("zipped"), Ok("zipped")),
            (b"PAR1 and so on", Err(parquet)),
        ] {
            let (reader, mut writer) = std::io::pipe().expect("a pipe");
            writer.write_all(bytes).expect("written");
            drop(writer);
            let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
            let rows = read_rows(Path::new(&format!("/dev/fd/{number}")));
            match expected {
                Ok(text) => assert_eq!(rows.expect("read")[0].form, Form::Text(text.into())),
                Err(words) => {
                    let said = rows.expect_err("refused").to_string();
                    assert!(said.contains(words), "{said}");
                }
            }
        }
    }
}
