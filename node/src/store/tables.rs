//! The tables of the database: one a [`Table`] of the protocol, one for addresses, one for what the file is.

use std::collections::BTreeMap;
use std::path::Path;

use conclave_crypto::digest::Digest;
use conclave_protocol::output::{Table, Write};
use redb::{
    Database, ReadableDatabase, ReadableTable as _, TableDefinition, TableError, WriteTransaction,
};

use super::{SCHEMA, SECRETS, StoreError, row, upgrade};

/// All rows of the tables that stand in the database.
pub(super) type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A key with its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// A table of byte strings.
pub(super) type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// What the file is: its schema and its charter.
pub(super) const FILE: Bytes = TableDefinition::new("file");
/// Where members were met: member key to addresses, one a line.
pub(super) const ADDRESSES: Bytes = TableDefinition::new("addresses");

/// Every table of the protocol that stands in the database.
pub(super) const TABLES: [Table; 6] = [
    Table::Ledger,
    Table::Outbox,
    Table::Journal,
    Table::Wal,
    Table::Inbox,
    Table::Facts,
];

/// The redb table; none for [`Table::Secrets`]. Those of blobs are of older schemas, this one's are [`TABLES`].
pub(super) const fn definition(table: Table) -> Option<Bytes> {
    match name(table) {
        Some(name) => Some(TableDefinition::new(name)),
        None => None,
    }
}

/// Its name: of the redb table, or of the folder of blobs.
pub(super) const fn name(table: Table) -> Option<&'static str> {
    Some(match table {
        Table::Ledger => "ledger",
        Table::Outbox => "outbox",
        Table::Journal => "journal",
        Table::Wal => "wal",
        Table::Inbox => "inbox",
        Table::Vectors => "vectors",
        Table::Shards => "shards",
        Table::Adapters => "adapters",
        Table::Facts => "facts",
        Table::Secrets => return None,
    })
}

/// The first schema whose rows and secrets end in checksums.
pub(super) const SEALED: u64 = 2;

/// The first schema whose blobs are files.
pub(super) const APART: u64 = 3;

/// The first schema whose vectors and shards have no checksums, only their names.
pub(super) const NAMED: u64 = 4;

/// Checks what the file is, brings an older one to this schema, and marks a new one.
///
/// A folder that has secrets and no marked database was used and has forgotten what it said: the mark tells that too.
pub(super) fn settle(
    database: &mut Database,
    path: &Path,
    charter: &Digest,
) -> Result<(), StoreError> {
    let Some((schema, found)) = read_file_row(database, path)? else {
        // Nothing tells of which schema the blobs beside it are, if there are any.
        upgrade::cut_sums(path)?;
        let transaction = begin(database, path)?;
        insert(&transaction, path, FILE, b"schema", &SCHEMA.to_le_bytes())?;
        insert(&transaction, path, FILE, b"charter", charter.as_bytes())?;
        let forgot = path.with_file_name(SECRETS).exists();
        insert(&transaction, path, FILE, b"doubtful", &[u8::from(forgot)])?;
        for table in TABLES.into_iter().filter_map(definition) {
            transaction
                .open_table(table)
                .map_err(|e| fault(path, e.into()))?;
        }
        transaction
            .open_table(ADDRESSES)
            .map_err(|e| fault(path, e.into()))?;
        return transaction.commit().map_err(|e| fault(path, e.into()));
    };
    check_schema(path, schema)?;
    if found != *charter {
        return Err(StoreError::Charter {
            path: path.to_owned(),
            found,
            expected: *charter,
        });
    }
    if schema < SCHEMA {
        upgrade::upgrade(database, path, schema)?;
    }
    Ok(())
}

/// Notes whether it is doubtful that the tables tell everything that this node has said.
pub(super) fn doubt(database: &Database, path: &Path, doubtful: bool) -> Result<(), StoreError> {
    let transaction = begin(database, path)?;
    insert(&transaction, path, FILE, b"doubtful", &[u8::from(doubtful)])?;
    transaction.commit().map_err(|e| fault(path, e.into()))
}

/// Whether that is doubtful.
pub(super) fn is_doubtful(database: &Database, path: &Path) -> Result<bool, StoreError> {
    let rows = read_all(database, path, FILE)?;
    Ok(rows
        .iter()
        .any(|(key, value)| key == b"doubtful" && *value != [0]))
}

