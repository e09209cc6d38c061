//! Leaving in order: a signed Leave, released by a record; the leaver stays for the heights that it is a member of. R66

use crate::envelope::{Envelope, Kind};
use crate::member::Member;
use crate::message::{self, Leave};
use crate::names::Height;
use crate::output::Report;
use crate::refusal::Refusal;
use crate::time::{Span, Time};

/// A wish to leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// When the operator asked for it.
    since: Time,
    /// The head that the newest Leave names.
    said: Option<Height>,
    /// When it is said again: gossip may lose it.
    again: Time,
}

impl Member {
    /// The operator wants to leave.
    pub(super) fn want_to_leave(&mut self) {
        let (since, again) = (self.desk.now, self.desk.now);
        let said = None;
        self.leaving.get_or_insert(Leaving { since, said, again });
    }

    /// R66. Says the Leave until a record releases us; then stays until the last sum that we hold shares of is
    /// certified.
    pub(super) fn leave(&mut self) {
        let Some(leaving) = self.leaving else { return };
        let (head, next) = (self.ledger.head(), self.ledger.next());
        let after = Height(next.0.saturating_add(1));
        let member_of = |height| {
            let roster = self.ledger.roster(height);
            roster.filter(|roster| self.desk.me.is_some_and(|me| roster.contains(me)))
        };
        let bound = member_of(head).is_some() && head.0 > 0 || member_of(next).is_some();
        let Some(roster) = member_of(after) else {
            if !bound {
                self.leaving = None;
                self.finished = true;
                self.desk.report(Report::Left { reason: None });
            }
            return;
        };
        let n = roster.len();
        if !self.ledger.can_leave(n) {
            let floor = self.ledger.floor();
            let reason = format!(
                "{n} members are the fewest that this federation can work with ({floor}): \
                 leaving would halt it, so it goes on counting on this node"
            );
            self.stay(reason);
            return;
        }
        let timers = self.desk.timers();
        let patience = Span(
            timers
                .submit_max
                .0
                .saturating_add(timers.setup.0)
                .saturating_mul(2),
        );
        if self.desk.due(leaving.since + patience) {
            let seconds = patience.0.checked_div(1000).unwrap_or(0);
            self.stay(format!("no record released this node within {seconds} s"));
            return;
        }
        let fresh = leaving
            .said
            .is_some_and(|said| said <= head && said.0.saturating_add(1) >= head.0);
        let (Some(me), Some(sess)) = (self.desk.me, self.ledger.session_id(head)) else {
            return;
        };
        if fresh && !self.desk.due(leaving.again) {
            return;
        }
        let again = self.desk.now + self.desk.timers().sync;
        self.desk.due(again);
        let head = leaving.said.filter(|_| fresh).unwrap_or(head);
        let (said, since) = (Some(head), leaving.since);
        self.leaving = Some(Leaving { since, said, again });
        let Some(digest) = self.ledger.record_digest(head) else {
            return;
        };
        let body = Leave {
            head: digest,
            head_height: head,
        };
        let letter = self.desk.sign(Kind::Leave, sess, 0, &body);
        if let Ok(envelope) = letter.envelope() {
            self.leaves.insert(me, envelope.clone());
        }
        self.desk.publish(letter);
    }

    fn stay(&mut self, reason: String) {
        self.leaving = None;
        if let Some(me) = self.desk.me {
            self.leaves.remove(&me);
        }
        let reason = Some(reason);
        self.desk.report(Report::Left { reason });
    }

    /// R66. A member's wish to leave waits for the next proposer.
    pub(super) fn receive_leave(&mut self, envelope: &Envelope) -> Result<bool, Refusal> {
        let leave: Leave = message::decode(&envelope.body).map_err(|_| Refusal::Malformed)?;
        let known = self.leaves.get(&envelope.sender) == Some(envelope);
        if known || leave.head_height > self.ledger.head() {
            return Ok(false);
        }
        // One that came too late, or twice, is nobody's fault.
        let Ok(key) = self.ledger.leaver(envelope, self.ledger.next()) else {
            return Ok(false);
        };
        envelope.verify(&key).map_err(|_| Refusal::Signature)?;
        self.leaves.insert(envelope.sender, envelope.clone());
        Ok(true)
    }
}
