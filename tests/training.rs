//! Solo training through the door of the program: killed and resumed, stopped early, watched.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use conclave::scenario::{Scenario, base};
use serde_json::Value;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCLAVE_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).args(arguments);
    command
}

fn conclave(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments)
        .output()
        .expect("the binary starts")
}

/// Asserts success and gives the one JSON object on stdout.
fn object(folder: &Path, arguments: &[&str]) -> Value {
    let output = conclave(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("a JSON object")
}

/// Asserts a failure whose one sentence holds all the words.
fn refused(folder: &Path, arguments: &[&str], words: &[&str]) {
    let output = conclave(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.matches("error: ").count() == 1,
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// A folder with the embedded model and 60 rows of a scenario, as CSV.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    base::unpack(&folder.path().join("base")).expect("unpacked");
    let rows = &Scenario::ALL[0].generate(7, 3).members[0][..60];
    let mut text = String::from("prompt,completion\n");
    for row in rows {
        let row: Value = serde_json::from_str(row).expect("a row");
        let field = |name: &str| {
            format!(
                "\"{}\"",
                row[name].as_str().unwrap_or("").replace('"', "\"\"")
            )
        };
        writeln!(text, "{},{}", field("prompt"), field("completion")).expect("written");
    }
    std::fs::write(folder.path().join("rows.csv"), text).expect("written");
    folder
}

const RUN: [&str; 15] = [
    "train",
    "--json",
    "--model",
    "base",
    "--data",
    "rows.csv",
    "--steps",
    "40",
    "--micro-batch-size",
    "2",
    "--sequence-len",
    "64",
    "--sample-packing",
    "--checkpoint-every",
    "3",
];

fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    RUN.iter().chain(more).copied().collect()
}

#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    let folder = folder();
    let at = folder.path();
    let whole = object(at, &run(&["--out", "whole", "--eval-every", "7"]));
    let checkpoint = at.join(".killed.training/checkpoint");
    let mut child = command(at, &run(&["--out", "killed", "--eval-every", "7"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let start = Instant::now();
    while !checkpoint.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no checkpoint within two minutes"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("killed");
    child.wait().expect("dead");
    assert!(!at.join("killed").exists(), "nothing half-written");

    let again = run(&["--out", "killed", "--eval-every", "7"]);
    refused(
        at,
        &again,
        &["holds the checkpoint of a run that did not end", "--resume"],
    );
    let other = run(&[
        "--out",
        "killed",
        "--eval-every",
        "7",
        "--resume",
        "--learning-rate",
        "0.1",
    ]);
    refused(at, &other, &["learning_rate = none, and this run has 0.1"]);
    let bytes = std::fs::read(&checkpoint).expect("read");
    std::fs::write(&checkpoint, &bytes[..bytes.len() - 1]).expect("written");
    let resume = run(&["--out", "killed", "--eval-every", "7", "--resume"]);
    refused(at, &resume, &["no whole checkpoint", "checksum"]);
    std::fs::write(&checkpoint, &bytes).expect("written");

    // Computing layers again changes no bit.
    let resumed = object(at, &[&resume[..], &["--gradient-checkpointing"]].concat());
    for key in [
        "losses",
        "eval_loss_before",
        "eval_loss_after",
        "adapter_digest",
        "kept_step",
        "tokens",
    ] {
        assert_eq!(resumed[key], whole[key], "{key}");
    }
    assert!(!at.join(".killed.training").exists());
    let lines = |name: &str| {
        let text = std::fs::read_to_string(at.join(name).join("metrics.jsonl")).expect("metrics");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let mut lines: Vec<Value> = lines.collect();
        for line in &mut lines {
            line["tokens_per_second"] = Value::Null;
        }
        lines
    };
    assert_eq!(lines("killed"), lines("whole"));
    assert_eq!(lines("whole").len(), 40);
    for file in ["adapter_model.safetensors", "loss.svg"] {
        let read = |name: &str| std::fs::read(at.join(name).join(file)).expect("a file");
        assert_eq!(read("killed"), read("whole"), "{file}");
    }
    refused(
        at,
        &run(&["--out", "fresh", "--resume"]),
        &["there is no checkpoint in"],
    );
}

#[test]
fn the_best_adapter_is_kept_and_a_run_that_gets_no_better_ends() {
    let folder = folder();
    let at = folder.path();
    let ended = object(
        at,
        &run(&[
            "--out",
            "out",
            "--eval-every",
            "2",
            "--early-stop",
            "1",
            "--learning-rate",
            "0.3",
            "--eval-data",
            "rows.csv",
        ]),
    );
    let text = std::fs::read_to_string(at.join("out/metrics.jsonl")).expect("metrics");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let evals = lines
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?)));
    let best = evals
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .expect("held-out losses");
    assert_eq!(ended["kept_step"].as_u64(), Some(best.0));
    let steps = ended["steps"].as_u64().expect("a count");
    assert!(
        steps < 40 && steps == best.0 + 2,
        "stopped at {steps}, best at {}",
        best.0
    );
    let scored = object(
        at,
        &[
            "eval",
            "--json",
            "--model",
            "base",
            "--adapter",
            "out",
            "--data",
            "rows.csv",
            "--sequence-len",
            "64",
        ],
    );
    let (written, kept) = (
        scored["loss"].as_f64().expect("a loss"),
        ended["eval_loss_after"].as_f64().expect("a loss"),
    );
    assert!(
        (written - kept).abs() < 1e-6 && (kept - best.1).abs() < 1e-6,
        "{written} {kept} {}",
        best.1
    );
}

