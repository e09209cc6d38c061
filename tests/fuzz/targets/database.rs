//! A data folder of which a file was changed or cut: what opens holds what was stored, and no row that was not; what
//! does not is repaired, and then does.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use conclave::store::{Store, repair};
use conclave_crypto::merkle;
use conclave_fuzz::CHARTER;
use conclave_fuzz::node::{changed, folder, put};
use conclave_protocol::output::{Stored, Table, Write};

/// The files of a whole folder, and what they hold.
static WHOLE: LazyLock<(Vec<(String, Vec<u8>)>, Stored)> = LazyLock::new(|| {
    let folder = folder();
    let store = Store::open(folder.path(), &CHARTER.digest()).expect("an empty folder");
    let vector = vec![5; 300];
    let rows = [
        (Table::Outbox, b"slot".to_vec(), b"said".to_vec()),
        (Table::Journal, b"a".to_vec(), vec![1; 40]),
        (Table::Facts, b"b".to_vec(), vec![2; 5000]),
        (Table::Secrets, b"1.mask".to_vec(), vec![3; 32]),
        (Table::Adapters, vec![4; 32], vec![4; 64]),
        (Table::Vectors, merkle::root(&vector).0.to_vec(), vector),
    ];
    let writes = rows.map(|(table, key, value)| Write {
        table,
        key,
        value: Some(value.into()),
    });
    store.perform(&writes).expect("the folder can be written");
    let stored = store.load().expect("it was written");
    drop(store);
    let names = [
        "db".to_owned(),
        "secrets/1.mask".to_owned(),
        format!("blobs/adapters/{}", "04".repeat(32)),
        format!("blobs/vectors/{}", merkle::root(&[5; 300])),
    ];
    let read = |name: &String| fs::read(folder.path().join(name)).expect("it was written");
    let files = names.iter().map(|name| (name.clone(), read(name)));
    (files.collect(), stored)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((file, changes)) = bytes.split_first() else {
        return;
    };
    let (files, stored) = &*WHOLE;
    let folder = folder();
    for inside in ["secrets", "blobs/adapters", "blobs/vectors"] {
        fs::create_dir_all(folder.path().join(inside)).expect("the folder is ours");
    }
    let harmed = usize::from(*file) % files.len();
    for (number, (name, whole)) in files.iter().enumerate() {
        let bytes = if number == harmed {
            &changed(whole, changes)
        } else {
            whole
        };
        put(folder.path(), name, bytes);
    }
    let opened = load(folder.path());
    match &opened {
        // Rows of the database are never lost silently; secrets and blobs go when they are damaged.
        Ok(loaded) => {
            holds_no_other(loaded, stored);
            assert!(loaded.len() + 1 >= stored.len());
        }
        Err(said) => assert_eq!(said.lines().count(), 1, "{said}"),
    }
    if opened.is_err() && repair(folder.path(), &CHARTER).is_ok() {
        holds_no_other(&load(folder.path()).expect("it was repaired"), stored);
    }
});

fn load(folder: &Path) -> Result<Stored, String> {
    let store = Store::open(folder, &CHARTER.digest()).map_err(|error| error.to_string())?;
    store.load().map_err(|error| error.to_string())
}

fn holds_no_other(loaded: &Stored, stored: &Stored) {
    for (key, value) in loaded {
        assert_eq!(stored.get(key), Some(value));
    }
}
