//! `conclave testnet` through its door: a node dies between dealing and submitting and the rest goes on; and no process
//! outlives its supervisor.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use conclave::learn::export::write_model;
use conclave::learn::model::Model;
use conclave::learn::model::config::Config;
use conclave::learn::weights::Weight;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn testnet(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCLAVE_") {
            command.env_remove(name);
        }
    }
    command.arg("testnet").arg("--dir").arg(dir).args(arguments);
    command
}

fn words(list: &Value) -> BTreeSet<&str> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|word| word.as_str().expect("a word"))
        .collect()
}

#[test]
fn a_node_that_dies_after_it_dealt_drops_out_and_the_others_agree() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let arguments = [
        "--nodes",
        "4",
        "--rounds",
        "3",
        "--local-steps",
        "8",
        "--kill",
        "1@2",
        "--json",
    ];
    let output = testnet(&dir, &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let object: Value = serde_json::from_str(&text).unwrap();

    assert_eq!(object["agreed"], true, "{said}");
    assert_eq!(
        (&object["nodes"], &object["rounds"]),
        (&4.into(), &3.into())
    );
    assert_eq!(
        (&object["rounds_opened"], &object["rounds_null"]),
        (&3.into(), &0.into())
    );
    let loss = |key: &str| object[key].as_f64().expect("a measured loss");
    assert!(loss("eval_loss_after") < loss("eval_loss_before"));
    assert!(loss("eval_loss_local") < loss("eval_loss_before"));
    let members = object["members"].as_array().unwrap();
    let is_killed = |member: &&Value| member["status"] == "killed";
    assert_eq!(
        (members.len(), members.iter().filter(is_killed).count()),
        (4, 1)
    );
    for member in members.iter().filter(|member| !is_killed(member)) {
        assert_eq!(member["status"], "finished");
        assert_eq!(member["adapter_digest"], object["adapter_digest"]);
        assert_eq!(member["ledger_head"], object["ledger_head"]);
        assert_eq!(member["rounds_contributed"], 3);
        assert!(member["bytes_sent"].as_u64() > Some(0) && member["examples"].as_u64() > Some(32));
    }
    let killed = members.iter().find(is_killed).unwrap();
    assert_eq!(killed["rounds_contributed"], 1);

    let report = std::fs::read(dir.join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let known = report["members"].as_array().unwrap();
    let name = known
        .iter()
        .find(|member| member["member"] == killed["member"]);
    let name = name.unwrap()["name"].as_str().unwrap();
    let second = &report["history"][1];
    assert_eq!(second["round"], 2);
    assert_eq!(words(&second["sharers"]).len(), 4);
    let survivors = words(&second["survivors"]);
    assert!(
        survivors.len() == 3 && !survivors.contains(name),
        "{second}"
    );
    assert_eq!(words(&second["rebuilt"]), BTreeSet::from([name]));
    let page = std::fs::read_to_string(dir.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("generated"));
    assert!(living(&dir).is_empty(), "a node still runs");
}

#[test]
fn no_node_outlives_its_supervisor() {
    for signal in [Signal::KILL, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("run");
        let mut command = testnet(&dir, &["--nodes", "3", "--local-steps", "1000"]);
        let mut supervisor = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait("three nodes", &mut supervisor, || living(&dir).len() == 3);
        let pids = living(&dir);
        kill_process(pid(supervisor.id()), signal).unwrap();
        let status = supervisor.wait().unwrap();
        let begun = Instant::now();
        while pids.iter().any(|&pid| runs(pid)) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "a node outlived its supervisor"
            );
            std::thread::yield_now();
        }
        if signal == Signal::INT {
            let mut said = String::new();
            supervisor
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            assert_eq!(status.code(), Some(1), "{said}");
            let place = dir.display().to_string();
            assert!(
                said.contains("error: interrupted") && said.contains(&place),
                "{said}"
            );
        }
    }
}