/// The charter that the file was made for.
pub(super) fn charter(database: &impl ReadableDatabase, path: &Path) -> Result<Digest, StoreError> {
    let Some((schema, charter)) = read_file_row(database, path)? else {
        return Err(StoreError::Missing {
            path: path.to_owned(),
        });
    };
    check_schema(path, schema)?;
    Ok(charter)
}

/// All rows, refused if any is damaged.
pub(super) fn load(database: &Database, path: &Path) -> Result<Rows, StoreError> {
    let mut rows = BTreeMap::new();
    for table in TABLES {
        for (key, value) in sound_rows(database, path, table)? {
            rows.insert((table, key), value);
        }
    }
    Ok(rows)
}

/// The values of one table, in the order of their keys; refused if any is damaged, as far as its schema tells.
pub(super) fn rows(
    database: &impl ReadableDatabase,
    path: &Path,
    table: Table,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let schema = read_file_row(database, path)?.map_or(SCHEMA, |(schema, _)| schema);
    let rows = match definition(table) {
        Some(definition) if schema < SEALED => read_all(database, path, definition)?,
        _ => sound_rows(database, path, table)?,
    };
    Ok(rows.into_iter().map(|(_, value)| value).collect())
}

fn sound_rows(
    database: &impl ReadableDatabase,
    path: &Path,
    table: Table,
) -> Result<Vec<Row>, StoreError> {
    let (Some(definition), Some(name)) = (definition(table), name(table)) else {
        return Ok(Vec::new());
    };
    let rows = read_all(database, path, definition)?;
    let count = rows.len();
    let sound = rows.into_iter().filter_map(|row| opened(name, row));
    let sound: Vec<_> = sound.collect();
    match count - sound.len() {
        0 => Ok(sound),
        torn => Err(StoreError::Damaged {
            path: path.to_owned(),
            detail: format!("{torn} of {count} rows of its {name} do not fit their checksums"),
        }),
    }
}

/// A row without its checksum, if it fits.
pub(super) fn opened(name: &str, (key, mut value): Row) -> Option<Row> {
    let length = row::open(name, &key, &value)?.len();
    value.truncate(length);
    Some((key, value))
}

/// All remembered addresses.
pub(super) fn addresses(
    database: &Database,
    path: &Path,
) -> Result<BTreeMap<Vec<u8>, Vec<String>>, StoreError> {
    Ok(read_all(database, path, ADDRESSES)?
        .into_iter()
        .map(|(key, value)| {
            let text = String::from_utf8_lossy(&value);
            (key, text.lines().map(str::to_owned).collect())
        })
        .collect())
}

/// One durable transaction.
pub(super) fn commit(
    database: &Database,
    path: &Path,
    writes: &[&Write],
) -> Result<(), StoreError> {
    let transaction = begin(database, path)?;
    for write in writes {
        let definition = definition(write.table)
            .filter(|_| TABLES.contains(&write.table))
            .expect("the caller has taken secrets and blobs out");
        match &write.value {
            Some(value) => insert_sealed(&transaction, path, write.table, &write.key, value)?,
            None => {
                transaction
                    .open_table(definition)
                    .map_err(|e| fault(path, e.into()))?
                    .remove(write.key.as_slice())
                    .map_err(|e| fault(path, e.into()))?;
            }
        }
    }
    transaction.commit().map_err(|e| fault(path, e.into()))
}

/// Marks the file with a schema.
#[cfg(test)]
pub(super) fn write_schema(
    database: &Database,
    path: &Path,
    schema: u64,
) -> Result<(), StoreError> {
    let transaction = begin(database, path)?;
    insert(&transaction, path, FILE, b"schema", &schema.to_le_bytes())?;
    transaction.commit().map_err(|e| fault(path, e.into()))
}

/// Makes the file what schema 2 was, with this blob in it.
#[cfg(test)]
pub(super) fn take_in(
    database: &Database,
    path: &Path,
    table: Table,
    key: &[u8],
    value: &[u8],
) -> Result<(), StoreError> {
    let transaction = begin(database, path)?;
    insert_sealed(&transaction, path, table, key, value)?;
    insert(&transaction, path, FILE, b"schema", &2_u64.to_le_bytes())?;
    transaction.commit().map_err(|e| fault(path, e.into()))
}

/// Makes the file what schema 1 was.
#[cfg(test)]
pub(super) fn forget_checksums(database: &Database, path: &Path) -> Result<(), StoreError> {
    let rows = load(database, path)?;
    let transaction = begin(database, path)?;
    for ((table, key), value) in rows {
        let definition = definition(table).expect("only secrets have no redb table");
        insert(&transaction, path, definition, &key, &value)?;
    }
    insert(&transaction, path, FILE, b"schema", &1_u64.to_le_bytes())?;
    transaction.commit().map_err(|e| fault(path, e.into()))
}

