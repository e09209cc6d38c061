//! Parquet: a column a field, read a row at a time.

use std::fs::File;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Number, Value};

use super::DataError;
use super::chunks::Chunks;
use super::read::Each;
use super::row::{COLUMNS, Place, Row, lacking};
use crate::guard::guarded;

/// How a Parquet file begins, and ends.
pub(super) const MAGIC: &[u8; 4] = b"PAR1";

/// Gives each row of a file; `file` is the place without a number.
pub(super) fn visit(file: File, at: &Place, each: &mut Each<'_>) -> Result<(), DataError> {
    let at = |line| Place { line, ..at.clone() };
    let wrong = |line, what| DataError::Malformed { at: at(line), what };
    let reader = sound(guarded(|| SerializedFileReader::new(Chunks(file))));
    let reader = reader.map_err(|what| wrong(1, what))?;
    let facts = reader.metadata();
    let fields = facts.file_metadata().schema().get_fields();
    let columns: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    let chunks = facts
        .row_groups()
        .iter()
        .flat_map(RowGroupMetaData::columns);
    if let Some(what) = chunks
        .map(ColumnChunkMetaData::compression)
        .find_map(unknown)
    {
        return Err(wrong(1, what));
    }
    if let Some(what) = lacking(&columns) {
        return Err(wrong(1, what));
    }
    let rows = sound(guarded(|| reader.get_row_iter(None)));
    let mut rows = rows.map_err(|what| wrong(1, what))?;
    for line in 1.. {
        let row = sound(guarded(|| rows.next().transpose()));
        let Some(row) = row.map_err(|what| wrong(line, what))? else {
            break;
        };
        let mut fields = Map::with_capacity(columns.len());
        for (name, field) in row.get_column_iter() {
            if let Some(value) = json(field) {
                fields.insert(name.clone(), value);
            } else if COLUMNS.contains(&name.as_str()) {
                let what = format!("field {name} is no valid UTF-8; write it as UTF-8");
                return Err(wrong(line, what));
            }
        }
        each(Row::new(fields, at(line))?)?;
    }
    Ok(())
}

/// A field as JSON; `None` for bytes that are no text.
fn json(field: &Field) -> Option<Value> {
    let real = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(yes) => Value::Bool(*yes),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float(n) => real(f64::from(*n)),
        Field::Double(n) => real(*n),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => Value::String(std::str::from_utf8(bytes.data()).ok()?.to_owned()),
        Field::Group(row) => {
            let fields = row.get_column_iter();
            let fields = fields.filter_map(|(name, field)| Some((name.clone(), json(field)?)));
            Value::Object(fields.collect())
        }
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().filter_map(json).collect())
        }
        other => Value::String(other.to_string()),
    })
}

/// A codec that is not built in, in one sentence.
fn unknown(codec: Compression) -> Option<String> {
    match codec {
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::GZIP(_)
        | Compression::ZSTD(_) => None,
        other => {
            let name = other.to_string();
            let name = name.split('(').next().unwrap_or_default();
            Some(format!(
                "compressed with {name}, which is not read here; write it with snappy, gzip or zstd"
            ))
        }
    }
}

/// What the library read, or what is wrong with the file; at some damage it panics.
fn sound<T>(read: Option<Result<T, ParquetError>>) -> Result<T, String> {
    match read {
        Some(read) => read.map_err(|error| fault(&error)),
        None => Err(fault(&ParquetError::EOF("its parts do not fit".into()))),
    }
}

fn fault(error: &ParquetError) -> String {
    let said = error.to_string();
    if said.contains("BYTE_ARRAY as String") {
        return "a text field is no valid UTF-8; write it as UTF-8".into();
    }
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = said.chars().take(SAID).collect();
    format!("the Parquet file cannot be read on: {short}; it may be truncated, fetch it again")
}

