//! An exported ledger: a line that says what it is, then lengths and bytes of the charter and of every record.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use conclave_protocol::charter::Charter;

use super::Chain;

/// What the file begins with.
const FIRST_LINE: &[u8] = b"conclave ledger 1\n";

/// Writes a chain. An existing file is left as it is.
pub(super) fn write(path: &Path, chain: &Chain) -> anyhow::Result<()> {
    let mut bytes = FIRST_LINE.to_vec();
    let terms = chain.charter.to_toml();
    for part in std::iter::once(terms.as_bytes()).chain(chain.records.iter().map(Vec::as_slice)) {
        let length = u32::try_from(part.len()).context("a record of 4 GiB cannot be exported")?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.with_context(|| {
        format!(
            "cannot write {}; name a file that does not exist yet",
            path.display()
        )
    })
}

/// Reads a chain. Nothing of it is checked but its form and the charter's terms.
pub(super) fn read(path: &Path) -> anyhow::Result<Chain> {
    let place = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {place}"))?;
    let no_ledger =
        || format!("{place} is no exported ledger: write one with `conclave ledger export`");
    let parts = bytes.strip_prefix(FIRST_LINE).with_context(no_ledger)?;
    let mut parts = split(parts).with_context(no_ledger)?.into_iter();
    let terms = parts.next().with_context(no_ledger)?;
    let terms = str::from_utf8(terms).ok().with_context(no_ledger)?;
    Ok(Chain {
        charter: Charter::parse(terms).with_context(|| place.to_string())?,
        records: parts.map(<[u8]>::to_vec).collect(),
    })
}

/// The parts, by their lengths; none if they do not end where the bytes end.
fn split(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        parts.push(part);
        bytes = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_torn_files_do_not() {
        let mut bytes = Vec::new();
        for part in [b"one".as_slice(), b"", b"three"] {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(part);
        }
        let parts = split(&bytes).unwrap();
        assert_eq!(parts, [b"one".as_slice(), b"", b"three"]);
        let whole: Vec<_> = (0..bytes.len())
            .filter(|end| split(&bytes[..*end]).is_some())
            .collect();
        assert_eq!(whole, [0, 7, 11]);
    }
}
