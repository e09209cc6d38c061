//! Anti-entropy: gossip is best effort, so members ask each other for what they lack. R50, R51

use core::ops::Bound::{Excluded, Unbounded};

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use crate::desk::Desk;
use crate::envelope::{Envelope, Kind};
use crate::letter::Letter;
use crate::limits;
use crate::member::{Member, Pulse, advance};
use crate::memo::Function;
use crate::message::{self, Decided, Want};
use crate::names::{Height, MemberId, SessId};
use crate::record::Entry;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::time::{Span, Time};

/// The least time between two answers, and two questions out of turn, to one peer.
const PAUSE: Span = Span(200);

/// R50. How long Acks, Haves and Reveals are held before they are handed on.
const RIPE: Span = Span(500);

impl Member {
    /// R50. Asks for everything of the open sessions that we lack, and for records after our head: of each session the
    /// peer whose turn it is, if it is anybody's.
    fn ask_each(&mut self, mut turn: impl FnMut(&mut Session) -> Option<PublicKey>) {
        let sender = self.desk.me.unwrap_or(MemberId::NEWCOMER);
        let invite = if self.desk.me.is_some() {
            None
        } else {
            self.invite.clone()
        };
        for session in self.sessions.values_mut() {
            let closed = session.height < self.ledger.next()
                && (session.opening.called.is_none() || session.opening.result.is_some());
            if closed {
                continue;
            }
            let Some(peer) = turn(session) else { continue };
            let want = Want {
                head: self.ledger.head(),
                held: session.post.names(self.desk.me),
                newest: session.post.newest(&session.roster),
                invite: invite.clone(),
                recall: None,
            };
            let sess = session.sess;
            let letter = sign_want(&self.desk, &mut self.pulse, sess, sender, &want);
            self.desk.send(peer, letter);
        }
    }

    /// R50. Asks a peer for everything that we lack.
    pub(super) fn ask(&mut self, peer: PublicKey) {
        self.ask_each(|_| Some(peer));
    }

    /// R50. The same of all in turn: less often where asking brings nothing, and not where nothing can be lacking.
    pub(super) fn ask_in_turn(&mut self) {
        let next = self.ledger.next();
        // Each begins behind itself: not all of the same.
        let (peers, own) = (&self.desk.peers, self.desk.key);
        let behind = peers.range((Excluded(own), Unbounded));
        let peers: Vec<_> = behind.chain(peers.range(..own)).copied().collect();
        self.ask_each(|session| {
            let lacks = session.height <= next || !session.is_all_set_up();
            lacks.then(|| session.asks_now(&peers)).flatten()
        });
    }

    /// R60. Asks a peer what it holds of us, if that is not known yet, and for nothing else: all are asked at once.
    pub(super) fn ask_recall(&mut self, peer: PublicKey) {
        if let Some(letter) = self.question() {
            self.desk.send(peer, letter);
        }
    }

    /// R60. Asks all what they hold of us, through others, if too few can be asked directly.
    pub(super) fn ask_recall_afar(&mut self) {
        let roster = self.desk.me.and_then(|me| self.coming_roster(me));
        let (Some(me), Some(roster)) = (self.desk.me, roster) else {
            return;
        };
        let (memory, peers) = (&self.desk.memory, &self.desk.peers);
        if !peers.is_empty()
            && memory.is_cut_off(&roster, me, peers)
            && let Some(letter) = self.question()
        {
            self.desk.publish(letter);
        }
    }

    /// R60. The question what others hold of us; none once that is known.
    fn question(&mut self) -> Option<Letter> {
        let (sender, session) = (self.desk.me?, self.sessions.values().next()?);
        if self.desk.memory.is_settled() {
            return None;
        }
        // The same for all: signed once, until a record is decided.
        let (head, sess) = (self.ledger.head(), session.sess);
        let known = self.pulse.recall.as_ref();
        let known = known.filter(|(at, _)| *at == head);
        let letter = known.map(|(_, letter)| letter.clone());
        let letter = letter.unwrap_or_else(|| {
            let want = Want {
                head,
                held: Vec::new(),
                newest: Vec::new(),
                invite: None,
                recall: Some(self.desk.memory.question()),
            };
            sign_want(&self.desk, &mut self.pulse, sess, sender, &want)
        });
        self.pulse.recall = Some((head, letter.clone()));
        Some(letter)
    }

    /// R50. A peer can be reached: it is asked, unless another one was a moment ago; then one is asked soon.
    pub(super) fn greet(&mut self, peer: PublicKey) {
        let now = self.desk.now;
        self.ask_recall(peer);
        if self.pulse.greeted.is_some_and(|at| at + PAUSE > now) {
            self.pulse.sync = self.pulse.sync.min(now + PAUSE);
        } else {
            self.pulse.greeted = Some(now);
            self.ask(peer);
        }
    }

    /// Asks a peer that is ahead of us: one of them in a while.
    pub(super) fn catch_up(&mut self, peer: PublicKey) {
        let now = self.desk.now;
        let asked = self.pulse.asked.is_some_and(|at| at + PAUSE > now);
        if !asked && peer != self.desk.key {
            self.pulse.asked = Some(now);
            self.ask(peer);
        }
    }

