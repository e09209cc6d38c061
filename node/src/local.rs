//! The local API of a running node, from outside: `api.json` of its data folder names the port.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::said::beginning;

/// Where a running node says how to reach it.
pub const FILE: &str = "api.json";

/// The largest answer that is read.
const ANSWER_MAX: u64 = 64 << 20;

/// Characters of a strange answer that are repeated.
const SAID: usize = 160;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Door {
    /// None before the node is ready to answer.
    port: Option<u16>,
    pid: i32,
}

/// Why a node does not answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It has never run, or left no word.
    #[error(
        "{0}: no node runs in this folder; start it with `conclave run --dir {dir}`",
        dir = .0.parent().unwrap_or_else(|| Path::new(".")).display()
    )]
    Absent(PathBuf),
    /// It has begun, and does not answer yet.
    #[error("the node of {0} is starting (it loads the model and the rows): ask again in a moment")]
    Starting(PathBuf),
    /// Nobody listens at its port.
    #[error("the node of {folder} does not answer at port {port} ({source}); it may have stopped")]
    Silent {
        /// Its data folder.
        folder: PathBuf,
        /// The port of `api.json`.
        port: u16,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something else answers there.
    #[error("port {port} gives no answer ({reason}); is {folder}/api.json left from an old run?")]
    Strange {
        /// Its data folder.
        folder: PathBuf,
        /// The port of `api.json`.
        port: u16,
        /// What is odd.
        reason: String,
    },
}

/// What a node says of itself.
pub const STATUS: &str = "/v1/status";
/// Whom it knows.
pub const PEERS: &str = "/v1/peers";
/// What was decided.
pub const ROUNDS: &str = "/v1/rounds";

/// `GET /v1/status` of the node of a data folder.
pub fn status<T: DeserializeOwned>(folder: &Path) -> Result<T, LocalError> {
    ask(folder, STATUS)
}

/// `GET` of a path of the local API of the node of a data folder.
pub fn ask<T: DeserializeOwned>(folder: &Path, what: &str) -> Result<T, LocalError> {
    let path = folder.join(FILE);
    let door: Door = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| LocalError::Absent(path.clone()))?;
    // What a dead node left: its port may be another program's by now.
    if !lives(door.pid) {
        return Err(LocalError::Absent(path));
    }
    let Some(port) = door.port else {
        return Err(LocalError::Starting(folder.to_owned()));
    };
    let answer = get(port, what).map_err(|source| LocalError::Silent {
        folder: folder.to_owned(),
        port,
        source,
    })?;
    body(&answer).map_err(|reason| LocalError::Strange {
        folder: folder.to_owned(),
        port,
        reason,
    })
}

/// What an answer says, its head taken off; or what is odd about it.
pub fn body<T: DeserializeOwned>(answer: &[u8]) -> Result<T, String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP")?;
    let first = head.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) != Some("200") {
        return Err(beginning(first, SAID));
    }
    serde_json::from_str(body).map_err(|error| beginning(&error.to_string(), SAID))
}

/// Whether a process of this number is there; one of another user is.
fn lives(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else {
        return false;
    };
    let asked = rustix::process::test_kill_process(pid);
    asked.is_ok() || asked == Err(rustix::io::Errno::PERM)
}

/// The whole answer, its head included. HTTP/1.0: one answer, not chunked, and the connection ends with it.
fn get(port: u16, what: &str) -> std::io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece: written as it is formatted, each part of it would travel by itself.
    let request = format!("GET {what} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A folder whose node answers once with `answer`.
    fn node(answer: &'static str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::fs::write(
            folder.path().join(FILE),
            format!("{{\"port\":{port},\"pid\":1}}"),
        )
        .unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut part) = (Vec::new(), [0; 512]);
            while !request.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut part).unwrap();
                assert!(read > 0, "the request ends with an empty line");
                request.extend_from_slice(&part[..read]);
            }
            assert!(request.starts_with(b"GET /v1/status HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        folder
    }

    #[test]
    fn an_answer_is_read_and_a_strange_one_named() {
        let long = format!("HTTP/1.0 200 OK\r\n\r\n\"{}\\u0007\"", "x".repeat(9999));
        let said = body::<Door>(long.as_bytes()).err().unwrap();
        assert!(
            said.len() == SAID && said.starts_with("invalid type"),
            "{said}"
        );
        let folder = node("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"round\":3}");
        let value: serde_json::Value = status(folder.path()).unwrap();
        assert_eq!(value["round"], 3);
        for answer in [
            "HTTP/1.0 404 Not Found\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n<p>",
            "SSH-2.0",
        ] {
            let error = status::<serde_json::Value>(node(answer).path()).unwrap_err();
            assert!(matches!(error, LocalError::Strange { .. }), "{error}");
        }
    }

    #[test]
    fn a_node_that_does_not_run_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = status::<serde_json::Value>(folder.path()).unwrap_err();
        assert!(error.to_string().contains("conclave run --dir"), "{error}");
        let said_at = |port: &str, pid: u32| {
            let door = format!("{{\"port\":{port},\"pid\":{pid}}}");
            std::fs::write(folder.path().join(FILE), door).unwrap();
            status::<serde_json::Value>(folder.path()).unwrap_err()
        };
        let said = |pid: u32| said_at("null", pid);
        assert!(matches!(said(std::process::id()), LocalError::Starting(_)));
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        assert!(matches!(said(gone.id()), LocalError::Absent(_)));
        // Another program may have its port by now.
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = other.local_addr().unwrap().port().to_string();
        assert!(matches!(said_at(&port, gone.id()), LocalError::Absent(_)));
    }
}
