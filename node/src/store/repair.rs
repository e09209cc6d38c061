//! A damaged database: what is whole is kept, the damaged file is moved aside and never written to.

use std::fs;
use std::path::{Path, PathBuf};

use conclave_crypto::digest::Digest;
use conclave_protocol::charter::Charter;
use conclave_protocol::ledger;
use conclave_protocol::output::{Table, Write};
use redb::{ConcurrencyMode, Database};

use super::files::remove;
use super::find::{Found, find};
use super::lock::FolderLock;
use super::{Blobs, Kind, StoreError, open_database, secrets, tables};
use crate::guard::guarded;

/// What a repair has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Where the damaged file stands now.
    pub aside: PathBuf,
    /// Rows that were kept.
    pub kept: usize,
    /// Records of the ledger among them.
    pub records: usize,
    /// Whether everything that this node said is known. If not, it asks the others before it says anything new.
    pub intact: bool,
}

/// Makes a sound database of what is whole in the one of a data folder; `None` if nothing is damaged.
pub fn repair(dir: &Path, charter: &Charter) -> Result<Option<Repaired>, StoreError> {
    let _lock = FolderLock::take(dir)?;
    let path = dir.join("db");
    if !path.exists() {
        return Ok(None);
    }
    let opened = open_database(&path).and_then(|mut database| {
        // Without its mark no schema can be told, and the file is searched as one of this schema.
        if matches!(tables::read_file_row(&database, &path), Ok(Some(_))) {
            tables::settle(&mut database, &path, &charter.digest())?;
        }
        look(&database, &path, charter)
    });
    let found = match opened {
        Ok(found) if found.is_whole() => return Ok(None),
        Ok(found) => found,
        Err(StoreError::Damaged { .. }) => salvage(dir, &path, charter)?,
        Err(error) => return Err(error),
    };
    let intact = found.knows_what_was_said();
    let fresh = dir.join("db.new");
    let rows = found.rows;
    let records = rows
        .keys()
        .filter(|(table, _)| *table == Table::Ledger)
        .count();
    let kept = rows.len();
    remove(&fresh)?;
    {
        let mut database = open_database(&fresh)?;
        tables::settle(&mut database, &fresh, &charter.digest())?;
        let writes: Vec<_> = rows
            .into_iter()
            .map(|((table, key), value)| Write {
                table,
                key,
                value: Some(value.into()),
            })
            .collect();
        let is_row = |write: &&Write| Kind::of(write) == Kind::Row;
        let (rows, blobs): (Vec<_>, Vec<_>) = writes.iter().partition(is_row);
        Blobs::open(dir)?.put(&blobs)?;
        tables::commit(&database, &fresh, &rows)?;
        tables::doubt(&database, &fresh, !intact)?;
    }
    if !found.sealed {
        secrets::seal(&path)?;
    }
    let aside = free_name(dir);
    // A second name first: at no moment is there no database, which would pass for a node that never said anything.
    fs::hard_link(&path, &aside)
        .or_else(|_| fs::copy(&path, &aside).map(|_| ()))
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|error| StoreError::io(&path, &error))?;
    Ok(Some(Repaired {
        aside,
        kept,
        records,
        intact,
    }))
}

/// What a database that opens holds; its ledger up to the first record that does not follow.
fn look(database: &Database, path: &Path, charter: &Charter) -> Result<Found, StoreError> {
    let mut found = find(database, path)?;
    if found
        .charter
        .is_some_and(|made_for| made_for != charter.digest())
    {
        return Err(StoreError::Charter {
            path: path.to_owned(),
            found: found.charter.unwrap_or(Digest::ZERO),
            expected: charter.digest(),
        });
    }
    let heights = found
        .rows
        .keys()
        .filter(|(table, _)| *table == Table::Ledger);
    let keys: Vec<Vec<u8>> = heights.map(|(_, key)| key.clone()).collect();
    let mut sound = keys.len();
    while sound > 0 {
        let records = keys[..sound].iter().filter_map(|key| {
            let row = found.rows.get(&(Table::Ledger, key.clone()));
            row.map(Vec::as_slice)
        });
        match ledger::verify_chain(charter, None, records) {
            Ok(_) => break,
            Err(broken) => {
                let before = usize::try_from(broken.height.saturating_sub(1)).unwrap_or(0);
                sound = before.min(sound - 1);
            }
        }
    }
    for key in keys.into_iter().skip(sound) {
        found.rows.remove(&(Table::Ledger, key));
        found.torn.insert(Table::Ledger);
    }
    Ok(found)
}

