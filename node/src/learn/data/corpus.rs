//! Rows tokenised once, in memory while they are few and in a temporary file beyond: what stays in memory then is eight
//! bytes a row, and four for each part that has it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::{DataError, Example, Form, Place, Row, Tokens, visit_rows};
use crate::learn::examples::Examples;

/// Every row of a data set as token ids.
#[derive(Debug)]
pub struct Corpus {
    store: Store,
    /// Where each row's record begins, and where the last one ends.
    offsets: Vec<u64>,
    files: Vec<Arc<Path>>,
    /// Where labels were numbered as they came: their places among all, sorted.
    order: Option<Vec<u32>>,
    /// How many rows were longer than the sequence length.
    pub cut: usize,
    /// How many rows have no token to score; no part has them, nor those that are dropped for their length.
    pub unscored: usize,
}

/// Some rows of a corpus, in an order.
#[derive(Debug, Clone)]
pub struct Part {
    corpus: Arc<Corpus>,
    rows: Vec<u32>,
}

/// What becomes of a row that is longer than the sequence length.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Excess {
    /// It is cut.
    #[default]
    Truncate,
    /// It is left out.
    Drop,
}

/// How rows become examples.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    /// The most tokens of an example.
    pub most: usize,
    /// What becomes of a longer one.
    pub excess: Excess,
}

/// Records one behind the other: line (8 bytes), file (4), then 4 bytes a token with the highest bit for those that are
/// scored; all little-endian.
#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    File { file: File, pending: Vec<u8> },
}

const HEAD: usize = 12;
const SCORED: u32 = 1 << 31;
/// Records beyond this many bytes go to a file.
const MEMORY: usize = 32 << 20;
/// Rows are tokenised together up to this many bytes of text, or this many rows.
const TEXT_AT_ONCE: usize = 4 << 20;
const ROWS_AT_ONCE: usize = 4096;

impl Corpus {
    /// Reads and tokenises a file or folder; each row passes through `change` first.
    pub fn read(
        tokens: &Tokens,
        path: &Path,
        length: Length,
        change: impl FnMut(Row) -> Result<Row, DataError>,
    ) -> Result<Self, DataError> {
        Self::read_beyond(MEMORY, tokens, path, length, change)
    }

    fn read_beyond(
        memory: usize,
        tokens: &Tokens,
        path: &Path,
        length: Length,
        change: impl FnMut(Row) -> Result<Row, DataError>,
    ) -> Result<Self, DataError> {
        let all = |rows: &[Row]| {
            let rows = rows.par_iter();
            rows.map(|row| tokens.tokenise(row, length.most)).collect()
        };
        Self::gather(memory, path, length, change, all)
    }

    /// The same of rows with a label, for an encoder that is to learn whatever labels there are: those of all rows,
    /// each once, sorted, come along, and their places are the numbers of the labels.
    pub fn read_labelled(
        tokens: &Tokens,
        path: &Path,
        length: Length,
    ) -> Result<(Self, Vec<String>), DataError> {
        Self::read_labelled_beyond(MEMORY, tokens, path, length)
    }

    fn read_labelled_beyond(
        memory: usize,
        tokens: &Tokens,
        path: &Path,
        length: Length,
    ) -> Result<(Self, Vec<String>), DataError> {
        // In the order in which they come, for their places are not known before the last row.
        let mut found = BTreeMap::new();
        let all = |rows: &[Row]| {
            for row in rows {
                if let Form::Labelled { label, .. } = &row.form
                    && !found.contains_key(label)
                {
                    let number = u32::try_from(found.len()).expect("fewer labels than rows");
                    found.insert(label.clone(), number);
                }
            }
            let number = |label: &str| found.get(label).copied();
            let rows = rows.par_iter();
            rows.map(|row| tokens.classified(row, length.most, number))
                .collect()
        };
        let mut corpus = Self::gather(memory, path, length, Row::labelled, all)?;
        let mut order = vec![0; found.len()];
        for (place, number) in (0..).zip(found.values()) {
            order[*number as usize] = place;
        }
        corpus.order = Some(order);
        Ok((corpus, found.into_keys().collect()))
    }