    /// R50. Answers a Want: records first, then the stored envelopes that the asker lacks.
    pub(super) fn receive_want(
        &mut self,
        from: PublicKey,
        letter: &Letter,
        envelope: &Envelope,
    ) -> Result<bool, Refusal> {
        let want: Want = message::decode(&envelope.body).map_err(|_| Refusal::Malformed)?;
        let sender = envelope.sender;
        let key = match self.ledger.person(sender) {
            Some(person) => person.key,
            None if sender == MemberId::NEWCOMER => {
                // R44  A newcomer shows its invitation.
                let invite = want.invite.as_ref().ok_or(Refusal::Stranger)?;
                let invited = self.ledger.is_invited(invite);
                invited.map_err(|_| Refusal::Stranger)?;
                from
            }
            None => return Err(Refusal::Stranger),
        };
        // R60  One that cannot ask all members itself asks them through others.
        let relayed = key != from;
        if relayed && want.recall.is_none() {
            return Err(Refusal::Stranger);
        }
        let now = self.desk.now;
        let pause = if relayed {
            self.desk.timers().sync
        } else {
            PAUSE
        };
        // Sessions that nobody knows share one turn.
        let known = self.ledger.session_height(&envelope.sess).is_some();
        let sess = if known { envelope.sess.0 } else { Digest::ZERO };
        let turn = (key, want.recall.is_some(), sess);
        if self
            .pulse
            .answered
            .get(&turn)
            .is_some_and(|at| *at + pause > now)
        {
            return Ok(false);
        }
        letter.verify(&key).map_err(|_| Refusal::Signature)?;
        // Who can be reached asks directly too.
        if relayed && (key == self.desk.key || self.desk.peers.contains(&key)) {
            return Ok(true);
        }
        self.pulse.answered.insert(turn, now);
        if sender != MemberId::NEWCOMER {
            self.desk.hear(sender);
        }
        if want.head > self.ledger.head() {
            self.catch_up(from);
        }
        if let Some(question) = want.recall {
            self.send_recall(key, envelope, relayed.then_some(question));
            return Ok(true);
        }
        self.send_records(from, want.head);
        self.send_envelopes(from, sender, &envelope.sess, &want);
        Ok(true)
    }

    fn send_records(&mut self, to: PublicKey, head: Height) {
        let last = self
            .ledger
            .head()
            .0
            .min(head.0.saturating_add(limits::ANSWER_RECORDS));
        for height in head.0.saturating_add(1)..=last {
            let height = Height(height);
            let Some(letter) = self.decided_letter(height) else {
                return;
            };
            self.desk.send(to, letter);
        }
    }

    /// A record as it is handed on. It is long and often asked for when it is new: signed once then.
    fn decided_letter(&mut self, height: Height) -> Option<Letter> {
        let known = self.pulse.handed.as_ref();
        if let Some((_, letter)) = known.filter(|(of, _)| *of == height) {
            return Some(letter.clone());
        }
        let (entry, sess) = (self.ledger.entry(height)?, self.ledger.session_id(height)?);
        let body = advance::decided_body(entry);
        let sender = self.desk.me.unwrap_or(MemberId::NEWCOMER);
        let letter = Letter::sign(&self.desk.identity, Kind::Decided, sess, sender, 0, body);
        if height == self.ledger.head() {
            self.pulse.handed = Some((height, letter.clone()));
        }
        Some(letter)
    }

    fn send_envelopes(&mut self, to: PublicKey, asker: MemberId, sess: &SessId, want: &Want) {
        let session = self
            .ledger
            .session_height(sess)
            .and_then(|height| self.sessions.get_mut(&height));
        let Some(session) = session else { return };
        // Who shares is decided: acknowledgements are of no use any more.
        let dealt = session.height <= self.ledger.next();
        let mut room = limits::ANSWER_BYTES;
        let mut answers = Vec::new();
        // What counts up and came a moment ago is on its way to the asker too.
        let before = Time(self.desk.now.0.saturating_sub(RIPE.0));
        let lacking = session
            .post
            .lacking(&session.roster, want, asker, before, dealt);
        for bytes in lacking.take(limits::ANSWER) {
            let Some(rest) = room.checked_sub(bytes.len()) else {
                break;
            };
            room = rest;
            answers.push(bytes.clone());
        }
        for bytes in answers {
            self.desk.send(to, bytes);
        }
    }

    /// R41, R51. A decided record proves itself; the next one in line is appended, later ones are asked for.
    pub(super) fn receive_decided(
        &mut self,
        from: PublicKey,
        envelope: &Envelope,
    ) -> Result<bool, Refusal> {
        let decided: Decided = message::decode(&envelope.body).map_err(|_| Refusal::Malformed)?;
        let height = decided.certificate.height;
        if height < self.ledger.next() {
            return Ok(false);
        }
        if height > self.ledger.next() {
            self.catch_up(from);
            return Ok(false);
        }
        let entry = Entry::known(&self.desk.memo, &decided.record, decided.certificate)
            .map_err(|_| Refusal::Malformed)?;
        // The head names the chain, and with it who may sign.
        let (head, certificate) = (
            self.ledger.head_digest(),
            message::encode(&entry.certificate),
        );
        let arguments: [&[u8]; 3] = [head.as_bytes(), entry.digest.as_bytes(), &certificate];
        let judge = || self.ledger.verify(&entry).is_ok();
        if !*self
            .desk
            .memo
            .once(Function::Certificate, &arguments, judge)
        {
            return Err(Refusal::Signature);
        }
        if self.decided(&entry) {
            Ok(true)
        } else {
            Err(Refusal::Rule)
        }
    }
}

/// A question for what is wanted of a session.
fn sign_want(
    desk: &Desk,
    pulse: &mut Pulse,
    sess: SessId,
    sender: MemberId,
    want: &Want,
) -> Letter {
    pulse.beats = pulse.beats.saturating_add(1);
    let body = message::encode(want);
    Letter::sign(&desk.identity, Kind::Want, sess, sender, pulse.beats, body)
}
