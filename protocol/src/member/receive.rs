//! What comes in: bounded, parsed, checked once, and routed to the session that it belongs to.

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use crate::claim::Claim;
use crate::decide::{self, Feed};
use crate::envelope::{Envelope, Kind};
use crate::input::Verdict;
use crate::letter::{Bytes, Letter};
use crate::limits;
use crate::member::Member;
use crate::message::{self, Heartbeat, Join};
use crate::names::{Height, MemberId};
use crate::output::Phase;
use crate::refusal::Refusal;
use crate::session::Session;

impl Member {
    /// R8. Size first, then form, then who, then the signature.
    pub(super) fn receive(&mut self, from: PublicKey, letter: &Letter) -> Verdict {
        if letter.len() > limits::ENVELOPE {
            return Verdict::Refused(Refusal::Oversized);
        }
        let Ok(envelope) = letter.envelope() else {
            return Verdict::Refused(Refusal::Malformed);
        };
        if envelope.body.len() > limits::body(envelope.kind) {
            return Verdict::Refused(Refusal::Oversized);
        }
        // Most of what comes is known, or tells only that its sender lives.
        let vital = matches!(envelope.kind, Kind::Heartbeat | Kind::Want);
        let before = vital.then(|| self.signs_of(envelope.sender));
        let taken = match envelope.kind {
            Kind::Decided => self.receive_decided(from, envelope),
            Kind::Want => self.receive_want(from, letter, envelope),
            Kind::Heartbeat => self.receive_heartbeat(from, letter, envelope),
            Kind::Join => self.receive_join(envelope),
            Kind::Leave => self.receive_leave(envelope),
            Kind::Recall => self.receive_recall(from, letter, envelope),
            Kind::KeyAd
            | Kind::Deal
            | Kind::Seal
            | Kind::Ack
            | Kind::Commit
            | Kind::Have
            | Kind::Reveal
            | Kind::Proposal
            | Kind::Vote
            | Kind::Liveness
            | Kind::SumCommit
            | Kind::Tags => self.receive_session(from, letter, envelope),
        };
        let calm = before.map_or_else(
            || taken == Ok(false) && !envelope.kind.is_consensus(),
            |before| {
                let awaited = taken.is_ok() && self.waits_for(envelope.sender);
                before == self.signs_of(envelope.sender) && !awaited
            },
        );
        self.stirred |= !calm;
        match taken {
            Ok(true) => Verdict::Accepted,
            Ok(false) => Verdict::Ignored,
            Err(refusal) => Verdict::Refused(refusal),
        }
    }

    /// All by which a sign of life of a member may make something due, beside a box that waits for it: who is gone,
    /// whether it was heard at the current height, its own height. What it postpones is looked at when due.
    fn signs_of(&self, member: MemberId) -> (u64, bool, Option<Height>) {
        let heard = self.desk.heard.get(&member);
        let work = self.sessions.get(&self.ledger.next());
        let work = work.and_then(|session| session.work.as_ref());
        let lately = heard.is_some_and(|at| work.is_none_or(|work| *at >= work.since));
        let height = self.pulse.heights.get(&member).copied();
        (self.desk.gone.changes, lately, height)
    }

    /// Whether a box waits until this member is heard.
    fn waits_for(&self, member: MemberId) -> bool {
        let waits = |session: &Session| session.has_parcel_for(member);
        self.sessions.values().any(waits)
    }

    fn receive_session(
        &mut self,
        from: PublicKey,
        letter: &Letter,
        envelope: &Envelope,
    ) -> Result<bool, Refusal> {
        let Some(height) = self.ledger.session_height(&envelope.sess) else {
            // The record that names this session is not decided here yet: keep it, and ask for that record.
            self.keep_early(from, letter);
            self.catch_up(from);
            return Ok(false);
        };
        let current = self.ledger.next();
        let Some(session) = self.sessions.get_mut(&height) else {
            return Ok(false);
        };
        if envelope.kind.is_consensus() {
            self.receive_talk(height, current, letter, envelope)
        } else {
            let new = session.receive(&mut self.desk, letter)?;
            let dealer = session.roster.key(envelope.sender) == Some(&from);
            if new && envelope.kind == Kind::Seal && dealer {
                session.pass_on(&mut self.desk, letter);
            }
            Ok(new)
        }
    }

