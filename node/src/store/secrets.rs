//! Secrets as files: mode 0600, whole or not there, gone once unlinked (PROTOCOL.md, sections 1 and 6).

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use conclave_protocol::output::Write;

use super::files::{remove, sync, write_sealed};
use super::tables::Row;
use super::{StoreError, row};

/// What the checksums of secrets are made under.
const TABLE: &str = "secrets";

/// The folder of secrets.
#[derive(Debug)]
pub(super) struct Secrets {
    dir: PathBuf,
}

impl Secrets {
    /// Opens or makes `secrets/` in the data folder.
    pub(super) fn open(data: &Path) -> Result<Self, StoreError> {
        let dir = data.join(super::SECRETS);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(StoreError::io(&dir, &e)),
            _ => {
                sync(data)?;
                Ok(Self { dir })
            }
        }
    }

    /// Every secret with its name. What a crash left half written is removed: it was never relied upon. One that was
    /// cut or flipped is removed too: a session without its secret is sat out, one with a wrong secret would be spoilt.
    pub(super) fn load(&self) -> Result<Vec<Row>, StoreError> {
        let fault = |e| StoreError::io(&self.dir, &e);
        let mut secrets = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_owned();
            if name.starts_with('.') {
                fs::remove_file(&path).map_err(|e| StoreError::io(&path, &e))?;
            } else {
                let mut bytes = fs::read(&path).map_err(|e| StoreError::io(&path, &e))?;
                let Some(secret) = row::open(TABLE, name.as_bytes(), &bytes) else {
                    tracing::warn!(path = %path.display(), "a damaged secret is removed; its session is sat out");
                    fs::remove_file(&path).map_err(|e| StoreError::io(&path, &e))?;
                    continue;
                };
                let length = secret.len();
                bytes.truncate(length);
                secrets.push((name.into_bytes(), bytes));
            }
        }
        secrets.sort();
        Ok(secrets)
    }

    /// Writes or unlinks one secret; durable when it returns.
    pub(super) fn perform(&self, write: &Write) -> Result<(), StoreError> {
        let name = plain_name(&write.key)?;
        match &write.value {
            Some(bytes) => write_sealed(&self.dir, name, TABLE, bytes)?,
            None => remove(&self.dir.join(name))?,
        }
        sync(&self.dir)
    }
}

/// Adds checksums to the secrets beside the database `path`, whose schema knew none. One that has its checksum is left
/// as it is: so this may be done again after a crash.
pub(super) fn seal(path: &Path) -> Result<(), StoreError> {
    let dir = path.with_file_name(super::SECRETS);
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| StoreError::io(&dir, &e))?,
    };
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    for path in paths.map_err(|e| StoreError::io(&dir, &e))? {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let Ok(name) = plain_name(name) else { continue };
        let bytes = fs::read(&path).map_err(|e| StoreError::io(&path, &e))?;
        if row::open(TABLE, name.as_bytes(), &bytes).is_none() {
            write_sealed(&dir, name, TABLE, &bytes)?;
        }
    }
    sync(&dir)
}

/// The key as a file name that cannot lead out of the folder.
fn plain_name(key: &[u8]) -> Result<&str, StoreError> {
    let refused = || StoreError::SecretName {
        name: String::from_utf8_lossy(key).into_owned(),
    };
    let name = str::from_utf8(key).map_err(|_| refused())?;
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if plain { Ok(name) } else { Err(refused()) }
}