    fn gather(
        memory: usize,
        path: &Path,
        length: Length,
        mut change: impl FnMut(Row) -> Result<Row, DataError>,
        mut all: impl FnMut(&[Row]) -> Result<Vec<(Example, bool)>, DataError>,
    ) -> Result<Self, DataError> {
        let mut corpus = Self {
            store: Store::Memory(Vec::new()),
            offsets: vec![0],
            files: Vec::new(),
            order: None,
            cut: 0,
            unscored: 0,
        };
        let (mut waiting, mut text) = (Vec::new(), 0);
        visit_rows(path, &mut |row| {
            let row = change(row)?;
            text += row.form.bytes();
            waiting.push(row);
            if text >= TEXT_AT_ONCE || waiting.len() >= ROWS_AT_ONCE {
                let rows = std::mem::take(&mut waiting);
                corpus.take(&rows, all(&rows)?, length, memory)?;
                text = 0;
            }
            Ok(())
        })?;
        corpus.take(&waiting, all(&waiting)?, length, memory)?;
        corpus.flush()?;
        let rows = corpus.rows();
        if (0..rows).all(|row| corpus.length(row) == 0) {
            return Err(DataError::NothingScored {
                rows,
                sequence_len: length.most,
            });
        }
        Ok(corpus)
    }

    /// How many rows there are, those without a scored token included.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Those of the rows that have something to score, in their order.
    pub fn part(self: &Arc<Self>, rows: impl IntoIterator<Item = usize>) -> Part {
        let rows = rows.into_iter().filter(|row| self.length(*row) > 0);
        Part {
            rows: rows
                .map(|row| u32::try_from(row).expect("rows were counted in u32"))
                .collect(),
            corpus: Arc::clone(self),
        }
    }

    fn take(
        &mut self,
        rows: &[Row],
        examples: Vec<(Example, bool)>,
        length: Length,
        memory: usize,
    ) -> Result<(), DataError> {
        for (row, (example, cut)) in rows.iter().zip(examples) {
            self.cut += usize::from(cut);
            let dropped = cut && length.excess == Excess::Drop;
            let scored = example.targets() > 0;
            self.unscored += usize::from(!scored && !dropped);
            self.add(&row.at, (scored && !dropped).then_some(&example))?;
        }
        if let Store::Memory(bytes) = &mut self.store
            && bytes.len() > memory
        {
            let file = tempfile::tempfile().map_err(aside)?;
            let pending = std::mem::take(bytes);
            self.store = Store::File { file, pending };
        }
        self.flush()
    }

    fn add(&mut self, at: &Place, example: Option<&Example>) -> Result<(), DataError> {
        if self.files.last() != Some(&at.file) {
            self.files.push(Arc::clone(&at.file));
        }
        if u32::try_from(self.offsets.len()).is_err() {
            let what = "more than four billion rows; give fewer at a time";
            let (at, what) = (at.clone(), what.to_owned());
            return Err(DataError::Malformed { at, what });
        }
        let bytes = match &mut self.store {
            Store::Memory(bytes) | Store::File { pending: bytes, .. } => bytes,
        };
        let before = bytes.len();
        let file = u32::try_from(self.files.len() - 1).expect("fewer files than rows");
        bytes.extend(at.line.to_le_bytes());
        bytes.extend(file.to_le_bytes());
        if let Some(example) = example {
            for (id, scored) in example.ids.iter().zip(&example.scored) {
                bytes.extend((id | if *scored { SCORED } else { 0 }).to_le_bytes());
            }
        }
        let length = (bytes.len() - before) as u64;
        self.offsets
            .push(self.offsets[self.offsets.len() - 1] + length);
        Ok(())
    }

    /// Puts what waits behind what the file has.
    fn flush(&mut self) -> Result<(), DataError> {
        if let Store::File { file, pending } = &mut self.store {
            file.write_all(pending).map_err(aside)?;
            pending.clear();
        }
        Ok(())
    }

    fn length(&self, row: usize) -> usize {
        let bytes = self.offsets[row + 1] - self.offsets[row];
        (usize::try_from(bytes).expect("a record was in memory") - HEAD) / 4
    }

