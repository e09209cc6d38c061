//! One session: everything of one height, from its keys to its sum.
//!
//! Set-up (keys, shares, acknowledgements) runs while the height before trains; the record before fixes the
//! sharers; then train, submit, decide, reveal, open. Each phase stands in its own file. Every step looks at what is
//! held and does what is due: so a restart, a late message and a lost one need no cases of their own.

pub(crate) mod acks;
pub(crate) mod advertise;
pub(crate) mod claims;
pub(crate) mod counting;
pub(crate) mod deal;
pub(crate) mod decide;
pub(crate) mod fetch;
mod gather;
pub(crate) mod gathering;
pub(crate) mod keep;
pub(crate) mod look;
pub(crate) mod open;
pub(crate) mod pace;
pub(crate) mod parcels;
pub(crate) mod pieces;
pub(crate) mod pull;
pub(crate) mod ready;
pub(crate) mod reveal;
pub(crate) mod sharding;
pub(crate) mod shards;
pub(crate) mod submit;
pub(crate) mod sums;
pub(crate) mod train;
pub(crate) mod vectors;
pub(crate) mod weighed;

use std::collections::BTreeSet;

use crate::desk::Desk;
use crate::envelope::{Envelope, Kind};
use crate::letter::Letter;
use crate::message::{Malformed, Reveal};
use crate::names::{Height, MemberId, SessId};
use crate::outbox;
use crate::output::{Stored, Table};
use crate::params;
use crate::places::Places;
use crate::post::{Place, Post, Slot, slot_of};
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::time::Time;

use self::advertise::Adverts;
use self::deal::Dealings;
use self::look::Looks;
use self::open::Opening;
use self::ready::Ready;
use self::sharding::Sharding;
use self::submit::Submissions;
use self::train::Work;

/// Everything of one height.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) height: Height,
    pub(crate) sess: SessId,
    pub(crate) roster: Roster,
    /// When its set-up began to be timed; not before the founders have met.
    pub(crate) begun: Option<Time>,
    pub(crate) post: Post,
    /// Who we are, once that is known, and the kinds that the post holds of us.
    own: Option<(MemberId, BTreeSet<Kind>)>,
    pub(crate) adverts: Adverts,
    pub(crate) dealings: Dealings,
    /// What is to be trained, once the record before has fixed the sharers.
    pub(crate) work: Option<Work>,
    pub(crate) submissions: Submissions,
    /// Large vectors: their shards, and who holds and sums which.
    pub(crate) sharding: Sharding,
    /// The opening of the sum, once the height is decided.
    pub(crate) opening: Opening,
    /// Envelopes taken so far.
    pub(crate) taken: u64,
    looks: Looks,
    ready: Ready,
}

impl Session {
    /// A session of which nothing is known yet.
    pub(crate) fn new(height: Height, sess: SessId, roster: Roster, begun: Option<Time>) -> Self {
        Self {
            height,
            sess,
            roster,
            begun,
            post: Post::default(),
            own: None,
            adverts: Adverts::default(),
            dealings: Dealings::default(),
            work: None,
            submissions: Submissions::default(),
            sharding: Sharding::default(),
            opening: Opening::default(),
            taken: 0,
            looks: Looks::default(),
            ready: Ready::default(),
        }
    }

    /// Takes up what an earlier run stored: the own envelopes, those of others, and the secrets.
    pub(crate) fn restore(&mut self, desk: &mut Desk, stored: &Stored) {
        let prefix = outbox::height_key(self.height);
        for table in [Table::Outbox, Table::Inbox] {
            for (_, bytes) in outbox::under(stored, table, &prefix) {
                let letter = desk.memo.letter(bytes);
                let kept = self.keep(desk.me, &letter, Time(0));
                let known = kept.is_ok() && self.take(desk, &letter).is_ok();
                if !known {
                    desk.warn(format!(
                        "a stored envelope of height {} is damaged",
                        self.height.0
                    ));
                    // R60  What we said in this session is not known any more.
                    if table == Table::Outbox {
                        desk.damaged(self.height);
                    }
                }
            }
        }
        self.submissions.restore(stored);
        self.sharding.restore(desk.me, stored);
        self.restore_secrets(desk, stored);
    }

