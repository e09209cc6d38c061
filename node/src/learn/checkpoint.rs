//! A run as a file, from which it goes on after any death, bit for bit: written aside, made durable, renamed.
//!
//! ```text
//! bincode of the Checkpoint ‖ checksum, as the store's files have it
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::steps::{State, Step};
use crate::store::{StoreError, row, sync, write_sealed};

/// A run between two steps.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Checkpoint {
    /// Everything that the bits depend on, by name: a run with others may not go on from here.
    pub settings: Vec<(String, String)>,
    /// The vector.
    pub values: Vec<f32>,
    /// Moments and batches.
    pub state: State,
    /// What was seen so far.
    pub past: Past,
}

/// What a run has seen so far.
#[derive(Debug, Clone, Default, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Past {
    /// Held-out loss before the first step.
    pub before: Option<f64>,
    /// Every step.
    pub steps: Vec<Step>,
    /// Held-out losses, each with how many steps were done.
    pub evals: Vec<(u64, f64)>,
    /// The best vector yet, where the held-out loss is watched.
    pub best: Option<Best>,
    /// How many held-out losses in a row were no better than the best.
    pub stale: u32,
}

/// The vector with the lowest held-out loss.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Best {
    /// Its held-out loss.
    pub loss: f64,
    /// How many steps were done.
    pub step: u64,
    /// The vector.
    pub values: Vec<f32>,
}

/// Why a checkpoint is of no use.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its bytes are not those that were written.
    #[error("{} is no whole checkpoint of this version: {what}; remove it and begin anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// It belongs to a run with other settings.
    #[error(
        "{} was made with {key} = {was}, and this run has {is}; give the same settings, or begin anew in another --out",
        path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// The first setting that differs.
        key: String,
        /// As the checkpoint has it.
        was: String,
        /// As this run has it.
        is: String,
    },
}

impl Checkpoint {
    /// Writes the file [`FILE`] of a folder, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        write_sealed(folder, FILE, LABEL, &self.body())?;
        Ok(sync(folder)?)
    }

    /// Reads the file that [`Self::write`] wrote, and refuses it if one of the settings differs.
    pub fn read(folder: &Path, settings: &[(String, String)]) -> Result<Self, CheckpointError> {
        let path = &folder.join(FILE);
        let damaged = |what| CheckpointError::Damaged {
            path: path.to_owned(),
            what,
        };
        let bytes = fs::read(path).map_err(|source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        })?;
        let checkpoint = Self::parse(&bytes).map_err(damaged)?;
        let of = |settings: &[(String, String)], key: &str| {
            let found = settings.iter().find(|(name, _)| name == key);
            found.map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
        };
        for (key, _) in settings.iter().chain(&checkpoint.settings) {
            let (was, is) = (of(&checkpoint.settings, key), of(settings, key));
            if was != is {
                let (path, key) = (path.to_owned(), key.clone());
                return Err(CheckpointError::Other { path, key, was, is });
            }
        }
        Ok(checkpoint)
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        sealed(&self.body())
    }

    /// Reads them, or says what does not fit.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let body = row::open(LABEL, FILE.as_bytes(), bytes).ok_or("its checksum differs")?;
        decode(body).ok_or("its fields are of another version")
    }

    fn body(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, FORM).expect("vectors of numbers and texts have an encoding")
    }
}

/// A file of these contents, sound or not.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    row::seal(LABEL, FILE.as_bytes(), body)
}

/// The checkpoint that all these bytes are. What lengths among them claim is bounded before room is made for it, by
/// more than any checkpoint takes: eight times the file, or the next of a few bounds that are constants.
fn decode(body: &[u8]) -> Option<Checkpoint> {
    fn within<const MOST: usize>(body: &[u8]) -> Option<Checkpoint> {
        let decoded = bincode::decode_from_slice(body, FORM.with_limit::<MOST>());
        let (checkpoint, taken) = decoded.ok()?;
        (taken == body.len()).then_some(checkpoint)
    }
    match body.len().saturating_mul(8) {
        0..=0xFFFF => within::<0xFFFF>(body),
        0x1_0000..=0xFF_FFFF => within::<0xFF_FFFF>(body),
        0x100_0000..=0xFFFF_FFFF => within::<0xFFFF_FFFF>(body),
        0x1_0000_0000..=0xFF_FFFF_FFFF => within::<0xFF_FFFF_FFFF>(body),
        _ => within::<{ 1 << 48 }>(body),
    }
}

