//! The tensors of a model folder: safetensors files, memory-mapped.
//!
//! An f32 tensor is used where it lies in the file; f16 and bf16 are widened once. A mapped file must not be
//! changed while it is open: the operator owns the folder, as every program that maps weights assumes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest as _, Sha256};

use mapped::{floats, map, release};

pub mod affine;
pub mod identity;
mod mapped;
pub mod quantised;

/// A frozen tensor of f32: mapped from a file or owned.
#[derive(Clone)]
pub struct Weight {
    source: Source,
    shape: Vec<usize>,
}

#[derive(Clone)]
enum Source {
    Mapped(Arc<Mmap>, Range<usize>),
    Owned(Arc<Vec<f32>>),
}

/// All tensors of a folder, by name.
#[derive(Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Stored>,
}

/// A tensor as it lies in its file.
struct Stored {
    map: Arc<Mmap>,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
    file: PathBuf,
}

/// Why weights cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Neither `model.safetensors` nor an index of shards.
    #[error(
        "{0}: no model.safetensors and no model.safetensors.index.json; give a Hugging Face folder"
    )]
    NoFile(PathBuf),
    /// A file cannot be opened.
    #[error("{path}: {source}; check the path, and that the folder was copied whole")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: not a whole safetensors file ({reason}); copy it again from its origin")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The index of the shards cannot be read.
    #[error("{path}: not an index of shards ({reason})")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error(
        "{folder}: the tensor {name} is missing; the tensors do not belong to the configuration beside them"
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error(
        "{file}: the tensor {name} has shape {found:?}, the configuration beside it asks for {expected:?}; copy both \
         again from their origin"
    )]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape by config.json.
        expected: Vec<usize>,
    },
    /// A value that is no number.
    #[error(
        "{file}: the tensor {name} holds values that are not finite (NaN or infinite); use a sound copy"
    )]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A number format that we do not compute with.
    #[error("{file}: the tensor {name} is {dtype}; f32, f16 and bf16 are supported")]
    Dtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// Its format.
        dtype: String,
    },
}

impl Weight {
    /// A weight of our own.
    ///
    /// # Panics
    /// If the shape does not count the values.
    pub fn owned(values: Vec<f32>, shape: Vec<usize>) -> Self {
        assert_eq!(
            values.len(),
            shape.iter().product::<usize>(),
            "values of a weight"
        );
        let source = Source::Owned(Arc::new(values));
        Self { source, shape }
    }

    /// The values, row-major.
    #[expect(clippy::missing_panics_doc, reason = "alignment is checked before")]
    pub fn values(&self) -> &[f32] {
        match &self.source {
            Source::Owned(values) => values,
            Source::Mapped(map, range) => {
                floats(&map[range.clone()]).expect("alignment was checked when the weight was made")
            }
        }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its pages may leave memory: they are read again from the file if they are looked at.
    pub(super) fn release(&self) {
        if let Source::Mapped(map, range) = &self.source {
            release(map, range);
        }
    }

    /// Rows and columns of a matrix.
    ///
    /// # Panics
    /// If it is no matrix; the loader has checked the shapes of all maps.
    pub fn dims2(&self) -> (usize, usize) {
        match self.shape[..] {
            [rows, cols] => (rows, cols),
            _ => panic!(
                "a linear map has a matrix, this weight has shape {:?}",
                self.shape
            ),
        }
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weight({:?})", self.shape)
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored({:?}, {:?})", self.dtype, self.shape)
    }
}

impl Weights {
    /// Maps `model.safetensors`, or every shard that `model.safetensors.index.json` names.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let mut weights = Self::default();
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() {
            weights.add_file(&single)?;
        } else if index.exists() {
            for shard in shards(&index)? {
                weights.add_file(&folder.join(shard))?;
            }
        } else {
            return Err(WeightsError::NoFile(folder.to_owned()));
        }
        Ok(weights)
    }

    /// Maps one file and adds its tensors.
    pub fn add_file(&mut self, path: &Path) -> Result<(), WeightsError> {
        let map = Arc::new(map(path)?);
        let malformed = |e: safetensors::SafeTensorError| WeightsError::Malformed {
            path: path.to_owned(),
            reason: e.to_string(),
        };
        let tensors = SafeTensors::deserialize(&map).map_err(malformed)?;
        let start = map.as_ptr().addr();
        for (name, view) in tensors.iter() {
            let at = view.data().as_ptr().addr() - start;
            let stored = Stored {
                map: map.clone(),
                range: at..at + view.data().len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                file: path.to_owned(),
            };
            self.tensors.insert(name.to_owned(), stored);
        }
        Ok(())
    }

