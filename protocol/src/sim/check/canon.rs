//! I-CANON: what honest members say has one encoding, keeps the limits, and is taken apart and put together again.

use bincode::{Decode, Encode};

use super::Violation;
use crate::envelope::{Envelope, Kind};
use crate::limits;
use crate::message::{
    self, Ack, Commit, Deal, Decided, Have, Heartbeat, Join, KeyAd, Leave, Recall, Reveal, Seal,
    SumCommit, Tags, Want,
};
use crate::sim::World;
use crate::sim::byzantine::{Ballot, Motion};

const PROMISE: &str = "every message has one encoding";

/// Judges what [`is_canonical`] refused while the world ran.
pub fn check(world: &World) -> Result<(), Violation> {
    match world.watch().uncanonical.first() {
        None => Ok(()),
        Some((place, kind)) => {
            let what = format!("place {place} said a {} that is not canonical", kind.name());
            Err(Violation::new(PROMISE, what))
        }
    }
}

/// Whether these bytes, which an envelope was parsed from, are its encoding, and its body that of its kind.
pub fn is_canonical(envelope: &Envelope, bytes: &[u8]) -> bool {
    let body = envelope.body.as_slice();
    let whole = envelope.to_bytes() == bytes && body.len() <= limits::body(envelope.kind);
    whole
        && match envelope.kind {
            Kind::KeyAd => same::<KeyAd>(body),
            Kind::Deal => same::<Deal>(body),
            Kind::Seal => same::<Seal>(body),
            Kind::Ack => same::<Ack>(body),
            Kind::Commit => same::<Commit>(body),
            Kind::Have => same::<Have>(body),
            Kind::Proposal => same::<Motion>(body),
            Kind::Vote => same::<Ballot>(body),
            Kind::Reveal => same::<Reveal>(body),
            Kind::SumCommit => same::<SumCommit>(body),
            Kind::Tags => same::<Tags>(body),
            Kind::Join => same::<Join>(body),
            Kind::Want => same::<Want>(body),
            Kind::Decided => same::<Decided>(body),
            Kind::Heartbeat => same::<Heartbeat>(body),
            Kind::Leave => same::<Leave>(body),
            Kind::Recall => same::<Recall>(body),
            // The engine's own.
            Kind::Liveness => true,
        }
}

fn same<T: Encode + Decode<()>>(bytes: &[u8]) -> bool {
    message::decode::<T>(bytes).is_ok_and(|value| message::encode(&value) == bytes)
}
