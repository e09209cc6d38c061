//! Directed messages: one stream a direction and peer, frames of a length and an envelope, in order.
//!
//! A stream that breaks loses what was on its way: the protocol asks again when the peer is back.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use conclave_protocol::letter::Letter;
use conclave_protocol::refusal::Refusal;
use futures::{AsyncRead, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::NetworkEvent;
use super::frame::{self, FrameError};
use super::gate::{self, Gate};
use super::names::member_of;

/// The outgoing queues, one a connected peer that was spoken to.
pub(super) struct Direct {
    control: Control,
    protocol: StreamProtocol,
    queues: BTreeMap<PeerId, mpsc::Sender<Unsent>>,
    /// Held by every envelope until it is written.
    unsent: Arc<()>,
}

/// An envelope that is not written yet, and what it holds meanwhile.
type Unsent = (Letter, Arc<()>);

impl Direct {
    pub(super) fn new(control: Control, protocol: StreamProtocol) -> Self {
        Self {
            control,
            protocol,
            queues: BTreeMap::new(),
            unsent: Arc::new(()),
        }
    }

    /// Queues an envelope; false if it is lost because the queue is full.
    pub(super) fn send(&mut self, to: PeerId, letter: Letter) -> bool {
        let queue = match self.queues.get(&to) {
            Some(queue) if !queue.is_closed() => queue.clone(),
            _ => self.open(to),
        };
        queue.try_send((letter, self.unsent.clone())).is_ok()
    }

    /// Whether nothing waits to be written.
    pub(super) fn idle(&self) -> bool {
        Arc::strong_count(&self.unsent) == 1
    }

    /// Forgets the queue of a peer that is gone.
    pub(super) fn close(&mut self, peer: &PeerId) {
        self.queues.remove(peer);
    }

    fn open(&mut self, to: PeerId) -> mpsc::Sender<Unsent> {
        let (queue, envelopes) = mpsc::channel(QUEUE);
        let (control, protocol) = (self.control.clone(), self.protocol.clone());
        tokio::spawn(async move {
            if let Err(error) = write(control, protocol, to, envelopes).await {
                tracing::debug!(%to, %error, "a directed stream broke");
            }
        });
        self.queues.insert(to, queue.clone());
        queue
    }
}

/// Takes streams of peers and hands their envelopes on, until the network ends.
pub(super) async fn listen(
    mut incoming: IncomingStreams,
    envelope_max: usize,
    heard: mpsc::Sender<NetworkEvent>,
) {
    let mut gate = Gate::default();
    while let Some((peer, stream)) = incoming.next().await {
        let (heard, queue) = (heard.clone(), gate.queue(peer));
        tokio::spawn(async move {
            let _place = gate::enter(queue).await;
            if let Err(error) = read(peer, stream, envelope_max, &heard).await {
                tracing::debug!(%peer, %error, "a directed stream broke");
            }
        });
    }
}

async fn write(
    mut control: Control,
    protocol: StreamProtocol,
    to: PeerId,
    mut envelopes: mpsc::Receiver<Unsent>,
) -> io::Result<()> {
    let opened = timeout(PATIENCE, control.open_stream(to, protocol)).await?;
    let mut stream = opened.map_err(io::Error::other)?;
    while let Some((letter, _unsent)) = envelopes.recv().await {
        let written = async {
            frame::write(&mut stream, &letter).await?;
            if envelopes.is_empty() {
                stream.flush().await?;
            }
            Ok::<_, io::Error>(())
        };
        timeout(PATIENCE, written).await??;
    }
    stream.close().await
}

async fn read(
    peer: PeerId,
    mut stream: impl AsyncRead + Unpin,
    envelope_max: usize,
    heard: &mpsc::Sender<NetworkEvent>,
) -> io::Result<()> {
    let from = member_of(&peer).ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        let length = match frame::length(&mut stream, envelope_max).await {
            Ok(length) => length,
            Err(FrameError::Io(error)) => return Err(error),
            Err(oversized @ FrameError::Oversized) => {
                let refusal = Refusal::Oversized;
                heard
                    .send(NetworkEvent::Offence { from, refusal })
                    .await
                    .ok();
                return Err(io::Error::other(oversized));
            }
        };
        let bytes = timeout(PATIENCE, frame::envelope(&mut stream, length)).await??;
        if heard
            .send(NetworkEvent::Received {
                from,
                bytes,
                gossip: None,
            })
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}

/// Envelopes that may wait for one peer.
const QUEUE: usize = 2048;
/// How long one frame may take before the stream counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
