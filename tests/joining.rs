//! A newcomer enters by a ticket, a member leaves in order, and a damaged database is repaired: real processes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says loudly what went wrong"
)]

#[path = "federation/found.rs"]
mod found;
#[path = "federation/model.rs"]
mod model;
#[path = "federation/node.rs"]
mod node;

use std::fs;
use std::path::Path;
use std::time::Duration;

use found::{found, rows};
use node::{Node, conclave, conclave_json, end_alike, number, text, until};
use serde_json::Value;

const ROUNDS: u64 = 10;
const INLINE: u64 = 262_144;
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes a folder from a ticket of this member; the newcomer's rows are the sixth member's.
fn join(dir: &Path, sponsor: &Path) -> Node {
    let (node, key) = Node::init(dir.join("oslo"));
    let sponsor = text(sponsor);
    let made = conclave_json(&[
        "invite",
        "--dir",
        sponsor,
        "--expires",
        "1h",
        "--for",
        &key,
        "--json",
    ]);
    let ticket = made["ticket"].as_str().unwrap();
    assert!(!made["addresses"].as_array().unwrap().is_empty(), "{made}");
    let (folder, data) = (node.dir.clone(), dir.join("oslo.jsonl"));
    fs::write(&data, rows(5)).unwrap();
    let model = dir.join("model");
    let refused = conclave(&["join", &ticket[..ticket.len() - 4], "--dir", text(&folder)]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("cut or mistyped"),
        "{said}"
    );
    assert!(!folder.join("charter.toml").exists());
    let joined = conclave_json(&[
        "join",
        ticket,
        "--dir",
        text(&folder),
        "--data",
        text(&data),
        "--model",
        text(&model),
        "--json",
    ]);
    assert_eq!(joined["name"], "oslo");
    assert_eq!(
        joined["missing"].as_array().map(Vec::len),
        Some(0),
        "{joined}"
    );
    let settings = fs::read_to_string(folder.join("node.toml")).unwrap();
    let more = "listen = [\"/ip4/127.0.0.1/tcp/0\"]\nthreads = 1\nsequence_len = 48\n";
    fs::write(folder.join("node.toml"), format!("{more}{settings}")).unwrap();
    node
}

