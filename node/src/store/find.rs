//! Everything that is whole in a database of which something is not.

use std::collections::BTreeSet;
use std::path::Path;

use conclave_crypto::digest::Digest;
use conclave_protocol::output::Table;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableError};

use super::tables::{
    APART, Rows, SEALED, TABLES, check_schema, definition, fault, name, read_file_row,
};
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
    /// Whether its rows and the secrets beside it end in checksums: those of the first schema did not.
    pub(super) sealed: bool,
}

impl Found {
    /// A file of which nothing can be read.
    pub(super) fn nothing() -> Self {
        Self {
            rows: Rows::new(),
            torn: TABLES.into_iter().collect(),
            charter: None,
            sealed: true,
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
///
/// Refused: a schema that this program does not know.
pub(super) fn find(database: &Database, path: &Path) -> Result<Found, StoreError> {
    let transaction = database.begin_read().map_err(|e| fault(path, e.into()))?;
    let file = read_file_row(database, path).ok().flatten();
    if let Some((schema, _)) = file {
        check_schema(path, schema)?;
    }
    let sealed = file.is_none_or(|(schema, _)| schema >= SEALED);
    let mut found = Found {
        rows: Rows::new(),
        torn: BTreeSet::new(),
        charter: file.map(|(_, charter)| charter),
        sealed,
    };
    // An older schema has blobs as rows: shards may be larger than the memory and others hold them, adapters count.
    let older = file.is_some_and(|(schema, _)| schema < APART);
    let blobs = [Table::Vectors, Table::Adapters]
        .into_iter()
        .filter(|_| older);
    for table in TABLES.into_iter().chain(blobs) {
        let definition = definition(table).expect("only secrets have no redb table");
        let opened_table = match transaction.open_table(definition) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => continue,
            Err(_) => {
                found.torn.insert(table);
                continue;
            }
        };
        let name = name(table).unwrap_or_default();
        let mut keep = |key: &[u8], stored: &[u8]| {
            let value = if sealed {
                row::open(name, key, stored)
            } else {
                Some(stored)
            };
            let whole = value.map(<[u8]>::to_vec);
            whole.is_some_and(|value| {
                found.rows.insert((table, key.to_vec()), value);
                true
            })
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
