//! A Parquet file as its library reads it. The library passes over bytes behind the end without a word, two billion
//! of them one by one, and makes room for as many as a file claims to have: here both are errors.

use std::fs::File;
use std::io::{self, BufReader, Read};

use conclave_protocol::letter::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// The file.
pub(super) struct Chunks(pub(super) File);

/// The rest of a file. Whoever goes on reading behind its end is told so.
pub(super) struct Rest {
    file: BufReader<File>,
    ends: u32,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Chunks {
    type T = Rest;

    fn get_read(&self, start: u64) -> Result<Rest> {
        let file = self.0.get_read(start)?;
        Ok(Rest { file, ends: 0 })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let left = self.len().saturating_sub(start);
        if length as u64 > left {
            let what = format!("{length} bytes are wanted where {left} are left");
            return Err(ParquetError::EOF(what));
        }
        self.0.get_bytes(start, length)
    }
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.file.read(buffer)?;
        if taken == 0 && !buffer.is_empty() {
            self.ends += 1;
            if self.ends > ENDS {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(taken)
    }
}

/// How often a reader may come to the end of a file: sound ones do once or twice.
const ENDS: u32 = 16;