/// What can be read of a database that does not pass its own check: from a copy, because reading it may write to it.
fn salvage(dir: &Path, path: &Path, charter: &Charter) -> Result<Found, StoreError> {
    let copy = dir.join("db.copy");
    fs::copy(path, &copy).map_err(|error| StoreError::io(&copy, &error))?;
    // The library may panic on pages that its check refuses: then nothing can be read.
    let read = guarded(|| {
        let database = Database::builder()
            .set_concurrency_mode(ConcurrencyMode::SingleWriter)
            .open(&copy)
            .map_err(|error| StoreError::database(path, &error.into()))?;
        look(&database, path, charter)
    });
    remove(&copy)?;
    match read {
        Some(Ok(found)) => Ok(found),
        Some(Err(StoreError::Damaged { .. })) | None => Ok(Found::nothing()),
        Some(Err(error)) => Err(error),
    }
}

/// A name beside the database that nothing has yet.
fn free_name(dir: &Path) -> PathBuf {
    let names = (1_u32..).map(|number| dir.join(format!("db.damaged-{number}")));
    let mut free = names.filter(|path| !path.exists());
    free.next().expect("there are more names than files")
}

#[cfg(test)]
mod tests {
    use super::super::{SCHEMA, Store};
    use super::*;
    use crate::ticket::tests::charter;

    /// A store with rows that can be found in its file.
    fn filled(dir: &Path) -> Vec<u8> {
        let store = Store::open(dir, &charter(1).digest()).unwrap();
        let row = |table, key: &[u8], value: &[u8]| Write {
            table,
            key: key.to_vec(),
            value: Some(value.to_vec().into()),
        };
        let mut writes = vec![
            row(Table::Outbox, b"slot", b"the very word"),
            row(Table::Inbox, b"a", b"what others said"),
        ];
        let many = (0..400_u32).map(|key| row(Table::Facts, &key.to_be_bytes(), &[9; 3000]));
        writes.extend(many);
        store.perform(&writes).unwrap();
        assert!(!store.is_doubtful().unwrap());
        drop(store);
        fs::read(dir.join("db")).unwrap()
    }

