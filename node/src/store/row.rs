//! Every row ends in a checksum: what was cut or flipped is known for it.

use conclave_crypto::digest::Digest;

/// Bytes of the checksum after each value.
pub(super) const SUM: usize = 8;

/// The checksum of a value under its key in a table.
pub(super) fn sum(table: &str, key: &[u8], value: &[u8]) -> [u8; SUM] {
    let lengths = [table.len() as u64, key.len() as u64].map(u64::to_le_bytes);
    let digest = Digest::of(
        "conclave/v1/row",
        &[&lengths[0], &lengths[1], table.as_bytes(), key, value],
    );
    *digest
        .as_bytes()
        .first_chunk()
        .expect("a digest has 32 bytes")
}

/// The value, if it is whole.
pub(super) fn open<'a>(table: &str, key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (value, found) = sealed.split_last_chunk::<SUM>()?;
    (sum(table, key, value) == *found).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(table: &str, key: &[u8], value: &[u8]) -> Vec<u8> {
        [value, &sum(table, key, value)].concat()
    }

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
    }
}
