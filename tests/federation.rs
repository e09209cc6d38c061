//! Five nodes as real processes, started by hand from one charter and one bootstrap address.
//!
//! The bootstrap node is killed after discovery, another is killed and restarted; the rest must end with the
//! bit-identical adapter and ledger head, and anybody can verify their ledgers.
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

use conclave::keys;
use conclave::network::{self, Addressing, NetworkEvent};
use conclave::store::Store;
use conclave_crypto::digest::Digest;
use conclave_protocol::charter::Charter;
use conclave_protocol::envelope::{Envelope, Kind};
use conclave_protocol::message::{self, Heartbeat};
use conclave_protocol::names::{Height, MemberId, SessId};
use conclave_protocol::output::{Phase, Topic};
use found::found;
use node::{Node, conclave, conclave_json, end_alike, number, text, until};
use serde_json::Value;

const ROUNDS: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until every node says what `wanted` looks for.
fn all(nodes: &mut [Node], what: &str, wanted: impl Fn(&Value) -> bool) {
    for node in nodes {
        let what = format!("{what} at {}", node.dir.display());
        until(&what, PATIENCE, || node.status().filter(&wanted));
    }
}

#[test]
fn five_nodes_agree_though_the_bootstrap_node_dies_and_another_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = found(dir.path(), 5, ROUNDS, 262_144, &[]);
    for node in &mut nodes {
        node.start(&[]);
    }
    all(&mut nodes, "four peers and a round", |status| {
        number(status, "peers") == 4 && number(status, "round") >= 1
    });
    let bootstrap = nodes[0].status().unwrap();
    nodes[0].kill();
    eprintln!("killed the bootstrap node in round {}", bootstrap["round"]);

    // A member that has contributed is killed too, and comes back with its folder.
    let before = until("a contribution of node 3", PATIENCE, || {
        nodes[2]
            .status()
            .filter(|status| number(status, "rounds_contributed") >= 1)
    });
    nodes[2].kill();
    eprintln!("killed node 3 in round {}", before["round"]);
    let refused = conclave(&["ledger", "verify", text(&nodes[0].dir)]);
    assert!(
        refused.status.success(),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
    nodes[2].start(&[]);

    let reports = end_alike(&mut nodes[1..], PATIENCE);
    for report in &reports {
        eprintln!("{}", summary(report));
        assert!(report["finished"].as_bool().unwrap());
        assert_eq!(
            number(report, "rounds_opened") + number(report, "rounds_null"),
            ROUNDS
        );
        assert!(number(report, "rounds_opened") >= ROUNDS - 1, "{report}");
    }
    let (restarted, after) = (&reports[1], number(&before, "rounds_contributed"));
    assert!(
        number(restarted, "rounds_contributed") > after,
        "it contributes again"
    );
    verify(&nodes[1..], &reports[0], dir.path());
}

#[test]
fn eight_nodes_sum_large_vectors_in_shards() {
    // R70: no vector of theirs fits the limit, so each of them sums its shards and pulls the others' sums.
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = found(dir.path(), 8, 2, 1024, &[]);
    for node in &mut nodes {
        node.start(&[]);
    }
    for report in &end_alike(&mut nodes, PATIENCE) {
        eprintln!("{}", summary(report));
        assert_eq!(number(report, "rounds_opened"), 2, "{report}");
        assert!(number(report, "rounds_contributed") >= 1, "{report}");
    }
}

/// Every node's ledger holds, the exported one too, and one that was tampered with does not.
fn verify(nodes: &[Node], report: &Value, dir: &Path) {
    for node in nodes {
        let verified = conclave_json(&["ledger", "verify", text(&node.dir), "--json"]);
        assert_eq!(verified["valid"], true);
        assert_eq!(verified["finished"], true);
        assert_eq!(verified["ledger_head"], report["ledger_head"]);
        assert_eq!(verified["adapter_digest"], report["adapter_digest"]);
    }
    let file = dir.join("ledger.conclave");
    let exported = conclave(&[
        "ledger",
        "export",
        text(&nodes[0].dir),
        "--out",
        text(&file),
    ]);
    assert!(exported.status.success());
    let verified = conclave_json(&["ledger", "verify", text(&file), "--json"]);
    assert_eq!(verified["ledger_head"], report["ledger_head"]);
    let whole = fs::read(&file).unwrap();
    for place in [whole.len() / 2, whole.len() * 2 / 3, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&file, bytes).unwrap();
        let refused = conclave(&["ledger", "verify", text(&file)]);
        assert!(
            !refused.status.success(),
            "a changed byte {place} goes unnoticed"
        );
    }
}

/// One line on how a node fared, with the bytes a round of it took on the wire.
fn summary(report: &Value) -> String {
    let rounds = number(report, "rounds_opened").max(1);
    format!(
        "{}: {} opened, {} null, contributed {}, sent {} and received {} bytes a round",
        report["name"],
        report["rounds_opened"],
        report["rounds_null"],
        report["rounds_contributed"],
        number(report, "bytes_sent") / rounds,
        number(report, "bytes_received") / rounds,
    )
}

