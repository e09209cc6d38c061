//! Files of the data folder: written whole or not at all, removed, and their folder's entries made durable.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{StoreError, row};

/// Writes the parts, one after the other, into a file of mode 0600 beside `dir/name`, and makes them durable. It gets
/// its name when it is renamed to that; its own begins with a dot, and what a crash leaves of it is known by that.
///
/// What cannot be written whole is removed: it would fill a full disk for nothing.
pub(super) fn write_aside(dir: &Path, name: &str, parts: &[&[u8]]) -> Result<PathBuf, StoreError> {
    let aside = dir.join(format!(".{name}.new"));
    let opened = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&aside);
    finish(&aside, opened, parts).map(|()| aside)
}

/// Writes the rest of a file that was begun, and makes it durable; removes it if that fails.
pub(super) fn finish(
    path: &Path,
    opened: std::io::Result<File>,
    rest: &[&[u8]],
) -> Result<(), StoreError> {
    let written = opened.and_then(|mut file| {
        rest.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()
    });
    written.map_err(|error| {
        let _gone = fs::remove_file(path);
        StoreError::io(path, &error)
    })
}

/// Puts bytes with their checksum under `label` in place, whole or not at all. Durable once the folder is synced.
pub(crate) fn write_sealed(
    dir: &Path,
    name: &str,
    label: &str,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let sum = row::sum(label, name.as_bytes(), bytes);
    let aside = write_aside(dir, name, &[bytes, &sum])?;
    fs::rename(&aside, dir.join(name)).map_err(|error| StoreError::io(&aside, &error))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io(path, &error)),
        _ => Ok(()),
    }
}

/// Makes a folder's entries durable.
pub(crate) fn sync(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| StoreError::io(dir, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_with_its_checksum_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [b"first".as_slice(), b"second, longer", b""] {
            write_sealed(dir.path(), "name", "label", bytes).unwrap();
            sync(dir.path()).unwrap();
            let sealed = fs::read(dir.path().join("name")).unwrap();
            assert_eq!(row::open("label", b"name", &sealed), Some(bytes));
        }
        for _ in 0..2 {
            remove(&dir.path().join("name")).unwrap();
        }
        let aside = dir.path().join(".name.new");
        std::os::unix::fs::symlink("/dev/full", &aside).unwrap();
        let error = write_sealed(dir.path(), "name", "label", b"bytes").unwrap_err();
        assert!(
            matches!(&error, StoreError::Full { path } if *path == aside),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
