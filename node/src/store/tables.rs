//! The tables of the database: one a [`Table`] of the protocol, one for addresses, one for what the file is.

use std::collections::BTreeMap;
use std::path::Path;

use conclave_crypto::digest::Digest;
use conclave_protocol::output::{Table, Write};
use redb::{
    Database, ReadableDatabase, ReadableTable as _, TableDefinition, TableError, WriteTransaction,
};

use super::{SCHEMA, StoreError};

/// All rows of the protocol's tables.
pub type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A key with its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// A table of byte strings.
type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// What the file is: its schema and its charter.
const FILE: Bytes = TableDefinition::new("file");
/// Where members were met: member key to addresses, one a line.
pub(super) const ADDRESSES: Bytes = TableDefinition::new("addresses");

/// Every table of the protocol that stands in the database.
const TABLES: [Table; 9] = [
    Table::Ledger,
    Table::Outbox,
    Table::Journal,
    Table::Wal,
    Table::Inbox,
    Table::Vectors,
    Table::Shards,
    Table::Adapters,
    Table::Facts,
];

/// The redb table; none for [`Table::Secrets`], which are files.
pub(super) const fn definition(table: Table) -> Option<Bytes> {
    Some(TableDefinition::new(match table {
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
    }))
}

/// Checks what the file is, and marks a new one.
pub(super) fn settle(database: &Database, path: &Path, charter: &Digest) -> Result<(), StoreError> {
    let Some((schema, found)) = read_file_row(database, path)? else {
        let transaction = begin(database, path)?;
        insert(&transaction, path, FILE, b"schema", &SCHEMA.to_le_bytes())?;
        insert(&transaction, path, FILE, b"charter", charter.as_bytes())?;
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
    Ok(())
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

/// All rows of the protocol's tables; of shards the names only: they may be larger than the memory.
pub(super) fn load(database: &Database, path: &Path) -> Result<Rows, StoreError> {
    let mut rows = BTreeMap::new();
    for table in TABLES {
        let definition = definition(table).expect("only secrets stand outside the database");
        if table == Table::Shards {
            let names = read_keys(database, path, definition)?;
            rows.extend(names.into_iter().map(|name| ((table, name), Vec::new())));
            continue;
        }
        for (key, value) in read_all(database, path, definition)? {
            rows.insert((table, key), value);
        }
    }
    Ok(rows)
}

/// The values of one table, in the order of their keys.
pub(super) fn rows(
    database: &impl ReadableDatabase,
    path: &Path,
    table: Table,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let Some(definition) = definition(table) else {
        return Ok(Vec::new());
    };
    let rows = read_all(database, path, definition)?;
    Ok(rows.into_iter().map(|(_, value)| value).collect())
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
pub(super) fn commit(database: &Database, path: &Path, writes: &[Write]) -> Result<(), StoreError> {
    let transaction = begin(database, path)?;
    for write in writes {
        let definition = definition(write.table).expect("the caller has taken the secrets out");
        match &write.value {
            Some(value) => insert(&transaction, path, definition, &write.key, value)?,
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

fn check_schema(path: &Path, schema: u64) -> Result<(), StoreError> {
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
fn read_file_row(
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
fn read_all(
    database: &impl ReadableDatabase,
    path: &Path,
    definition: Bytes,
) -> Result<Vec<Row>, StoreError> {
    read_each(database, path, definition, |key, value| {
        (key.to_vec(), value.to_vec())
    })
}

/// The keys of one table.
fn read_keys(
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

fn begin(database: &Database, path: &Path) -> Result<WriteTransaction, StoreError> {
    database.begin_write().map_err(|e| fault(path, e.into()))
}

fn insert(
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
fn fault(path: &Path, error: redb::Error) -> StoreError {
    StoreError::database(path, &error)
}