/// The processes of the nodes that run.
fn living(dir: &Path) -> Vec<u32> {
    let doors = (1..=4).map(|node| dir.join(format!("node-{node}/api.json")));
    let read = |path: PathBuf| {
        let door: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        u32::try_from(door["pid"].as_u64()?).ok()
    };
    doors.filter_map(read).filter(|&pid| runs(pid)).collect()
}

/// Whether a process runs; one that is dead but not yet collected does not.
fn runs(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn pid(raw: u32) -> Pid {
    let raw = i32::try_from(raw).expect("a process id");
    Pid::from_raw(raw).expect("not zero")
}

/// Waits for a condition while the supervisor lives, at most a minute.
fn wait(what: &str, supervisor: &mut Child, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            supervisor.try_wait().expect("a child").is_none(),
            "the supervisor ended before {what}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no {what} within a minute"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_newcomer_enters_by_a_ticket_and_ends_with_the_same_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let arguments = [
        "--nodes",
        "4",
        "--rounds",
        "6",
        "--local-steps",
        "4",
        "--join",
        "1@2",
        "--json",
    ];
    let output = testnet(&dir, &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&object["agreed"], &object["nodes"]),
        (&true.into(), &4.into())
    );
    let members = object["members"].as_array().unwrap();
    let statuses: Vec<_> = members
        .iter()
        .map(|member| member["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        ["finished", "finished", "finished", "finished", "joined"]
    );
    for member in members {
        assert_eq!(member["adapter_digest"], object["adapter_digest"]);
        assert_eq!(member["ledger_head"], object["ledger_head"]);
    }
    assert!(said.contains("starts in round 2 by a ticket of"), "{said}");
    assert!(
        members[4]["rounds_contributed"].as_u64() > Some(0),
        "{said}"
    );
    assert!(living(&dir).is_empty(), "a node still runs");
}

#[test]
fn bottlenecks_and_soft_prompts_federate_as_lora_does() {
    for (method, kind, more) in [
        (
            "adapter",
            "CONCLAVE_BOTTLENECK",
            ["--learning-rate", "0.006", "--bottleneck-size", "8"],
        ),
        (
            "prompt",
            "PROMPT_TUNING",
            [
                "--learning-rate",
                "0.02",
                "--prompt-tuning-init-text",
                "Question: ",
            ],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("run");
        let arguments = [
            "--nodes",
            "3",
            "--rounds",
            "2",
            "--local-steps",
            "8",
            "--method",
            method,
            "--json",
        ];
        let output = testnet(&dir, &[&arguments[..], &more].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{method}: {said}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["agreed"], true, "{method}: {said}");
        assert_eq!(object["rounds_opened"], 2, "{method}: {said}");
        let loss = |key: &str| object[key].as_f64().expect("a measured loss");
        assert!(
            loss("eval_loss_after") < loss("eval_loss_before") - 0.05,
            "{method}: {object}"
        );
        assert!(loss("eval_loss_local") < loss("eval_loss_before"));
        for member in object["members"].as_array().unwrap() {
            assert_eq!(member["adapter_digest"], object["adapter_digest"]);
            assert_eq!(member["rounds_contributed"], 2, "{method}: {said}");
        }
        // Every node wrote the same adapter, and the model with it scores as the report says.
        let written = |node: u32, file: &str| {
            let path = dir.join(format!("node-{node}/adapters/2/{file}"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let tensors = "adapter_model.safetensors";
        assert_eq!(written(1, tensors), written(2, tensors), "{method}");
        assert_eq!(written(1, tensors), written(3, tensors), "{method}");
        let config: Value = serde_json::from_slice(&written(1, "adapter_config.json")).unwrap();
        assert_eq!(config["peft_type"], kind);
        let settings = std::fs::read_to_string(dir.join("node-3/node.toml")).unwrap();
        let rate = format!("learning_rate = {}\n", more[1]);
        assert!(settings.contains(&rate), "{settings}");
        let mut eval = Command::new(env!("CARGO_BIN_EXE_conclave"));
        eval.arg("eval").arg("--dir").arg(dir.join("node-2"));
        eval.arg("--data").arg(dir.join("node-2/eval.jsonl"));
        let output = eval.arg("--json").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let scored: Value = serde_json::from_slice(&output.stdout).expect(&said);
        let apart = scored["loss"].as_f64().unwrap() - loss("eval_loss_after");
        assert!(apart.abs() < 1e-6, "{method}: {scored} and {object}");
    }
}

#[test]
fn a_bare_encoder_learns_the_labels_of_the_rows_that_are_dealt() {
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("bare");
    bare_encoder(&bare);
    let rows: Vec<String> = (0..120)
        .map(|i| {
            let label = ["first", "second", "third"][i % 3];
            let text = ["ab", "bc", "ca"][i % 3].repeat(1 + i % 5);
            json!({"text": text, "label": label}).to_string()
        })
        .collect();
    for (method, steps) in [("lora", "16"), ("adapter", "16"), ("prompt", "48")] {
        let dir = folder.path().join(method);
        let mut command = testnet(&dir, &["--nodes", "3", "--rounds", "2", "--json"]);
        command.args(["--method", method, "--local-steps", steps]);
        command.arg("--model").arg(&bare);
        let output = piped(command, &rows);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{method}: {said}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["agreed"], true, "{method}: {said}");
        let score = |key: &str| object[key].as_f64().expect("a measured score");
        assert!(
            score("eval_loss_after") < score("eval_loss_before") - 0.05,
            "{method}: {object}"
        );
        assert!(
            score("accuracy_after") > score("accuracy_before"),
            "{method}: {object}"
        );
        // The labels stand in the adapter's folder, and the model that was given is as it was.
        let labels = std::fs::read(dir.join("node-3/adapters/2/labels.json")).unwrap();
        let labels: Value = serde_json::from_slice(&labels).unwrap();
        assert_eq!(labels, json!(["first", "second", "third"]), "{method}");
        let config = std::fs::read_to_string(bare.join("config.json")).unwrap();
        assert!(!config.contains("id2label"));
    }
    // And alone.
    let alone = folder.path().join("alone");
    let mut train = Command::new(env!("CARGO_BIN_EXE_conclave"));
    train.args(["train", "--steps", "20", "--out"]).arg(&alone);
    train.arg("--model").arg(&bare);
    let output = piped(train, &rows);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let labels = std::fs::read(alone.join("labels.json")).unwrap();
    let labels: Value = serde_json::from_slice(&labels).unwrap();
    assert_eq!(labels, json!(["first", "second", "third"]));
}

/// Runs a command on rows that can be read once.
fn piped(mut command: Command, rows: &[String]) -> Output {
    command.args(["--data", "/dev/stdin"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut into = child.stdin.take().expect("a pipe");
    into.write_all(rows.join("\n").as_bytes())
        .expect("it reads");
    drop(into);
    child.wait_with_output().expect("it ends")
}

/// A folder with an encoder of random weights, without a head, that reads the letters a, b and c.
fn bare_encoder(folder: &Path) {
    let config = json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 20, "max_position_embeddings": 32, "vocab_size": 5,
    });
    let config = Config::parse(&config.to_string(), Path::new("config.json"))
        .expect("a small encoder can be written");
    let mut state = 1_u32;
    let model = Model::build(config, |name, shape| {
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let unit =
                f32::from(u16::try_from(state >> 16).expect("sixteen bits")) / 65_536.0 - 0.5;
            if name.ends_with("LayerNorm.weight") {
                1.0
            } else {
                unit
            }
        });
        Ok::<_, std::convert::Infallible>(Weight::owned(values.collect(), shape.to_vec()))
    });
    std::fs::create_dir(folder).expect("a small encoder can be written");
    write_model(folder, &model.expect("a small encoder can be written"))
        .expect("a small encoder can be written");
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [],
        "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "c": 2}, "merges": [],
        },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())
        .expect("a small encoder can be written");
}