    /// Flips a bit wherever this text stands.
    fn flip(bytes: &mut [u8], text: &[u8]) {
        let places = bytes.windows(text.len()).enumerate();
        let places: Vec<usize> = places
            .filter(|(_, window)| *window == text)
            .map(|(at, _)| at)
            .collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn what_is_whole_is_kept_and_the_rest_doubted() {
        for (text, table, intact) in [
            (b"the very word".as_slice(), Table::Outbox, false),
            (b"what others said", Table::Inbox, true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes = filled(dir.path());
            assert_eq!(
                repair(dir.path(), &charter(1)).unwrap(),
                None,
                "nothing is damaged yet"
            );
            flip(&mut bytes, text);
            fs::write(dir.path().join("db"), &bytes).unwrap();
            let refused = Store::open(dir.path(), &charter(1).digest()).unwrap_err();
            assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
            assert!(refused.to_string().contains("--repair"), "{refused}");
            let done = repair(dir.path(), &charter(1))
                .unwrap()
                .expect("it was damaged");
            assert_eq!((done.kept, done.intact), (401, intact));
            assert_eq!(
                fs::read(&done.aside).unwrap(),
                bytes,
                "the damaged file is as it was"
            );
            let store = Store::open(dir.path(), &charter(1).digest()).unwrap();
            let rows = store.load().unwrap();
            assert!(rows.len() == 401 && !rows.keys().any(|(known, _)| *known == table));
            assert_eq!(store.is_doubtful().unwrap(), !intact);
            store.trust().unwrap();
            assert!(!store.is_doubtful().unwrap());
        }
    }

    #[test]
    fn a_file_that_says_nothing_is_replaced_by_an_empty_one_in_doubt() {
        let dir = tempfile::tempdir().unwrap();
        let whole = filled(dir.path());
        for bytes in [
            b"noise".to_vec(),
            whole[..whole.len() / 3].to_vec(),
            vec![0xA5; 100_000],
        ] {
            fs::write(dir.path().join("db"), &bytes).unwrap();
            let done = repair(dir.path(), &charter(1))
                .unwrap()
                .expect("it was damaged");
            assert!(!done.intact);
            assert_eq!(fs::read(&done.aside).unwrap(), bytes);
            let store = Store::open(dir.path(), &charter(1).digest()).unwrap();
            assert!(store.is_doubtful().unwrap());
        }
        // A folder whose database was taken away is in doubt too, also when a crash left a new one without its mark.
        for crashed in [false, true] {
            let path = dir.path().join("db");
            fs::remove_file(&path).unwrap();
            if crashed {
                drop(open_database(&path).unwrap());
            }
            let store = Store::open(dir.path(), &charter(1).digest()).unwrap();
            assert!(store.is_doubtful().unwrap());
        }
    }

    #[test]
    fn an_older_schema_is_whole_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let path = dir.path().join("db");
        let secret = dir.path().join("secrets/1.mask");
        fs::write(&secret, b"seed").unwrap();
        tables::forget_checksums(&open_database(&path).unwrap(), &path).unwrap();
        let older = fs::read(&path).unwrap();
        assert_eq!(repair(dir.path(), &charter(1)).unwrap(), None);
        let store = Store::open(dir.path(), &charter(1).digest()).unwrap();
        assert_eq!(store.load().unwrap().len(), 403);
        drop(store);
        // Damaged besides: the rows that can be read are kept, and so are the secrets.
        let mut bytes = older;
        flip(&mut bytes, b"the very word");
        fs::write(&path, &bytes).unwrap();
        fs::write(&secret, b"seed").unwrap();
        let done = repair(dir.path(), &charter(1))
            .unwrap()
            .expect("it was damaged");
        assert!(done.kept > 0, "{done:?}");
        let store = Store::open(dir.path(), &charter(1).digest()).unwrap();
        let rows = store.load().unwrap();
        assert_eq!(rows.len(), done.kept + 1);
        assert_eq!(
            rows[&(Table::Secrets, b"1.mask".to_vec())],
            b"seed".as_slice()
        );
        drop(store);
        tables::write_schema(&open_database(&path).unwrap(), &path, SCHEMA + 1).unwrap();
        let whole = fs::read(&path).unwrap();
        for damaged in [false, true] {
            let mut bytes = whole.clone();
            if damaged {
                flip(&mut bytes, b"what others said");
            }
            fs::write(&path, &bytes).unwrap();
            let error = repair(dir.path(), &charter(1)).unwrap_err();
            assert!(
                matches!(&error, StoreError::Newer { path: named, .. } if *named == path),
                "{error}"
            );
        }
    }

    #[test]
    fn any_flipped_page_leaves_one_sentence_and_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let whole = filled(dir.path());
        let path = dir.path().join("db");
        for part in 0..24 {
            let mut bytes = whole.clone();
            let at = bytes.len() * part / 24;
            let end = (at + 700).min(bytes.len());
            bytes[at..end].fill(0x5A);
            fs::write(&path, &bytes).unwrap();
            let opened = Store::open(dir.path(), &charter(1).digest());
            let Err(error) = opened.and_then(|store| store.load()) else {
                continue;
            };
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            let done = repair(dir.path(), &charter(1))
                .unwrap()
                .expect("it was damaged");
            let store = Store::open(dir.path(), &charter(1).digest()).unwrap();
            assert_eq!(store.load().unwrap().len(), done.kept, "part {part}");
        }
    }
}
