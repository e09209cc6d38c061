//! Amnesia: what others hold of us and we do not shows that this store is older than what we said. R60, R61

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use crate::claim::Claim;
use crate::decide;
use crate::envelope::{Envelope, Kind};
use crate::letter::Letter;
use crate::limits;
use crate::member::Member;
use crate::message::{self, Question, Recall, Recalled};
use crate::names::{Height, MemberId};
use crate::params;
use crate::post::Slot;
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::session::Session;

impl Member {
    /// R60. Settles once enough others told what they hold of us; R61, a silence erases the masks of its sessions.
    pub(super) fn remember(&mut self) {
        let after = Height(self.ledger.next().0.saturating_add(1));
        if let Some(me) = self.desk.me.filter(|_| !self.desk.memory.is_settled()) {
            let roster = self.coming_roster(me);
            let (sync, now) = (self.desk.timers().sync, self.desk.now);
            let settled = roster.map(|roster| self.desk.memory.settle(&roster, me, sync, now));
            match settled {
                Some(Err(at)) => {
                    self.desk.due(at);
                }
                // R60  What is known to be damaged is not asked for: it may have been said in any open session.
                Some(Ok(true)) if !self.desk.memory.is_intact() => self.desk.damaged(after),
                Some(Ok(_)) | None => {}
            }
        }
        if !self.desk.memory.take_changed() {
            return;
        }
        let silent = self.desk.memory.silent();
        for (height, session) in &mut self.sessions {
            if silent.is_some_and(|until| *height <= until) {
                session.erase_secrets(&mut self.desk);
            }
        }
        self.begin_decision();
    }

    /// The members of the next height or of the one after, if this one is among them.
    pub(super) fn coming_roster(&self, member: MemberId) -> Option<Roster> {
        let next = self.ledger.next();
        let after = Height(next.0.saturating_add(1));
        let rosters = [next, after].map(|height| self.ledger.roster(height));
        let mut rosters = rosters.into_iter().flatten();
        rosters.find(|roster| roster.contains(member))
    }

    /// R60. Tells a member the newest that we hold of it in the open sessions: through others one that named its
    /// question, and cannot be reached.
    pub(super) fn send_recall(
        &mut self,
        to: PublicKey,
        envelope: &Envelope,
        answers: Option<Question>,
    ) {
        let (Some(me), Some(asker)) = (self.desk.me, self.ledger.member(&to)) else {
            return;
        };
        let mut claims = Vec::new();
        for (height, session) in &self.sessions {
            let before = height.0.checked_sub(2).map(Height);
            let before = before.map_or(Some(Digest::ZERO), |at| self.ledger.record_digest(at));
            let Some(before) = before else { continue };
            claims.extend(session.newest(asker).map(|claim| Recalled {
                height: *height,
                before,
                claim,
            }));
        }
        claims.truncate(limits::CLAIMS);
        let sess = envelope.sess;
        // All that start at once ask: where we hold nothing they get one answer.
        let known = self.pulse.nothing.as_ref();
        let known = known.filter(|(of, _)| *of == sess && claims.is_empty() && answers.is_none());
        if let Some((_, answer)) = known {
            self.desk.send(to, answer.clone());
            return;
        }
        self.pulse.beats = self.pulse.beats.saturating_add(1);
        let nothing = claims.is_empty();
        let body = message::encode(&Recall { answers, claims });
        let key = &self.desk.identity;
        let answer = Letter::sign(key, Kind::Recall, sess, me, self.pulse.beats, body);
        if answers.is_some() {
            self.desk.publish(answer);
            return;
        }
        if nothing {
            self.pulse.nothing = Some((sess, answer.clone()));
        }
        self.desk.send(to, answer);
    }

