//! Databases of older schemas become those of this one.

use std::path::Path;

use conclave_protocol::output::Write;
use redb::{Database, ReadableDatabase as _};

use super::tables::{
    APART, Bytes, FILE, SEALED, TABLES, begin, definition, fault, insert, insert_sealed, name,
    opened, read_all, read_keys,
};
use super::{Blobs, SCHEMA, StoreError, blobs, secrets};

/// Schema 1 had no checksums, schemas 1 and 2 had blobs as rows. Secrets get checksums one by one and blobs become
/// files, then the rows follow in one transaction: a crash before it leaves what can be done again.
pub(super) fn upgrade(database: &Database, path: &Path, schema: u64) -> Result<(), StoreError> {
    if schema < SEALED {
        secrets::seal(path)?;
    }
    if schema < APART {
        move_blobs(database, path, schema)?;
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
    transaction.commit().map_err(|e| fault(path, e.into()))
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