    /// Takes an envelope of this session from outside. `Ok(false)`: nothing new.
    pub(crate) fn receive(&mut self, desk: &mut Desk, letter: &Letter) -> Result<bool, Refusal> {
        let envelope = letter.envelope().map_err(|_| Refusal::Malformed)?;
        // R7  Only members of the height speak in its session.
        let key = *self.roster.key(envelope.sender).ok_or(Refusal::Stranger)?;
        let slot = slot_of(letter)?;
        let place = self.post.place(slot, &letter.digest(), envelope.seq);
        // R12  Older acknowledgements may say more: their sender tells some what it does not tell others.
        let more = || slot.kind == Kind::Ack && self.says_more(letter, envelope.sender);
        if place == Place::Known || place == Place::Older && !more() {
            return Ok(false);
        }
        // R8  Each envelope's signature is verified once, over the bytes received.
        letter.verify(&key).map_err(|_| Refusal::Signature)?;
        desk.heard.insert(envelope.sender, desk.now);
        // R61  What we say is stored before it is said: an own envelope from outside is one that was forgotten.
        if desk.me == Some(envelope.sender) {
            desk.forgotten(self.height);
        }
        let overtaken = matches!(place, Place::Clash | Place::Cited);
        if overtaken || envelope.kind == Kind::Reveal && self.reveals_anew(slot, letter) {
            self.accuse(desk, slot, envelope);
        }
        match place {
            Place::Clash => return Err(Refusal::Equivocation),
            Place::Cited => self.forget(slot),
            Place::New | Place::Older | Place::Known => {}
        }
        self.take(desk, letter)?;
        if Self::keeps(desk, slot) {
            let key = outbox::slot_key(self.height, envelope.kind, envelope.sender);
            desk.store(Table::Inbox, key, letter.bytes().clone());
        }
        self.keep(desk.me, letter, desk.now)?;
        Ok(true)
    }

    /// Whether a Reveal is under another record than the one of its sender that is held.
    fn reveals_anew(&self, slot: Slot, letter: &Letter) -> bool {
        let held = self.post.held(slot).map(|held| held.bytes.body::<Reveal>());
        match (held, letter.body::<Reveal>()) {
            (Some(Ok(held)), Ok(new)) => held.record != new.record,
            _ => false,
        }
    }

    /// R64. What the slot holds may contradict what came for it now.
    fn accuse(&self, desk: &mut Desk, slot: Slot, envelope: &Envelope) {
        let held = self.post.held(slot).map(|held| held.bytes.envelope());
        if let Some(Ok(held)) = held {
            desk.accuse(held, envelope);
        }
    }

    /// R5. Stores an own envelope, takes it like everybody else's, then says it.
    pub(crate) fn say(&mut self, desk: &mut Desk, letter: &Letter) {
        self.say_with(desk, letter, |_| {});
    }

    /// R5. The same, with what else must be durable between the own envelope and all that follows from it.
    pub(crate) fn say_with(
        &mut self,
        desk: &mut Desk,
        letter: &Letter,
        beside: impl FnOnce(&mut Desk),
    ) {
        let envelope = letter.envelope().expect("an own envelope is sound");
        let slot = slot_of(letter).expect("an own envelope has a slot");
        let whose = if envelope.kind == Kind::Seal {
            slot.holder
        } else {
            envelope.sender
        };
        let key = outbox::slot_key(self.height, envelope.kind, whose);
        desk.store(Table::Outbox, key, letter.bytes().clone());
        beside(desk);
        let kept = self.keep(desk.me, letter, desk.now);
        kept.expect("an own envelope has a slot");
        let taken = self.take(desk, letter);
        taken.expect("what we say ourselves keeps the rules");
        if envelope.kind == Kind::Seal {
            self.send_box(desk, slot.holder, letter);
        } else {
            desk.publish(letter.clone());
        }
    }

    /// The next sequence number of an own monotone message.
    pub(crate) fn next_seq(&self, me: MemberId, kind: Kind) -> u64 {
        self.post
            .held(Slot::of(kind, me))
            .map_or(1, |held| held.seq.saturating_add(1))
    }

    /// Whether we said this already.
    pub(crate) fn said(&self, desk: &Desk, kind: Kind) -> bool {
        match (&self.own, desk.me) {
            // It is asked at every turn.
            (Some((me, kinds)), Some(id)) if *me == id => kinds.contains(&kind),
            (_, me) => me.is_some_and(|me| self.post.held(Slot::of(kind, me)).is_some()),
        }
    }

    /// Our id, if we are a member of this height.
    pub(crate) fn me(&self, desk: &Desk) -> Option<MemberId> {
        desk.me.filter(|me| self.roster.contains(*me))
    }

    /// R60, R61. Our id, if we are a member of this height and may say something new in its session.
    pub(crate) fn speaker(&self, desk: &Desk) -> Option<MemberId> {
        self.me(desk).filter(|_| desk.memory.may_speak(self.height))
    }

    /// R75. The places of the members that are gone; nobody if those are more than f, for then it is we that are cut
    /// off.
    pub(crate) fn gone(&self, desk: &Desk) -> Places {
        let places = desk.gone.ids().filter_map(|id| self.roster.place(id));
        let gone: Places = places.collect();
        if gone.count() > params::faults(self.roster.len()) {
            return Places::default();
        }
        gone
    }

