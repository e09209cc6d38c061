//! The command line through its door: what is asked of it wrongly is answered in one sentence, and nothing is touched.

use std::path::Path;
use std::process::{Command, Output};

use conclave::scenario::base;
use serde_json::Value;

/// Runs `conclave` in a folder, far from the environment's settings.
fn conclave(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCLAVE_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the binary starts")
}

/// Asserts a failure with this code, whose `error: …` holds all of the words; nothing on stdout.
fn refused(folder: &Path, code: i32, arguments: &[&str], words: &[&str]) {
    let output = conclave(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
    assert!(!said.contains("panicked"), "{said}");
    let errors = said.matches("error: ").count();
    assert!(
        errors == 1 && said.starts_with("error: "),
        "{arguments:?}: {said}"
    );
    for word in words {
        assert!(
            said.contains(word),
            "{arguments:?} should say {word:?}: {said}"
        );
    }
}

/// Asserts success and gives the one JSON object on the last line of stdout.
fn object(folder: &Path, arguments: &[&str]) -> Value {
    let output = conclave(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).expect("a JSON object")
}

/// Everything under a folder with its bytes.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        for entry in std::fs::read_dir(place).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                found.push((path.display().to_string(), bytes));
            }
        }
    }
    found.sort();
    found
}

const CHARTER: &str = "[federation]\nname = \"x\"\nprotocol = 1\nnonce = \"00\"\n";

#[test]
fn wrong_flags_end_with_two_and_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    refused(at, 2, &["testnt"], &["testnt", "testnet"]);
    refused(at, 2, &["testnet", "--node", "5"], &["--node", "--nodes"]);
    refused(
        at,
        2,
        &["testnet", "--nodes", "2"],
        &["--nodes 2", "at least 3"],
    );
    refused(at, 2, &["testnet", "--nodes", "many"], &["many", "--nodes"]);
    refused(
        at,
        2,
        &["testnet", "--kill", "three"],
        &["three", "N@ROUND"],
    );
    refused(at, 2, &["testnet", "--kill", "1@9"], &["only 6 rounds"]);
    refused(
        at,
        2,
        &["testnet", "--learning-rate", "11"],
        &["learning_rate = 11", "at most 10"],
    );
    refused(at, 2, &["testnet", "--kill", "4@2"], &["kill at most 2"]);
    refused(
        at,
        2,
        &["testnet", "--scenario", "zoo"],
        &["zoo", "clinic, bank or campus"],
    );
    refused(at, 2, &["testnet", "--split", "by:source"], &["--data"]);
    refused(
        at,
        2,
        &["testnet", "--data", "x", "--split", "dirichlet:0"],
        &["dirichlet:0"],
    );
    refused(at, 2, &["init", "--log", "=="], &["CONCLAVE_LOG"]);
    assert!(contents(at).is_empty());
}

#[test]
fn a_folder_that_is_not_empty_is_no_place_for_a_testnet() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), "ten years").unwrap();
    let before = contents(folder.path());
    refused(
        folder.path(),
        2,
        &["testnet", "--dir", "."],
        &["--dir .", "not empty"],
    );
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn what_is_missing_or_malformed_is_named_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let row = "{\"text\": \"a row of words\"}\n";
    std::fs::write(
        at.join("broken.jsonl"),
        [row, row, "{\"text\": \n"].concat(),
    )
    .unwrap();
    std::fs::write(at.join("few.jsonl"), row.repeat(40)).unwrap();
    std::fs::write(at.join("empty.jsonl"), "").unwrap();
    std::fs::create_dir(at.join("hollow")).unwrap();
    let before = contents(at);
    let testnet = |rest: &[&str], words: &[&str]| {
        let arguments = [&["testnet", "--dir", "new"], rest].concat();
        refused(at, 1, &arguments, words);
    };
    testnet(&["--model", "nowhere"], &["nowhere", "config.json"]);
    testnet(&["--model", "hollow"], &["hollow", "config.json"]);
    testnet(&["--data", "nowhere.jsonl"], &["nowhere.jsonl"]);
    testnet(&["--data", "broken.jsonl"], &["broken.jsonl", "3"]);
    testnet(&["--data", "empty.jsonl"], &["empty.jsonl"]);
    testnet(&["--data", "few.jsonl"], &["40 rows", "160"]);
    testnet(
        &[
            "--data",
            "few.jsonl",
            "--split",
            "by:source",
            "--nodes",
            "3",
        ],
        &["40 rows"],
    );
    assert_eq!(contents(at), before);
    assert!(!at.join("new").exists());
}

#[test]
fn an_identity_is_made_once_and_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = object(at, &["init", "--dir", "berlin", "--json"]);
    assert_eq!(made["key"].as_str().map(str::len), Some(64));
    let key = at.join("berlin/identity.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = contents(at);
    refused(
        at,
        1,
        &["init", "--dir", "berlin"],
        &["identity.key", "not overwritten"],
    );
    assert_eq!(contents(at), before);
}

#[test]
fn a_charter_with_an_unknown_or_wrong_key_is_refused_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (text, words) in [
        (
            "[federation]\nnmae = \"x\"",
            ["charter.toml", "did you mean `name`"],
        ),
        (
            "[agregation]\nclip = \"1.0\"",
            ["`agregation`", "did you mean `aggregation`"],
        ),
        ("[federation\n", ["charter.toml", "line 1"]),
        (CHARTER, ["charter.toml", "model"]),
    ] {
        std::fs::write(at.join("charter.toml"), text).unwrap();
        refused(at, 1, &["charter", "check"], &words);
    }
    refused(
        at,
        1,
        &["charter", "show", "none.toml"],
        &["none.toml", "charter new"],
    );
    refused(at, 1, &["status"], &["conclave run"]);
}

