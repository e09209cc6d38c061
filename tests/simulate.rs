//! `conclave simulate` through its door: flags, lines, the JSON object, the drawing, and equal runs from equal seeds.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs `conclave simulate` in a folder, far from the environment's settings.
fn simulate(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCLAVE_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .arg("simulate")
        .args(arguments)
        .output()
        .expect("the binary starts")
}

/// Asserts success and gives stdout.
fn good(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = simulate(folder.path(), arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{arguments:?}: {said}\n{text}");
    text
}

/// Asserts success and gives the one JSON object, which is all of stdout.
fn object(arguments: &[&str]) -> Value {
    let text = good(&[arguments, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).expect("a JSON object")
}

#[test]
fn the_object_has_the_documented_keys_and_every_round_counts_once() {
    let object = object(&[
        "--members",
        "5",
        "--rounds",
        "4",
        "--churn",
        "0.2",
        "--loss",
        "0.05",
        "--partition",
        "0.3",
        "--seed",
        "11",
    ]);
    let keys = object.as_object().expect("an object").keys();
    let expected = "members rounds rounds_opened rounds_null agreed invariant_violations virtual_seconds wall_seconds \
                    bytes_per_member_p50 bytes_per_member_max messages digest";
    assert_eq!(
        keys.map(String::as_str).collect::<Vec<_>>(),
        expected.split_whitespace().collect::<Vec<_>>()
    );
    assert_eq!(
        (&object["members"], &object["rounds"]),
        (&5.into(), &4.into())
    );
    let number = |key: &str| object[key].as_u64().expect("a whole number");
    assert_eq!(number("rounds_opened") + number("rounds_null"), 4);
    assert_eq!(object["agreed"], true);
    assert_eq!(object["invariant_violations"], Value::Array(Vec::new()));
    assert!(object["virtual_seconds"].as_f64() > Some(1.0));
    assert!(object["wall_seconds"].as_f64() > Some(0.0));
    assert!(number("bytes_per_member_p50") > 1000);
    assert!(number("bytes_per_member_max") >= number("bytes_per_member_p50"));
    assert!(number("messages") > 100);
    assert_eq!(object["digest"].as_str().map(str::len), Some(64));
}

#[test]
fn hostile_members_break_nothing_and_are_named() {
    let text = good(&[
        "--members",
        "7",
        "--rounds",
        "4",
        "--byzantine",
        "0.3",
        "--seed",
        "2",
    ]);
    let hostile = text.lines().find(|line| line.starts_with("hostile: "));
    let hostile = hostile.expect("they are named");
    assert_eq!(hostile.matches('(').count(), 2, "{hostile}");
    assert!(
        text.contains("all 5 honest members hold one adapter"),
        "{text}"
    );
    assert!(text.contains("nothing promised was broken"), "{text}");
}

#[test]
fn nothing_but_our_own_words_comes_to_stderr() {
    // A member contradicts itself in this world, which the consensus engine would log.
    let flags = [
        "--members",
        "7",
        "--rounds",
        "3",
        "--byzantine",
        "0.3",
        "--seed",
        "8",
        "--json",
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = |more: &[&str]| {
        let output = simulate(folder.path(), &[&flags, more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(said(&[]), "");
    let asked = said(&[
        "--log",
        "arc_malachitebft_core_driver=warn,arc_malachitebft_core_votekeeper=warn",
    ]);
    assert!(asked.contains(" WARN arc_malachitebft_"), "{asked}");
}

#[test]
fn broken_links_are_counted_and_break_nothing() {
    let flags = [
        "--members",
        "9",
        "--rounds",
        "4",
        "--broken-links",
        "0.2",
        "--seed",
        "3",
    ];
    let text = good(&flags);
    assert!(text.contains("--broken-links 0.2"), "{text}");
    assert!(text.contains(" broken links happened"), "{text}");
    assert!(text.contains("4 rounds: 4 opened"), "{text}");
    assert!(!good(&flags[..4]).contains("broken link"));
}

#[test]
fn equal_seeds_give_equal_digests_and_other_flags_other_ones() {
    let flags = [
        "--members",
        "4",
        "--rounds",
        "3",
        "--churn",
        "0.3",
        "--loss",
        "0.1",
        "--partition",
        "0.5",
    ];
    let run = |more: &[&str]| {
        let object = object(&[&flags[..], more].concat());
        let whole = |key: &str| object[key].clone();
        let keys = [
            "digest",
            "virtual_seconds",
            "messages",
            "bytes_per_member_p50",
            "rounds_opened",
        ];
        keys.map(whole)
    };
    let first = run(&["--seed", "5"]);
    assert_eq!(run(&["--seed", "5"]), first);
    assert_ne!(run(&["--seed", "6"])[0], first[0]);
    assert_ne!(run(&["--seed", "5", "--latency", "lan"])[0], first[0]);
}

#[test]
fn without_faults_every_round_is_opened_at_every_distance() {
    let mut took = Vec::new();
    for latency in ["lan", "wan", "80"] {
        let object = object(&["--members", "4", "--rounds", "2", "--latency", latency]);
        assert_eq!(object["rounds_opened"], 2, "{latency}");
        took.push(object["virtual_seconds"].as_f64().expect("a number"));
    }
    assert!(took[0] < took[1] && took[0] < took[2], "{took:?}");
}

#[test]
fn a_line_a_round_says_who_was_out_and_why() {
    let text = good(&[
        "--members",
        "7",
        "--rounds",
        "8",
        "--churn",
        "0.5",
        "--seed",
        "3",
    ]);
    let rounds: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("round "))
        .collect();
    assert_eq!(rounds.len(), 8, "{text}");
    for (number, line) in rounds.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1], (number + 1).to_string(), "{line}");
        assert!(["opened", "null", "spent"].contains(&words[2]), "{line}");
        assert!(
            line.contains("a member") && line.contains(" of 7 in"),
            "{line}"
        );
    }
    assert!(text.contains("out: crashed "), "nobody crashed: {text}");
    assert!(
        text.contains("conclave simulate --members 7 --rounds 8 --churn 0.5"),
        "{text}"
    );
    assert!(
        text.contains("A record needs 5 of 7 members: up to 2 may be away at once."),
        "{text}"
    );
    assert!(text.contains("nothing promised was broken"), "{text}");
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.starts_with("Digest")),
        "{text}"
    );
}

