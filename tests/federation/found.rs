//! Members who found a federation by hand.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::model;
use crate::node::{Node, conclave, text};

/// Folders of so many members under one charter with these terms, ready to run; node 1 listens at a known address.
/// Vectors above the limit are not gossiped.
pub(crate) fn found(
    dir: &Path,
    count: usize,
    rounds: u64,
    inline_limit: u64,
    terms: &[&str],
) -> (Vec<Node>, String) {
    let model = dir.join("model");
    model::write(&model, 7);
    let (nodes, keys): (Vec<_>, Vec<_>) = (1..=count)
        .map(|number| Node::init(dir.join(format!("node-{number}"))))
        .unzip();
    let charter = dir.join("charter.toml");
    let (rounds, members) = (rounds.to_string(), keys.iter().enumerate());
    let members: Vec<_> = members
        .map(|(i, key)| format!("member-{}={key}", i + 1))
        .collect();
    let mut arguments = vec!["charter", "new", "--name", "five", "--model", text(&model)];
    arguments.extend(["--rounds", &rounds, "--local-steps", "3", "--lora-r", "4"]);
    arguments.extend(["--testnet-timers", "--out", text(&charter)]);
    arguments.extend(terms);
    arguments.extend(members.iter().flat_map(|member| ["--member", member]));
    let made = conclave(&arguments);
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let charter = hurried(&fs::read_to_string(&charter).unwrap(), inline_limit);
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    for (index, node) in nodes.iter().enumerate() {
        let data = node.dir.join("rows.jsonl");
        fs::write(&data, rows(index)).unwrap();
        let (listen, bootstrap) = if index == 0 {
            (address.as_str(), "")
        } else {
            ("/ip4/127.0.0.1/tcp/0", address.as_str())
        };
        let quoted = |text: &str| Some(format!("{text:?}")).filter(|_| !text.is_empty());
        let settings = format!(
            "model = {:?}\ndata = {:?}\nlisten = [{:?}]\nbootstrap = [{}]\nthreads = 1\nsequence_len = 48\n",
            text(&model),
            text(&data),
            listen,
            quoted(bootstrap).unwrap_or_default(),
        );
        fs::write(node.dir.join("node.toml"), settings).unwrap();
        fs::write(node.dir.join("charter.toml"), &charter).unwrap();
    }
    (nodes, address)
}

/// The testnet's timers, shorter still: all members stand on one machine.
fn hurried(charter: &str, inline_limit: u64) -> String {
    let quick = [
        ("genesis_ms", 30_000),
        ("setup_ms", 6000),
        ("quiet_ms", 4000),
        ("linger_ms", 4000),
        ("inline_limit", inline_limit),
    ];
    let lines = charter.lines().map(|line| {
        let key = line.split('=').next().unwrap_or_default().trim();
        quick
            .iter()
            .find(|(name, _)| *name == key)
            .map_or_else(|| line.to_owned(), |(name, ms)| format!("{name} = {ms}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A member's own rows.
pub(crate) fn rows(member: usize) -> String {
    let row = |i: usize| {
        let (ward, dose) = (b"abcdefgh"[member] as char, (i * 7 + member) % 10);
        format!("{{\"prompt\": \"ward {ward} row {i}:\", \"completion\": \" take {dose}\"}}\n")
    };
    (0..48).map(row).collect()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
