//! Any bytes as the file of a node's identity: a key, or one sentence.
#![no_main]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use conclave::keys::{FILE, open};
use conclave_fuzz::node::{folder, put};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    put(folder.path(), FILE, bytes);
    let path = folder.path().join(FILE);
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("the folder is ours");
    match open(folder.path()) {
        Ok(key) => {
            let digits: String = key
                .to_bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let given = bytes.trim_ascii().to_ascii_lowercase();
            assert_eq!(digits.as_bytes(), given);
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
});
