//! Any bytes on a stream of another: the frames among them, none over the bound, are what was sent; a blob is asked for
//! from any byte on.
#![no_main]

use conclave::network::frame::{ASK, Ask, envelope, length, write};
use futures::executor::block_on;

const MOST: usize = 300;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut stream = bytes;
    let mut written = Vec::new();
    while let Ok(length) = block_on(length(&mut stream, MOST)) {
        assert!(length <= MOST);
        let Ok(frame) = block_on(envelope(&mut stream, length)) else {
            break;
        };
        assert_eq!(frame.len(), length);
        block_on(write(&mut written, &frame)).expect("memory takes it");
    }
    assert!(bytes.starts_with(&written));
    if let Some((ask, blob)) = bytes.split_first_chunk::<ASK>() {
        let asked = Ask::from_bytes(ask);
        assert_eq!(asked.to_bytes(), *ask);
        assert!(blob.ends_with(asked.of(blob)));
    }
});