#[test]
fn five_people_write_one_charter_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    base::unpack(&at.join("base")).unwrap();
    let mut flags: Vec<String> = ["charter", "new", "--name", "clinics", "--model", "base"]
        .map(str::to_owned)
        .to_vec();
    for name in ["berlin", "paris", "rome", "oslo", "lima"] {
        let made = object(at, &["init", "--dir", name, "--json"]);
        let key = made["key"].as_str().unwrap();
        flags.extend(["--member".to_owned(), format!("{name}={key}")]);
    }
    flags.extend(["--rounds", "3", "--testnet-timers", "--json"].map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let made = object(at, &flags);
    assert_eq!(made["members"].as_array().map(Vec::len), Some(5));
    refused(at, 1, &flags, &["charter.toml", "not overwritten"]);
    let shown = object(at, &["charter", "show", "--json"]);
    let checked = object(at, &["charter", "check", "charter.toml", "--json"]);
    assert_eq!(
        (&shown["digest"], &checked["digest"]),
        (&made["digest"], &made["digest"])
    );
    assert_eq!(shown["round"]["rounds"], 3);
    assert_eq!(shown["members"][4]["name"], "lima");
    let two = &flags[..10];
    refused(
        at,
        1,
        &[two, &["--out", "two.toml"]].concat(),
        &["members", "3"],
    );
    refused(
        at,
        2,
        &[
            "charter", "new", "--name", "x", "--model", "base", "--member", "a=12",
        ],
        &["a", "Ed25519"],
    );
    assert!(!at.join("two.toml").exists());
}

#[test]
fn a_model_with_values_that_are_no_numbers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    base::unpack(&at.join("base")).unwrap();
    let path = at.join("base/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let first = 8 + usize::try_from(header).unwrap();
    // Whatever its format: an exponent and a mantissa of ones.
    bytes[first..first + 4].fill(0xFF);
    std::fs::write(&path, bytes).unwrap();
    let words = ["model.safetensors", "not finite"];
    refused(
        at,
        1,
        &["generate", "--model", "base", "--max-tokens", "1"],
        &words,
    );
    let mut flags: Vec<String> = ["charter", "new", "--name", "x", "--model", "base"]
        .map(str::to_owned)
        .to_vec();
    for name in ["berlin", "paris", "rome"] {
        let made = object(at, &["init", "--dir", name, "--json"]);
        flags.extend([
            "--member".to_owned(),
            format!("{name}={}", made["key"].as_str().unwrap()),
        ]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    refused(at, 1, &flags, &words);
    assert!(!at.join("charter.toml").exists());
}

#[test]
fn tickets_that_cannot_be_made_or_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    base::unpack(&at.join("base")).unwrap();
    let mut flags: Vec<String> = ["charter", "new", "--name", "x", "--model", "base"]
        .map(str::to_owned)
        .to_vec();
    for name in ["berlin", "paris", "rome"] {
        let made = object(at, &["init", "--dir", name, "--json"]);
        flags.extend([
            "--member".to_owned(),
            format!("{name}={}", made["key"].as_str().unwrap()),
        ]);
    }
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--json", "--out", "berlin/charter.toml"]);
    object(at, &flags);
    refused(
        at,
        1,
        &["invite", "--dir", "berlin"],
        &["admits nobody", "--admission invite"],
    );
    std::fs::remove_file(at.join("berlin/charter.toml")).unwrap();
    flags.extend(["--admission", "invite"]);
    object(at, &flags);
    refused(
        at,
        1,
        &["invite", "--dir", "berlin"],
        &["no address", "announce"],
    );
    refused(at, 2, &["invite", "--expires", "soon"], &["soon", "7d"]);
    refused(at, 2, &["invite", "--uses", "0"], &["--uses"]);
    std::fs::write(
        at.join("berlin/node.toml"),
        "announce = [\"/ip4/192.0.2.7/tcp/4001\"]",
    )
    .unwrap();
    let made = object(at, &["invite", "--dir", "berlin", "--json"]);
    let ticket = made["ticket"].as_str().unwrap();
    assert!(
        made["addresses"][0]
            .as_str()
            .unwrap()
            .starts_with("/ip4/192.0.2.7/tcp/4001/p2p/")
    );
    refused(
        at,
        1,
        &["join", "hello", "--dir", "oslo"],
        &["no ticket", "conclave invite"],
    );
    refused(
        at,
        1,
        &["join", &ticket[..300], "--dir", "oslo"],
        &["cut or mistyped"],
    );
    refused(
        at,
        1,
        &["join", ticket, "--dir", "oslo", "--data", "none.jsonl"],
        &["none.jsonl"],
    );
    assert!(!at.join("oslo").exists());
    // The charter's base model is the embedded one: the newcomer needs nothing else.
    let joined = object(at, &["join", ticket, "--dir", "oslo", "--json"]);
    assert_eq!(
        (&joined["name"], &joined["missing"]),
        (&"oslo".into(), &serde_json::json!(["data"]))
    );
    assert!(at.join("oslo/model/config.json").exists());
    // Who is no member cannot invite.
    refused(at, 1, &["invite", "--dir", "oslo"], &["no member"]);
}
