//! Databases of older schemas become those of this one.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use conclave_protocol::output::{Table, Write};
use redb::{CompactionError, Database, ReadableDatabase as _};

use super::tables::{
    APART, Bytes, FILE, NAMED, SEALED, TABLES, begin, definition, fault, insert, insert_sealed,
    name, opened, read_all, read_keys,
};
use super::whole::ends_in_sum;
use super::{Blobs, SCHEMA, StoreError, blobs, row, secrets};

/// Schema 1 had no checksums, schemas 1 and 2 had blobs as rows, schema 3 had checksums behind every blob. Secrets get
/// checksums one by one, blobs become files or lose what they need no more, then the rows follow in one transaction: a
/// crash before it leaves what can be done again. At last the file is cut to what it holds now; if a crash or a reader
/// beside comes between, it stays as large as it was.
pub(super) fn upgrade(database: &mut Database, path: &Path, schema: u64) -> Result<(), StoreError> {
    if schema < SEALED {
        secrets::seal(path)?;
    }
    if schema < APART {
        move_blobs(database, path, schema)?;
    } else if schema < NAMED {
        cut_sums(path)?;
    }
    let transaction = begin(database, path)?;
    if schema < SEALED {
        for table in TABLES {
            let definition = definition(table).expect("only secrets have no redb table");
            for (key, value) in read_all(database, path, definition)? {
                insert_sealed(&transaction, path, table, &key, &value)?;
            }
        }
    }
    for definition in blobs::TABLES.into_iter().filter_map(definition) {
        transaction
            .delete_table(definition)
            .map_err(|e| fault(path, e.into()))?;
    }
    insert(&transaction, path, FILE, b"schema", &SCHEMA.to_le_bytes())?;
    transaction.commit().map_err(|e| fault(path, e.into()))?;
    match database.compact() {
        Err(CompactionError::Storage(error)) => Err(fault(path, error.into())),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the database keeps the size that it had with its blobs");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// Makes files of the rows that are blobs, one at a time; one that is damaged is left behind, for others hold it.
fn move_blobs(database: &Database, path: &Path, schema: u64) -> Result<(), StoreError> {
    let files = Blobs::open(path.parent().unwrap_or(path))?;
    for table in blobs::TABLES {
        let (Some(definition), Some(name)) = (definition(table), name(table)) else {
            continue;
        };
        for key in read_keys(database, path, definition)? {
            let Some(stored) = read_one(database, path, definition, &key)? else {
                continue;
            };
            let value = if schema < SEALED {
                Some(stored)
            } else {
                opened(name, (key.clone(), stored)).map(|(_, value)| value)
            };
            let value = value.map(Into::into);
            files.put(&[&Write { table, key, value }])?;
        }
    }
    Ok(())
}

/// Cuts the checksums off the vectors and shards beside the database `path`. One that has none is left as it is, to be
/// known by its name: so this may be done again after a crash.
pub(super) fn cut_sums(path: &Path) -> Result<(), StoreError> {
    let files = Blobs::open(path.parent().unwrap_or(path))?;
    for table in [Table::Vectors, Table::Shards] {
        for (name, path) in files.files(table)? {
            let fault = |error| StoreError::io(&path, &error);
            // What the disk cannot read is told, and removed, when it is first asked for.
            let file = match File::options().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(fault(error));
                }
                Err(_) => continue,
            };
            let length = file.metadata().map_or(0, |known| known.len());
            let Some(length) = length.checked_sub(row::SUM as u64) else {
                continue;
            };
            if matches!(ends_in_sum(table, &name, &file, length), Ok(true)) {
                file.set_len(length).map_err(fault)?;
                file.sync_all().map_err(fault)?;
            }
        }
    }
    Ok(())
}

