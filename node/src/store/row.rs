//! Every row ends in a checksum: what was cut or flipped is known for it.

use sha2::{Digest as _, Sha256};

/// Bytes of the checksum after each value.
pub(super) const SUM: usize = 8;

/// The checksum of a value that comes in pieces:
/// `SHA-256("conclave/v1/row" ‖ lengths of table and key ‖ table ‖ key ‖ value)`, its first bytes.
pub(super) struct Sum(Sha256);

impl Sum {
    /// That of an empty value under its key in a table.
    pub(super) fn new(table: &str, key: &[u8]) -> Self {
        let mut hasher = Sha256::new_with_prefix(b"conclave/v1/row");
        for length in [table.len(), key.len()] {
            hasher.update((length as u64).to_le_bytes());
        }
        hasher.update(table);
        hasher.update(key);
        Self(hasher)
    }

    /// The value goes on.
    pub(super) fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The value is whole.
    pub(super) fn end(self) -> [u8; SUM] {
        let digest: [u8; 32] = self.0.finalize().into();
        *digest.first_chunk().expect("a digest has 32 bytes")
    }
}

/// The checksum of a value under its key in a table.
pub(super) fn sum(table: &str, key: &[u8], value: &[u8]) -> [u8; SUM] {
    let mut sum = Sum::new(table, key);
    sum.add(value);
    sum.end()
}

/// The value with its checksum behind it.
pub(crate) fn seal(table: &str, key: &[u8], value: &[u8]) -> Vec<u8> {
    [value, &sum(table, key, value)].concat()
}

/// The value, if it is whole.
pub(crate) fn open<'a>(table: &str, key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, found) = sealed.split_last_chunk::<SUM>()?;
    (sum(table, key, value) == *found).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_was_cut_flipped_or_moved_is_known_for_it() {
        let sealed = seal("outbox", b"slot", b"said");
        assert_eq!(open("outbox", b"slot", &sealed), Some(b"said".as_slice()));
        assert_eq!(open("journal", b"slot", &sealed), None);
        assert_eq!(open("outbox", b"slo", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(open("outbox", b"slot", &sealed[..length]), None);
            let mut flipped = sealed.clone();
            flipped[length] ^= 1;
            assert_eq!(open("outbox", b"slot", &flipped), None);
        }
        assert_eq!(open("", b"", &seal("", b"", b"")), Some(b"".as_slice()));
        let mut pieces = Sum::new("outbox", b"slot");
        for piece in [b"sa".as_slice(), b"", b"id"] {
            pieces.add(piece);
        }
        assert_eq!(pieces.end(), sum("outbox", b"slot", b"said"));
        // As files of earlier versions have it.
        let lengths = [6_u64, 4].map(u64::to_le_bytes).concat();
        let parts = [lengths.as_slice(), b"outbox", b"slot", b"said"];
        let digest = conclave_crypto::digest::Digest::of("conclave/v1/row", &parts);
        assert!(
            digest
                .as_bytes()
                .starts_with(&sum("outbox", b"slot", b"said"))
        );
    }
}
