//! The envelopes of one session: one a slot, in the bytes that were signed.

mod names;

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::digest::Digest;

use crate::envelope::Kind;
use crate::letter::Letter;
use crate::limits;
use crate::message::{Ack, Seal, Want};
use crate::names::MemberId;
use crate::places::Places;
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::time::Time;

use self::names::{Name, Names, name};

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
    /// Since when.
    since: Time,
}

/// How an envelope relates to what its slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing is held, or less.
    New,
    /// The same.
    Known,
    /// Something newer is held, of a kind that counts up.
    Older,
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
    /// R12. Older acknowledgements of those whose newest do not say all that they said: others may lack them.
    aside: BTreeMap<MemberId, Vec<Held>>,
    /// R12. Places whose acknowledgements are asked for, newer than those held or not.
    pub(crate) doubted: Places,
    /// The names of what is said once, but of seals; of these by their holders.
    names: Names,
    seals: BTreeMap<MemberId, Names>,
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
                Place::Older
            }
        } else if self.cited.contains(digest) {
            Place::Cited
        } else {
            Place::Clash
        }
    }

    /// Puts an envelope into its slot.
    pub(crate) fn put(&mut self, slot: Slot, seq: u64, bytes: Letter, since: Time) {
        let digest = bytes.digest();
        let held = Held {
            digest,
            seq,
            bytes,
            since,
        };
        if slot.kind == Kind::Ack {
            self.put_ack(slot, held);
            return;
        }
        let before = self.slots.insert(slot, held);
        if slot.kind.is_monotone() {
            return;
        }
        let names = if slot.kind == Kind::Seal {
            self.seals.entry(slot.holder).or_default()
        } else {
            &mut self.names
        };
        if let Some(before) = before {
            names.remove(&before.digest);
        }
        names.add(&digest);
    }

    /// R12. The newest acknowledgements take the slot; older ones stay beside them as far as they say something else.
    fn put_ack(&mut self, slot: Slot, held: Held) {
        let (newest, older) = match self.slots.remove(&slot) {
            Some(other) if other.seq > held.seq => (other, Some(held)),
            other => (held, other),
        };
        let mut old = self.aside.remove(&slot.sender).unwrap_or_default();
        old.extend(older);
        let said = newest.bytes.body::<Ack>().unwrap_or_default();
        self.slots.insert(slot, newest);
        let repeats = |old: &Held| {
            old.bytes
                .body::<Ack>()
                .is_ok_and(|old| old.is_within(&said))
        };
        if old.iter().all(repeats) {
            return;
        }
        // Each that stays adds something: so they are no more than there are dealers.
        let mut all: BTreeSet<_> = said.dealings.iter().copied().collect();
        old.retain(|old| {
            let said = old.bytes.body::<Ack>().unwrap_or_default();
            let before = all.len();
            all.extend(&said.dealings);
            all.len() > before
        });
        self.aside.insert(slot.sender, old);
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
            self.names.add(&digest);
        }
    }

    /// Consensus messages of a member that are kept.
    pub(crate) fn talk_of(&self, member: MemberId) -> impl Iterator<Item = &Letter> {
        let own = self
            .talk
            .values()
            .filter(move |(sender, _)| *sender == member);
        own.map(|(_, bytes)| bytes)
    }

    /// Consensus messages that are kept.
    pub(crate) fn talk(&self) -> impl Iterator<Item = &Letter> {
        self.talk.values().map(|(_, bytes)| bytes)
    }

    /// The names of all that is held of kinds that are said once, ascending; of seals only those that this holder can
    /// open.
    pub(crate) fn names(&mut self, holder: Option<MemberId>) -> Vec<Name> {
        let mut names = self.names.ascending().to_vec();
        if let Some(seals) = holder.and_then(|holder| self.seals.get_mut(&holder)) {
            names.extend_from_slice(seals.ascending());
            names::sort(&mut names);
        }
        names
    }

    /// Of each kind that counts up, the sequence numbers held, by the members' places.
    pub(crate) fn newest(&self, roster: &Roster) -> Vec<(Kind, Vec<u32>)> {
        let of = |kind: Kind| {
            let first = Slot::of(kind, MemberId(0));
            let last = Slot::of(kind, MemberId::NEWCOMER);
            let mut numbers = Vec::new();
            for (slot, held) in self.slots.range(first..=last) {
                let Some(place) = roster.place(slot.sender) else {
                    continue;
                };
                numbers.resize(place.saturating_add(1), 0);
                let doubted = kind == Kind::Ack && self.doubted.contains(place);
                if let Some(number) = numbers.get_mut(place).filter(|_| !doubted) {
                    *number = short(held.seq);
                }
            }
            (kind, numbers)
        };
        let all = Kind::MONOTONE.map(of).into_iter();
        all.filter(|(_, numbers)| !numbers.is_empty()).collect()
    }

    /// R50. Everything held that the asker lacks; of seals only those that it can open, of what counts up only what is
    /// newer than what it holds, and came by that moment; no acknowledgements once all is dealt.
    pub(crate) fn lacking<'a>(
        &'a mut self,
        roster: &'a Roster,
        want: &'a Want,
        asker: MemberId,
        by: Time,
        dealt: bool,
    ) -> impl Iterator<Item = &'a Letter> {
        let seals = self.seals.get_mut(&asker);
        let all = seals.is_none_or(|seals| seals.are_among(&want.held))
            && self.names.are_among(&want.held);
        // Mostly it has all that is said once: then only what counts up is gone through.
        let kinds = if all {
            Kind::MONOTONE.map(|kind| (kind, kind)).to_vec()
        } else {
            vec![(Kind::KeyAd, Kind::Tags)]
        };
        let lacks = move |digest: &Digest| want.held.binary_search(&name(digest)).is_err();
        let wanted = move |slot: &Slot, held: &Held| {
            if !slot.kind.is_monotone() {
                let theirs = slot.kind != Kind::Seal || slot.holder == asker;
                return theirs && lacks(&held.digest);
            }
            if held.since > by || dealt && slot.kind == Kind::Ack {
                return false;
            }
            let numbers = want.newest.iter().find(|(of, _)| *of == slot.kind);
            let known = numbers.zip(roster.place(slot.sender));
            let known = known.and_then(|((_, numbers), place)| numbers.get(place));
            short(held.seq) > known.copied().unwrap_or(0)
        };
        let aside = self.aside.iter().flat_map(|(sender, all)| {
            let slot = Slot::of(Kind::Ack, *sender);
            all.iter().map(move |held| (slot, held))
        });
        let slots = kinds.into_iter().flat_map(|(first, last)| {
            let first = Slot::of(first, MemberId(0));
            let last = Slot {
                holder: MemberId::NEWCOMER,
                ..Slot::of(last, MemberId::NEWCOMER)
            };
            self.slots.range(first..=last)
        });
        let slots = slots.map(|(slot, held)| (*slot, held)).chain(aside);
        let slots = slots.filter(move |(slot, held)| wanted(slot, held));
        let talk = (!all).then(|| self.talk.iter()).into_iter().flatten();
        let talk = talk.filter(move |(digest, _)| lacks(digest));
        let slots = slots.map(|(_, held)| &held.bytes);
        slots.chain(talk.map(|(_, (_, bytes))| bytes))
    }
}