#[test]
fn what_cannot_be_is_refused_before_any_work() {
    let folder = folder();
    let at = folder.path();
    std::fs::write(at.join("few.csv"), "text\none\ntwo\n").expect("written");
    for (flags, word) in [
        ("--data rows.csv --early-stop 2", "--eval-every"),
        ("--data rows.csv --checkpoint-every 2", "--out"),
        ("--data rows.csv --out x --eval-every 0", "--eval-every"),
        (
            "--data rows.csv --out x --warmup-ratio 2",
            "warmup_ratio = 2 is out of range",
        ),
        ("--data rows.csv --out x --lr-scheduler cosin", "cosine"),
        (
            "--data few.csv --eval-every 1",
            "no rows are held out to score",
        ),
        (
            "--data rows.csv --method prompt --lora-r 4",
            "--lora-r belongs to --method lora",
        ),
        (
            "--data rows.csv --method adapter --lora-dropout 0.1",
            "--lora-dropout belongs to --method lora",
        ),
        (
            "--data rows.csv --method adapter --bottleneck-size 5000",
            "bottleneck_size = 5000 is out of range",
        ),
        (
            "--data rows.csv --method adapter --non-linearity relo",
            "choose from relu, gelu",
        ),
        (
            "--data rows.csv --method prompt --use-rslora",
            "--use-rslora belongs to --method lora",
        ),
        (
            "--data rows.csv --rank-pattern q_prj=4",
            "\"q_prj\" matches no target module",
        ),
        (
            "--data rows.csv --alpha-pattern q_proj",
            "such as q_proj=16",
        ),
        (
            "--data rows.csv --method prompt --num-virtual-tokens 100000",
            "num_virtual_tokens = 100000 is out of range",
        ),
    ] {
        let words = ["train", "--model", "base"].into_iter();
        let arguments: Vec<&str> = words.chain(flags.split(' ')).collect();
        refused(at, &arguments, &[word]);
    }
    assert!(!at.join(".x.training").exists());
    for command in [
        &["generate"][..],
        &["chat"],
        &["eval", "--data", "few.csv"],
        &["train", "--data", "few.csv"],
    ] {
        let there = [command, &["--model", "base", "--device", "cuda:77"]].concat();
        refused(at, &there, &["device cuda:77: "]);
    }
}

#[test]
fn the_other_methods_train_write_and_leave_as_they_came() {
    let folder = folder();
    let at = folder.path();
    let rows = ["--model", "base", "--data", "rows.csv", "--json"];
    let before = object(at, &[&["eval"][..], &rows[..]].concat());
    for (method, what) in [("adapter", "bottleneck"), ("prompt", "soft prompt")] {
        let (out, copy) = (format!("{method}-out"), format!("{method}-copy"));
        let train = ["train", "--steps", "12", "--method", method, "--out", &out];
        let trained = object(at, &[&train[..], &rows[..]].concat());
        let after = object(at, &[&["eval", "--adapter", &out][..], &rows[..]].concat());
        let loss = |of: &Value| of["loss"].as_f64().expect("a loss");
        assert!(loss(&after) < loss(&before) - 0.05, "{method}: {after}");
        let used = ["--model", "base", "--adapter", &out];
        let write = ["generate", "--prompt", "a", "--max-tokens", "8", "--json"];
        let written = object(at, &[&write[..], &used[..]].concat());
        assert!(written["text"].is_string(), "{written}");
        let export = ["export", "--format", "peft", "--out", &copy, "--json"];
        let exported = object(at, &[&export[..], &used[..]].concat());
        assert_eq!(exported["adapter_digest"], trained["adapter_digest"]);
        let tensors = |of: &str| std::fs::read(at.join(of).join("adapter_model.safetensors"));
        assert_eq!(
            tensors(&copy).expect("a copy"),
            tensors(&out).expect("both")
        );
        let merge = ["export", "--format", "merged", "--out", "merged"];
        refused(at, &[&merge[..], &used[..]].concat(), &[what, "merged"]);
        assert!(!at.join("merged").exists());
    }
}

