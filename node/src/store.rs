//! The durable state of a node: one redb database, a folder of secrets, and a lock on the data folder.
//!
//! ```text
//! DIR/lock      one writer: held for the life of the node
//! DIR/db        ledger, outbox, journal, wal, inbox, facts; addresses; schema and charter
//! DIR/blobs/    vectors, shards, adapters: one file a blob, mapped and never held in memory whole
//! DIR/secrets/  one file a secret, mode 0600, never in the database: unlinking it is its end
//! ```
//! Every row, adapter and secret ends in a checksum; other blobs are named by their Merkle roots. [`Store::perform`]
//! keeps the order of its writes: what stands earlier is durable before what stands later.

mod blobs;
mod error;
mod files;
mod find;
mod lock;
mod repair;
pub(crate) mod row;
mod secrets;
mod tables;
mod upgrade;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use conclave_crypto::digest::Digest;
use conclave_protocol::output::{Stored, Table, Write};
use redb::{ConcurrencyMode, Database, ReadableDatabase};

pub use blobs::{Blobs, Landing};
pub use error::StoreError;
pub(crate) use files::{sync, write_sealed};
pub use repair::{Repaired, repair};

use self::lock::FolderLock;
use self::secrets::Secrets;

/// The layout of the database that this program writes. A newer one is refused.
pub const SCHEMA: u64 = 4;

/// The durable state of one node. Dropping it gives the data folder free.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
    blobs: Blobs,
    secrets: Secrets,
    _lock: FolderLock,
}

impl Store {
    /// Opens (or makes) the durable state in the data folder `dir` for the federation of `charter`.
    ///
    /// Refused: a folder that another node holds, a newer schema, another charter, a damaged database.
    /// Nothing is written before all of these are checked, and a damaged file is never overwritten.
    pub fn open(dir: &Path, charter: &Digest) -> Result<Self, StoreError> {
        let lock = FolderLock::take(dir)?;
        let path = dir.join("db");
        let mut database = open_database(&path)?;
        tables::settle(&mut database, &path, charter)?;
        Ok(Self {
            database,
            blobs: Blobs::open(dir)?,
            secrets: Secrets::open(dir)?,
            path,
            _lock: lock,
        })
    }

    /// Everything that [`conclave_protocol`]'s member stores, as it was left; of shards the names only.
    pub fn load(&self) -> Result<Stored, StoreError> {
        let rows = tables::load(&self.database, &self.path)?.into_iter();
        let mut stored: Stored = rows.map(|(key, value)| (key, value.into())).collect();
        self.blobs.load(&mut stored)?;
        for (name, secret) in self.secrets.load()? {
            stored.insert((Table::Secrets, name), secret.into());
        }
        Ok(stored)
    }

    /// Whether it is doubtful that the folder tells everything that this node has said: rows were lost in a repair.
    pub fn is_doubtful(&self) -> Result<bool, StoreError> {
        tables::is_doubtful(&self.database, &self.path)
    }

    /// The doubt is over: the others told what this node had said.
    pub fn trust(&self) -> Result<(), StoreError> {
        tables::doubt(&self.database, &self.path, false)
    }

    /// Makes the writes durable, in their order.
    ///
    /// Neighbouring writes to the database share one transaction; one to [`Table::Secrets`] or to a table of blobs ends
    /// it, because their files must not be made before, nor a secret unlinked before, what stands earlier is durable.
    /// Deletions of blobs go last: what a crash leaves of them is removed after the next start.
    pub fn perform(&self, writes: &[Write]) -> Result<(), StoreError> {
        let goes = |write: &&Write| Kind::of(write) == Kind::Blob && write.value.is_none();
        let stay: Vec<&Write> = writes.iter().filter(|write| !goes(write)).collect();
        let together =
            |a: &&Write, b: &&Write| Kind::of(a) == Kind::of(b) && Kind::of(a) != Kind::Secret;
        for run in stay.chunk_by(together) {
            match run.first().map(|write| Kind::of(write)) {
                Some(Kind::Row) => tables::commit(&self.database, &self.path, run)?,
                Some(Kind::Blob) => self.blobs.put(run)?,
                Some(Kind::Secret) => run
                    .iter()
                    .try_for_each(|write| self.secrets.perform(write))?,
                None => {}
            }
        }
        // Of several writes of one blob the last one counts.
        let mut later = BTreeSet::new();
        let blobs = writes.iter().rev();
        let mut blobs = blobs.filter(|write| Kind::of(write) == Kind::Blob);
        blobs.try_for_each(|write| {
            let is_last = later.insert((write.table, &write.key));
            if is_last && write.value.is_none() {
                self.blobs.forget(write)?;
            }
            Ok(())
        })
    }

