//! Any bytes as rows of a member's store: it opens from them or says that it cannot.
//!
//! Each piece is the table, the length of the key, the length of both, the key, and the value.
#![no_main]

use conclave_fuzz::{member, pieces};
use conclave_protocol::input::Input;
use conclave_protocol::letter::Bytes;
use conclave_protocol::output::{Stored, Table};
use conclave_protocol::time::Time;

const TABLES: [Table; 10] = [
    Table::Ledger,
    Table::Outbox,
    Table::Journal,
    Table::Wal,
    Table::Inbox,
    Table::Vectors,
    Table::Shards,
    Table::Adapters,
    Table::Facts,
    Table::Secrets,
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let row = |([table, key], row): ([u8; 2], &[u8])| {
        let (key, value) = row.split_at(usize::from(key).min(row.len()));
        let table = TABLES[usize::from(table) % TABLES.len()];
        ((table, key.to_vec()), Bytes::copy_from_slice(value))
    };
    let stored: Stored = pieces(bytes).map(row).collect();
    let Ok((mut member, _)) = member(stored) else {
        return;
    };
    while member.poll().is_some() {}
    if let Some(at) = member.deadline() {
        member.handle(at.max(Time(1)), Input::Wake);
        while member.poll().is_some() {}
    }
});