#[test]
fn the_drawing_shows_every_round() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let flags = [
        "--members",
        "4",
        "--rounds",
        "3",
        "--churn",
        "0.3",
        "--plot",
        "churn.svg",
        "--json",
    ];
    let output = simulate(folder.path(), &flags);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("churn.svg"), "{said}");
    let svg = std::fs::read_to_string(folder.path().join("churn.svg")).expect("the drawing");
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("class=\"bytes\"").count(), 3);
    assert!(svg.contains("--churn 0.3") && !svg.contains("NaN"));
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases: [(&[&str], &[&str]); 18] = [
        (&["--members", "2"], &["--members 2", "3 to 200"]),
        (&["--members", "201"], &["--members 201", "3 to 200"]),
        (&["--members", "many"], &["many", "--members"]),
        (&["--rounds", "0"], &["--rounds 0", "1 to"]),
        (&["--churn", "1.5"], &["1.5", "--churn", "at most 1"]),
        (&["--churn", "often"], &["often", "--churn", "0.1"]),
        (
            &["--members", "10", "--churn", "0.7"],
            &["--churn 0.7", "7 of 10", "--churn 0.60"],
        ),
        (
            &["--members", "3", "--churn", "0.1"],
            &["--churn 0.1", "--members 4"],
        ),
        (
            &["--byzantine", "0.5"],
            &["--byzantine 0.5", "less than a third"],
        ),
        (
            &["--members", "10", "--byzantine", "0.2", "--churn", "0.5"],
            &["--churn 0.5", "--churn 0.25"],
        ),
        (&["--loss", "1"], &["--loss 1"]),
        (&["--loss=-0.1"], &["-0.1", "--loss"]),
        (&["--latency", "moon"], &["moon", "wan, lan"]),
        (&["--latency", "90000"], &["90000", "milliseconds up to"]),
        (
            &["--broken-links", "1.2"],
            &["1.2", "--broken-links", "at most 1"],
        ),
        (&["--partition", "2"], &["2", "--partition", "at most 1"]),
        (
            &["--plot", "no/such/folder.svg"],
            &["--plot no/such/folder.svg", "folder"],
        ),
        (
            &["--plot", "/proc/churn.svg"],
            &["--plot /proc/churn.svg", "name another file"],
        ),
    ];
    for (arguments, words) in cases {
        let output = simulate(folder.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
        assert!(
            said.starts_with("error: ") && !said.contains("panicked"),
            "{said}"
        );
        for word in words {
            assert!(
                said.contains(word),
                "{arguments:?} should say {word:?}: {said}"
            );
        }
    }
    let left = std::fs::read_dir(folder.path())
        .expect("the folder")
        .count();
    assert_eq!(left, 0, "something was written");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_at_once_with_a_sentence() {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::Stdio;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_conclave"))
        .current_dir(folder.path())
        .args(["simulate", "--members", "7", "--rounds", "10000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // The first round's line: it runs.
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("round ") {
        line.clear();
        assert!(
            out.read_line(&mut line).expect("a line") > 0,
            "it ended early"
        );
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("stdout ends");
    let mut said = String::new();
    let mut err = child.stderr.take().expect("piped");
    err.read_to_string(&mut said).expect("stderr ends");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("error: interrupted after"), "{said}");
}
