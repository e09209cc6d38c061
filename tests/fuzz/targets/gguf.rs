//! Any bytes as a model in GGUF, and a whole file with changes: what opens is numbers throughout, and what was only cut
//! is what it was.
#![no_main]

use std::sync::LazyLock;

use conclave::learn::export::container::Numbers;
use conclave::learn::export::gguf::merged;
use conclave::learn::model::Model;
use conclave::learn::vocabulary::Vocabulary;
use conclave::learn::weights::quantised::Precision;
use conclave_crypto::digest::Digest;
use conclave_fuzz::node::{base, changed, folder, model, put};

/// A whole file, and what names the model in it.
static WHOLE: LazyLock<(Vec<u8>, Digest)> = LazyLock::new(|| {
    let (base, out) = (base(), folder());
    let place = out.path().join("out");
    merged(&place, &model(), None, base.path(), Numbers::Q8).expect("a folder of its own");
    let bytes = std::fs::read(place.join("model.gguf")).expect("it was written");
    let opened = Model::open(&place).expect("a whole file");
    (bytes, opened.identity())
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let (whole, identity) = &*WHOLE;
    let cut = |at: [u8; 2]| usize::from(u16::from_le_bytes(at)) % whole.len();
    let (file, only_cut) = match (mode % 3, rest) {
        (0, bytes) => (bytes.to_vec(), false),
        (1, [low, high]) => (whole[..cut([*low, *high])].to_vec(), true),
        (_, changes) => (changed(whole, changes), false),
    };
    let folder = folder();
    put(folder.path(), "model.gguf", &file);
    let precisions = [
        Precision::F32,
        Precision::Bf16,
        Precision::Q8,
        Precision::Q4,
    ];
    let precision = precisions[usize::from(mode / 3 % 4)];
    if let Ok(model) = Model::open_at(folder.path(), precision) {
        assert!(!only_cut || model.identity() == *identity);
        if precision == Precision::F32 {
            let tensors = model.tensors();
            let mut values = tensors.values().flat_map(|weight| weight.values());
            assert!(values.all(|x| x.is_finite()));
        }
    }
    if let Ok(vocabulary) = Vocabulary::of(&folder.path().join("model.gguf")) {
        let tokenizer: serde_json::Value =
            serde_json::from_slice(&vocabulary.tokenizer).expect("what was made is JSON");
        assert!(tokenizer["model"]["vocab"].is_object());
    }
});
