//! So many streams of one peer at a time: one member cannot take the places of the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of all peers.
#[derive(Debug, Default)]
pub(super) struct Gate {
    places: BTreeMap<PeerId, Arc<Semaphore>>,
}

impl Gate {
    /// The queue for a place of this peer. (Members are few; guests that are gone are forgotten.)
    pub(super) fn queue(&mut self, peer: PeerId) -> Arc<Semaphore> {
        if self.places.len() > PEERS {
            self.places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        let places = || Arc::new(Semaphore::new(EACH));
        Arc::clone(self.places.entry(peer).or_insert_with(places))
    }
}

/// Waits for a place; it is held until the answer is dropped.
pub(super) async fn enter(queue: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    queue.acquire_owned().await.ok()
}

/// Peers remembered before those without a stream are forgotten.
const PEERS: usize = 256;
/// Streams of one peer that are read or served at a time.
const EACH: usize = 4;