/// Refuses a schema that this program does not know.
pub(super) fn check_schema(path: &Path, schema: u64) -> Result<(), StoreError> {
    if schema > SCHEMA {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: schema,
            known: SCHEMA,
        });
    }
    Ok(())
}

/// Schema and charter; none in a file that was never marked.
pub(super) fn read_file_row(
    database: &impl ReadableDatabase,
    path: &Path,
) -> Result<Option<(u64, Digest)>, StoreError> {
    let rows = read_all(database, path, FILE)?;
    let row = |name: &[u8]| rows.iter().find(|(key, _)| key == name).map(|(_, v)| v);
    let (Some(schema), Some(charter)) = (row(b"schema"), row(b"charter")) else {
        return Ok(None);
    };
    let damaged = |detail: &str| StoreError::Damaged {
        path: path.to_owned(),
        detail: detail.to_owned(),
    };
    let schema =
        <[u8; 8]>::try_from(schema.as_slice()).map_err(|_| damaged("its schema is no number"))?;
    let charter = <[u8; 32]>::try_from(charter.as_slice())
        .map_err(|_| damaged("its charter is no digest"))?;
    Ok(Some((u64::from_le_bytes(schema), Digest(charter))))
}

/// All rows of one table; none if the table does not exist.
pub(super) fn read_all(
    database: &impl ReadableDatabase,
    path: &Path,
    definition: Bytes,
) -> Result<Vec<Row>, StoreError> {
    read_each(database, path, definition, |key, value| {
        (key.to_vec(), value.to_vec())
    })
}

/// The keys of one table.
pub(super) fn read_keys(
    database: &impl ReadableDatabase,
    path: &Path,
    definition: Bytes,
) -> Result<Vec<Vec<u8>>, StoreError> {
    read_each(database, path, definition, |key, _| key.to_vec())
}

fn read_each<T>(
    database: &impl ReadableDatabase,
    path: &Path,
    definition: Bytes,
    take: impl Fn(&[u8], &[u8]) -> T,
) -> Result<Vec<T>, StoreError> {
    let transaction = database.begin_read().map_err(|e| fault(path, e.into()))?;
    let table = match transaction.open_table(definition) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(e) => return Err(fault(path, e.into())),
    };
    let mut rows = Vec::new();
    for row in table.iter().map_err(|e| fault(path, e.into()))? {
        let (key, value) = row.map_err(|e| fault(path, e.into()))?;
        rows.push(take(key.value(), value.value()));
    }
    Ok(rows)
}

pub(super) fn begin(database: &Database, path: &Path) -> Result<WriteTransaction, StoreError> {
    database.begin_write().map_err(|e| fault(path, e.into()))
}

/// Writes a value with its checksum after it.
pub(super) fn insert_sealed(
    transaction: &WriteTransaction,
    path: &Path,
    table: Table,
    key: &[u8],
    value: &[u8],
) -> Result<(), StoreError> {
    let (Some(definition), Some(name)) = (definition(table), name(table)) else {
        return Ok(());
    };
    let mut table = transaction
        .open_table(definition)
        .map_err(|e| fault(path, e.into()))?;
    let mut place = table
        .insert_reserve(key, value.len() + row::SUM)
        .map_err(|e| fault(path, e.into()))?;
    let (whole, sum) = place.as_mut().split_at_mut(value.len());
    whole.copy_from_slice(value);
    sum.copy_from_slice(&row::sum(name, key, value));
    Ok(())
}

pub(super) fn insert(
    transaction: &WriteTransaction,
    path: &Path,
    definition: Bytes,
    key: &[u8],
    value: &[u8],
) -> Result<(), StoreError> {
    transaction
        .open_table(definition)
        .map_err(|e| fault(path, e.into()))?
        .insert(key, value)
        .map_err(|e| fault(path, e.into()))?;
    Ok(())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the callers make the error by `into` and have no other use for it"
)]
pub(super) fn fault(path: &Path, error: redb::Error) -> StoreError {
    StoreError::database(path, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the caller has taken secrets and blobs out")]
    fn a_blob_becomes_no_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let database = Database::create(&path).unwrap();
        let blob = Write {
            table: Table::Shards,
            key: vec![1; 32],
            value: Some(b"shard".as_slice().into()),
        };
        commit(&database, &path, &[&blob]).unwrap();
    }
}
