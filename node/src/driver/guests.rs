//! Newcomers: whoever shows a good invitation may talk to this node, and its Join is handed on to everybody.

use std::collections::BTreeSet;

use conclave_crypto::sign::PublicKey;
use conclave_protocol::envelope::{Envelope, Kind};
use conclave_protocol::ledger::Ledger;
use conclave_protocol::limits;
use conclave_protocol::message::{self, Invite, Want};

use crate::ticket;

/// Newcomers that were let in to talk, by key.
#[derive(Debug, Default)]
pub struct Guests(BTreeSet<PublicKey>);

impl Guests {
    /// Whether these bytes are the first by which a peer that never was a member shows a good invitation.
    pub(super) fn shows_invitation(
        &mut self,
        ledger: &Ledger,
        from: PublicKey,
        bytes: &[u8],
        now_ms: u64,
    ) -> bool {
        if ledger.member(&from).is_some() || self.0.contains(&from) || self.0.len() >= MOST {
            return false;
        }
        let good = invitation(bytes).is_some_and(|invite| {
            !ticket::has_expired(&invite, now_ms)
                && ledger.lets_in(&invite, &from, ledger.next()).is_ok()
        });
        good && self.0.insert(from)
    }
}

/// Whether these bytes are a wish to enter.
pub(super) fn is_join(bytes: &[u8]) -> bool {
    let longest = limits::ENVELOPE_OVERHEAD + limits::body(Kind::Join);
    bytes.len() <= longest
        && Envelope::from_bytes(bytes).is_ok_and(|envelope| envelope.kind == Kind::Join)
}

/// The invitation that a newcomer's question for what it lacks carries.
fn invitation(bytes: &[u8]) -> Option<Invite> {
    let envelope = Envelope::from_bytes(bytes).ok()?;
    if envelope.kind != Kind::Want || envelope.body.len() > limits::body(Kind::Want) {
        return None;
    }
    message::decode::<Want>(&envelope.body).ok()?.invite
}

/// Newcomers between their first word and their admission: they cannot grow without bound.
const MOST: usize = 256;