#[test]
fn a_model_in_gguf_tells_the_same_text() {
    let folder = folder();
    let at = folder.path();
    let train = [
        "train", "--model", "base", "--data", "rows.csv", "--steps", "12", "--rslora",
    ];
    let more = [
        "--rank-pattern",
        "q_proj=3,v_proj=5",
        "--out",
        "out",
        "--json",
    ];
    object(at, &[&train[..], &more[..]].concat());
    let used = ["--model", "base", "--adapter", "out"];
    let write = [
        "generate",
        "--prompt",
        "The patient",
        "--max-tokens",
        "24",
        "--json",
    ];
    let want = object(at, &[&write[..], &used[..]].concat());
    for (format, outtype, out) in [
        ("gguf", "f32", "whole"),
        ("gguf", "q8_0", "rounded"),
        ("gguf-lora", "f16", "factors"),
    ] {
        let export = [
            "export",
            "--format",
            format,
            "--outtype",
            outtype,
            "--out",
            out,
        ];
        object(at, &[&export[..], &used[..], &["--json"]].concat());
    }
    let told = object(at, &[&write[..], &["--model", "whole"]].concat());
    assert_eq!(told["text"], want["text"]);
    let told = object(at, &[&write[..], &["--model", "rounded"]].concat());
    assert!(told["text"].is_string(), "{told}");
    let size = |file: &str| std::fs::metadata(at.join(file)).expect("written").len();
    assert!(size("rounded/model.gguf") * 2 < size("whole/model.gguf"));
    assert!(size("factors/adapter.gguf") * 4 < size("whole/model.gguf"));
    // From GGUF back to safetensors, with the tokenizer that it holds, and without an adapter.
    let alone = ["export", "--model", "whole", "--out", "back", "--json"];
    let written = object(at, &[&alone[..], &["--format", "merged"]].concat());
    assert!(written["adapter_digest"].is_null(), "{written}");
    let told = object(at, &[&write[..], &["--model", "back"]].concat());
    assert_eq!(told["text"], want["text"]);
    let none = [
        "export", "--model", "base", "--out", "x", "--format", "peft",
    ];
    refused(at, &none, &["give --adapter"]);
    let merge = [
        "export",
        "--format",
        "merged",
        "--outtype",
        "f16",
        "--out",
        "x",
    ];
    refused(
        at,
        &[&merge[..], &used[..]].concat(),
        &["--outtype belongs"],
    );
}

#[test]
fn an_adapter_is_used_on_its_own_base_alone() {
    let folder = folder();
    let at = folder.path();
    let train = [
        "train", "--model", "base", "--data", "rows.csv", "--steps", "2",
    ];
    object(at, &[&train[..], &["--out", "out", "--json"]].concat());
    let used = ["--adapter", "out", "--model"];
    let merge = ["export", "--format", "merged", "--out", "merged"];
    object(at, &[&merge[..], &used[..], &["base", "--json"]].concat());
    for command in [
        &["generate", "--max-tokens", "1"][..],
        &["eval", "--data", "rows.csv"],
        &["export", "--format", "peft", "--out", "copy"],
    ] {
        let on_another = [command, &used[..], &["merged"]].concat();
        refused(
            at,
            &on_another,
            &["out: the adapter was trained on another base"],
        );
        object(at, &[&on_another[..], &["--any-base", "--json"]].concat());
    }
}

