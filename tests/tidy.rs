//! The house rules as a test: what no compiler checks and no reviewer should have to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGES: [&str; 3] = ["crypto", "protocol", "node"];
const CODE_LINES_MAX: usize = 400;
const FILE_LINES_MAX: usize = 600;
const COLUMNS_MAX: usize = 120;
const BANNED_NAMES: [&str; 9] = [
    "client",
    "participant",
    "user",
    "worker",
    "server",
    "host",
    "leader",
    "coordinator",
    "block",
];
const BANNED_SUFFIXES: [&str; 8] = [
    "Manager", "Helper", "Util", "Utils", "Handler", "Data", "Info", "Impl",
];
/// Names that a trait of a library demands.
const DEMANDED: [&str; 1] = ["ConnectionHandler"];
const UNFINISHED: [&str; 5] = [
    "TO\u{44}O",
    "FIX\u{4d}E",
    "to\u{64}o!(",
    "unimplem\u{65}nted!(",
    "#[ign\u{6f}re",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package stands in the workspace")
        .to_owned()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Every Rust source of the workspace: its path from the root, and its text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut paths = Vec::new();
    for folder in PACKAGES {
        for part in ["src", "benches", "examples"] {
            walk(&root.join(folder).join(part), &mut paths);
        }
    }
    walk(&root.join("tests"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|end| end == "rs"));
    paths.sort();
    assert!(
        paths.len() > 30,
        "found only {} sources below {}",
        paths.len(),
        root.display()
    );
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source is readable UTF-8");
            let name = path
                .strip_prefix(&root)
                .expect("below the root")
                .to_string_lossy()
                .into_owned();
            (name, text)
        })
        .collect()
}

fn is_test_file(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs")
}

/// Splits a source into the code before its `mod tests` and the tests.
fn parts<'a>(name: &str, text: &'a str) -> (&'a str, &'a str) {
    if is_test_file(name) {
        return ("", text);
    }
    text.find("#[cfg(test)]\nmod tests")
        .map_or((text, ""), |at| text.split_at(at))
}

fn report(broken: &[String]) {
    assert!(
        broken.is_empty(),
        "{} house rules broken:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

#[test]
fn sources_keep_their_shape() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        let (code, _) = parts(&name, &text);
        if !text.starts_with("//!") {
            broken.push(format!(
                "{name}:1: begin with a `//!` line that says what the file is"
            ));
        }
        if code.lines().count() > CODE_LINES_MAX || text.lines().count() > FILE_LINES_MAX {
            broken.push(format!(
                "{name}: over {CODE_LINES_MAX} lines of code or {FILE_LINES_MAX} in all: split it"
            ));
        }
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            if line.chars().count() > COLUMNS_MAX {
                broken.push(format!("{name}:{number}: over {COLUMNS_MAX} columns"));
            }
            if let Some(mark) = UNFINISHED.iter().find(|mark| line.contains(**mark)) {
                broken.push(format!(
                    "{name}:{number}: `{mark}`: finish it, or say in an issue that it is open"
                ));
            }
        }
    }
    report(&broken);
}

#[test]
fn names_follow_the_vocabulary() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let mut words = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .filter(|word| !word.is_empty());
            let Some(keyword) = words.find(|word| !["pub", "crate", "super"].contains(word)) else {
                continue;
            };
            let Some(word) = words.next() else { continue };
            let of_a_type = ["struct", "enum", "trait", "type"].contains(&keyword)
                && !DEMANDED.contains(&word)
                && BANNED_SUFFIXES.iter().any(|suffix| word.ends_with(suffix));
            let whole = ["fn", "mod", "struct", "enum", "trait"].contains(&keyword)
                && BANNED_NAMES.contains(&word.to_lowercase().as_str());
            if of_a_type || whole {
                broken.push(format!(
                    "{name}:{}: `{word}` is not in the vocabulary",
                    number + 1
                ));
            }
        }
    }
    report(&broken);
}

