//! The envelopes of one session: one a slot, in the bytes that were signed.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::digest::Digest;

use crate::envelope::Kind;
use crate::letter::Letter;
use crate::limits;
use crate::message::Seal;
use crate::names::MemberId;
use crate::refusal::Refusal;

/// Where an envelope belongs: one for each kind and sender, for seals also each holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    pub(crate) sender: MemberId,
    pub(crate) holder: MemberId,
}

/// An envelope that is held.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) digest: Digest,
    pub(crate) seq: u64,
    pub(crate) bytes: Letter,
}

/// How an envelope relates to what its slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing is held, or less.
    New,
    /// The same, or more.
    Known,
    /// R6. The slot holds other bytes, but a record names these.
    Cited,
    /// R6. The slot holds other bytes.
    Clash,
}

/// All envelopes of a session.
#[derive(Debug, Default)]
pub(crate) struct Post {
    slots: BTreeMap<Slot, Held>,
    /// Consensus messages, for handing on.
    talk: BTreeMap<Digest, (MemberId, Letter)>,
    /// How many of each sender, and how many bytes.
    room: BTreeMap<MemberId, (usize, usize)>,
    /// Digests that a proposed record names.
    cited: BTreeSet<Digest>,
    /// What a decided record names: nothing else takes the slot any more.
    pinned: BTreeMap<Slot, Digest>,
}

impl Slot {
    pub(crate) const fn of(kind: Kind, sender: MemberId) -> Self {
        let holder = MemberId(0);
        Self {
            kind,
            sender,
            holder,
        }
    }
}

impl Post {
    /// How an envelope relates to what is held.
    pub(crate) fn place(&self, slot: Slot, digest: &Digest, seq: u64) -> Place {
        let pinned = self.pinned.get(&slot);
        let Some(held) = self.slots.get(&slot) else {
            let other = pinned.is_some_and(|pinned| pinned != digest);
            return if other { Place::Clash } else { Place::New };
        };
        if held.digest == *digest {
            Place::Known
        } else if let Some(pinned) = pinned {
            if pinned == digest {
                Place::Cited
            } else {
                Place::Clash
            }
        } else if slot.kind.is_monotone() {
            if seq > held.seq {
                Place::New
            } else {
                Place::Known
            }
        } else if self.cited.contains(digest) {
            Place::Cited
        } else {
            Place::Clash
        }
    }

    /// Puts an envelope into its slot.
    pub(crate) fn put(&mut self, slot: Slot, digest: Digest, seq: u64, bytes: Letter) {
        self.slots.insert(slot, Held { digest, seq, bytes });
    }

    /// The slots that hold something.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.keys()
    }

    /// What a slot holds.
    pub(crate) fn held(&self, slot: Slot) -> Option<&Held> {
        self.slots.get(&slot)
    }

    /// R6. A decided record names this envelope: it alone takes the slot from now on.
    pub(crate) fn pin(&mut self, slot: Slot, digest: Digest) {
        self.pinned.insert(slot, digest);
    }

    /// R6. A record names this envelope: it takes the slot, whatever was there before.
    pub(crate) fn cite(&mut self, digest: Digest) {
        self.cited.insert(digest);
    }

    /// Whether a consensus message is kept.
    pub(crate) fn said(&self, digest: &Digest) -> bool {
        self.talk.contains_key(digest)
    }

    /// Keeps a consensus message for handing on, as far as its sender has room.
    pub(crate) fn keep(&mut self, sender: MemberId, digest: Digest, bytes: Letter) {
        let (count, size) = self.room.entry(sender).or_default();
        let more = size.saturating_add(bytes.len());
        let room = *count < limits::TALK && more <= limits::TALK_BYTES;
        if room && !self.talk.contains_key(&digest) {
            (*count, *size) = (count.saturating_add(1), more);
            self.talk.insert(digest, (sender, bytes));
        }
    }

    /// Consensus messages that are kept.
    pub(crate) fn talk(&self) -> impl Iterator<Item = &Letter> {
        self.talk.values().map(|(_, bytes)| bytes)
    }

    /// The first eight bytes of every digest held, ascending; of seals only those that this holder can open.
    pub(crate) fn prefixes(&self, holder: Option<MemberId>) -> Vec<[u8; 8]> {
        let fit = |slot: &Slot| slot.kind != Kind::Seal || holder == Some(slot.holder);
        let slots = self.slots.iter().filter(|(slot, _)| fit(slot));
        let digests = slots.map(|(_, held)| &held.digest).chain(self.talk.keys());
        let mut prefixes: Vec<_> = digests.map(prefix).collect();
        prefixes.sort_unstable();
        prefixes
    }

    /// R50. Everything held that the asker lacks; of seals only those that it can open.
    pub(crate) fn lacking<'a>(
        &'a self,
        held: &'a [[u8; 8]],
        asker: MemberId,
    ) -> impl Iterator<Item = &'a Letter> {
        let fit = move |slot: &Slot| slot.kind != Kind::Seal || slot.holder == asker;
        let slots = self.slots.iter().filter(move |(slot, _)| fit(slot));
        let slots = slots.map(|(_, held)| (&held.digest, &held.bytes));
        let talk = self.talk.iter().map(|(digest, (_, bytes))| (digest, bytes));
        slots
            .chain(talk)
            .filter(|(digest, _)| held.binary_search(&prefix(digest)).is_err())
            .map(|(_, bytes)| bytes)
    }
}

fn prefix(digest: &Digest) -> [u8; 8] {
    *digest
        .as_bytes()
        .first_chunk()
        .expect("a digest has 32 bytes")
}

/// The slot of an envelope; slot-unique kinds carry the sequence number 0.
pub(crate) fn slot_of(letter: &Letter) -> Result<Slot, Refusal> {
    let envelope = letter.envelope().map_err(|_| Refusal::Malformed)?;
    if envelope.seq != 0 && !envelope.kind.is_monotone() {
        return Err(Refusal::Rule);
    }
    let mut slot = Slot::of(envelope.kind, envelope.sender);
    if envelope.kind == Kind::Seal {
        slot.holder = letter.body::<Seal>().map_err(|_| Refusal::Malformed)?.to;
    }
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_of_a_slot_win_unless_a_record_names_others() {
        let mut post = Post::default();
        let slot = Slot::of(Kind::KeyAd, MemberId(1));
        let (first, second) = (Digest([1; 32]), Digest([2; 32]));
        assert_eq!(post.place(slot, &first, 0), Place::New);
        post.put(slot, first, 0, Letter::from(Vec::new()));
        assert_eq!(post.place(slot, &first, 0), Place::Known);
        assert_eq!(post.place(slot, &second, 0), Place::Clash);
        post.cite(second);
        assert_eq!(post.place(slot, &second, 0), Place::Cited);
        post.pin(slot, first);
        assert_eq!(post.place(slot, &second, 0), Place::Clash);
        let empty = Slot::of(Kind::Deal, MemberId(1));
        post.pin(empty, first);
        assert_eq!(post.place(empty, &second, 0), Place::Clash);
        assert_eq!(post.place(empty, &first, 0), Place::New);
    }

    #[test]
    fn a_higher_sequence_number_replaces_a_lower_one() {
        let mut post = Post::default();
        let slot = Slot::of(Kind::Ack, MemberId(1));
        post.put(slot, Digest([1; 32]), 4, Letter::from(Vec::new()));
        assert_eq!(post.place(slot, &Digest([2; 32]), 5), Place::New);
        assert_eq!(post.place(slot, &Digest([2; 32]), 3), Place::Known);
    }
}