#[test]
fn what_cannot_run_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, address) = found(dir.path(), 5, ROUNDS, 262_144, &[]);
    nodes[0].start(&[]);
    let status = until("node 1 to answer", PATIENCE, || nodes[0].status());
    assert_eq!(number(&status, "peers"), 0);
    let refused = |folder: &Path, flags: &[&str], words: &str| {
        let mut arguments = vec!["run", "--dir", text(folder)];
        arguments.extend(flags);
        let output = conclave(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{flags:?}");
        assert!(
            told.contains(words) && told.contains("error: "),
            "{words:?} is not in {told:?}"
        );
        assert!(!told.contains("panicked"), "{told}");
        assert!(
            !folder.join("api.json").exists() || folder == nodes[0].dir,
            "{told}"
        );
    };
    let second = nodes[1].dir.clone();
    refused(&nodes[0].dir, &[], "another node is running");
    refused(&second, &["--listen", &address], "in use");
    refused(&second, &["--data", "absent.jsonl"], "absent.jsonl");
    refused(&second, &["--bootstrap", "nowhere"], "nowhere");
    let other = dir.path().join("other");
    model::write(&other, 8);
    refused(&second, &["--model", text(&other)], "digest");
    // Node 2's folder was made for its charter by now: another one is refused, and does no harm.
    let terms = second.join("charter.toml");
    let charter = fs::read_to_string(&terms).unwrap();
    fs::write(&terms, charter.replace("\"five\"", "\"six\"")).unwrap();
    refused(&second, &[], "was made for charter");
    fs::write(&terms, charter).unwrap();
    refused(&second, &["--model", text(&other)], "digest");
    // SIGTERM ends a node in order, within two seconds.
    let folder = nodes[0].dir.clone();
    let (ended, took) = nodes[0].terminate();
    assert!(ended.success(), "{}", nodes[0].log());
    assert!(took < Duration::from_secs(4), "it took {took:?}");
    assert!(!folder.join("api.json").exists());
}

/// Connects as member 5 and says to member 1 what no honest node says.
async fn misbehave(as_member: &Path, address: &str) {
    let identity = keys::open(as_member).unwrap();
    let charter = fs::read_to_string(as_member.join("charter.toml")).unwrap();
    let charter = Charter::parse(&charter).unwrap();
    let members: Vec<_> = charter.members.iter().map(|founder| founder.key).collect();
    let (victim, digest) = (members[0], charter.digest());
    let store = Store::open(as_member, &digest).unwrap();
    let addressing = Addressing {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        bootstrap: vec![address.parse().unwrap()],
        ..Addressing::default()
    };
    let limit = charter.aggregation.inline_limit;
    let (network, mut heard) = network::start(
        &identity,
        digest,
        members,
        addressing,
        Vec::new(),
        limit,
        store.blobs(),
    )
    .unwrap();
    let met = async {
        while let Some(event) = heard.recv().await {
            if matches!(event, NetworkEvent::Connected { peer, .. } if peer == victim) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap();
    network.send(victim, b"no envelope".to_vec());
    network.publish(Topic::Control, b"no envelope either".to_vec());
    let sess = SessId(Digest([1; 32]));
    let body = message::encode(&Heartbeat {
        height: Height(1),
        phase: Phase::Train,
        done: 1,
        of: 2,
    });
    // Signed by the wrong key.
    let forged = Envelope::sign(&identity, Kind::Heartbeat, sess, MemberId(1), 1, body);
    network.send(victim, forged.to_bytes());
    network.send(victim, vec![0; 5 << 20]);
    network.close().await;
}

#[test]
fn a_peer_that_misbehaves_is_shown_and_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, address) = found(dir.path(), 5, ROUNDS, 262_144, &[]);
    nodes[0].start(&[]);
    until("node 1 to answer", PATIENCE, || nodes[0].status());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(misbehave(&nodes[4].dir, &address));
    let causes = ["malformed", "signature", "oversized"];
    let shown = until("the refusals to be shown", PATIENCE, || {
        let peers = conclave_json(&["peers", "--dir", text(&nodes[0].dir), "--json"]);
        let mut peers = peers["peers"].as_array().unwrap().iter();
        let liar = peers.find(|peer| peer["name"] == "member-5").unwrap();
        let told = causes
            .iter()
            .all(|cause| number(&liar["refused_by_cause"], cause) > 0);
        told.then(|| liar.clone())
    });
    eprintln!("node 1 says of the liar: {shown}");
    // The others found without it, and node 1 is as good as ever.
    for node in &mut nodes[1..4] {
        node.start(&[]);
    }
    all(&mut nodes[..4], "an opened round", |status| {
        number(status, "rounds_opened") >= 1
    });
}
