//! Blobs as files: masked vectors, shards and their sums, adapters. They are never held in memory whole, only mapped.
//!
//! ```text
//! DIR/blobs/vectors/NAME  one file a blob: its bytes, then a checksum; written aside, synced, renamed
//! DIR/blobs/shards/NAME
//! DIR/blobs/adapters/NAME
//! DIR/blobs/incoming/N    what is being pulled; emptied at the start
//! ```
//! The name is the blob's digest, in hex. Files are written once and never changed, so what is mapped stays as it is;
//! one that is deleted meanwhile lasts as long as somebody maps it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_crypto::digest::Digest;
use conclave_protocol::letter::Bytes;
use conclave_protocol::output::{Stored, Table, Write};
use memmap2::{Mmap, MmapOptions};
use rayon::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::files::{finish, remove, sync, write_aside};
use super::{StoreError, row, tables};

/// The tables whose rows are files.
pub(super) const TABLES: [Table; 3] = [Table::Vectors, Table::Shards, Table::Adapters];

/// The blobs of a data folder. Clones are the same blobs.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    /// `DIR/blobs`
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Blobs that were written or read whole in this run: their checksums are not looked at again.
    sound: BTreeSet<(Table, Digest)>,
    /// Pulled files with their lengths, by the address that they are mapped at: one that is stored is only renamed.
    landed: BTreeMap<usize, (usize, PathBuf)>,
    /// Files that were begun.
    begun: u64,
}

/// A blob on its way here, in a file: gone with this value, unless it is [`Landing::done`].
#[derive(Debug)]
pub struct Landing {
    folder: Arc<Folder>,
    path: PathBuf,
    file: tokio::fs::File,
    received: u64,
    /// Whether the file is whole and mapped: whoever has its bytes sees to its end from then on.
    landed: bool,
}

/// A pulled file that is mapped: when the last of its bytes is let go it is removed, unless it was stored.
struct Landed {
    folder: Arc<Folder>,
    map: Mmap,
}

