//! A node as its user runs it: a data folder, a process, the local API.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
const CONCLAVE: &str = env!("CARGO_BIN_EXE_conclave");
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// A node's data folder, and its process while it runs.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    process: Option<Child>,
}

/// Runs a command to its end.
pub(crate) fn conclave(arguments: &[&str]) -> Output {
    let mut command = Command::new(CONCLAVE);
    clean(&mut command)
        .args(arguments)
        .output()
        .expect("the binary runs")
}

/// Runs a command that must succeed, and parses the one JSON object that it prints.
pub(crate) fn conclave_json(arguments: &[&str]) -> Value {
    let output = conclave(arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "conclave {arguments:?}: {told}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Waits until `look` sees what it wants, for at most `patience`.
pub(crate) fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(
            Instant::now() < end,
            "waited {patience:?} in vain for {what}"
        );
        std::thread::sleep(LOOK);
    }
}

/// The reports of nodes that end by themselves with one adapter and one ledger.
pub(crate) fn end_alike<'a>(
    nodes: impl IntoIterator<Item = &'a mut Node>,
    patience: Duration,
) -> Vec<Value> {
    let ends = nodes.into_iter().map(|node| node.end(patience));
    let reports: Vec<Value> = ends.collect();
    for report in &reports {
        assert!(report["adapter_digest"].is_string(), "{report}");
        assert_eq!(report["adapter_digest"], reports[0]["adapter_digest"]);
        assert_eq!(report["ledger_head"], reports[0]["ledger_head"]);
    }
    reports
}

/// A number in a status or report; 0 where there is none.
pub(crate) fn number(status: &Value, key: &str) -> u64 {
    status[key].as_u64().unwrap_or_default()
}

impl Node {
    /// Makes the data folder with a new identity. Answers it with its public key.
    pub(crate) fn init(dir: PathBuf) -> (Self, String) {
        let made = conclave_json(&["init", "--dir", text(&dir), "--json"]);
        let key = made["key"].as_str().expect("a key").to_owned();
        (Self { dir, process: None }, key)
    }

    /// Starts `conclave run`; what it says goes to `log` in its folder.
    pub(crate) fn start(&mut self, flags: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let mut command = Command::new(CONCLAVE);
        let child = clean(&mut command)
            .env("CONCLAVE_LOG", "conclave=debug")
            .args(["run", "--dir", text(&self.dir)])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("the binary runs"));
    }

    /// From now on nothing is written beyond so many bytes of a file, as on a disk without room.
    #[cfg(target_os = "linux")]
    #[allow(dead_code, reason = "not every suite fills a disk")]
    pub(crate) fn limit(&self, bytes: u64) {
        let process = self.process.as_ref().expect("it was started");
        let limit = rustix::process::Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        let id = rustix::process::Pid::from_child(process);
        rustix::process::prlimit(Some(id), rustix::process::Resource::Fsize, limit).unwrap();
    }

    /// How the process ended by itself, once it has.
    #[allow(dead_code, reason = "not every suite makes a node fail")]
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().unwrap()
    }

    /// What the node says of itself; none while it does not answer. Panics if it has ended.
    pub(crate) fn status(&mut self) -> Option<Value> {
        let process = self.process.as_mut().expect("it was started");
        if let Some(status) = process.try_wait().unwrap() {
            if status.success() {
                return self.last();
            }
            panic!(
                "{} ended with {status}:\n{}",
                self.dir.display(),
                self.log()
            );
        }
        conclave::local::status(&self.dir).ok()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it was started");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGTERM; answers how it ended and how long that took.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        let mut process = self.process.take().expect("it was started");
        let asked = Instant::now();
        let id = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let status = until("the node to leave", Duration::from_secs(120), || {
            process.try_wait().unwrap()
        });
        (status, asked.elapsed())
    }

    /// Whether the process has ended by itself; it must have done so without fault.
    pub(crate) fn finished(&mut self) -> Option<Value> {
        let ended = self.process.as_mut()?.try_wait().unwrap()?;
        assert!(
            ended.success(),
            "{} ended with {ended}:\n{}",
            self.dir.display(),
            self.log()
        );
        self.last()
    }

    /// Its report, once it has ended by itself without fault.
    pub(crate) fn end(&mut self, patience: Duration) -> Value {
        let what = format!("the end of {}", self.dir.display());
        until(&what, patience, || {
            self.status();
            self.finished()
        })
    }

    /// The report that it left at its end.
    pub(crate) fn last(&self) -> Option<Value> {
        let bytes = fs::read(self.dir.join("reports/final.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The end of what it said.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().ok();
            process.wait().ok();
            if std::thread::panicking() {
                eprintln!("--- {}:\n{}", self.dir.display(), self.log());
            }
        }
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain characters")
}

/// Without the settings of whoever runs the tests.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONCLAVE_") {
            command.env_remove(name);
        }
    }
    command
}
