//! Any bytes as the tensors of a model or an adapter.
#![no_main]

use conclave::learn::weights::Weights;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.safetensors");
    std::fs::write(file, bytes).expect("the folder can be written");
    let _opened = Weights::open(folder.path());
});