/// One value.
fn read_one(
    database: &Database,
    path: &Path,
    definition: Bytes,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let transaction = database.begin_read().map_err(|e| fault(path, e.into()))?;
    let table = transaction
        .open_table(definition)
        .map_err(|e| fault(path, e.into()))?;
    let value = table.get(key).map_err(|e| fault(path, e.into()))?;
    Ok(value.map(|value| value.value().to_vec()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use conclave_crypto::digest::Digest;
    use conclave_crypto::merkle;

    use super::super::{Store, repair, tables};
    use super::*;
    use crate::ticket::tests::charter;

    /// A folder as schema 3 left it, with a vector, a shard and an adapter: the files of the first two.
    fn of_schema_three(dir: &Path, charter: &Digest) -> Vec<(Digest, PathBuf)> {
        let store = Store::open(dir, charter).unwrap();
        let blobs = [
            (Table::Vectors, vec![5; 9000], 0),
            (Table::Shards, vec![6; 80], 0),
            (Table::Adapters, vec![7; 80], 1),
        ];
        let blobs = blobs.map(|(table, bytes, other)| {
            let mut name = merkle::root(&bytes);
            name.0[0] ^= other;
            (table, name, bytes)
        });
        let writes = blobs.clone().map(|(table, name, bytes)| Write {
            table,
            key: name.as_bytes().to_vec(),
            value: Some(bytes.into()),
        });
        store.perform(&writes).unwrap();
        tables::write_schema(&store.database, &store.path, 3).unwrap();
        let mut paths = Vec::new();
        for (table, name, bytes) in &blobs[..2] {
            let label = tables::name(*table).unwrap();
            let path = dir.join("blobs").join(label).join(hex::encode(name.0));
            fs::write(&path, row::seal(label, name.as_bytes(), bytes)).unwrap();
            paths.push((*name, path));
        }
        paths
    }

    #[test]
    fn checksums_of_an_older_schema_behind_vectors_and_shards_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let charter = Digest([7; 32]);
        let paths = of_schema_three(dir.path(), &charter);
        for crashed in [false, true] {
            let store = Store::open(dir.path(), &charter).unwrap();
            let lengths = paths.iter().map(|(name, path)| {
                let blob = store.blobs().read(name).expect("it is whole");
                assert_eq!(blob.len() as u64, fs::metadata(path).unwrap().len());
                blob.len()
            });
            assert_eq!(lengths.collect::<Vec<_>>(), [9000, 80], "{crashed}");
            assert_eq!(store.load().unwrap().len(), 3);
            // A crash before the schema is marked: some files are cut already.
            tables::write_schema(&store.database, &store.path, 3).unwrap();
            let bytes = fs::read(&paths[1].1).unwrap();
            let sealed = row::seal("shards", paths[1].0.as_bytes(), &bytes);
            fs::write(&paths[1].1, sealed).unwrap();
        }
        // One that was damaged stays what it is, and is known for it.
        let mut bytes = fs::read(&paths[0].1).unwrap();
        bytes[4000] ^= 1;
        bytes.extend([0; row::SUM]);
        fs::write(&paths[0].1, bytes).unwrap();
        let store = Store::open(dir.path(), &charter).unwrap();
        assert_eq!(fs::metadata(&paths[0].1).unwrap().len(), 9008);
        assert!(store.blobs().read(&paths[0].0).is_none() && !paths[0].1.exists());
        assert_eq!(store.blobs().read(&paths[1].0).unwrap(), vec![6; 80]);
    }

    #[test]
    fn they_are_cut_off_beside_a_database_that_says_nothing_or_is_gone() {
        for gone in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let charter = charter(1);
            let paths = of_schema_three(dir.path(), &charter.digest());
            let database = dir.path().join("db");
            if gone {
                fs::remove_file(database).unwrap();
            } else {
                fs::write(database, b"noise").unwrap();
                repair(dir.path(), &charter).unwrap().expect("a repair");
            }
            let store = Store::open(dir.path(), &charter.digest()).unwrap();
            for (name, _) in paths {
                assert!(store.blobs().read(&name).is_some(), "gone: {gone}");
            }
        }
    }

    #[test]
    fn a_blob_that_cannot_be_opened_does_not_stop_an_upgrade() {
        let dir = tempfile::tempdir().unwrap();
        let charter = Digest([7; 32]);
        let paths = of_schema_three(dir.path(), &charter);
        fs::remove_file(&paths[0].1).unwrap();
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &paths[0].1).unwrap();
        let store = Store::open(dir.path(), &charter).unwrap();
        assert!(store.blobs().read(&paths[0].0).is_none());
        assert_eq!(store.blobs().read(&paths[1].0).unwrap(), vec![6; 80]);
    }
}