    /// The blobs: what peers may read, and what is being pulled.
    pub fn blobs(&self) -> Blobs {
        self.blobs.clone()
    }

    /// The addresses at which members were last met: key to addresses, as text.
    pub fn addresses(&self) -> Result<BTreeMap<Vec<u8>, Vec<String>>, StoreError> {
        tables::addresses(&self.database, &self.path)
    }

    /// Remembers where a member was met.
    pub fn remember(&self, member: &[u8], addresses: &[String]) -> Result<(), StoreError> {
        let fault = |e: redb::Error| StoreError::database(&self.path, &e);
        let transaction = self.database.begin_write().map_err(|e| fault(e.into()))?;
        {
            let mut table = transaction
                .open_table(tables::ADDRESSES)
                .map_err(|e| fault(e.into()))?;
            table
                .insert(member, addresses.join("\n").as_bytes())
                .map_err(|e| fault(e.into()))?;
        }
        transaction.commit().map_err(|e| fault(e.into()))
    }
}

/// Whether there is durable state in the data folder.
pub fn exists(dir: &Path) -> bool {
    dir.join("db").exists()
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Row,
    Blob,
    Secret,
}

impl Kind {
    fn of(write: &Write) -> Self {
        match write.table {
            Table::Secrets => Self::Secret,
            table if blobs::TABLES.contains(&table) => Self::Blob,
            _ => Self::Row,
        }
    }
}

/// What a data folder's ledger holds.
#[derive(Debug)]
pub struct LedgerRows {
    /// The charter that the database was made for.
    pub charter: Digest,
    /// The decided records with their certificates, in the order of their heights.
    pub rows: Vec<Vec<u8>>,
}

/// Reads a data folder's ledger, also beside the running node.
///
/// At rest the whole file is checked first; while a node runs, its last durable state is read.
pub fn read_ledger(dir: &Path) -> Result<LedgerRows, StoreError> {
    let path = dir.join("db");
    if !path.is_file() {
        return Err(StoreError::Missing { path });
    }
    match FolderLock::take(dir) {
        Ok(_lock) => ledger_rows(&open_database(&path)?, &path),
        Err(StoreError::Locked { .. }) => {
            let database = Database::builder()
                .set_concurrency_mode(ConcurrencyMode::SingleWriter)
                .open_read_only(&path)
                .map_err(|e| StoreError::database(&path, &e.into()))?;
            ledger_rows(&database, &path)
        }
        Err(error) => Err(error),
    }
}

fn ledger_rows(database: &impl ReadableDatabase, path: &Path) -> Result<LedgerRows, StoreError> {
    Ok(LedgerRows {
        charter: tables::charter(database, path)?,
        rows: tables::rows(database, path, Table::Ledger)?,
    })
}

/// Opens the file with its checksums verified. redb repairs what a kill left behind, and answers damage by an error.
fn open_database(path: &Path) -> Result<Database, StoreError> {
    if let Ok(file) = OpenOptions::new().read(true).open(path) {
        let length = file.metadata().map_err(|e| StoreError::io(path, &e))?.len();
        if length == 0 {
            return Err(StoreError::Damaged {
                path: path.to_owned(),
                detail: "it is empty".to_owned(),
            });
        }
    }
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_concurrency_mode(ConcurrencyMode::SingleWriter)
        .set_check_integrity_on_open(true)
        .create(path)
        .map_err(|e| StoreError::database(path, &e.into()))
}

