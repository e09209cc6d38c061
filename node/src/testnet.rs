//! A testnet: a supervisor of real node processes on this machine.
//!
//! It writes folders, starts `conclave run` for each node, gives them a bootstrap address, then reads each node's
//! local API and folder. It carries no protocol message, and the nodes do not know that it exists.

pub mod account;
pub mod children;
pub mod folders;
pub mod joins;
pub mod kills;
mod named;
pub mod plan;
pub mod poll;
pub mod progress;
pub mod solo;
pub mod view;
pub mod watch;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use conclave_protocol::charter::CharterError;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli;
use crate::keys::KeyError;
use crate::learn::data::DataError;
use crate::learn::model::ModelError;
use crate::learn::peft::Unfit;
use crate::report::RunReport;
use crate::scenario::base::UnpackError;
use crate::ticket::{AcceptError, IssueError};
use folders::Folders;
use plan::Plan;
use solo::Solos;
use watch::{Seen, Watch};

/// How often another port is tried for the first node when somebody else took it meanwhile.
const PORTS: usize = 3;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TestnetError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The embedded model.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] Unfit),
    /// An identity.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The charter.
    #[error("the testnet's charter: {0}")]
    Charter(#[from] CharterError),
    /// A newcomer's ticket.
    #[error("no ticket can be made for a newcomer: {0}")]
    Ticket(#[from] IssueError),
    /// A newcomer's folder.
    #[error("a newcomer cannot enter: {0}")]
    Join(#[from] AcceptError),
    /// The file system or the process table.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A node ended before the federation did.
    #[error("node-{node} ended early: {words}; its log is {log}")]
    Died {
        /// From 1.
        node: usize,
        /// What it said last.
        words: String,
        /// Where the rest stands.
        log: PathBuf,
    },
    /// A solo training failed.
    #[error("training alone on the rows of node-{node} failed: {words}; see {log}")]
    Solo {
        /// From 1.
        node: usize,
        /// What it said last.
        words: String,
        /// Where the rest stands.
        log: PathBuf,
    },
    /// Nothing moves.
    #[error("nothing moved for {seconds} seconds: {reasons}; the folders are kept in {dir}")]
    Stuck {
        /// How long.
        seconds: u64,
        /// What the nodes wait for.
        reasons: String,
        /// Where everything is.
        dir: PathBuf,
    },
    /// The operator.
    #[error("interrupted: all nodes were stopped; the folders are kept in {0}")]
    Interrupted(PathBuf),
}

impl TestnetError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the first node lost its port to somebody else before it could listen.
    fn is_port_taken(&self) -> bool {
        matches!(self, Self::Died { node: 1, words, .. } if words.contains("in use"))
    }
}

/// Runs a testnet from nothing to its report; gives the folder that holds everything.
pub fn run(plan: &Plan) -> Result<(RunReport, PathBuf), TestnetError> {
    let started = Instant::now();
    let folders = folders::prepare(plan)?;
    cli::note(&format!(
        "{}; {} ({} parameters); folders in {}",
        folders.about,
        folders.model.name,
        folders.model.parameters,
        folders.dir.display()
    ));
    let interrupted = listen_for_signals();
    let mut solos = Solos::new(plan, &folders)?;
    let seen = federate(plan, &folders, &mut solos, &interrupted)?;
    let seconds = started.elapsed().as_secs_f64();
    let report = account::account(plan, &folders, &seen, &solos.done, seconds);
    for (name, text) in [
        ("report.json", format!("{:#}\n", report.full())),
        ("report.html", report.html()),
    ] {
        let path = folders.dir.join(name);
        std::fs::write(&path, text).map_err(|error| TestnetError::io(&path, error))?;
    }
    Ok((report, folders.dir))
}

/// Starts the nodes and watches them; a port that somebody took meanwhile is replaced.
fn federate(
    plan: &Plan,
    folders: &Folders,
    solos: &mut Solos,
    interrupted: &Arc<AtomicBool>,
) -> Result<Seen, TestnetError> {
    let mut tries = 0;
    loop {
        tries += 1;
        folders.write_configs(plan, free_port()?)?;
        match Watch::start(plan, folders)?.until_over(solos, interrupted) {
            Err(error) if error.is_port_taken() && tries < PORTS => {}
            other => return other,
        }
    }
}

/// A port of this machine that nobody listens at just now.
fn free_port() -> Result<u16, TestnetError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| TestnetError::io(Path::new("127.0.0.1"), error))
}

/// Becomes true on SIGINT or SIGTERM.
pub(crate) fn listen_for_signals() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        else {
            return;
        };
        runtime.block_on(async {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else {
                return;
            };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
        });
    });
    interrupted
}
