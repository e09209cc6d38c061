//! What is said of a model folder without computing with it: whether it is whole, and its digest.

use std::io::Read as _;
use std::path::Path;

use conclave_crypto::digest::Digest;
use sha2::{Digest as _, Sha256};

use super::gguf::Gguf;
use super::{Model, ModelError};
use crate::learn::weights::Weights;

/// That a folder's weights are whole and numbers.
pub fn check(folder: &Path) -> Result<(), ModelError> {
    match Gguf::find(folder) {
        Some(_) => Model::open(folder).map(drop),
        None => Ok(Weights::open(folder)?.check()?),
    }
}

/// SHA-256 of a file's bytes.
fn file_digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = std::fs::File::open(path)?;
    let (mut all, mut part) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(all.finalize().into()),
            n => all.update(&part[..n]),
        }
    }
}

/// SHA-256 over config.json, tokenizer.json (each by its own digest; an absent one as empty) and the sorted tensors; of
/// a GGUF file over its bytes, and no config.json, which is not read then.
pub fn digest(folder: &Path) -> Result<Digest, ModelError> {
    let read = |name: &str| {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|source| ModelError::Io { path, source }),
        }
    };
    let (config, tensors) = match Gguf::find(folder) {
        Some(path) => {
            let digest = file_digest(&path);
            (
                Vec::new(),
                digest.map_err(|source| ModelError::Io { path, source })?,
            )
        }
        None => (read("config.json")?, Weights::open(folder)?.digest()),
    };
    let config = Digest::of("conclave/v1/model-file", &[&config]);
    let tokenizer = Digest::of("conclave/v1/model-file", &[&read("tokenizer.json")?]);
    let parts: [&[u8]; 3] = [config.as_bytes(), tokenizer.as_bytes(), &tensors];
    Ok(Digest::of("conclave/v1/model", &parts))
}