const SAID: usize = 160;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use parquet::basic::{GzipLevel, ZstdLevel};
    use parquet::column::writer::ColumnWriter;
    use parquet::data_type::ByteArray;
    use parquet::file::properties::WriterProperties;
    use parquet::file::reader::ChunkReader as _;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::{Chance, Form, read_rows};
    use super::*;

    /// One column: values with their definition and repetition levels.
    type Column = (Vec<ByteArray>, Vec<i16>, Vec<i16>);

    fn write(path: &Path, schema: &str, codec: Compression, columns: &[Column]) {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let how = Arc::new(WriterProperties::builder().set_compression(codec).build());
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, how).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for (values, definition, repetition) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(typed) => {
                    let repeated = repetition.iter().any(|level| *level > 0);
                    let repetition = repeated.then_some(&repetition[..]);
                    typed
                        .write_batch(values, Some(definition), repetition)
                        .unwrap();
                }
                ColumnWriter::Int64ColumnWriter(typed) => {
                    let numbers: Vec<i64> = (0..).take(definition.len()).collect();
                    typed.write_batch(&numbers, Some(definition), None).unwrap();
                }
                _ => panic!("the schemas of these tests hold text and int64"),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }

    fn texts(texts: &[&str], most: i16) -> Column {
        let values = texts.iter().map(|text| ByteArray::from(*text)).collect();
        (values, vec![most; texts.len()], vec![0; texts.len()])
    }

    const LABELLED: &str = "message rows {
        required binary text (UTF8); optional binary label (UTF8); required int64 id; }";

    fn labelled(path: &Path, codec: Compression, rows: usize) {
        let texts_of: Vec<String> = (0..rows)
            .map(|row| format!("row {row} of the café"))
            .collect();
        let texts_of: Vec<&str> = texts_of.iter().map(String::as_str).collect();
        let mut labels = texts(&vec!["ham"; rows - 1], 1);
        labels.1.insert(0, 0);
        let numbers = (Vec::new(), vec![0; rows], Vec::new());
        write(
            path,
            LABELLED,
            codec,
            &[texts(&texts_of, 0), labels, numbers],
        );
    }

    #[test]
    fn every_codec_gives_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let codecs = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::ZSTD(ZstdLevel::default()),
        ];
        for codec in codecs {
            // The name lies: what a file is, its first bytes say.
            let path = folder.path().join("rows.jsonl");
            labelled(&path, codec, 100);
            let rows = read_rows(&path).unwrap();
            assert_eq!(rows.len(), 100);
            assert_eq!(rows[99].form, Form::Text("row 99 of the café".into()));
            assert_eq!(rows[0].field("label"), None, "a null");
            assert_eq!(rows[7].field("label").as_deref(), Some("ham"));
            assert_eq!(
                (rows[7].field("id").as_deref(), rows[7].at.line),
                (Some("7"), 8)
            );
        }
    }

    #[test]
    fn conversations_are_lists_of_groups() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chats.parquet");
        let schema = "message rows { optional group messages (LIST) { repeated group list { optional group element {
            optional binary role (UTF8); optional binary content (UTF8); } } } }";
        let column = |values: [&str; 3]| {
            let (values, levels, _) = texts(&values, 4);
            (values, levels, vec![0, 1, 0])
        };
        let columns = [
            column(["user", "assistant", "assistant"]),
            column(["hi", "yo", "so"]),
        ];
        write(&path, schema, Compression::SNAPPY, &columns);
        let rows = read_rows(&path).unwrap();
        let Form::Turns(turns) = &rows[0].form else {
            panic!("a conversation");
        };
        assert_eq!(
            (turns.len(), turns[1].content.as_str(), rows.len()),
            (2, "yo", 2)
        );
    }

    #[test]
    fn faults_name_the_row_and_the_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        let said = |path: &Path| read_rows(path).unwrap_err().to_string();
        let pair = "message rows { required binary prompt (UTF8); required binary label; }";
        write(
            &path,
            pair,
            Compression::SNAPPY,
            &[texts(&["q"], 0), texts(&["r"], 0)],
        );
        assert!(
            said(&path).contains("column completion is missing"),
            "{}",
            said(&path)
        );
        let text = "message rows { optional binary text (UTF8); }";
        let hole = (vec![ByteArray::from("a")], vec![1, 0], vec![0, 0]);
        write(&path, text, Compression::SNAPPY, &[hole]);
        assert!(
            said(&path).contains("rows.parquet:2: field text is null"),
            "{}",
            said(&path)
        );
        for (schema, words) in [
            (text, "rows.parquet:2: a text field is no valid UTF-8"),
            (
                "message rows { optional binary text; }",
                "rows.parquet:2: field text is no valid UTF-8",
            ),
        ] {
            let latin = vec![ByteArray::from("a"), ByteArray::from(vec![b'a', 0xe9])];
            write(
                &path,
                schema,
                Compression::SNAPPY,
                &[(latin, vec![1, 1], vec![0, 0])],
            );
            assert!(said(&path).contains(words), "{}", said(&path));
        }
        std::fs::write(&path, "text\nno parquet\n").unwrap();
        assert!(
            said(&path).contains("does not begin with PAR1"),
            "{}",
            said(&path)
        );
    }

    #[test]
    fn a_page_that_claims_more_than_there_is_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        labelled(&path, Compression::UNCOMPRESSED, 8);
        let mut bytes = std::fs::read(&path).unwrap();
        // The first page's header: an unknown field, a list of 2^31 - 1 bytes, behind which the file ends.
        let list = [0xf9, 0xf3, 0xff, 0xff, 0xff, 0xff, 0x07];
        bytes[4..4 + list.len()].copy_from_slice(&list);
        std::fs::write(&path, bytes).unwrap();
        let said = read_rows(&path).unwrap_err().to_string();
        assert!(said.contains("cannot be read on"), "{said}");
        let file = Chunks(File::open(&path).unwrap());
        assert!(file.get_bytes(4, usize::MAX).is_err());
        assert!(file.get_bytes(u64::MAX, 1).is_err());
    }

    #[test]
    fn damaged_files_end_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        labelled(&path, Compression::SNAPPY, 40);
        let whole = std::fs::read(&path).unwrap();
        for seed in 0..300 {
            let mut chance = Chance::new(seed, 77);
            let mut bytes = whole.clone();
            if seed % 3 == 0 {
                bytes.truncate(5 + chance.below(whole.len() - 5));
            } else {
                for _ in 0..=chance.below(4) {
                    let at = 4 + chance.below(bytes.len() - 4);
                    bytes[at] ^= 1 << chance.below(8);
                }
            }
            std::fs::write(&path, bytes).unwrap();
            let read = std::panic::catch_unwind(|| read_rows(&path));
            let read = read.unwrap_or_else(|_| panic!("seed {seed} panics"));
            if let Err(error) = read {
                let said = error.to_string();
                assert!(
                    said.lines().count() == 1 && said.len() < 600,
                    "seed {seed}: {said}"
                );
            } else {
                assert_ne!(seed % 3, 0, "seed {seed}: a truncated file was read");
            }
        }
    }
}