impl Blobs {
    /// Opens or makes the folder of blobs in the data folder `data`. What an earlier run left half written is removed.
    pub(super) fn open(data: &Path) -> Result<Self, StoreError> {
        let path = data.join("blobs");
        let incoming = path.join(INCOMING);
        if let Err(error) = fs::remove_dir_all(&incoming)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(StoreError::io(&incoming, &error));
        }
        let folders = TABLES.into_iter().map(|table| place(&path, table));
        for dir in folders.chain([incoming]) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|error| StoreError::io(&dir, &error))?;
            for name in names_in(&dir)?.filter(|name| name.starts_with('.')) {
                remove(&dir.join(name))?;
            }
        }
        sync(&path)?;
        sync(data)?;
        let known = Mutex::default();
        Ok(Self(Arc::new(Folder { path, known })))
    }

    /// The blob of that name, if this node holds it whole: a masked vector, a shard or a shard's sum by its Merkle
    /// root, an adapter by its digest. It is mapped, not read.
    ///
    /// A read fault, or damage, counts as not having it: another holder is asked then.
    pub fn read(&self, name: &Digest) -> Option<Bytes> {
        TABLES.into_iter().find_map(|table| self.get(table, name))
    }

    /// Every blob with its name; of shards the names only: that many files need not be looked at. What is damaged is
    /// removed: others hold it.
    pub(super) fn load(&self, into: &mut Stored) -> Result<(), StoreError> {
        for table in TABLES {
            for name in names_in(&place(&self.0.path, table))? {
                let Some(name) = digest(&name) else { continue };
                let value = match table {
                    Table::Shards => Some(Bytes::new()),
                    _ => self.get(table, &name),
                };
                if let Some(value) = value {
                    into.insert((table, name.as_bytes().to_vec()), value);
                }
            }
        }
        Ok(())
    }

    /// Makes the blobs of these writes durable.
    pub(super) fn put(&self, writes: &[&Write]) -> Result<(), StoreError> {
        let rows = writes.iter().filter_map(|write| {
            let value = write.value.as_ref()?;
            Some(((write.table, &write.key), value))
        });
        let rows: BTreeMap<_, _> = rows.collect();
        rows.par_iter()
            .try_for_each(|((table, key), bytes)| self.put_one(*table, key, bytes))?;
        let tables: BTreeSet<_> = rows.keys().map(|(table, _)| *table).collect();
        for table in tables {
            sync(&place(&self.0.path, table))?;
        }
        Ok(())
    }

    /// Removes the blob of a write. Should a crash bring it back, the member removes it again.
    pub(super) fn forget(&self, write: &Write) -> Result<(), StoreError> {
        let Ok(name) = write.key.as_slice().try_into().map(Digest) else {
            return Ok(());
        };
        self.0.known().sound.remove(&(write.table, name));
        remove(&self.0.file(write.table, &name))
    }

    /// A new file for a blob that is being pulled.
    pub async fn landing(&self) -> Result<Landing, StoreError> {
        let begun = {
            let mut known = self.0.known();
            known.begun += 1;
            known.begun
        };
        let path = self.0.path.join(INCOMING).join(begun.to_string());
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.await.map_err(|error| StoreError::io(&path, &error))?;
        Ok(Landing {
            folder: Arc::clone(&self.0),
            path,
            file,
            received: 0,
            landed: false,
        })
    }

    /// The blob of that name in this table.
    pub fn get(&self, table: Table, name: &Digest) -> Option<Bytes> {
        if !TABLES.contains(&table) {
            return None;
        }
        let path = self.0.file(table, name);
        let file = File::open(&path).ok()?;
        let length = file.metadata().ok()?.len().checked_sub(row::SUM as u64)?;
        let length = usize::try_from(length).ok()?;
        let whole = map(&file, length + row::SUM).ok()?;
        if !self.0.known().sound.contains(&(table, *name)) {
            let label = tables::name(table)?;
            if row::open(label, name.as_bytes(), &whole).is_none() {
                tracing::warn!(path = %path.display(), "a damaged blob is removed: others are asked for it");
                let _still_there = fs::remove_file(&path);
                return None;
            }
            self.0.known().sound.insert((table, *name));
        }
        Some(Bytes::from_owner(whole).slice(..length))
    }

    fn put_one(&self, table: Table, key: &[u8], bytes: &Bytes) -> Result<(), StoreError> {
        let (Ok(name), Some(label)) = (key.try_into().map(Digest), tables::name(table)) else {
            return Ok(());
        };
        let place = self.0.file(table, &name);
        if self.0.known().sound.contains(&(table, name)) {
            return Ok(());
        }
        let sum = row::sum(label, key, bytes);
        let landed = self.0.known().take_landed(bytes);
        let aside = if let Some(path) = landed {
            finish(&path, File::options().append(true).open(&path), &[&sum])?;
            path
        } else {
            let dir = self.0.path.join(label);
            write_aside(&dir, &name_of(&name), &[bytes, &sum])?
        };
        fs::rename(&aside, &place).map_err(|error| StoreError::io(&aside, &error))?;
        self.0.known().sound.insert((table, name));
        Ok(())
    }
}

impl Known {
    /// The pulled file that these bytes are the whole of.
    fn take_landed(&mut self, bytes: &Bytes) -> Option<PathBuf> {
        let address = bytes.as_ptr().addr();
        let whole = self.landed.get(&address);
        whole.filter(|(length, _)| *length == bytes.len())?;
        self.landed.remove(&address).map(|(_, path)| path)
    }
}

impl Folder {
    fn file(&self, table: Table, name: &Digest) -> PathBuf {
        place(&self.path, table).join(name_of(name))
    }

