//! Newcomers: whoever shows a good invitation may talk to this node, and its Join is handed on to everybody.

use std::collections::BTreeMap;

use conclave_crypto::sign::PublicKey;
use conclave_protocol::envelope::Kind;
use conclave_protocol::ledger::Ledger;
use conclave_protocol::letter::Letter;
use conclave_protocol::limits;
use conclave_protocol::message::{self, Invite, Want};

use crate::ticket;

/// Newcomers that were let in to talk and are no members yet.
#[derive(Debug, Default)]
pub struct Guests {
    /// By key, each with the invitation that it showed.
    let_in: BTreeMap<PublicKey, Invite>,
    /// Whether somebody found no room since the last record: said once, not at every word.
    full: bool,
}

impl Guests {
    /// Whether this letter is the first by which a peer that never was a member shows a good invitation, and there is
    /// room for it.
    pub(super) fn shows_invitation(
        &mut self,
        ledger: &Ledger,
        from: PublicKey,
        letter: &Letter,
        now_ms: u64,
    ) -> bool {
        if ledger.member(&from).is_some() || self.let_in.contains_key(&from) {
            return false;
        }
        let Some(invite) = invitation(letter) else {
            return false;
        };
        // Room first: it costs no signature.
        if !self.has_room(&invite) {
            // Who names another's invitation falsely says nothing of the room.
            if self.let_in.len() >= MOST && !self.full {
                let guests = self.let_in.len();
                tracing::warn!(newcomer = %from.short(), guests, "too many newcomers wait: no invitation is looked at");
                self.full = true;
            }
            return false;
        }
        let good = is_good(ledger, &from, &invite, now_ms);
        if good {
            self.let_in.insert(from, invite);
        }
        good
    }

    /// A record was decided: those who entered are guests no more, and those who cannot enter any more have to go.
    pub(super) fn depart(&mut self, ledger: &Ledger, now_ms: u64) -> Vec<PublicKey> {
        self.full = false;
        let mut gone = Vec::new();
        self.let_in.retain(|key, shown| {
            let entered = ledger.member(key).is_some();
            let stays = !entered && is_good(ledger, key, shown, now_ms);
            if !entered && !stays {
                gone.push(*key);
            }
            stays
        });
        gone
    }

    /// Whether one more may come, by this invitation: its holder cannot take the places of all others.
    fn has_room(&self, invite: &Invite) -> bool {
        let shown = self
            .let_in
            .values()
            .filter(|shown| shown.nonce == invite.nonce);
        let uses = usize::try_from(invite.uses).unwrap_or(usize::MAX);
        self.let_in.len() < MOST && shown.count() < uses.saturating_add(SPARE)
    }
}

/// Whether an invitation lets this key in, now and in the next height.
fn is_good(ledger: &Ledger, key: &PublicKey, invite: &Invite, now_ms: u64) -> bool {
    !ticket::has_expired(invite, now_ms) && ledger.lets_in(invite, key, ledger.next()).is_ok()
}

/// Whether this letter is a wish to enter.
pub(super) fn is_join(letter: &Letter) -> bool {
    let longest = limits::ENVELOPE_OVERHEAD + limits::body(Kind::Join);
    letter.len() <= longest
        && letter
            .envelope()
            .is_ok_and(|envelope| envelope.kind == Kind::Join)
}

/// The invitation that a newcomer's question for what it lacks carries.
fn invitation(letter: &Letter) -> Option<Invite> {
    let envelope = letter.envelope().ok()?;
    if envelope.kind != Kind::Want || envelope.body.len() > limits::body(Kind::Want) {
        return None;
    }
    message::decode::<Want>(&envelope.body).ok()?.invite
}

/// Newcomers between their first word and their admission: they cannot grow without bound.
const MOST: usize = 256;
/// Keys that may show an invitation beyond its uses: a newcomer that lost its folder comes with another key.
const SPARE: usize = 3;

#[cfg(test)]
mod tests {
    use conclave_crypto::digest::Digest;
    use conclave_crypto::sign::IdentityKey;
    use conclave_protocol::names::{Height, MemberId, SessId};

    use super::*;
    use crate::ticket::tests::charter;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn key(number: u16) -> IdentityKey {
        let mut bytes = [0xB0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        IdentityKey::from_bytes(&bytes)
    }

    fn invite(ledger: &Ledger, nonce: u16, uses: u32, expires: u64) -> Invite {
        let sponsor = IdentityKey::from_bytes(&[1; 32]);
        let charter = *ledger.charter_digest();
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&nonce.to_le_bytes());
        Invite::sign(&sponsor, charter, MemberId(0), bytes, None, uses, expires)
    }

    /// A newcomer's first question.
    fn question(newcomer: &IdentityKey, invite: Option<Invite>) -> Letter {
        let body = message::encode(&Want {
            head: Height(0),
            held: Vec::new(),
            newest: Vec::new(),
            invite,
            recall: None,
        });
        Letter::sign(
            newcomer,
            Kind::Want,
            SessId(Digest::ZERO),
            MemberId(0),
            0,
            body,
        )
    }

    #[test]
    fn the_holder_of_one_invitation_cannot_take_all_places() {
        let ledger = Ledger::new(charter(1), None);
        let mut guests = Guests::default();
        let show = |guests: &mut Guests, newcomer: u16, invite: &Invite, now| {
            let newcomer = key(newcomer);
            let letter = question(&newcomer, Some(invite.clone()));
            guests.shows_invitation(&ledger, newcomer.public(), &letter, now)
        };
        let once = invite(&ledger, 0, 1, DAY_MS);
        let let_in = (0..300).filter(|number| show(&mut guests, *number, &once, 1));
        assert_eq!(let_in.count(), 1 + SPARE);
        assert!(!show(&mut guests, 0, &once, 1), "it was let in before");
        assert_eq!(guests.depart(&ledger, 1), []);
        // Those whose invitation has expired go with the next record: as many may come as there are places.
        let gone = guests.depart(&ledger, DAY_MS + 1);
        assert_eq!(gone.len(), 1 + SPARE);
        assert!(gone.contains(&key(0).public()));
        let many = invite(&ledger, 1, 1000, 0);
        let let_in = (1000..1300).filter(|number| show(&mut guests, *number, &many, DAY_MS + 1));
        assert_eq!(let_in.count(), MOST);
        assert!(!show(&mut guests, 2000, &many, DAY_MS + 1));
    }

    #[test]
    fn without_a_good_invitation_nobody_is_let_in() {
        let ledger = Ledger::new(charter(1), None);
        let mut guests = Guests::default();
        let newcomer = key(1);
        let mut show =
            |letter: &Letter, now| guests.shows_invitation(&ledger, newcomer.public(), letter, now);
        let good = invite(&ledger, 0, 1, DAY_MS);
        let other = Ledger::new(charter(2), None);
        assert!(!show(&question(&newcomer, None), 1));
        assert!(!show(
            &question(&newcomer, Some(invite(&other, 0, 1, 0))),
            1
        ));
        assert!(!show(&question(&newcomer, Some(good.clone())), DAY_MS + 1));
        assert!(!show(&Letter::from(vec![1, 2, 3]), 1));
        let letter = question(&newcomer, Some(good));
        assert!(!is_join(&letter));
        assert!(show(&letter, 1));
        let founder = IdentityKey::from_bytes(&[1; 32]);
        assert!(!guests.shows_invitation(&ledger, founder.public(), &letter, 1));
    }
}
