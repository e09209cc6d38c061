//! Blobs over streams: `name ‖ offset` asks, `length ‖ bytes from the offset` answers.
//!
//! A holder that dies on the way is followed by the next one from where it stopped. The length is known beforehand
//! from a signed message; what comes goes into a file, and what goes out comes from one. Whether the bytes are the
//! right ones is the member's to check.

use std::io;
use std::time::Duration;

use conclave_crypto::digest::Digest;
use conclave_protocol::letter::Bytes;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::frame::{ASK, Ask};
use super::gate::{self, Gate};
use crate::store::{Blobs, Landing, StoreError};

/// One blob that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) name: Digest,
    pub(super) length: u64,
    /// Who may have it, the first to be asked first.
    pub(super) holders: Vec<PeerId>,
}

/// Why a holder's part of a blob ended before its end.
enum Broken {
    /// It is not reached, says nothing, or has no such blob: to ask again at once is in vain.
    Without(io::Error),
    /// The holder, or the way to it, broke off.
    Holder(io::Error),
    /// This node cannot write it down.
    Here(StoreError),
}

/// Fetches a blob, from the own tables if it stands there; none if no holder gives it whole. An error is one of the own
/// disk.
pub(super) async fn pull(
    mut control: Control,
    protocol: StreamProtocol,
    wanted: Wanted,
    home: Blobs,
) -> Result<Option<Bytes>, StoreError> {
    let (name, length) = (wanted.name, wanted.length);
    let blobs = home.clone();
    let found = tokio::task::spawn_blocking(move || blobs.read(&name)).await;
    if let Ok(Some(bytes)) = found
        && bytes.len() as u64 == length
    {
        return Ok(Some(bytes));
    }
    if wanted.holders.is_empty() {
        return Ok(None);
    }
    let mut landing = home.landing().await?;
    let mut holders = wanted.holders.clone();
    for pass in 0..PASSES {
        if pass > 0 {
            tokio::time::sleep(PAUSE * 2_u32.pow(pass - 1)).await;
        }
        let mut again = Vec::new();
        for holder in holders {
            let fetched = fetch(&mut control, &protocol, holder, &wanted, &mut landing).await;
            let error = match fetched {
                Ok(()) => return landing.done().await.map(Some),
                Err(Broken::Here(error)) => return Err(error),
                Err(Broken::Without(error)) => error,
                Err(Broken::Holder(error)) => {
                    again.push(holder);
                    error
                }
            };
            tracing::debug!(
                %holder, %error, name = %wanted.name.short(), have = landing.received(), of = wanted.length,
                "a holder did not give the whole blob"
            );
        }
        holders = again;
        if holders.is_empty() {
            break;
        }
    }
    Ok(None)
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Holder(error)
    }
}

impl From<Elapsed> for Broken {
    fn from(error: Elapsed) -> Self {
        Self::Without(error.into())
    }
}

/// Appends what one holder gives, until the blob is whole.
async fn fetch(
    control: &mut Control,
    protocol: &StreamProtocol,
    holder: PeerId,
    wanted: &Wanted,
    landing: &mut Landing,
) -> Result<(), Broken> {
    let opened = timeout(PATIENCE, control.open_stream(holder, protocol.clone())).await?;
    let unreached = |error| Broken::Without(io::Error::other(error));
    let mut stream = opened.map_err(unreached)?;
    let ask = Ask {
        name: wanted.name,
        offset: landing.received(),
    };
    stream.write_all(&ask.to_bytes()).await?;
    stream.flush().await?;
    let mut length = [0; 8];
    timeout(PATIENCE, stream.read_exact(&mut length)).await??;
    if u64::from_le_bytes(length) != wanted.length {
        let error = io::Error::other("it has no blob of this name and length");
        return Err(Broken::Without(error));
    }
    let mut chunk = Vec::new();
    while landing.received() != wanted.length {
        let missing = wanted.length - landing.received();
        let room = usize::try_from(missing).map_or(PIECE, |missing| missing.min(PIECE));
        chunk.resize(room, 0);
        let (filled, ended) = fill(&mut stream, &mut chunk).await;
        let written = landing.write(&chunk[..filled]).await;
        written.map_err(Broken::Here)?;
        ended?;
    }
    stream.close().await.ok();
    Ok(())
}

/// Reads until there is no room, or no more comes: how much came, and why no more. A stream brings a few kilobytes at a
/// time, and each write to a file is a task for another thread.
async fn fill(stream: &mut Stream, room: &mut [u8]) -> (usize, Result<(), Broken>) {
    let mut filled = 0;
    while filled < room.len() {
        match timeout(PATIENCE, stream.read(&mut room[filled..])).await {
            Ok(Ok(0)) => {
                return (
                    filled,
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                );
            }
            Ok(Ok(read)) => filled += read,
            Ok(Err(error)) => return (filled, Err(error.into())),
            // It has the blob, and may go on where it stopped.
            Err(silent) => return (filled, Err(Broken::Holder(silent.into()))),
        }
    }
    (filled, Ok(()))
}

/// Answers peers that ask for blobs, until the network ends.
pub(super) async fn serve(mut incoming: IncomingStreams, blobs: Blobs) {
    let mut gate = Gate::default();
    while let Some((peer, stream)) = incoming.next().await {
        let (blobs, queue) = (blobs.clone(), gate.queue(peer));
        tokio::spawn(async move {
            let _place = gate::enter(queue).await;
            if let Err(error) = answer(stream, blobs).await {
                tracing::debug!(%peer, %error, "a peer did not take the whole blob");
            }
        });
    }
}

async fn answer(mut stream: Stream, blobs: Blobs) -> io::Result<()> {
    let mut ask = [0; ASK];
    timeout(PATIENCE, stream.read_exact(&mut ask)).await??;
    let ask = Ask::from_bytes(&ask);
    let found = tokio::task::spawn_blocking(move || blobs.read(&ask.name))
        .await
        .map_err(io::Error::other)?;
    let Some(bytes) = found else {
        stream.write_all(&NONE.to_le_bytes()).await?;
        return stream.close().await;
    };
    stream
        .write_all(&(bytes.len() as u64).to_le_bytes())
        .await?;
    for chunk in ask.of(&bytes).chunks(CHUNK) {
        timeout(PATIENCE, stream.write_all(chunk)).await??;
    }
    timeout(PATIENCE, stream.close()).await?
}

/// Bytes sent at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes that are written to a file at a time.
const PIECE: usize = 256 * 1024;
/// How often holders that broke off are asked.
const PASSES: u32 = 4;
/// How long to wait before the second time, twice as long before each further one: of streams that come all at once a
/// holder drops some (libp2p-stream queues no more than one), and takes them a moment later.
const PAUSE: Duration = Duration::from_millis(25);
/// How long a holder or taker may be silent.
const PATIENCE: Duration = Duration::from_secs(15);
/// The length of a blob that is not there.
const NONE: u64 = u64::MAX;
