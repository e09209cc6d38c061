//! The identity of a node: `identity.key`, 32 bytes as hexadecimal digits, readable by its owner alone.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use conclave_crypto::sign::IdentityKey;
use zeroize::Zeroizing;

/// Where the identity stands in a data folder.
pub const FILE: &str = "identity.key";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is one already.
    #[error("{0} exists already and is not overwritten; move it away if you mean to start anew")]
    Exists(PathBuf),
    /// There is none yet.
    #[error(
        "{0}: no identity here; make one with `conclave init --dir {dir}`",
        dir = .0.parent().unwrap_or_else(|| Path::new(".")).display()
    )]
    Absent(PathBuf),
    /// Others could read it.
    #[error("{path} has mode {mode:04o}, so others can read it; run `chmod 600 {path}`")]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error("{0} does not hold 64 hexadecimal digits; restore it from its copy")]
    Malformed(PathBuf),
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
}

/// Makes the identity of a data folder, which exists; never overwrites one.
pub fn create(folder: &Path) -> Result<IdentityKey, KeyError> {
    let path = folder.join(FILE);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => KeyError::Exists(path.clone()),
            _ => KeyError::Io {
                path: path.clone(),
                source,
            },
        })?;
    let key = IdentityKey::generate(&mut rand::rng());
    let text = Zeroizing::new(format!("{}\n", hex::encode(*key.to_bytes())));
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|source| KeyError::Io { path, source })?;
    Ok(key)
}

/// Reads the identity of a data folder; refuses one that others can read.
pub fn open(folder: &Path) -> Result<IdentityKey, KeyError> {
    let path = folder.join(FILE);
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => KeyError::Absent(path.clone()),
        _ => KeyError::Io {
            path: path.clone(),
            source,
        },
    };
    let file = File::open(&path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Loose { path, mode });
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(1024).read_to_end(&mut text).map_err(io)?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_ascii(), seed.as_mut())
        .map_err(|_| KeyError::Malformed(path))?;
    Ok(IdentityKey::from_bytes(&seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_identity_survives_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let absent = open(folder.path()).unwrap_err().to_string();
        assert!(absent.contains("conclave init --dir"), "{absent}");
        let key = create(folder.path()).unwrap();
        assert_eq!(open(folder.path()).unwrap().public(), key.public());
        assert!(matches!(create(folder.path()), Err(KeyError::Exists(_))));
        assert_eq!(open(folder.path()).unwrap().public(), key.public());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path()).unwrap();
        let path = folder.path().join(FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("0640") && error.contains("chmod 600"),
            "{error}"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "cafe").unwrap();
        assert!(matches!(open(folder.path()), Err(KeyError::Malformed(_))));
    }
}
