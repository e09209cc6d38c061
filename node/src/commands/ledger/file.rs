//! An exported ledger: a line that says what it is, then lengths and bytes of the charter and of every record.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use conclave_protocol::charter::Charter;

use super::Chain;

/// What the file begins with.
pub const FIRST_LINE: &[u8] = b"conclave ledger 1\n";

/// Writes a chain. An existing file is left as it is.
pub(super) fn write(path: &Path, chain: &Chain) -> anyhow::Result<()> {
    let mut bytes = FIRST_LINE.to_vec();
    let terms = chain.charter.to_toml();
    for part in std::iter::once(terms.as_bytes()).chain(chain.records.iter().map(Vec::as_slice)) {
        let length = u32::try_from(part.len()).context("a record of 4 GiB cannot be exported")?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| {
            format!(
                "cannot write {}; name a file that does not exist yet",
                path.display()
            )
        })?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    written
        .inspect_err(|_| drop(fs::remove_file(path)))
        .with_context(|| format!("cannot write {}; nothing was left there", path.display()))
}

/// Reads a chain. Nothing of it is checked but its form and the charter's terms.
pub(super) fn read(path: &Path) -> anyhow::Result<Chain> {
    let place = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {place}"))?;
    parse(&bytes).with_context(|| place.to_string())
}

/// Takes the bytes of such a file apart, and checks its form and the terms of the charter in it.
///
/// # Errors
/// If they have another form, or no charter in it.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Chain> {
    const NO_LEDGER: &str = "no exported ledger: write one with `conclave ledger export`";
    let parts = bytes.strip_prefix(FIRST_LINE).context(NO_LEDGER)?;
    let mut parts = split(parts).context(NO_LEDGER)?.into_iter();
    let terms = parts.next().context(NO_LEDGER)?;
    let terms = str::from_utf8(terms).ok().context(NO_LEDGER)?;
    Ok(Chain {
        charter: Charter::parse(terms)?,
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
    #[test]
    fn what_is_no_ledger_is_called_so() {
        for bytes in [
            b"".as_slice(),
            b"conclave ledger 2\n",
            FIRST_LINE,
            b"conclave ledger 1\n\x09\0\0\0cut",
        ] {
            let said = parse(bytes).unwrap_err().to_string();
            assert!(said.contains("no exported ledger"), "{said}");
        }
        let said = parse(b"conclave ledger 1\n\x03\0\0\0cut").unwrap_err();
        assert!(!said.to_string().contains("no exported ledger"), "{said}");
    }
}