/// A sequence number as a Want tells it.
fn short(seq: u64) -> u32 {
    u32::try_from(seq).unwrap_or(u32::MAX)
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
    use crate::message::Acked;

    #[test]
    fn the_first_bytes_of_a_slot_win_unless_a_record_names_others() {
        let mut post = Post::default();
        let slot = Slot::of(Kind::KeyAd, MemberId(1));
        let letter = Letter::from(vec![1]);
        let (first, second) = (letter.digest(), Digest([2; 32]));
        assert_eq!(post.place(slot, &first, 0), Place::New);
        post.put(slot, 0, letter, Time(0));
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

    // R50
    #[test]
    fn what_counts_up_is_handed_on_where_it_is_newer() {
        let key = conclave_crypto::sign::IdentityKey::from_bytes(&[1; 32]).public();
        let roster = Roster::new([2, 5, 9].map(|id| (MemberId(id), key)).to_vec());
        let (mut one, mut other) = (Post::default(), Post::default());
        let letter = |byte| Letter::from(vec![byte; 3]);
        let put = |post: &mut Post, kind, sender, seq: u64| {
            let byte = u8::try_from(seq).expect("small");
            let slot = Slot::of(kind, MemberId(sender));
            post.put(slot, seq, letter(byte), Time(seq));
        };
        put(&mut one, Kind::Ack, 2, 7);
        put(&mut one, Kind::Ack, 5, 3);
        put(&mut one, Kind::Reveal, 9, 1);
        put(&mut one, Kind::KeyAd, 2, 0);
        put(&mut other, Kind::Ack, 2, 6);
        put(&mut other, Kind::Ack, 5, 4);
        let want = |post: &mut Post| Want {
            head: crate::names::Height(1),
            held: post.names(None),
            newest: post.newest(&roster),
            invite: None,
            recall: None,
        };
        assert_eq!(
            want(&mut one).newest,
            [(Kind::Ack, vec![7, 3]), (Kind::Reveal, vec![0, 0, 1])]
        );
        let lacks = |post: &mut Post, want: Want| {
            let mut handed = |by, dealt| {
                let lacking = post.lacking(&roster, &want, MemberId(2), Time(by), dealt);
                lacking.map(|letter| letter[0]).collect::<Vec<_>>()
            };
            (handed(9, false), handed(6, false), handed(9, true))
        };
        let all =
            |all: &[u8], ripe: &[u8], dealt: &[u8]| (all.to_vec(), ripe.to_vec(), dealt.to_vec());
        assert_eq!(
            lacks(&mut one, want(&mut other)),
            all(&[0, 7, 1], &[0, 1], &[0, 1])
        );
        assert_eq!(lacks(&mut other, want(&mut one)), all(&[4], &[4], &[]));
        let own = want(&mut one);
        assert_eq!(lacks(&mut one, own), all(&[], &[], &[]));
    }

    // R12, R50
    #[test]
    fn acknowledgements_stay_as_long_as_they_say_something_else() {
        let key = conclave_crypto::sign::IdentityKey::from_bytes(&[1; 32]);
        let roster = Roster::new([2, 5].map(|id| (MemberId(id), key.public())).to_vec());
        let letter = |seq: u64, dealers: &[u32]| {
            let [key_ad, deal] = [Digest([1; 32]), Digest([2; 32])];
            let acked = |dealer: &u32| Acked::of(MemberId(*dealer), &key_ad, &deal);
            let dealings = dealers.iter().map(acked).collect();
            let body = crate::message::encode(&Ack { dealings });
            let sess = crate::names::SessId(Digest([3; 32]));
            Letter::sign(&key, Kind::Ack, sess, MemberId(5), seq, body)
        };
        let mut post = Post::default();
        let slot = Slot::of(Kind::Ack, MemberId(5));
        let handed = |post: &mut Post, known: u32| {
            let want = Want {
                head: crate::names::Height(1),
                held: Vec::new(),
                newest: vec![(Kind::Ack, vec![0, known])],
                invite: None,
                recall: None,
            };
            let lacking = post.lacking(&roster, &want, MemberId(2), Time(9), false);
            let seq = |letter: &Letter| letter.envelope().map(|own| own.seq);
            lacking
                .map(|letter| seq(letter).expect("sound"))
                .collect::<Vec<_>>()
        };
        let steps: [(u64, &[u32], &[u64]); 6] = [
            (3, &[1], &[3]),
            (4, &[1, 2], &[4]),
            (5, &[3], &[5, 4]),
            (2, &[4], &[5, 4, 2]),
            (6, &[2], &[6, 4, 2, 5]),
            (7, &[1, 2, 3, 4], &[7]),
        ];
        for (seq, dealers, all) in steps {
            post.put(slot, seq, letter(seq, dealers), Time(0));
            assert_eq!(handed(&mut post, 0), all, "after {seq}");
        }
        assert_eq!(post.newest(&roster), [(Kind::Ack, vec![0, 7])]);
        post.doubted.insert(1);
        assert_eq!(post.newest(&roster), [(Kind::Ack, vec![0, 0])]);
    }

    #[test]
    fn a_higher_sequence_number_replaces_a_lower_one() {
        let mut post = Post::default();
        let slot = Slot::of(Kind::Ack, MemberId(1));
        post.put(slot, 4, Letter::from(Vec::new()), Time(0));
        assert_eq!(post.place(slot, &Digest([2; 32]), 5), Place::New);
        assert_eq!(post.place(slot, &Digest([2; 32]), 3), Place::Older);
    }
}
