//! Any bytes as the tensors of a model or an adapter, and as the index of its shards: what can be taken has as many
//! values as its shape says, and all are numbers.
#![no_main]

use conclave::learn::weights::Weights;
use conclave_fuzz::node::{folder, put};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = folder();
    match bytes.split_first() {
        Some((0, index)) => put(folder.path(), "model.safetensors.index.json", index),
        _ => put(folder.path(), "model.safetensors", bytes),
    }
    let Ok(weights) = Weights::open(folder.path()) else {
        return;
    };
    let _sound = weights.check();
    let _digest = weights.digest();
    for name in weights.names() {
        let shape = weights.shape(name).expect("it is there").to_vec();
        if let Ok(weight) = weights.take(folder.path(), name, &shape) {
            assert_eq!(weight.values().len(), shape.iter().product::<usize>());
            assert!(weight.values().iter().all(|x| x.is_finite()));
        }
    }
});
