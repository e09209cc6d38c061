//! Blobs as files: masked vectors, shards and their sums, adapters. They are never held in memory whole, only mapped.
//!
//! ```text
//! DIR/blobs/vectors/NAME   one file a blob: its bytes; written aside, synced, renamed
//! DIR/blobs/shards/NAME    the same
//! DIR/blobs/adapters/NAME  the same, then a checksum
//! DIR/blobs/incoming/N     what is being pulled; emptied at the start
//! ```
//! The name is the blob's digest, in hex: the Merkle root of a vector, a shard or a sum, which tells damage as a
//! checksum does. Files are written once and never changed, so what is mapped stays as it is; one that is deleted
//! meanwhile lasts as long as somebody maps it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_crypto::digest::Digest;
use conclave_protocol::letter::Bytes;
use conclave_protocol::output::{Stored, Table, Write};
use memmap2::{Advice, Mmap, MmapOptions};
use rayon::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::files::{finish, remove, sync, write_aside};
use super::whole::{is_whole, sum_length};
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
    /// Blobs that were written or read whole in this run: they are not checked again. Locked while a file gets its
    /// name or loses it, so that no blob counts as sound by what another file held.
    sound: Mutex<BTreeSet<(Table, Digest)>>,
    /// Pulled files with their lengths, by the address that they are mapped at: one that is stored is only renamed.
    landed: Mutex<BTreeMap<usize, (usize, PathBuf)>>,
    /// Files that were begun.
    begun: AtomicU64,
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
        Ok(Self(Arc::new(Folder {
            path,
            sound: Mutex::default(),
            landed: Mutex::default(),
            begun: AtomicU64::default(),
        })))
    }

    /// The blob of that name, if this node holds it whole: a masked vector, a shard or a shard's sum by its Merkle
    /// root, an adapter by its digest. It is mapped, not read.
    ///
    /// What is damaged or cannot be read counts as not there, and is removed: another holder is asked then. So it is
    /// when a blob is first read in a run; one whose pages cannot be read after that ends the process by a signal.
    pub fn read(&self, name: &Digest) -> Option<Bytes> {
        TABLES.into_iter().find_map(|table| self.get(table, name))
    }

    /// Every blob with its name; of shards the names only: that many files need not be looked at. What is damaged is
    /// removed: others hold it.
    pub(super) fn load(&self, into: &mut Stored) -> Result<(), StoreError> {
        for table in TABLES {
            for (name, _) in self.files(table)? {
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

    /// The files of a table by the names of their blobs, in order, whole or not.
    pub(super) fn files(
        &self,
        table: Table,
    ) -> Result<impl Iterator<Item = (Digest, PathBuf)> + use<>, StoreError> {
        let dir = place(&self.0.path, table);
        Ok(names_in(&dir)?.filter_map(move |name| Some((digest(&name)?, dir.join(name)))))
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
        let mut sound = locked(&self.0.sound);
        sound.remove(&(write.table, name));
        remove(&self.0.file(write.table, &name))
    }

    /// A new file for a blob that is being pulled.
    pub async fn landing(&self) -> Result<Landing, StoreError> {
        let begun = self.0.begun.fetch_add(1, Ordering::Relaxed);
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
        let (file, is_sound) = self.0.open(table, name)?;
        let length = file.metadata().ok()?.len();
        if !(is_sound || self.0.examine(table, name, &file, length)) {
            return None;
        }
        let length = length.checked_sub(sum_length(table))?;
        let map = map(&file, usize::try_from(length).ok()?).ok()?;
        // Whoever wants a blob reads it from end to end: the disk may begin.
        let _is_only_advice = map.advise(Advice::WillNeed);
        Some(Bytes::from_owner(map))
    }

    fn put_one(&self, table: Table, key: &[u8], bytes: &Bytes) -> Result<(), StoreError> {
        let (Ok(name), Some(label)) = (key.try_into().map(Digest), tables::name(table)) else {
            return Ok(());
        };
        let place = self.0.file(table, &name);
        if locked(&self.0.sound).contains(&(table, name)) && place.exists() {
            return Ok(());
        }
        let sum = (table == Table::Adapters).then(|| row::sum(label, key, bytes));
        let sum = sum.as_slice().as_flattened();
        let landed = take_landed(&mut locked(&self.0.landed), bytes);
        let aside = if let Some(path) = landed {
            finish(&path, File::options().append(true).open(&path), &[sum])?;
            path
        } else {
            let dir = self.0.path.join(label);
            write_aside(&dir, &name_of(&name), &[bytes, sum])?
        };
        let mut sound = locked(&self.0.sound);
        fs::rename(&aside, &place).map_err(|error| StoreError::io(&aside, &error))?;
        sound.insert((table, name));
        Ok(())
    }
}

/// The pulled file that these bytes are the whole of.
fn take_landed(landed: &mut BTreeMap<usize, (usize, PathBuf)>, bytes: &Bytes) -> Option<PathBuf> {
    let address = bytes.as_ptr().addr();
    landed
        .get(&address)
        .filter(|(length, _)| *length == bytes.len())?;
    landed.remove(&address).map(|(_, path)| path)
}

/// Locks what holds together after a panic elsewhere too.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folder {
    fn file(&self, table: Table, name: &Digest) -> PathBuf {
        place(&self.path, table).join(name_of(name))
    }

    /// The file that has this name now, and whether it is known to be sound.
    fn open(&self, table: Table, name: &Digest) -> Option<(File, bool)> {
        let sound = locked(&self.sound);
        let file = File::open(self.file(table, name)).ok()?;
        Some((file, sound.contains(&(table, *name))))
    }

    /// Whether a file that was opened under this name is whole. If it still has the name it counts as sound from then
    /// on, or loses the name.
    fn examine(&self, table: Table, name: &Digest, file: &File, length: u64) -> bool {
        let whole = is_whole(table, name, file, length);
        let path = self.file(table, name);
        let mut sound = locked(&self.sound);
        if !has_name(file, &path) {
            return matches!(whole, Ok(true));
        }
        let fault = match whole {
            Ok(true) => {
                sound.insert((table, *name));
                return true;
            }
            Ok(false) => "its bytes do not fit".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(path = %path.display(), fault, "a damaged blob is removed: others are asked for it");
        let _still_there = fs::remove_file(&path);
        false
    }
}

/// Whether an open file is the one of this name, not one that had it before.
fn has_name(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
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
        locked(&self.folder.landed).insert(map.as_ptr().addr(), (length, path));
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
        let landed = locked(&self.folder.landed).remove(&self.map.as_ptr().addr());
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
    use conclave_crypto::merkle;

    use super::super::whole::PIECE;
    use super::*;

    /// The write of a blob under its name.
    fn put(table: Table, bytes: impl Into<Bytes>) -> Write {
        let bytes = bytes.into();
        let name = match table {
            Table::Adapters => Digest::of("shape", &[&bytes]),
            _ => merkle::root(&bytes),
        };
        Write {
            table,
            key: name.as_bytes().to_vec(),
            value: Some(bytes),
        }
    }

    fn name(write: &Write) -> Digest {
        Digest(write.key.as_slice().try_into().unwrap())
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
        let vector = put(Table::Vectors, vec![7; PIECE + 9000]);
        let small = put(Table::Shards, vec![8; 5]);
        store(&blobs, &vector);
        store(&blobs, &small);
        let blobs = Blobs::open(dir.path()).unwrap();
        let mut rows = Stored::new();
        blobs.load(&mut rows).unwrap();
        assert_eq!(rows[&(Table::Vectors, vector.key)], vec![7; PIECE + 9000]);
        assert!(rows[&(Table::Shards, small.key.clone())].is_empty());
        let shard = blobs.read(&name(&small)).unwrap();
        assert_eq!(shard, vec![8; 5]);
        assert!(blobs.read(&Digest([3; 32])).is_none());
        for _ in 0..2 {
            blobs.forget(&small).unwrap();
            assert!(blobs.read(&name(&small)).is_none());
        }
        assert_eq!(shard, vec![8; 5]);
    }

    #[test]
    fn a_damaged_blob_is_none_and_can_be_stored_again() {
        for table in TABLES {
            let dir = tempfile::tempdir().unwrap();
            let write = put(table, vec![3; 100]);
            let length = 100 + usize::try_from(sum_length(table)).unwrap();
            let blobs = Blobs::open(dir.path()).unwrap();
            let path = blobs.0.file(table, &name(&write));
            for damage in [0, 99, length - 1] {
                let blobs = Blobs::open(dir.path()).unwrap();
                store(&blobs, &write);
                let mut bytes = fs::read(&path).unwrap();
                assert_eq!(bytes.len(), length);
                bytes[damage] ^= 1;
                fs::write(&path, bytes).unwrap();
                let blobs = Blobs::open(dir.path()).unwrap();
                assert!(blobs.read(&name(&write)).is_none());
                let mut rows = Stored::new();
                blobs.load(&mut rows).unwrap();
                assert!(rows.is_empty() && !path.exists());
            }
            for length in [0, 7, 8, 99, 107, 109] {
                fs::write(&path, vec![3; length]).unwrap();
                let blobs = Blobs::open(dir.path()).unwrap();
                assert!(blobs.read(&name(&write)).is_none(), "{length}");
                assert!(!path.exists(), "{length}");
            }
        }
    }

    #[test]
    fn a_blob_that_the_disk_cannot_read_is_removed_and_can_be_stored_again() {
        for table in TABLES {
            let dir = tempfile::tempdir().unwrap();
            let write = put(table, vec![3; 100]);
            let blobs = Blobs::open(dir.path()).unwrap();
            let path = blobs.0.file(table, &name(&write));
            // The start of this file opens, but reading it is an error of the device.
            std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
            let file = File::open(&path).unwrap();
            let error = is_whole(table, &name(&write), &file, 4096).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(rustix::io::Errno::IO.raw_os_error())
            );
            assert!(!blobs.0.examine(table, &name(&write), &file, 4096));
            assert!(!path.is_symlink());
            store(&blobs, &write);
            let blobs = Blobs::open(dir.path()).unwrap();
            assert_eq!(blobs.read(&name(&write)).unwrap(), vec![3; 100]);
        }
    }

    /// A reader has opened the file of a blob and is slow: meanwhile the blob goes, or comes.
    #[test]
    fn a_blob_is_sound_or_damaged_by_its_own_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let write = put(Table::Vectors, vec![5; 9000]);
        let (table, name) = (write.table, name(&write));
        store(&Blobs::open(dir.path()).unwrap(), &write);
        let blobs = Blobs::open(dir.path()).unwrap();
        let path = blobs.0.file(table, &name);
        let (whole, is_sound) = blobs.0.open(table, &name).unwrap();
        assert!(!is_sound);
        blobs.forget(&write).unwrap();
        assert!(blobs.0.examine(table, &name, &whole, 9000), "it was whole");
        assert!(locked(&blobs.0.sound).is_empty(), "and is gone");
        store(&blobs, &write);
        assert!(path.exists(), "it is stored again");
        assert!(blobs.0.open(table, &name).unwrap().1);

        fs::write(&path, vec![6; 9000]).unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let (damaged, is_sound) = blobs.0.open(table, &name).unwrap();
        assert!(!is_sound);
        store(&blobs, &write);
        assert!(!blobs.0.examine(table, &name, &damaged, 9000));
        assert_eq!(blobs.read(&name).unwrap(), vec![5; 9000], "the fresh file");

        // Somebody's hand took the file of a blob that was sound.
        fs::remove_file(&path).unwrap();
        store(&blobs, &write);
        assert_eq!(blobs.read(&name).unwrap(), vec![5; 9000]);
    }

    #[tokio::test]
    async fn what_was_pulled_is_stored_by_its_file_or_removed_with_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let bytes = pulled(&blobs, &[&[1; 5000], &[2; 5000]]).await;
        assert_eq!((bytes.len(), incoming(dir.path())), (10_000, 1));
        let write = put(Table::Vectors, bytes.clone());
        store(&blobs, &write);
        assert_eq!(incoming(dir.path()), 0, "its file was renamed");
        drop(bytes);
        let bytes = pulled(&blobs, &[&[1; 5000], &[2; 5000]]).await;
        let adapter = put(Table::Adapters, bytes.clone());
        store(&blobs, &adapter);
        assert_eq!(incoming(dir.path()), 0, "its file was renamed");
        drop(bytes);
        let again = Blobs::open(dir.path()).unwrap();
        for name in [name(&write), name(&adapter)] {
            let stored = again.read(&name).expect("it is whole");
            assert!(stored[..5000] == [1; 5000] && stored[5000..] == [2; 5000]);
        }
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
        let write = put(Table::Vectors, vec![7; 9000]);
        let aside = format!(".{}.new", name_of(&name(&write)));
        let aside = dir.path().join("blobs/vectors").join(aside);
        std::os::unix::fs::symlink("/dev/full", &aside).unwrap();
        let stored = blobs.put(&[&write]);
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
        assert!(blobs.read(&name(&write)).is_none());
    }
}
