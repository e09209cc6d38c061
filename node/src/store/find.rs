//! Everything that is whole in a database of which something is not.

use std::collections::BTreeSet;
use std::path::Path;

use conclave_crypto::digest::Digest;
use conclave_protocol::output::Table;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableError};

use super::tables::{Rows, TABLES, definition, fault, name, read_file_row};
use super::{StoreError, row};

/// What stands in a database, as far as it is whole.
#[derive(Debug)]
pub(super) struct Found {
    /// Rows that fit their checksums.
    pub(super) rows: Rows,
    /// Tables of which rows are missing or damaged.
    pub(super) torn: BTreeSet<Table>,
    /// For which federation it was made, if that can be read.
    pub(super) charter: Option<Digest>,
}

impl Found {
    /// A file of which nothing can be read.
    pub(super) fn nothing() -> Self {
        Self {
            rows: Rows::new(),
            torn: TABLES.into_iter().collect(),
            charter: None,
        }
    }

    /// Whether nothing is damaged.
    pub(super) fn is_whole(&self) -> bool {
        self.torn.is_empty()
    }

    /// Whether everything is there that tells what this node has said.
    pub(super) fn knows_what_was_said(&self) -> bool {
        let said = [Table::Outbox, Table::Journal, Table::Wal, Table::Facts];
        said.iter().all(|table| !self.torn.contains(table))
    }
}

/// Everything that is whole, from both ends of each table: a page that cannot be read hides no more than it must.
pub(super) fn find(database: &Database, path: &Path) -> Result<Found, StoreError> {
    let transaction = database.begin_read().map_err(|e| fault(path, e.into()))?;
    let mut found = Found {
        rows: Rows::new(),
        torn: BTreeSet::new(),
        charter: read_file_row(database, path)
            .ok()
            .flatten()
            .map(|row| row.1),
    };
    // Shards may be larger than the memory, and others hold them too: they are left behind.
    for table in TABLES.into_iter().filter(|table| *table != Table::Shards) {
        let definition = definition(table).expect("only secrets stand outside the database");
        let opened_table = match transaction.open_table(definition) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => continue,
            Err(_) => {
                found.torn.insert(table);
                continue;
            }
        };
        let name = name(table).unwrap_or_default();
        let mut keep = |key: &[u8], value: &[u8]| match row::open(name, key, value) {
            Some(value) => {
                found.rows.insert((table, key.to_vec()), value.to_vec());
                true
            }
            None => false,
        };
        let mut whole = true;
        let mut read_through = true;
        let Ok(rows) = opened_table.iter() else {
            found.torn.insert(table);
            continue;
        };
        for row in rows {
            let Ok((key, value)) = row else {
                read_through = false;
                break;
            };
            whole &= keep(key.value(), value.value());
        }
        if !read_through && let Ok(rows) = opened_table.iter() {
            for (key, value) in rows.rev().map_while(Result::ok) {
                keep(key.value(), value.value());
            }
        }
        if !(whole && read_through) {
            found.torn.insert(table);
        }
    }
    Ok(found)
}
