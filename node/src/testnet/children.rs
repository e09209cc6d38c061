//! The processes of a testnet. None outlives its supervisor.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::config;

/// A process of ours: dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command of ours that ends when this process ends. Its stderr goes to `log`, its stdout to `out`, or
    /// nowhere. It has a process group of its own: Ctrl-C on a terminal reaches the supervisor alone.
    pub fn start(
        program: &Path,
        arguments: &[&std::ffi::OsStr],
        log: &Path,
        out: Option<&Path>,
    ) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        for variable in config::variables() {
            command.env_remove(variable);
        }
        if std::env::var_os("CONCLAVE_LOG").is_none() {
            command.env("CONCLAVE_LOG", "info");
        }
        let child = command
            .arg("--child-of")
            .arg(std::process::id().to_string())
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(match out {
                Some(path) => Stdio::from(File::create(path)?),
                None => Stdio::null(),
            })
            .stderr(File::options().create(true).append(true).open(log)?)
            .spawn()?;
        Ok(Self {
            child,
            log: log.to_owned(),
            ended: None,
        })
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _dead_already = self.child.kill();
        self.ended = self.child.wait().ok();
    }

    /// The last words of a process: its `error: …` line, or else its last line.
    pub fn last_words(&self) -> String {
        let text = tail(&self.log).unwrap_or_default();
        let lines = || text.lines().filter(|line| !line.trim().is_empty());
        let error = lines().rfind(|line| line.starts_with("error: "));
        let last = error.or_else(|| lines().next_back());
        last.unwrap_or("it said nothing")
            .trim_start_matches("error: ")
            .to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

/// Binds the life of this process to that of its parent, which must be `parent`.
pub fn stay_with(parent: i32) -> Result<(), String> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| format!("this process cannot be bound to its parent: {error}"))?;
    let found = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if found == Some(parent) {
        Ok(())
    } else {
        Err(format!("the parent process {parent} is gone"))
    }
}

/// The last 8 KiB of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_dies_with_its_handle_and_leaves_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = folder.path().join("script");
        std::fs::write(
            &script,
            "echo 'error: no data' >&2; echo later >&2; exec sleep 600",
        )
        .unwrap();
        let mut process = Process {
            child: Command::new("sh")
                .arg(&script)
                .stderr(File::create(&log).unwrap())
                .spawn()
                .unwrap(),
            log: log.clone(),
            ended: None,
        };
        let pid = process.child.id();
        while !std::fs::read_to_string(&log).unwrap().contains("later") {
            assert!(process.ended().is_none());
            std::thread::yield_now();
        }
        assert_eq!(process.last_words(), "no data");
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