    /// R60. What a member holds of us.
    pub(super) fn receive_recall(
        &mut self,
        from: PublicKey,
        letter: &Letter,
        envelope: &Envelope,
    ) -> Result<bool, Refusal> {
        let sender = envelope.sender;
        let person = self.ledger.person(sender).ok_or(Refusal::Stranger)?;
        let key = person.key;
        let recall: Recall = message::decode(&envelope.body).map_err(|_| Refusal::Malformed)?;
        let relayed = key != from;
        if relayed && recall.answers.is_none() {
            return Err(Refusal::Stranger);
        }
        if recall.claims.len() > limits::CLAIMS {
            return Err(Refusal::Rule);
        }
        // Through others may come an old answer, or one to another member: that is handed on.
        let ours = !relayed || recall.answers == Some(self.desk.memory.question());
        if ours && (self.desk.memory.is_settled() || self.desk.memory.has_answered(sender)) {
            return Ok(false);
        }
        letter.verify(&key).map_err(|_| Refusal::Signature)?;
        if !ours {
            return Ok(true);
        }
        for recalled in &recall.claims {
            // What we hold ourselves needs no proof.
            if !self.is_forgotten(recalled) {
                continue;
            }
            if !self.is_own(recalled) {
                return Err(Refusal::Rule);
            }
            self.desk.forgotten(recalled.height);
        }
        self.desk.heard.insert(sender, self.desk.now);
        // Only the word of a member of a coming height counts towards enough.
        if self.coming_roster(sender).is_some() {
            self.desk.memory.answer(sender, self.desk.now);
        }
        Ok(true)
    }

    /// Whether we signed this, in the session that it names, and it is of a kind that outbox or log hold. (It may be of
    /// a chain that we do not know any more.)
    fn is_own(&self, recalled: &Recalled) -> bool {
        let lasting = matches!(
            recalled.claim.kind,
            Kind::KeyAd
                | Kind::Deal
                | Kind::Ack
                | Kind::Commit
                | Kind::SumCommit
                | Kind::Reveal
                | Kind::Tags
                | Kind::Proposal
                | Kind::Vote
        );
        let me = self.desk.me;
        if !lasting || me.is_some_and(|me| me != recalled.claim.sender) {
            return false;
        }
        let charter = self.ledger.charter_digest();
        let sess = params::session_id(charter, 0, recalled.height, &recalled.before);
        sess == recalled.claim.sess && recalled.claim.verify(&self.desk.key).is_ok()
    }

    /// Whether we said this and do not hold it: not in the outbox, not in the log.
    fn is_forgotten(&self, recalled: &Recalled) -> bool {
        let (height, claim) = (recalled.height, &recalled.claim);
        let next = self.ledger.next();
        let Some(session) = self.sessions.get(&height) else {
            // A session that is closed here was not forgotten; one that is not open yet cannot have been spoken in.
            return height > next;
        };
        let talk = matches!(claim.kind, Kind::Vote | Kind::Proposal);
        if talk {
            height > next || height == next && !decide::logged(&self.wal, height, claim)
        } else {
            !session.said_so(claim)
        }
    }
}

impl Session {
    /// The newest that a member said in this session: its Commit, the furthest of its other messages, its newest vote.
    fn newest(&self, member: MemberId) -> impl Iterator<Item = Claim> {
        // Backwards in the order in which they are said.
        let order = [
            Kind::Tags,
            Kind::Reveal,
            Kind::SumCommit,
            Kind::Ack,
            Kind::Deal,
            Kind::KeyAd,
        ];
        let held = |kind| self.post.held(Slot::of(kind, member));
        let commit = held(Kind::Commit);
        let other = order.into_iter().find_map(held);
        let slots = commit.into_iter().chain(other);
        let talk = self.post.talk_of(member);
        let votes = talk.filter_map(|letter| {
            let slot = decide::slot_of(letter.envelope().ok()?)?;
            Some((slot, letter))
        });
        let vote = votes.max_by_key(|(slot, _)| *slot);
        let letters = slots.map(|held| &held.bytes);
        let letters = letters.chain(vote.map(|(_, letter)| letter));
        letters.filter_map(|letter| Claim::brief(letter).ok())
    }

    /// Whether the outbox holds what we are said to have said; of what counts up, as much or more.
    fn said_so(&self, claim: &Claim) -> bool {
        let Some(held) = self.post.held(Slot::of(claim.kind, claim.sender)) else {
            return false;
        };
        held.seq > claim.seq || claim.is_letter(&held.bytes)
    }
}