#[test]
fn labels_are_learnt_chosen_and_counted() {
    let folder = folder();
    let at = folder.path();
    let mut text = String::from("text;label\n");
    for row in 0..64 {
        let (word, label) = if row % 2 == 0 {
            ("fever", "ward")
        } else {
            ("refund", "desk")
        };
        writeln!(text, "case {row} has a {word};{label}").expect("written");
    }
    std::fs::write(at.join("labels.csv"), text).expect("written");
    let data = [
        "--model",
        "base",
        "--data",
        "labels.csv",
        "--labels",
        "--json",
    ];
    let with = |first: &[&'static str]| [first, &data[..]].concat();
    let before = object(at, &with(&["eval"]));
    object(at, &with(&["train", "--steps", "30", "--out", "out"]));
    let after = object(at, &with(&["eval", "--adapter", "out"]));
    assert!(after["loss"].as_f64() < before["loss"].as_f64(), "{after}");
    assert!(
        after["accuracy"].as_f64().expect("a share") > 0.95,
        "{after}"
    );
    let class = &after["labels"]["ward"];
    assert_eq!(class["rows"].as_u64(), Some(32));
    assert!(
        after["macro_f1"].as_f64().expect("a mean") > 0.95,
        "{after}"
    );
    let unlabelled = ["eval", "--model", "base", "--data", "rows.csv", "--labels"];
    refused(at, &unlabelled, &["rows.csv:2: field label is missing"]);
}

#[test]
fn completions_are_generated_and_scored() {
    let folder = folder();
    let at = folder.path();
    // Plain rows and a third pair, which --generate 2 leaves out.
    let write = |completions: [&str; 2]| {
        let mut rows = String::from("{\"text\": \"words\"}\n");
        for (prompt, completion) in ["What is 3 + 4?", "What else?", "And?"]
            .iter()
            .zip(completions.iter().chain(["left out"].iter()))
        {
            let row = serde_json::json!({"prompt": prompt, "completion": completion});
            writeln!(rows, "{row}").expect("written");
        }
        std::fs::write(at.join("sums.jsonl"), rows).expect("written");
    };
    let model = ["--model", "base", "--json", "--max-tokens", "12"];
    let score = ["eval", "--data", "sums.jsonl", "--generate", "2"];
    let score = [&score[..], &model].concat();
    write(["so #### 7", "nothing"]);
    let scored = object(at, &score);
    assert_eq!(scored["generated"].as_u64(), Some(2));
    let of = |scored: &Value, key: &str| scored[key].as_f64().expect("a score");
    assert!(of(&scored, "rouge_l") < 0.5, "{scored}");
    assert_eq!(scored["exact_match"].as_f64(), Some(0.0));
    // What the model itself writes is what it writes.
    let greedy = |prompt| {
        let generate = ["generate", "--prompt", prompt];
        let written = object(at, &[&generate[..], &model].concat());
        let text = written["text"].as_str().expect("a text");
        text.strip_prefix(prompt).expect("its prompt").to_owned()
    };
    let own = [greedy("What is 3 + 4?"), greedy("What else?")];
    write([&own[0], &own[1]]);
    let scored_own = object(at, &score);
    let rouge = of(&scored_own, "rouge_l");
    assert!((rouge - 1.0).abs() < 1e-9, "{scored_own}");
    assert!(
        of(&scored_own, "bleu") > of(&scored, "bleu"),
        "{scored_own}"
    );
    assert!(scored_own.get("exact_match").is_none());
    write(["so #### 7", "nothing"]);
    let plain = object(
        at,
        &["eval", "--json", "--model", "base", "--data", "sums.jsonl"],
    );
    assert!(plain.get("bleu").is_none());
    assert_eq!(plain["loss"], scored["loss"]);
    let rounded = object(at, &[&score[..], &["--precision", "q4_k"]].concat());
    let apart = of(&rounded, "loss") / of(&plain, "loss") - 1.0;
    assert!(apart != 0.0 && apart.abs() < 0.05, "{rounded}");
    std::fs::write(at.join("texts.csv"), "text\nwords and words\n").expect("written");
    let texts = [
        "eval",
        "--model",
        "base",
        "--data",
        "texts.csv",
        "--generate",
        "5",
    ];
    refused(at, &texts, &["no row has prompt and completion"]);
}

#[test]
fn a_conversation_begins_anew_and_needs_a_template() {
    let folder = folder();
    let at = folder.path();
    refused(
        at,
        &["chat", "--model", "base"],
        &["no chat template", "conclave generate"],
    );
    let settings = r#"{"chat_template":
        "{% for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}assistant: "}"#;
    std::fs::write(at.join("base/tokenizer_config.json"), settings).expect("written");
    let mut child = command(
        at,
        &[
            "chat",
            "--model",
            "base",
            "--max-tokens",
            "12",
            "--temperature",
            "1",
        ],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .expect("the binary starts");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(
        &mut input,
        b"hello\nand now?\n/reset\n\nhello\nand now?\n/quit\nnever read\n",
    )
    .expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let (first, second) = output.stdout.split_at(output.stdout.len() / 2);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        first.len() > 4 && first == second,
        "the same seed, the same answers: {said:?}"
    );
}