#[test]
fn a_newcomer_enters_a_member_leaves_and_what_is_damaged_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = found(dir.path(), 5, ROUNDS, INLINE, &["--admission", "invite"]);
    for node in &mut nodes {
        node.start(&[]);
    }
    until("the first round", PATIENCE, || {
        nodes[1]
            .status()
            .filter(|status| number(status, "round") >= 1)
    });
    // Any member invites, not the one that the others began with.
    let mut newcomer = join(dir.path(), &nodes[1].dir);
    newcomer.start(&[]);
    let status = until("a contribution of the newcomer", PATIENCE, || {
        newcomer
            .status()
            .filter(|status| number(status, "rounds_contributed") >= 1)
    });
    eprintln!("the newcomer contributed by round {}", status["round"]);

    let peers = conclave_json(&["peers", "--dir", text(&nodes[0].dir), "--json"]);
    let peers = peers["peers"].as_array().unwrap();
    let oslo = peers.iter().find(|peer| peer["name"] == "oslo").unwrap();
    assert_eq!(
        (peers.len(), &oslo["standing"], &oslo["connected"]),
        (5, &"member".into(), &true.into())
    );
    assert!(
        peers.iter().all(|peer| peer["refused"] == 0),
        "honest nodes refuse nothing of each other: {peers:?}"
    );
    assert!(number(oslo, "bytes_received") > 0 && oslo["last_heard_seconds"].is_number());
    let rounds = conclave_json(&["rounds", "--dir", text(&newcomer.dir), "--json"]);
    let rounds = rounds["rounds"].as_array().unwrap();
    let within = |round: &Value, key: &str| {
        round[key]
            .as_array()
            .unwrap()
            .iter()
            .any(|member| member["name"] == "oslo")
    };
    assert!(rounds.iter().any(|round| within(round, "in")), "{rounds:?}");
    assert_eq!(rounds[0]["members"], 5);

    // SIGTERM: it goes on until a record has released it.
    let (ended, took) = nodes[4].terminate();
    let said = nodes[4].log();
    assert!(ended.success() && said.contains("left in order"), "{said}");
    eprintln!("the leaver was released after {took:?}");

    let remaining = nodes[..4].iter_mut().chain([&mut newcomer]);
    let reports = end_alike(remaining, PATIENCE);
    for report in &reports {
        assert_eq!(
            number(report, "rounds_opened") + number(report, "rounds_null"),
            ROUNDS
        );
        assert_eq!(number(report, "rounds_null"), 0, "{report}");
    }
    let verified = conclave_json(&["ledger", "verify", text(&newcomer.dir), "--json"]);
    assert_eq!(
        verified["members"].as_array().map(Vec::len),
        Some(5),
        "{verified}"
    );
    // A member is one by the ledger: it needs its ticket no more. Whoever is none is sent away before anything is
    // loaded, whatever database it has.
    fs::write(newcomer.dir.join("ticket"), "torn").unwrap();
    let (stranger, _) = Node::init(dir.path().join("bonn"));
    for file in ["charter.toml", "node.toml", "db"] {
        fs::copy(newcomer.dir.join(file), stranger.dir.join(file)).unwrap();
    }
    let refused = conclave(&["run", "--dir", text(&stranger.dir), "--model", "nowhere"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("is no founder of the charter"), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    fs::remove_file(newcomer.dir.join("reports/final.json")).unwrap();
    newcomer.start(&[]);
    until("the member whose ticket is torn", PATIENCE, || {
        newcomer.status().or_else(|| newcomer.finished())
    });
    repair(&mut nodes[0], &reports[0]);
}

/// A flipped byte is found at the start, in one sentence; the way out that it names keeps what is whole.
fn repair(node: &mut Node, report: &Value) {
    let path = node.dir.join("db");
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let places: Vec<usize> = find(&whole, b"oslo");
    assert!(
        !places.is_empty(),
        "the newcomer's Join stands in the ledger"
    );
    for place in places {
        bytes[place] ^= 1;
    }
    fs::write(&path, &bytes).unwrap();
    let refused = conclave(&["run", "--dir", text(&node.dir)]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("--repair"),
        "{said}"
    );
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "it is left as it is");
    let told = conclave(&["ledger", "verify", text(&node.dir)]);
    assert!(!told.status.success());

    node.start(&["--repair"]);
    let status = until("the repaired node to answer", PATIENCE, || node.status());
    let head = number(&status, "height");
    assert!(node.log().contains("kept "), "{}", node.log());
    assert_eq!(fs::read(node.dir.join("db.damaged-1")).unwrap(), bytes);
    eprintln!(
        "after the repair it works at height {head} of {}",
        report["height"]
    );
    node.kill();
    let verified = conclave_json(&["ledger", "verify", text(&node.dir), "--json"]);
    assert_eq!(verified["valid"], true);
    assert!(number(&verified, "height") < number(report, "height"));
}

/// Where a text stands in bytes.
fn find(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    let places = bytes.windows(text.len()).enumerate();
    places
        .filter(|(_, window)| *window == text)
        .map(|(place, _)| place)
        .collect()
}

#[test]
fn a_disk_without_room_is_named_and_nothing_else_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = found(dir.path(), 5, ROUNDS, INLINE, &[]);
    let program = env!("CARGO_BIN_EXE_conclave");
    // No file may grow beyond 64 KiB: the database cannot be made.
    let limited = format!(
        "ulimit -f 128; exec {program} run --dir {}",
        text(&nodes[0].dir)
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &limited])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: the disk is full at"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_in_a_round_stops_one_node_in_order_and_no_other() {
    // Long enough that the others are still at work when it is back.
    let (rounds, dir) = (30, tempfile::tempdir().unwrap());
    let (mut nodes, _) = found(dir.path(), 5, rounds, INLINE, &[]);
    for node in &mut nodes {
        node.start(&[]);
    }
    let opened = |node: &mut Node, least: u64| {
        let what = format!("{least} opened rounds at {}", node.dir.display());
        until(&what, PATIENCE, || {
            node.status()
                .filter(|status| number(status, "rounds_opened") >= least)
        })
    };
    let contributed = |status: &Value| number(status, "rounds_contributed");
    let before = opened(&mut nodes[2], 2);
    nodes[2].limit(65_536);
    let status = until("the disk to be full", PATIENCE, || nodes[2].ended());
    let said = nodes[2].log();
    eprintln!("node 3: {}", said.lines().last().unwrap_or_default());
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("error: the disk is full at"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    // With room it goes on where it was, and all end alike.
    nodes[2].start(&[]);
    let reports = end_alike(&mut nodes, PATIENCE);
    for report in &reports {
        assert!(number(report, "rounds_opened") >= rounds - 2, "{report}");
    }
    // One more round may have counted before the disk was full.
    assert!(
        contributed(&reports[2]) > contributed(&before) + 1,
        "it shares no more: {before} {}",
        reports[2]
    );
}