    /// The bytes of a record, from `skip` on.
    fn record(&self, row: usize, take: std::ops::Range<usize>) -> Result<Cow<'_, [u8]>, DataError> {
        let start = self.offsets[row] + take.start as u64;
        match &self.store {
            Store::Memory(bytes) => {
                let start = usize::try_from(start).expect("memory has addresses");
                Ok(Cow::Borrowed(&bytes[start..start + take.len()]))
            }
            Store::File { file, .. } => {
                let mut bytes = vec![0; take.len()];
                file.read_exact_at(&mut bytes, start).map_err(aside)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

fn aside(source: std::io::Error) -> DataError {
    DataError::Unreadable {
        path: std::env::temp_dir().join("(temporary file of token ids)"),
        source,
    }
}

impl Examples for Part {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn length(&self, index: usize) -> usize {
        self.corpus.length(self.rows[index] as usize)
    }

    fn example(&self, index: usize) -> Result<Cow<'_, Example>, DataError> {
        let row = self.rows[index] as usize;
        let end = HEAD + 4 * self.corpus.length(row);
        let bytes = self.corpus.record(row, HEAD..end)?;
        let marked = bytes
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        let (mut ids, scored): (Vec<u32>, _) =
            marked.map(|id| (id & !SCORED, id & SCORED != 0)).unzip();
        if let (Some(order), Some(label)) = (&self.corpus.order, ids.last_mut()) {
            *label = order[*label as usize];
        }
        Ok(Cow::Owned(Example { ids, scored }))
    }

    fn place(&self, index: usize) -> String {
        let Ok(head) = self.corpus.record(self.rows[index] as usize, 0..HEAD) else {
            return format!("example {}", index + 1);
        };
        let (line, file) = head.split_at(8);
        let line = line
            .iter()
            .rev()
            .fold(0, |line, byte| line << 8 | u64::from(*byte));
        let file = file
            .iter()
            .rev()
            .fold(0, |file, byte| file << 8 | usize::from(*byte));
        let file = Arc::clone(&self.corpus.files[file]);
        Place { file, line }.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_rows;
    use super::*;
    use crate::learn::fixture::folder;

    /// Cut before its completion.
    const UNSCORED: &str = "{\"prompt\": \"abcabcabcabc\", \"completion\": \"a\"}\n";

    #[test]
    fn memory_and_file_give_what_tokenising_all_at_once_gives() {
        let folder = folder();
        let tokens = Tokens::open(folder.path()).unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.insert_str(0, UNSCORED);
        std::fs::write(&path, text).unwrap();
        let rows = read_rows(&path).unwrap();
        let all = tokens.tokenise_all(&rows, 11).unwrap();
        let scored = |row: &&Row| tokens.tokenise(row, 11).unwrap().0.targets() > 0;
        let scored: Vec<&Row> = rows.iter().filter(scored).collect();
        let length = |excess| Length { most: 11, excess };
        for memory in [0, 1 << 20] {
            let corpus =
                Corpus::read_beyond(memory, &tokens, &path, length(Excess::Truncate), Ok).unwrap();
            assert_eq!(matches!(corpus.store, Store::File { .. }), memory == 0);
            assert_eq!(
                (corpus.rows(), corpus.cut, corpus.unscored),
                (61, all.cut, all.unscored)
            );
            let part = Arc::new(corpus).part(0..61);
            assert_eq!(part.count(), all.examples.len());
            for (index, example) in all.examples.iter().enumerate() {
                assert_eq!(&*part.example(index).unwrap(), example);
                assert_eq!(part.length(index), example.ids.len());
                assert_eq!(part.place(index), scored[index].at.to_string());
            }
        }
        let kept = Corpus::read(&tokens, &path, length(Excess::Drop), Ok).unwrap();
        assert_eq!((kept.rows(), kept.cut, kept.unscored), (61, all.cut, 0));
        assert_eq!(Arc::new(kept).part(0..61).count(), 61 - all.cut);
        std::fs::write(&path, UNSCORED).unwrap();
        let read = Corpus::read(&tokens, &path, length(Excess::Truncate), Ok);
        let said = read.unwrap_err().to_string();
        assert!(said.contains("none of the 1 rows"), "{said}");
    }

    #[test]
    fn labels_that_nobody_named_are_numbered_as_if_they_had_been() {
        let folder = folder();
        let tokens = Tokens::open(folder.path()).unwrap();
        let path = folder.path().join("labels.csv");
        let labels = ["say", "do", "ask", "do", "ask", "be"];
        let lines = labels.map(|label| format!("abc,{label}\n"));
        std::fs::write(&path, format!("text,label\n{}", lines.concat())).unwrap();
        let sorted = ["ask", "be", "do", "say"].map(str::to_owned);
        let excess = Excess::Truncate;
        let length = Length { most: 11, excess };
        let told = Tokens::open(folder.path()).unwrap().telling_apart(&sorted);
        let named = Corpus::read(&told, &path, length, Row::labelled).unwrap();
        let named = Arc::new(named).part(0..6);
        for memory in [0, 1 << 20] {
            let read = Corpus::read_labelled_beyond(memory, &tokens, &path, length);
            let (corpus, found) = read.unwrap();
            assert_eq!(found, sorted);
            let part = Arc::new(corpus).part(0..6);
            for (row, label) in labels.iter().enumerate() {
                let example = part.example(row).unwrap();
                assert_eq!(example, named.example(row).unwrap());
                assert_eq!(told.class(*example.ids.last().unwrap()), Some(*label));
            }
        }
    }
}
