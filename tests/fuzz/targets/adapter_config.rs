//! An adapter's folder with another configuration, or other tensors: what opens is written out and read back.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use conclave::learn::model::config::Config;
use conclave::learn::peft::folder::{Base, FLAGS, PARTS, read, write};
use conclave::learn::peft::{Adapter, AdapterSpec, Targets};
use conclave_crypto::digest::Digest;
use conclave_fuzz::node::{CONFIG, changed, folder, put, reworded};

const BASE: Base<'_> = Base {
    name: "base",
    identity: Digest([7; 32]),
};

/// Keys beside those that are written for LoRA, and those that must not be set.
const OTHERS: [&str; 5] = [
    "num_virtual_tokens",
    "num_transformer_submodules",
    "bottleneck_size",
    "non_linearity",
    "unknown",
];

/// A model's configuration, and both files of an adapter for it.
static WHOLE: LazyLock<(Config, String, Vec<u8>)> = LazyLock::new(|| {
    let config = Config::parse(CONFIG, Path::new("config.json")).expect("a whole configuration");
    let targets = Targets::Named(vec!["q_proj".into(), "down_proj".into()]);
    let spec = AdapterSpec::lora(2, 4, targets, 0);
    let adapter = Adapter::new(spec, &config).expect("it fits");
    let folder = folder();
    let values = vec![0.5; adapter.flat().len()];
    write(folder.path(), &adapter, &values, BASE).expect("the folder can be written");
    let file = |name| std::fs::read(folder.path().join(name)).expect("it was written");
    let text = String::from_utf8(file("adapter_config.json")).expect("JSON");
    (config, text, file("adapter_model.safetensors"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((mode, changes)) = bytes.split_first() else {
        return;
    };
    let (config, text, tensors) = &*WHOLE;
    let (text, tensors) = match mode % 3 {
        0 => (
            String::from_utf8_lossy(changes).into_owned(),
            tensors.clone(),
        ),
        1 => (
            reworded(text, &[&FLAGS[..], &PARTS, &OTHERS].concat(), changes),
            tensors.clone(),
        ),
        _ => (text.clone(), changed(tensors, changes)),
    };
    let folder = folder();
    put(folder.path(), "adapter_config.json", text.as_bytes());
    put(folder.path(), "adapter_model.safetensors", &tensors);
    let Ok((adapter, values)) = read(folder.path(), config) else {
        return;
    };
    assert_eq!(values.len(), adapter.flat().len());
    write(folder.path(), &adapter, &values, BASE).expect("the folder can be written");
    let (same, again) = read(folder.path(), config).expect("what was read can be written");
    assert_eq!((same.spec(), again), (adapter.spec(), values));
});