    /// The durable rows of this session: own envelopes, those of others, vectors.
    pub(crate) fn rows(&self, me: Option<MemberId>) -> Vec<(Table, Vec<u8>)> {
        let row = |slot: &Slot| {
            let own = me == Some(slot.sender);
            let whose = if own && slot.kind == Kind::Seal {
                slot.holder
            } else {
                slot.sender
            };
            let table = if own { Table::Outbox } else { Table::Inbox };
            (table, outbox::slot_key(self.height, slot.kind, whose))
        };
        let envelopes = self.post.slots().map(row);
        let roots = self.submissions.roots();
        envelopes
            .chain(roots.map(|root| (Table::Vectors, root.as_bytes().to_vec())))
            .chain(self.sharding.rows())
            .collect()
    }

    /// Sharers whose vectors do not count: their pair keys are rebuilt.
    pub(crate) fn dropouts(&self) -> Vec<MemberId> {
        let (Some(work), Some(called)) = (&self.work, &self.opening.called) else {
            return Vec::new();
        };
        work.sharers
            .keys()
            .copied()
            .filter(|id| !called.survivors.contains_key(id))
            .collect()
    }

    fn keep(&mut self, me: Option<MemberId>, letter: &Letter, since: Time) -> Result<(), Refusal> {
        let (slot, seq) = (slot_of(letter)?, letter.envelope().map_or(0, |own| own.seq));
        self.post.put(slot, seq, letter.clone(), since);
        let Some(me) = me else { return Ok(()) };
        let (_, kinds) = self.own.get_or_insert_with(|| {
            let own = self.post.slots().filter(|slot| slot.sender == me);
            (me, own.map(|slot| slot.kind).collect())
        });
        if slot.sender == me {
            kinds.insert(slot.kind);
        }
        Ok(())
    }

    /// What must outlive a crash of ours: what we acknowledge, what we vote for, what opens the sum.
    fn keeps(desk: &Desk, slot: Slot) -> bool {
        let opened_here = slot.kind == Kind::Seal && desk.me == Some(slot.holder);
        opened_here || matches!(slot.kind, Kind::KeyAd | Kind::Deal | Kind::Commit)
    }

    /// The plot of a session: each kind of envelope goes to its phase.
    fn take(&mut self, desk: &mut Desk, letter: &Letter) -> Result<(), Refusal> {
        let malformed = |_: Malformed| Refusal::Malformed;
        let envelope = letter.envelope().map_err(malformed)?;
        let (sender, digest) = (envelope.sender, letter.digest());
        self.taken = self.taken.saturating_add(1);
        match envelope.kind {
            // R10  A member advertises its session keys once.
            Kind::KeyAd => {
                let body = letter.body().map_err(malformed)?;
                self.take_advert(desk, sender, digest, *body)
            }
            // R11  A dealer binds itself to one leaf for each share.
            Kind::Deal => {
                let body = letter.body().map_err(malformed)?;
                self.take_deal(sender, digest, body)
            }
            // R11  Each holder gets its two shares in a box.
            Kind::Seal => {
                let body = letter.body().map_err(malformed)?;
                self.take_seal(desk, sender, body)
            }
            // R12  A holder acknowledges what it can open.
            Kind::Ack => {
                let body = letter.body().map_err(malformed)?;
                self.take_ack(sender, &body)
            }
            // R15  A masked vector is announced once.
            Kind::Commit => {
                let body = letter.body().map_err(malformed)?;
                self.take_commit(desk, sender, digest, &body)?;
                self.note_announced(sender);
                Ok(())
            }
            // R16  Members say which vectors they hold.
            Kind::Have => {
                let body = letter.body().map_err(malformed)?;
                self.take_have(sender, body)
            }
            // R31  Shares of the secrets that the record calls for.
            Kind::Reveal => {
                let body = letter.body().map_err(malformed)?;
                self.take_reveal(sender, digest, body)
            }
            // R74  The sums of shards are fixed before anything is revealed.
            Kind::SumCommit => {
                let body = letter.body().map_err(malformed)?;
                self.sharding.take_sums(sender, digest, &body)
            }
            // R76  Each survivor publishes the tags of its vector.
            Kind::Tags => {
                let body = letter.body().map_err(malformed)?;
                self.sharding.take_tags(sender, body)
            }
            Kind::Proposal
            | Kind::Vote
            | Kind::Liveness
            | Kind::Heartbeat
            | Kind::Join
            | Kind::Want
            | Kind::Decided
            | Kind::Leave
            | Kind::Recall => Err(Refusal::Rule),
        }
    }

    /// Counts everything that a decision may rest on: envelopes, vectors, shards, the terms, the result.
    pub(crate) fn news(&self) -> u64 {
        let settled = self.opening.result.is_some().into();
        let vectors = self.submissions.news.saturating_add(self.sharding.news);
        self.taken.saturating_add(vectors).saturating_add(settled)
    }

    /// Drops what a slot that a record overrules had brought.
    fn forget(&mut self, slot: Slot) {
        if matches!(slot.kind, Kind::KeyAd | Kind::Deal | Kind::Seal) {
            self.dealings.forget(slot.sender);
        } else if slot.kind == Kind::Commit {
            self.submissions.forget(slot.sender);
            self.sharding.forget(slot.sender);
            self.lack_again(slot.sender);
        }
    }
}