#[test]
fn dependencies_point_one_way() {
    let mut broken = Vec::new();
    for (package, banned) in [
        (
            "crypto",
            ["tokio", "libp2p", "candle", "conclave-protocol"].as_slice(),
        ),
        ("protocol", ["tokio", "libp2p", "candle", "redb"].as_slice()),
    ] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml"))
            .expect("the manifest is there");
        for name in banned {
            if manifest.lines().any(|line| line.starts_with(name)) {
                broken.push(format!(
                    "{package}/Cargo.toml: `{name}` has no place below the node"
                ));
            }
        }
    }
    report(&broken);
}

/// The rule numbers (`R12`) in a text.
fn rules(text: &str) -> BTreeSet<u32> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| word.strip_prefix('R')?.parse().ok())
        .collect()
}

/// The rule numbers in the comments of a text.
fn cited(text: &str) -> BTreeSet<u32> {
    text.lines()
        .filter_map(|line| line.split_once("//"))
        .flat_map(|(_, comment)| rules(comment))
        .collect()
}

#[test]
fn each_rule_is_coded_and_tested() {
    let spec =
        fs::read_to_string(root().join("protocol/SPEC.md")).expect("the specification is there");
    let stated: BTreeSet<u32> = spec
        .lines()
        .filter_map(|line| {
            line.trim_start_matches(['-', '*', ' ', '|', '#'])
                .strip_prefix('R')
        })
        .filter_map(|line| {
            line.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .collect();
    assert!(
        stated.len() > 10,
        "SPEC.md states only {} rules",
        stated.len()
    );
    let (mut coded, mut tested) = (BTreeSet::new(), BTreeSet::new());
    for (name, text) in sources() {
        if name == "tests/tidy.rs" || name.starts_with("node/src/learn") {
            continue;
        }
        let (code, tests) = parts(&name, &text);
        coded.append(&mut cited(code));
        tested.append(&mut cited(tests));
    }
    let mut broken = Vec::new();
    broken.extend(
        stated
            .difference(&coded)
            .map(|rule| format!("R{rule} of SPEC.md is cited by no code")),
    );
    broken.extend(
        stated
            .difference(&tested)
            .map(|rule| format!("R{rule} of SPEC.md is cited by no test")),
    );
    let everywhere: BTreeSet<u32> = coded.union(&tested).copied().collect();
    broken.extend(
        everywhere
            .difference(&stated)
            .map(|rule| format!("R{rule} is cited but not stated")),
    );
    report(&broken);
}

#[test]
fn the_map_names_every_module_and_decision() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map is there");
    let mut broken = Vec::new();
    for (name, _) in sources().iter().filter(|(name, _)| name.contains("/src/")) {
        let (package, inner) = name.split_once("/src/").expect("filtered");
        let module = inner.trim_end_matches(".rs");
        if !module.contains('/')
            && !["lib", "main"].contains(&module)
            && !map.contains(&format!("`{module}`"))
        {
            broken.push(format!(
                "ARCHITECTURE.md does not name `{module}` of {package}"
            ));
        }
    }
    let mut decisions = Vec::new();
    walk(&root().join("protocol/decisions"), &mut decisions);
    decisions.sort();
    for (index, path) in decisions.iter().enumerate() {
        let name = path.file_name().expect("a file").to_string_lossy();
        if !name.starts_with(&format!("{:04}-", index + 1)) {
            broken.push(format!(
                "protocol/decisions/{name}: the numbers are not contiguous at {}",
                index + 1
            ));
        }
        if !map.contains(name.as_ref()) {
            broken.push(format!(
                "ARCHITECTURE.md does not list protocol/decisions/{name}"
            ));
        }
    }
    report(&broken);
}

#[cfg(unix)]
#[test]
fn scripts_can_be_executed() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut paths = vec![root().join(".ci/run")];
    walk(&root().join("scripts"), &mut paths);
    let broken: Vec<String> = paths
        .iter()
        .filter(|path| fs::read_to_string(path).is_ok_and(|text| text.starts_with("#!")))
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o111 == 0))
        .map(|path| format!("{}: not executable", path.display()))
        .collect();
    report(&broken);
}