/// The name of the file.
pub const FILE: &str = "checkpoint";
/// How the fields are spelt.
const FORM: bincode::config::Configuration = bincode::config::standard();
/// Of this layout: with another one, the checksum differs.
const LABEL: &str = "checkpoint 2";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::learn::data::Example;
    use crate::learn::draw::Draw;
    use crate::learn::optimise::AdamW;

    fn checkpoint() -> Checkpoint {
        let examples = vec![Example {
            ids: vec![1, 2],
            scored: vec![false, true],
        }];
        Checkpoint {
            settings: vec![("learning_rate".into(), "0.005".into())],
            values: vec![1.0, f32::MIN_POSITIVE, -0.0],
            state: State {
                next: 3,
                moments: AdamW::new(3, 0.0).moments().clone(),
                drawn: Draw::new(&examples, [0; 32], None).drawn(),
            },
            past: Past {
                before: Some(4.0),
                steps: vec![Step {
                    index: 0,
                    loss: 0.1 + 0.2,
                    rate: 1e-3,
                    gradient_norm: 1.0,
                    tokens: 8,
                    time: Duration::from_nanos(17),
                }],
                evals: vec![(1, 3.0)],
                best: None,
                stale: 1,
            },
        }
    }

    #[test]
    fn what_is_written_reads_back_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let written = checkpoint();
        let read = |settings: &[_]| Checkpoint::read(folder.path(), settings);
        written.write(folder.path()).unwrap();
        written.write(folder.path()).unwrap();
        assert_eq!(read(&written.settings).unwrap(), written);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            for bytes in [&whole[..at], &flipped] {
                fs::write(&path, bytes).unwrap();
                let said = read(&[]).unwrap_err().to_string();
                assert!(said.contains("no whole checkpoint"), "byte {at}: {said}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_file_is_refused_before_room_is_made() {
        let whole = checkpoint().to_bytes();
        assert_eq!(Checkpoint::parse(&whole), Ok(checkpoint()));
        let body = &whole[..whole.len() - 8];
        // The values stand behind one setting; their number becomes one of eight bytes.
        let at = "learning_rate0.005".len() + 3;
        assert_eq!(body[at], 3);
        for length in [u64::MAX, 1 << 60, 1 << 40, 1 << 15] {
            let length = [&[253], length.to_le_bytes().as_slice()].concat();
            let bytes = [&body[..at], &length, &body[at + 1..]].concat();
            let read = Checkpoint::parse(&sealed(&bytes));
            assert_eq!(read, Err("its fields are of another version"));
        }
        let longer = sealed(&[body, &[0]].concat());
        assert!(Checkpoint::parse(&longer).is_err());
    }

    #[test]
    fn other_settings_are_named() {
        let folder = tempfile::tempdir().unwrap();
        checkpoint().write(folder.path()).unwrap();
        for (key, value, expected) in [
            (
                "learning_rate",
                "0.1",
                "made with learning_rate = 0.005, and this run has 0.1",
            ),
            ("seed", "1", "made with seed = none, and this run has 1"),
        ] {
            let settings = [(key.to_owned(), value.to_owned())];
            let said = Checkpoint::read(folder.path(), &settings).unwrap_err();
            let said = said.to_string();
            assert!(said.contains(expected), "{said}");
        }
        let said = Checkpoint::read(&folder.path().join("none"), &[])
            .unwrap_err()
            .to_string();
        assert!(said.contains("none/checkpoint: "), "{said}");
    }
}
