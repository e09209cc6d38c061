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
    /// Whether the last one with a good invitation found no room: said once, not at every word.
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
        let good = |key: &PublicKey, invite: &Invite| {
            !ticket::has_expired(invite, now_ms)
                && ledger.lets_in(invite, key, ledger.next()).is_ok()
        };
        let Some(invite) = invitation(letter).filter(|invite| good(&from, invite)) else {
            return false;
        };
        if !self.has_room(&invite) {
            // Those who entered, and those who cannot any more, need none.
            self.let_in
                .retain(|key, shown| ledger.member(key).is_none() && good(key, shown));
        }
        let room = self.has_room(&invite);
        if room {
            self.let_in.insert(from, invite);
        } else if !self.full {
            tracing::warn!(
                newcomer = %from.short(), sponsor = invite.sponsor.0, guests = self.let_in.len(),
                "a good invitation is not heard: too many newcomers wait, or too many keys have shown this one"
            );
        }
        self.full = !room;
        room
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
            invite,
            recall: false,
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
        let mut show = |newcomer: u16, invite: &Invite, now| {
            let newcomer = key(newcomer);
            let letter = question(&newcomer, Some(invite.clone()));
            guests.shows_invitation(&ledger, newcomer.public(), &letter, now)
        };
        let once = invite(&ledger, 0, 1, DAY_MS);
        let let_in = (0..300).filter(|number| show(*number, &once, 1)).count();
        assert_eq!(let_in, 1 + SPARE);
        assert!(!show(0, &once, 1), "it was let in before");
        // The places of those whose invitation has expired are free again, for as many as there are places.
        let many = invite(&ledger, 1, 1000, 0);
        let let_in = (1000..1300)
            .filter(|number| show(*number, &many, DAY_MS + 1))
            .count();
        assert_eq!(let_in, MOST);
        assert!(!show(2000, &many, DAY_MS + 1));
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
