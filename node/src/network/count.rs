//! Counting what goes over the wire: a muxer that counts the bytes of its streams.
//!
//! Counted are the bytes of all streams, negotiation included; not the framing of yamux, noise, TCP and IP (about
//! 2 % on large payloads).

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};

use super::Traffic;

/// What a network has done so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// With all peers together.
    pub(super) all: Arc<Count>,
    /// With each.
    each: Mutex<BTreeMap<PeerId, Arc<Count>>>,
}

/// Bytes of streams, both ways.
#[derive(Debug, Default)]
pub(super) struct Count {
    sent: AtomicU64,
    received: AtomicU64,
}

/// The counts of one connection: its peer's and everybody's.
#[derive(Debug, Clone)]
pub(super) struct Both([Arc<Count>; 2]);

/// A connection whose streams are counted.
pub(super) struct Counted {
    inner: StreamMuxerBox,
    counts: Both,
}

/// A stream that is counted.
pub(super) struct CountedStream {
    inner: SubstreamBox,
    counts: Both,
}

impl Counters {
    /// The counts of a connection that begins.
    pub(super) fn start(&self, peer: PeerId) -> Both {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if each.len() >= PEERS {
            // Only guests come in such numbers; who is connected keeps its count.
            each.retain(|_, count| Arc::strong_count(count) > 1);
        }
        let own = Arc::clone(each.entry(peer).or_default());
        Both([own, Arc::clone(&self.all)])
    }

    /// What was exchanged with a peer, if it was ever connected.
    pub(super) fn of(&self, peer: &PeerId) -> Option<Arc<Count>> {
        let each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        each.get(peer).cloned()
    }
}

impl Count {
    /// Both numbers.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

impl Both {
    fn sent(&self, bytes: usize) {
        self.0.iter().for_each(|count| add(&count.sent, bytes));
    }

    fn received(&self, bytes: usize) {
        self.0.iter().for_each(|count| add(&count.received, bytes));
    }
}

impl Counted {
    /// Counts the streams of `inner`.
    pub(super) fn new(inner: StreamMuxerBox, counts: Both) -> Self {
        Self { inner, counts }
    }

    fn stream(&self, inner: SubstreamBox) -> CountedStream {
        CountedStream {
            inner,
            counts: self.counts.clone(),
        }
    }
}

impl StreamMuxer for Counted {
    type Substream = CountedStream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CountedStream, io::Error>> {
        let polled = Pin::new(&mut self.inner).poll_inbound(cx);
        polled.map_ok(|stream| self.stream(stream))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<CountedStream, io::Error>> {
        let polled = Pin::new(&mut self.inner).poll_outbound(cx);
        polled.map_ok(|stream| self.stream(stream))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Ok(read)) = polled {
            self.counts.received(read);
        }
        polled
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.counts.sent(written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Peers whose counts are kept.
const PEERS: usize = 1024;