    /// A note that stands in the head of a file, beside the tensors.
    pub fn note(path: &Path, key: &str) -> Result<Option<String>, WeightsError> {
        let map = map(path)?;
        let head = SafeTensors::read_metadata(&map).map_err(|e| WeightsError::Malformed {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        let notes = head.1.metadata().as_ref();
        Ok(notes.and_then(|notes| notes.get(key).cloned()))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// A tensor as f32; missing ones and other shapes are refused by name. `folder` is for the sentence.
    pub fn take(&self, folder: &Path, name: &str, shape: &[usize]) -> Result<Weight, WeightsError> {
        let stored = self
            .tensors
            .get(name)
            .ok_or_else(|| WeightsError::Missing {
                folder: folder.to_owned(),
                name: name.to_owned(),
            })?;
        if stored.shape != shape {
            return Err(WeightsError::Shape {
                file: stored.file.clone(),
                name: name.to_owned(),
                found: stored.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        stored.check(name)?;
        stored.widen(name)
    }

    /// That every value of every tensor is a number.
    pub fn check(&self) -> Result<(), WeightsError> {
        let mut tensors = self.tensors.iter();
        tensors.try_for_each(|(name, stored)| stored.check(name))
    }

    /// SHA-256 over the sorted (name, dtype, shape, SHA-256 of the bytes), each with its length in front.
    pub fn digest(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        for (name, stored) in &self.tensors {
            let dtype = format!("{:?}", stored.dtype);
            for part in [name.as_bytes(), dtype.as_bytes()] {
                all.update((part.len() as u64).to_le_bytes());
                all.update(part);
            }
            all.update((stored.shape.len() as u64).to_le_bytes());
            for &size in &stored.shape {
                all.update((size as u64).to_le_bytes());
            }
            all.update(Sha256::digest(&stored.map[stored.range.clone()]));
        }
        all.finalize().into()
    }
}

impl Stored {
    /// That every value is a number: an exponent of ones alone says that it is none.
    fn check(&self, name: &str) -> Result<(), WeightsError> {
        let bytes = &self.map[self.range.clone()];
        let halves = |ones: u16| {
            let mut pairs = bytes.as_chunks::<2>().0.iter();
            pairs.all(|pair| u16::from_le_bytes(*pair) & ones != ones)
        };
        let sound = match self.dtype {
            Dtype::F32 => {
                let mut quads = bytes.as_chunks::<4>().0.iter();
                quads.all(|quad| f32::from_le_bytes(*quad).is_finite())
            }
            Dtype::F16 => halves(0x7C00),
            Dtype::BF16 => halves(0x7F80),
            _ => true,
        };
        if sound {
            Ok(())
        } else {
            Err(WeightsError::NotFinite {
                file: self.file.clone(),
                name: name.to_owned(),
            })
        }
    }

    fn widen(&self, name: &str) -> Result<Weight, WeightsError> {
        let bytes = &self.map[self.range.clone()];
        let pairs = || bytes.as_chunks::<2>().0.iter().copied();
        let values: Vec<f32> = match self.dtype {
            Dtype::F32 if floats(bytes).is_some() => {
                return Ok(Weight {
                    source: Source::Mapped(self.map.clone(), self.range.clone()),
                    shape: self.shape.clone(),
                });
            }
            Dtype::F32 => {
                let quads = bytes.as_chunks::<4>().0.iter();
                quads.map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::F16 => pairs()
                .map(|b| half::f16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::BF16 => pairs()
                .map(|b| half::bf16::from_le_bytes(b).to_f32())
                .collect(),
            other => {
                return Err(WeightsError::Dtype {
                    file: self.file.clone(),
                    name: name.to_owned(),
                    dtype: format!("{other:?}"),
                });
            }
        };
        release(&self.map, &self.range);
        Ok(Weight::owned(values, self.shape.clone()))
    }
}

/// The shard files that an index names, sorted; only plain names in the same folder.
fn shards(index: &Path) -> Result<Vec<String>, WeightsError> {
    let refuse = |reason: String| WeightsError::Index {
        path: index.to_owned(),
        reason,
    };
    let text = std::fs::read_to_string(index).map_err(|e| refuse(e.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| refuse("it has no weight_map".into()))?;
    let mut files = Vec::new();
    for file in map.values() {
        let name = file.as_str().filter(|name| !name.contains(['/', '\\']));
        files.push(
            name.ok_or_else(|| refuse(format!("{file} is no file name")))?
                .to_owned(),
        );
    }
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn an_f32_tensor_is_used_where_it_lies_and_halves_are_widened() {
        let exact = [1.5f32, -0.25, 0.0, 7.0, -2.0, 0.125];
        let f32s: Vec<u8> = exact.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16s = exact.map(|x| half::f16::from_f32(x).to_le_bytes()).concat();
        let bf16s = exact
            .map(|x| half::bf16::from_f32(x).to_le_bytes())
            .concat();
        let view = |dtype, bytes| TensorView::new(dtype, vec![2, 3], bytes).unwrap();
        let tensors = [
            ("a", view(Dtype::F32, &f32s)),
            ("b", view(Dtype::F16, &f16s)),
            ("c", view(Dtype::BF16, &bf16s)),
        ];
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        safetensors::serialize_to_file(tensors, None, &file).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        for (name, mapped) in [("a", true), ("b", false), ("c", false)] {
            let weight = weights.take(folder.path(), name, &[2, 3]).unwrap();
            assert_eq!(weight.values(), exact, "{name}");
            let map = &weights.tensors[name].map;
            let inside = map
                .as_ptr_range()
                .contains(&weight.values().as_ptr().cast());
            assert_eq!(inside, mapped, "{name}");
            weight.release();
            assert_eq!(weight.values(), exact, "{name}, read again");
        }
    }
}
