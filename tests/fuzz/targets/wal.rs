//! Any bytes as the entries of the consensus log: an engine starts from them or says that it cannot.
#![no_main]

use conclave_fuzz::{decider, key, pieces};
use conclave_protocol::letter::Bytes;
use conclave_protocol::time::Time;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let entries = pieces(bytes).map(|(_, entry)| Bytes::copy_from_slice(entry));
    let entries: Vec<_> = entries.collect();
    let (mut engine, _) = decider();
    if engine.start(Time(0), &entries, &key(0)).is_ok() {
        while engine.poll().is_some() {}
    }
});