/// The folder of secrets in a data folder.
const SECRETS: &str = "secrets";
/// Bytes of pages that redb keeps in memory.
const CACHE_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};

    use conclave_crypto::merkle;

    use super::*;

    const CHARTER: Digest = Digest([7; 32]);

    fn put(table: Table, key: &[u8], value: &[u8]) -> Write {
        Write {
            table,
            key: key.to_vec(),
            value: Some(value.to_vec().into()),
        }
    }

    fn delete(table: Table, key: &[u8]) -> Write {
        Write {
            table,
            key: key.to_vec(),
            value: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_was_stored_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let vector = merkle::root(b"vector");
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        store
            .perform(&[
                put(Table::Outbox, b"slot", b"said"),
                put(Table::Secrets, b"2.mask", b"seed"),
                put(Table::Vectors, vector.as_bytes(), b"vector"),
                put(Table::Facts, b"gone", b"x"),
                delete(Table::Facts, b"gone"),
            ])
            .unwrap();
        assert_eq!(mode(&dir.path().join("secrets/2.mask")), 0o600);
        assert_eq!(mode(&dir.path().join("secrets")), 0o700);
        drop(store);
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        let stored = store.load().unwrap();
        assert_eq!(stored.len(), 3);
        assert_eq!(stored[&(Table::Outbox, b"slot".to_vec())].as_ref(), b"said");
        assert_eq!(
            stored[&(Table::Secrets, b"2.mask".to_vec())].as_ref(),
            b"seed"
        );
        assert_eq!(
            store.blobs().read(&vector),
            Some(b"vector".as_slice().into())
        );
        assert_eq!(store.blobs().read(&Digest([8; 32])), None);
        store.perform(&[delete(Table::Secrets, b"2.mask")]).unwrap();
        assert!(!dir.path().join("secrets/2.mask").exists());
        // Deleting twice is no fault: a replay after a crash does it.
        store.perform(&[delete(Table::Secrets, b"2.mask")]).unwrap();
    }

    /// One after the other: a blob lasts from where it is stored, and goes only after what stood beside it.
    #[test]
    fn blobs_keep_their_place_among_the_rows_and_go_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        store
            .perform(&[
                put(Table::Outbox, b"slot", b"said"),
                put(Table::Vectors, one.as_bytes(), b"vector"),
                put(Table::Secrets, b"2.mask", b"seed"),
                put(Table::Shards, two.as_bytes(), b"shard"),
                put(Table::Facts, b"a", b"b"),
            ])
            .unwrap();
        assert_eq!(store.load().unwrap().len(), 5);
        store
            .perform(&[
                delete(Table::Vectors, one.as_bytes()),
                delete(Table::Shards, two.as_bytes()),
                put(Table::Vectors, one.as_bytes(), b"vector"),
                put(Table::Shards, two.as_bytes(), b"shard"),
                delete(Table::Shards, two.as_bytes()),
            ])
            .unwrap();
        assert!(store.blobs().read(&one).is_some() && store.blobs().read(&two).is_none());
        // A name that cannot be made durable stops what follows, and nothing goes.
        std::fs::remove_dir_all(dir.path().join("blobs/shards")).unwrap();
        let failed = store.perform(&[
            delete(Table::Vectors, one.as_bytes()),
            put(Table::Shards, two.as_bytes(), b"shard"),
            put(Table::Facts, b"later", b"never"),
        ]);
        assert_eq!(failed.unwrap_err().to_string().lines().count(), 1);
        assert!(store.blobs().read(&one).is_some());
        let key = (Table::Facts, b"later".to_vec());
        assert!(
            !tables::load(&store.database, &store.path)
                .unwrap()
                .contains_key(&key)
        );
    }

    #[test]
    fn blobs_of_an_older_schema_become_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        let vector = vec![5; 8 << 20];
        let (whole, torn, large) = (Digest([1; 32]), Digest([2; 32]), merkle::root(&vector));
        for (table, name, bytes) in [
            (Table::Adapters, whole, b"adapter".as_slice()),
            (Table::Shards, torn, b"adapter"),
            (Table::Vectors, large, &vector),
        ] {
            let key = name.as_bytes();
            tables::take_in(&store.database, &store.path, table, key, bytes).unwrap();
        }
        store.perform(&[put(Table::Facts, b"a", b"b")]).unwrap();
        drop(store);
        let path = dir.path().join("db");
        let size = || std::fs::metadata(&path).unwrap().len();
        assert!(size() > 8 << 20);
        for _ in 0..2 {
            let store = Store::open(dir.path(), &CHARTER).unwrap();
            let adapter = store.blobs().read(&whole).unwrap();
            assert_eq!(adapter.as_ref(), b"adapter");
            assert_eq!(store.blobs().read(&large).unwrap(), vector);
            assert_eq!(store.load().unwrap().len(), 4);
            assert!(size() < 4 << 20, "the file is as large as its rows");
            let file = tables::read_file_row(&store.database, &path).unwrap();
            assert_eq!(file, Some((SCHEMA, CHARTER)));
        }
        assert!(
            dir.path()
                .join("blobs/shards")
                .join(hex::encode([2; 32]))
                .exists()
        );
    }

    #[test]
    fn no_secret_enters_the_database_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        let secret = b"a very particular secret";
        store
            .perform(&[
                put(Table::Secrets, b"1.mask", secret),
                put(Table::Facts, b"a", b"b"),
            ])
            .unwrap();
        drop(store);
        let bytes = std::fs::read(dir.path().join("db")).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }

    #[test]
    fn a_secret_that_names_a_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        for name in [b"../x".as_slice(), b"a/b", b".hidden", b"", &[0xFF]] {
            let error = store
                .perform(&[put(Table::Secrets, name, b"x")])
                .unwrap_err();
            assert!(matches!(error, StoreError::SecretName { .. }), "{error}");
        }
    }

    #[test]
    fn a_half_written_secret_of_a_crash_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), &CHARTER).unwrap());
        std::fs::write(dir.path().join("secrets/.3.mask.new"), b"half").unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        assert!(store.load().unwrap().is_empty());
        assert!(!dir.path().join("secrets/.3.mask.new").exists());
    }

    #[test]
    fn a_damaged_secret_is_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        store
            .perform(&[
                put(Table::Secrets, b"1.mask", b"seed one"),
                put(Table::Secrets, b"2.mask", b"seed two"),
            ])
            .unwrap();
        let path = dir.path().join("secrets/1.mask");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let stored = store.load().unwrap();
        assert_eq!(stored.len(), 1);
        assert_eq!(
            stored[&(Table::Secrets, b"2.mask".to_vec())].as_ref(),
            b"seed two"
        );
        assert!(!path.exists());
    }

    #[test]
    fn rows_without_checksums_of_an_older_schema_get_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        store.perform(&[put(Table::Facts, b"a", b"b")]).unwrap();
        let (seed, sealed) = (b"seed one", put(Table::Secrets, b"2.mask", b"seed two"));
        // A crash in the upgrade leaves some secrets with checksums, and the schema as it was.
        store.perform(&[sealed]).unwrap();
        std::fs::write(dir.path().join("secrets/1.mask"), seed).unwrap();
        tables::forget_checksums(&store.database, &store.path).unwrap();
        drop(store);
        for _ in 0..2 {
            let store = Store::open(dir.path(), &CHARTER).unwrap();
            let stored = store.load().unwrap();
            assert_eq!(stored[&(Table::Facts, b"a".to_vec())].as_ref(), b"b");
            assert_eq!(stored[&(Table::Secrets, b"1.mask".to_vec())].as_ref(), seed);
            assert_eq!(
                stored[&(Table::Secrets, b"2.mask".to_vec())].as_ref(),
                b"seed two"
            );
            assert_eq!(mode(&dir.path().join("secrets/1.mask")), 0o600);
        }
    }

    #[test]
    fn a_second_node_is_refused_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Store::open(dir.path(), &CHARTER).unwrap();
        let error = Store::open(dir.path(), &CHARTER).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }

    #[test]
    fn the_ledger_can_be_read_beside_the_running_node() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        for height in [2_u64, 1, 300] {
            let key = height.to_be_bytes();
            store
                .perform(&[put(Table::Ledger, &key, &height.to_le_bytes())])
                .unwrap();
        }
        let expected = [1_u64, 2, 300].map(|height| height.to_le_bytes().to_vec());
        let read = read_ledger(dir.path()).unwrap();
        assert_eq!(
            (read.charter, read.rows.as_slice()),
            (CHARTER, &expected[..])
        );
        drop(store);
        assert_eq!(read_ledger(dir.path()).unwrap().rows, expected);
        let empty = tempfile::tempdir().unwrap();
        let error = read_ledger(empty.path()).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }

    #[test]
    fn the_ledger_of_an_older_schema_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        let record = put(Table::Ledger, &1_u64.to_be_bytes(), b"record");
        store.perform(&[record]).unwrap();
        tables::forget_checksums(&store.database, &store.path).unwrap();
        assert_eq!(read_ledger(dir.path()).unwrap().rows, [b"record".to_vec()]);
        drop(store);
        assert_eq!(read_ledger(dir.path()).unwrap().rows, [b"record".to_vec()]);
    }

    #[test]
    fn another_charter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), &CHARTER).unwrap());
        let error = Store::open(dir.path(), &Digest([8; 32])).unwrap_err();
        assert!(matches!(error, StoreError::Charter { .. }), "{error}");
        drop(Store::open(dir.path(), &CHARTER).unwrap());
    }

    #[test]
    fn a_newer_schema_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        tables::write_schema(&store.database, &store.path, SCHEMA + 3).unwrap();
        drop(store);
        let error = Store::open(dir.path(), &CHARTER).unwrap_err();
        assert!(
            matches!(error, StoreError::Newer { found, known: SCHEMA, .. } if found == SCHEMA + 3),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_database_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let noise: Vec<u8> = (0..40_000_u32)
            .flat_map(|i| (i * 31).to_le_bytes())
            .collect();
        for bytes in [b"".as_slice(), b"short", &noise] {
            std::fs::write(&path, bytes).unwrap();
            let error = Store::open(dir.path(), &CHARTER).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert_eq!(error.to_string().lines().count(), 1);
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_truncated_or_overwritten_database_is_an_error_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        for key in 0..200_u32 {
            store
                .perform(&[put(Table::Inbox, &key.to_be_bytes(), &[3; 3000])])
                .unwrap();
        }
        drop(store);
        let path = dir.path().join("db");
        let whole = std::fs::read(&path).unwrap();
        for damage in 0..40 {
            let mut bytes = whole.clone();
            if damage % 2 == 0 {
                bytes.truncate(whole.len() * (damage + 1) / 41);
                std::fs::write(&path, &bytes).unwrap();
            } else {
                std::fs::write(&path, &bytes).unwrap();
                let mut file = OpenOptions::new().write(true).open(&path).unwrap();
                file.seek(SeekFrom::Start((whole.len() * damage / 41) as u64))
                    .unwrap();
                file.write_all(&[0xA5; 4096]).unwrap();
            }
            // Damage in unused pages goes unnoticed; damage that is met must be an error in one sentence.
            if let Err(error) = Store::open(dir.path(), &CHARTER).and_then(|store| store.load()) {
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
            }
        }
    }

    #[test]
    fn addresses_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        let addresses = [
            "/ip4/127.0.0.1/tcp/4001".to_owned(),
            "/dns/a/tcp/1".to_owned(),
        ];
        store.remember(&[1; 32], &addresses).unwrap();
        store.perform(&[put(Table::Facts, b"a", b"b")]).unwrap();
        drop(store);
        let store = Store::open(dir.path(), &CHARTER).unwrap();
        assert_eq!(store.addresses().unwrap()[[1; 32].as_slice()], addresses);
    }
}
