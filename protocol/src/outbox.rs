//! The keys of the durable tables: where everything that must outlive a crash stands.
//!
//! Whatever a member may have said stands in the outbox before it is sent; after a restart it says the same bytes. R5

use crate::envelope::Kind;
use crate::letter::Bytes;
use crate::names::{Height, MemberId};
use crate::output::{Stored, Table};

/// The decided entry of a height.
pub(crate) fn height_key(height: Height) -> Vec<u8> {
    height.0.to_be_bytes().to_vec()
}

/// An envelope of a session: by height, kind, and sender (inbox) or holder (outbox).
pub(crate) fn slot_key(height: Height, kind: Kind, whose: MemberId) -> Vec<u8> {
    let mut key = height_key(height);
    key.push(number(kind));
    key.extend_from_slice(&whose.0.to_be_bytes());
    key
}

/// An entry of the consensus log.
pub(crate) fn wal_key(height: Height, index: u64) -> Vec<u8> {
    let mut key = height_key(height);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The file with the seeds behind a session's masks and shares, and the sealing key.
pub(crate) fn mask_file(height: Height) -> Vec<u8> {
    format!("{}.mask", height.0).into_bytes()
}

/// The file with the key that opens what was sealed to us in a session.
pub(crate) fn open_file(height: Height) -> Vec<u8> {
    format!("{}.open", height.0).into_bytes()
}

/// The digest of the adapter that a height opened here.
pub(crate) fn opened_fact(height: Height) -> Vec<u8> {
    format!("opened/{:020}", height.0).into_bytes()
}

/// A member that holds no seats any more.
pub(crate) fn unseated_fact(member: MemberId) -> Vec<u8> {
    [UNSEATED, member.0.to_be_bytes().as_slice()].concat()
}

/// The members of [`unseated_fact`].
pub(crate) fn unseated(stored: &Stored) -> impl Iterator<Item = MemberId> {
    let rows = under(stored, Table::Facts, UNSEATED);
    rows.filter_map(|(key, _)| {
        let id = key.strip_prefix(UNSEATED)?.try_into().ok()?;
        Some(MemberId(u32::from_be_bytes(id)))
    })
}

const UNSEATED: &[u8] = b"unseated/";

/// All values of a table whose key begins so, in the order of their keys.
pub(crate) fn under<'a>(
    stored: &'a Stored,
    table: Table,
    prefix: &'a [u8],
) -> impl Iterator<Item = (&'a [u8], &'a Bytes)> {
    let rows = stored.range((table, prefix.to_vec())..);
    rows.take_while(move |((at, key), _)| *at == table && key.starts_with(prefix))
        .map(|((_, key), value)| (key.as_slice(), value))
}

/// All values of a table, in the order of their keys.
pub(crate) fn table(stored: &Stored, table: Table) -> impl Iterator<Item = (&[u8], &Bytes)> {
    under(stored, table, &[])
}

/// One value.
pub(crate) fn value<'a>(stored: &'a Stored, table: Table, key: &[u8]) -> Option<&'a [u8]> {
    stored.get(&(table, key.to_vec())).map(AsRef::as_ref)
}

/// The height that a key begins with.
pub(crate) fn key_height(key: &[u8]) -> Option<Height> {
    key.first_chunk::<8>()
        .map(|bytes| Height(u64::from_be_bytes(*bytes)))
}

const fn number(kind: Kind) -> u8 {
    match kind {
        Kind::KeyAd => 0,
        Kind::Deal => 1,
        Kind::Seal => 2,
        Kind::Ack => 3,
        Kind::Commit => 4,
        Kind::Have => 5,
        Kind::Proposal => 6,
        Kind::Vote => 7,
        Kind::Liveness => 8,
        Kind::Reveal => 9,
        Kind::Heartbeat => 10,
        Kind::Join => 11,
        Kind::Want => 12,
        Kind::Decided => 13,
        Kind::Leave => 14,
        Kind::Recall => 15,
        Kind::SumCommit => 16,
        Kind::Tags => 17,
    }
}
