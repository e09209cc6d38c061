//! Whether a file holds the blob of its name, whole.

use std::io::{self, Read};

use conclave_crypto::digest::Digest;
use conclave_crypto::merkle::Tree;
use conclave_protocol::output::Table;

use super::{row, tables};

/// Whether a file of this length is the blob of its name, by its Merkle root or its checksum.
///
/// It is read, not mapped: what the disk cannot give is an error of a read, and a signal of a map.
pub(super) fn is_whole(
    table: Table,
    name: &Digest,
    mut file: impl Read,
    length: u64,
) -> io::Result<bool> {
    let Some(length) = length.checked_sub(sum_length(table)) else {
        return Ok(false);
    };
    if table != Table::Adapters {
        let mut tree = Tree::of_vector();
        read_pieces(&mut file, length, |piece| tree.add(piece))?;
        return Ok(tree.root() == *name);
    }
    ends_in_sum(table, name, file, length)
}

/// Whether so many bytes of a blob are followed by its checksum.
pub(super) fn ends_in_sum(
    table: Table,
    name: &Digest,
    mut file: impl Read,
    length: u64,
) -> io::Result<bool> {
    let label = tables::name(table).unwrap_or_default();
    let mut sum = row::Sum::new(label, name.as_bytes());
    read_pieces(&mut file, length, |piece| sum.add(piece))?;
    let mut found = [0; row::SUM];
    file.read_exact(&mut found)?;
    Ok(sum.end() == found)
}

/// Gives the next `left` bytes away, [`PIECE`] at a time.
fn read_pieces(file: &mut impl Read, mut left: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let next = |left: u64| usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
    let mut buffer = vec![0; next(left)];
    while left > 0 {
        let length = next(left);
        let piece = &mut buffer[..length];
        file.read_exact(piece)?;
        take(piece);
        left -= length as u64;
    }
    Ok(())
}

/// Bytes of the checksum behind a blob: an adapter's name is made with its shape, which does not stand in the file.
pub(super) const fn sum_length(table: Table) -> u64 {
    match table {
        Table::Adapters => row::SUM as u64,
        _ => 0,
    }
}

/// Bytes of a file that are read at a time: enough for several threads.
pub(super) const PIECE: usize = 1 << 20;
