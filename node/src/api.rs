//! The local API: `GET /v1/status`, `/v1/peers` and `/v1/rounds` on loopback, its port in `api.json` of the data
//! folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fs, io};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::local::{FILE, PEERS, ROUNDS, STATUS};

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// How the node is.
    Status,
    /// Whom it knows.
    Peers,
    /// What was decided.
    Rounds,
}

/// A question to the driver.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub question: Question,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Value>,
}

/// `api.json`: where the node answers, or that it is about to. Dropping it removes the file.
#[derive(Debug)]
pub struct Door(PathBuf);

/// The served API.
#[derive(Debug)]
pub struct Api {
    _door: Door,
    task: tokio::task::JoinHandle<()>,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The port cannot be had.
    #[error(
        "cannot serve the local API on 127.0.0.1:{port}: {detail}; choose another port with --api, or 0 for any"
    )]
    Bind {
        /// The port asked for.
        port: u16,
        /// The system's words.
        detail: io::Error,
    },
    /// The port could not be written down.
    #[error("cannot write {path}: {detail}")]
    File {
        /// Where.
        path: PathBuf,
        /// The system's words.
        detail: io::Error,
    },
}

impl Door {
    /// Says that the node in `dir` is starting.
    pub fn announce(dir: &Path) -> Result<Self, ApiError> {
        let door = Self(dir.join(FILE));
        door.write(None)?;
        Ok(door)
    }

    fn write(&self, port: Option<u16>) -> Result<(), ApiError> {
        let fresh = self.0.with_extension("json.new");
        let text = json!({"port": port, "pid": std::process::id()}).to_string();
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &self.0))
            .map_err(|detail| ApiError::File {
                path: self.0.clone(),
                detail,
            })
    }
}

/// Serves the API behind this door; `port` 0 takes any free one.
pub async fn start(door: Door, port: u16) -> Result<(Api, mpsc::Receiver<Ask>), ApiError> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .await
        .map_err(|detail| ApiError::Bind { port, detail })?;
    let port = listener
        .local_addr()
        .map_err(|detail| ApiError::Bind { port, detail })?
        .port();
    let (asks, receiver) = mpsc::channel(16);
    let router = Router::new()
        .route(STATUS, get(|asks| answer(asks, Question::Status)))
        .route(PEERS, get(|asks| answer(asks, Question::Peers)))
        .route(ROUNDS, get(|asks| answer(asks, Question::Rounds)))
        .with_state(asks);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(%error, "the local API stopped");
        }
    });
    door.write(Some(port))?;
    Ok((Api { _door: door, task }, receiver))
}

async fn answer(
    State(asks): State<mpsc::Sender<Ask>>,
    question: Question,
) -> Result<Json<Value>, StatusCode> {
    let (reply, answer) = oneshot::channel();
    asks.send(Ask { question, reply })
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer
        .await
        .map(Json)
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // The next start writes it anew; a leftover only names a port that nobody serves.
        let _ignored = fs::remove_file(&self.0);
    }
}