    /// Consensus messages: the engine of the current height takes them; those of the next wait for theirs.
    fn receive_talk(
        &mut self,
        height: Height,
        current: Height,
        letter: &Letter,
        envelope: &Envelope,
    ) -> Result<bool, Refusal> {
        let digest = letter.digest();
        let Some(session) = self.sessions.get_mut(&height) else {
            return Ok(false);
        };
        let key = *session
            .roster
            .key(envelope.sender)
            .ok_or(Refusal::Stranger)?;
        if height < current || session.post.said(&digest) {
            return Ok(false);
        }
        match &mut self.decider {
            Some(decider) if height == current => {
                match decider.handle(self.desk.now, Feed::Letter(letter), &self.desk.identity) {
                    Verdict::Accepted => {}
                    Verdict::Ignored => return Ok(false),
                    Verdict::Refused(refusal) => return Err(refusal),
                }
            }
            Some(_) | None => {
                decide::check_form(height, envelope)?;
                letter.verify(&key).map_err(|_| Refusal::Signature)?;
            }
        }
        // R61  What we sign is logged before it is said. (Liveness messages are not: they repeat others' votes.)
        let own = self.desk.me == Some(envelope.sender) && envelope.kind != Kind::Liveness;
        let logged = |claim: Claim| decide::logged(&self.wal, height, &claim);
        if own && !(height == current && Claim::brief(letter).is_ok_and(logged)) {
            self.desk.forgotten(height);
        }
        self.desk.heard.insert(envelope.sender, self.desk.now);
        session.post.keep(envelope.sender, digest, letter.clone());
        Ok(true)
    }

    fn receive_heartbeat(
        &mut self,
        from: PublicKey,
        letter: &Letter,
        envelope: &Envelope,
    ) -> Result<bool, Refusal> {
        let person = self
            .ledger
            .person(envelope.sender)
            .ok_or(Refusal::Stranger)?;
        let beat: Heartbeat = message::decode(&envelope.body).map_err(|_| Refusal::Malformed)?;
        letter.verify(&person.key).map_err(|_| Refusal::Signature)?;
        let (sender, now) = (envelope.sender, self.desk.now);
        self.desk.hear(sender);
        let done = beat.height >= self.ledger.next()
            && matches!(beat.phase, Phase::Submit | Phase::Decide);
        if !done {
            self.desk.working.insert(sender, now);
        }
        let known = self.pulse.heights.entry(sender).or_default();
        *known = (*known).max(beat.height);
        if beat.height > self.ledger.next() {
            self.catch_up(from);
        }
        Ok(true)
    }

    fn receive_join(&mut self, envelope: &Envelope) -> Result<bool, Refusal> {
        let join: Join = message::decode(&envelope.body).map_err(|_| Refusal::Malformed)?;
        if self.joins.get(&join.key) == Some(envelope) {
            return Ok(false);
        }
        if join.head_height > self.ledger.head() {
            return Ok(false);
        }
        envelope.verify(&join.key).map_err(|_| Refusal::Signature)?;
        // R44  One that came too late, or twice, is nobody's fault.
        if self
            .ledger
            .admissible(envelope, self.ledger.next())
            .is_err()
        {
            return Ok(false);
        }
        let expires = join.invite.as_ref().map_or(0, |invite| invite.expires);
        if expires != 0 && expires < self.desk.now.0 {
            return Err(Refusal::Rule);
        }
        if self.joins.len() >= limits::JOINS && !self.joins.contains_key(&join.key) {
            return Ok(false);
        }
        self.joins.insert(join.key, envelope.clone());
        Ok(true)
    }

    /// A blob that was asked for: a masked vector of an open session, or an adapter.
    pub(super) fn pulled(&mut self, name: Digest, bytes: &Bytes) -> Verdict {
        for session in self.sessions.values_mut() {
            match session.shard_pulled(&mut self.desk, name, bytes) {
                Some(true) => return Verdict::Accepted,
                Some(false) => return Verdict::Refused(Refusal::Rule),
                None => {}
            }
            match session.pulled(&mut self.desk, name, bytes) {
                Some(true) => return Verdict::Accepted,
                Some(false) => return Verdict::Refused(Refusal::Rule),
                None => {}
            }
        }
        if self.newest_adapter() == Some(name) {
            let fits = self.adapters.contains_key(&name) || self.take_adapter(bytes);
            return if fits {
                Verdict::Accepted
            } else {
                Verdict::Refused(Refusal::Rule)
            };
        }
        Verdict::Ignored
    }

    fn keep_early(&mut self, from: PublicKey, letter: &Letter) {
        let held: usize = self
            .early
            .iter()
            .map(|(_, bytes)| bytes.len())
            .fold(0, usize::saturating_add);
        let room = self.early.len() < limits::EARLY
            && held.saturating_add(letter.len()) <= limits::EARLY_BYTES;
        let same = self.early.iter().filter(|(peer, _)| *peer == from).count();
        let room = room && same < limits::EARLY_PEER;
        if room && !self.early.iter().any(|(_, known)| known == letter) {
            self.early.push((from, letter.clone()));
        }
    }

    /// Hands in again what came before its session was known.
    pub(super) fn take_early(&mut self) {
        for (from, letter) in core::mem::take(&mut self.early) {
            if let Verdict::Refused(refusal) = self.receive(from, &letter) {
                self.desk.refused.count(refusal);
            }
        }
    }
}
