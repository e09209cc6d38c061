//! The disk of a place. The records of a chain are the same for everybody: they stand in memory once.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;

use crate::decide::Certificate;
use crate::letter::Bytes;
use crate::message::{self, Decided};
use crate::output::{Stored, Table, Write};

/// All records that were ever stored, by digest.
pub(super) type Records = BTreeMap<Digest, Bytes>;

/// What outlives the death of a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// All other rows.
    pub(super) rows: Stored,
    /// The ledger's rows: the shared record, and this place's certificate of it.
    chain: BTreeMap<Vec<u8>, (Bytes, Certificate)>,
}

impl Disk {
    /// Applies a store.
    pub(super) fn store(&mut self, write: Write, records: &mut Records) {
        if write.table == Table::Ledger {
            self.chain.remove(&write.key);
            let decided = write.value.as_deref().map(message::decode);
            if let Some(Ok(Decided {
                record,
                certificate,
            })) = decided
            {
                let name = Digest::of("conclave/sim/record", &[&record]);
                let shared = records.entry(name).or_insert_with(|| record.into());
                let row = (shared.clone(), certificate);
                self.chain.insert(write.key, row);
                return;
            }
        }
        let key = (write.table, write.key);
        match write.value {
            Some(value) => self.rows.insert(key, value),
            None => self.rows.remove(&key),
        };
    }

    /// Everything that is stored, as a member opens on it.
    pub(super) fn whole(&self) -> Stored {
        let mut rows = self.rows.clone();
        for (key, (record, certificate)) in &self.chain {
            let row = Decided {
                record: record.to_vec(),
                certificate: certificate.clone(),
            };
            let row = Bytes::from(message::encode(&row));
            rows.insert((Table::Ledger, key.clone()), row);
        }
        rows
    }

    /// Keeps only these tables.
    pub(super) fn retain(&mut self, kept: impl Fn(Table) -> bool) {
        self.rows.retain(|(table, _), _| kept(*table));
        if !kept(Table::Ledger) {
            self.chain.clear();
        }
    }

    /// Whether a table has a row of this key.
    pub(super) fn holds(&self, table: Table, key: Vec<u8>) -> bool {
        self.rows.contains_key(&(table, key))
    }

    /// A vector or an adapter by its name.
    pub(super) fn blob(&self, name: &[u8]) -> Option<&Bytes> {
        let tables = [Table::Vectors, Table::Shards, Table::Adapters];
        tables
            .into_iter()
            .find_map(|table| self.rows.get(&(table, name.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Height, MemberId};

    #[test]
    fn what_was_stored_is_read_back() {
        let (mut one, mut other, mut records) = (Disk::default(), Disk::default(), Records::new());
        let row = |round| {
            let certificate = Certificate {
                height: Height(1),
                round,
                record: Digest([1; 32]),
                signatures: vec![(MemberId(3), conclave_crypto::sign::Signature([4; 64]))],
            };
            let record = vec![7; 300];
            message::encode(&Decided {
                record,
                certificate,
            })
        };
        let write = |table, key: &[u8], value: Option<Vec<u8>>| Write {
            table,
            key: key.to_vec(),
            value: value.map(Bytes::from),
        };
        one.store(write(Table::Ledger, b"1", Some(row(0))), &mut records);
        other.store(write(Table::Ledger, b"1", Some(row(5))), &mut records);
        one.store(write(Table::Ledger, b"2", Some(vec![9])), &mut records);
        one.store(write(Table::Facts, b"f", Some(vec![8])), &mut records);
        one.store(write(Table::Facts, b"g", Some(vec![8])), &mut records);
        one.store(write(Table::Facts, b"g", None), &mut records);
        assert_eq!(records.len(), 1);
        let whole = one.whole();
        assert_eq!(whole.len(), 3);
        assert_eq!(*whole[&(Table::Ledger, b"1".to_vec())], row(0));
        assert_eq!(*whole[&(Table::Ledger, b"2".to_vec())], [9]);
        let whole = other.whole();
        assert_eq!(*whole[&(Table::Ledger, b"1".to_vec())], row(5));
        assert!(one.holds(Table::Facts, b"f".to_vec()) && !one.holds(Table::Facts, b"g".to_vec()));
    }
}