    /// Locks what holds together after a panic elsewhere too.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Landing {
    /// Bytes that have come so far: a next holder goes on from here.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Appends what has come.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_all(bytes).await;
        written.map_err(|error| StoreError::io(&self.path, &error))?;
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// The whole blob, mapped. Its file is removed with the last of its bytes, unless they are stored meanwhile.
    pub async fn done(mut self) -> Result<Bytes, StoreError> {
        let fault = |error| StoreError::io(&self.path, &error);
        self.file.flush().await.map_err(fault)?;
        let length = usize::try_from(self.received).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(Bytes::new());
        }
        let map = map(&self.file, length).map_err(fault)?;
        let path = self.path.clone();
        let mut known = self.folder.known();
        known.landed.insert(map.as_ptr().addr(), (length, path));
        drop(known);
        self.landed = true;
        let folder = Arc::clone(&self.folder);
        Ok(Bytes::from_owner(Landed { folder, map }))
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.landed {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

impl AsRef<[u8]> for Landed {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Landed {
    fn drop(&mut self) {
        let landed = self.folder.known().landed.remove(&self.map.as_ptr().addr());
        if let Some((_, path)) = landed {
            let _gone = fs::remove_file(path);
        }
    }
}

/// Maps so many bytes of a file of blobs.
fn map(file: &impl AsRawFd, length: usize) -> io::Result<Mmap> {
    // SAFETY: these files stand in the folder that this process has locked; it writes none of them once it is mapped
    // (a checksum is appended behind what is mapped), and nobody else has a reason to.
    #[expect(unsafe_code, reason = "memory-mapped blobs")]
    unsafe {
        MmapOptions::new().len(length).map(file)
    }
}

fn place(blobs: &Path, table: Table) -> PathBuf {
    blobs.join(tables::name(table).unwrap_or_default())
}

fn name_of(name: &Digest) -> String {
    hex::encode(name.as_bytes())
}

fn digest(name: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(name, &mut bytes).ok()?;
    Some(Digest(bytes))
}

/// The names in a folder, in order.
fn names_in(dir: &Path) -> Result<impl Iterator<Item = String> + use<>, StoreError> {
    let fault = |error| StoreError::io(dir, &error);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(fault)? {
        names.extend(entry.map_err(fault)?.file_name().into_string());
    }
    Ok(names.into_iter())
}

/// The folder of what is being pulled.
const INCOMING: &str = "incoming";

#[cfg(test)]
mod tests {
    use super::*;

    fn put(table: Table, name: u8, bytes: impl Into<Bytes>) -> Write {
        Write {
            table,
            key: vec![name; 32],
            value: Some(bytes.into()),
        }
    }

    fn store(blobs: &Blobs, write: &Write) {
        blobs.put(&[write]).unwrap();
    }

    async fn pulled(blobs: &Blobs, parts: &[&[u8]]) -> Bytes {
        let mut landing = blobs.landing().await.unwrap();
        for part in parts {
            landing.write(part).await.unwrap();
        }
        landing.done().await.unwrap()
    }

    fn incoming(dir: &Path) -> usize {
        fs::read_dir(dir.join("blobs/incoming")).unwrap().count()
    }

    #[test]
    fn a_blob_is_a_file_that_outlives_the_run_and_what_maps_it_outlives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        store(&blobs, &put(Table::Vectors, 1, vec![7; 9000]));
        store(&blobs, &put(Table::Shards, 2, vec![8; 5]));
        let blobs = Blobs::open(dir.path()).unwrap();
        let mut rows = Stored::new();
        blobs.load(&mut rows).unwrap();
        assert_eq!(rows[&(Table::Vectors, vec![1; 32])], vec![7; 9000]);
        assert!(rows[&(Table::Shards, vec![2; 32])].is_empty());
        let shard = blobs.read(&Digest([2; 32])).unwrap();
        assert_eq!(shard, vec![8; 5]);
        assert!(blobs.read(&Digest([3; 32])).is_none());
        for _ in 0..2 {
            blobs.forget(&put(Table::Shards, 2, vec![])).unwrap();
            assert!(blobs.read(&Digest([2; 32])).is_none());
        }
        assert_eq!(shard, vec![8; 5]);
    }

    #[test]
    fn a_damaged_blob_is_none_and_can_be_stored_again() {
        let dir = tempfile::tempdir().unwrap();
        let write = put(Table::Adapters, 4, vec![3; 100]);
        let path = dir.path().join("blobs/adapters").join(hex::encode([4; 32]));
        for damage in [0, 99, 107] {
            let blobs = Blobs::open(dir.path()).unwrap();
            store(&blobs, &write);
            let mut bytes = fs::read(&path).unwrap();
            bytes[damage] ^= 1;
            fs::write(&path, bytes).unwrap();
            let blobs = Blobs::open(dir.path()).unwrap();
            let mut rows = Stored::new();
            blobs.load(&mut rows).unwrap();
            assert!(rows.is_empty() && !path.exists());
        }
        for length in [0, 7, 8, 107] {
            fs::write(&path, vec![0; length]).unwrap();
            let blobs = Blobs::open(dir.path()).unwrap();
            assert!(blobs.read(&Digest([4; 32])).is_none(), "{length}");
        }
    }

    #[tokio::test]
    async fn what_was_pulled_is_stored_by_its_file_or_removed_with_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let bytes = pulled(&blobs, &[&[1; 5000], &[2; 5000]]).await;
        assert_eq!((bytes.len(), incoming(dir.path())), (10_000, 1));
        store(&blobs, &put(Table::Vectors, 1, bytes.clone()));
        assert_eq!(incoming(dir.path()), 0, "its file was renamed");
        drop(bytes);
        let again = Blobs::open(dir.path()).unwrap();
        let stored = again.read(&Digest([1; 32])).expect("its checksum fits");
        assert!(stored[..5000] == [1; 5000] && stored[5000..] == [2; 5000]);
        // One that nobody stores, one that breaks off, and one that a killed process leaves.
        let bytes = pulled(&blobs, &[&[3; 10]]).await;
        let piece = bytes.slice(2..4);
        drop(bytes);
        assert_eq!(
            (piece.as_ref(), incoming(dir.path())),
            ([3, 3].as_slice(), 1)
        );
        drop(piece);
        let mut landing = blobs.landing().await.unwrap();
        landing.write(&[4; 10]).await.unwrap();
        assert_eq!((landing.received(), incoming(dir.path())), (10, 1));
        drop(landing);
        assert_eq!(incoming(dir.path()), 0);
        assert!(pulled(&blobs, &[]).await.is_empty());
        fs::write(dir.path().join("blobs/incoming/9"), b"half").unwrap();
        fs::write(dir.path().join("blobs/shards/.half"), b"half").unwrap();
        drop(Blobs::open(dir.path()).unwrap());
        assert_eq!(incoming(dir.path()), 0);
        assert!(!dir.path().join("blobs/shards/.half").exists());
    }

    #[tokio::test]
    async fn a_full_disk_is_named_whether_a_blob_is_stored_or_pulled() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let aside = dir
            .path()
            .join("blobs/vectors")
            .join(format!(".{}.new", "01".repeat(32)));
        std::os::unix::fs::symlink("/dev/full", &aside).unwrap();
        let stored = blobs.put(&[&put(Table::Vectors, 1, vec![7; 9000])]);
        assert!(!aside.is_symlink(), "what was half written is removed");
        std::os::unix::fs::symlink("/dev/full", &aside).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut landing = Landing {
            folder: Arc::clone(&blobs.0),
            path: aside.clone(),
            file: full.into(),
            received: 0,
            landed: false,
        };
        let pulled = match landing.write(&[7; 9000]).await {
            Ok(()) => landing.done().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(!aside.is_symlink(), "what was half pulled is removed");
        for failed in [stored, pulled] {
            let error = failed.unwrap_err();
            assert!(
                matches!(&error, StoreError::Full { path } if *path == aside),
                "{error}"
            );
        }
        assert!(blobs.read(&Digest([1; 32])).is_none());
    }
}
