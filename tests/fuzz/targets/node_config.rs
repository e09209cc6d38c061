//! Any text as a node's configuration.
#![no_main]

use std::path::Path;

use conclave::config::NodeConfig;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _parsed = NodeConfig::parse(Path::new("node.toml"), text, |_| None);
});
