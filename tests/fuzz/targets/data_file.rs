//! Any bytes as a file of rows (JSON Lines, CSV, Parquet, each as it is or gzipped), and a whole Parquet file with
//! changes: the rows are written out as lines and read back; a file that is refused is refused in one sentence.
#![no_main]

use std::io::Write as _;
use std::sync::{Arc, LazyLock};

use conclave::learn::data::read_rows;
use conclave_fuzz::node::{changed, folder, put};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::column::writer::ColumnWriter;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const NAMES: [&str; 6] = [
    "rows.jsonl",
    "rows.csv",
    "rows.tsv",
    "rows.parquet",
    "rows",
    "changed.parquet",
];

/// Eight rows with a text and a label that is not always there.
static PARQUET: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let schema = "message rows { required binary text (UTF8); optional binary label (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let how = Arc::new(WriterProperties::builder().build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, how).expect("a file");
    let mut group = writer.next_row_group().expect("a group");
    for levels in [[0; 8], [0, 1, 1, 0, 1, 1, 1, 0]] {
        let mut column = group.next_column().expect("a column").expect("of two");
        let ColumnWriter::ByteArrayColumnWriter(typed) = column.untyped() else {
            unreachable!("the schema has texts alone");
        };
        let values = [
            "one", "two", "three", "four", "five", "six", "seven", "eight",
        ];
        let there = if levels == [0; 8] { 8 } else { 5 };
        let values: Vec<_> = values[..there]
            .iter()
            .map(|value| (*value).into())
            .collect();
        typed
            .write_batch(&values, Some(&levels), None)
            .expect("written");
        column.close().expect("closed");
    }
    group.close().expect("closed");
    writer.close().expect("closed");
    bytes
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let name = NAMES[usize::from(*mode) % NAMES.len()];
    let mut file = rest.to_vec();
    if name == "changed.parquet" {
        file = changed(&PARQUET, rest);
    }
    if mode / 128 == 1 {
        let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
        zip.write_all(&file).expect("memory takes it");
        file = zip.finish().expect("memory takes it");
    }
    let folder = folder();
    put(folder.path(), name, &file);
    let rows = match read_rows(&folder.path().join(name)) {
        Ok(rows) => rows,
        Err(error) => {
            let said = error.to_string();
            assert_eq!(said.lines().count(), 1, "{said}");
            return;
        }
    };
    let lines: Vec<String> = rows.iter().map(|row| row.to_line() + "\n").collect();
    put(folder.path(), "again.jsonl", lines.concat().as_bytes());
    let again =
        read_rows(&folder.path().join("again.jsonl")).expect("what was read can be written");
    assert_eq!(again.len(), rows.len());
    for (again, row) in again.iter().zip(&rows) {
        assert_eq!(again.form, row.form);
    }
});
