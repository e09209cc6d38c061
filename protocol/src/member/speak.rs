//! What a member says without being asked: signs of life, questions in turn, the wish to enter.

use crate::envelope::Kind;
use crate::letter::Letter;
use crate::member::Member;
use crate::message::{self, Heartbeat, Join};
use crate::names::{Height, MemberId};
use crate::output::{Phase, Report};

impl Member {
    /// Everything that repeats, and the end.
    pub(super) fn speak(&mut self) {
        self.join();
        self.leave();
        self.heartbeat();
        self.sync();
        self.linger();
    }

    fn heartbeat(&mut self) {
        if !self.desk.due(self.pulse.heartbeat) {
            return;
        }
        let height = self.ledger.next();
        let newest = Height(height.0.saturating_add(1));
        let member = self
            .ledger
            .roster(newest)
            .or_else(|| self.ledger.roster(height));
        let belongs = self
            .desk
            .me
            .is_some_and(|me| member.is_some_and(|roster| roster.contains(me)));
        if !belongs {
            return;
        }
        self.pulse.heartbeat = self.desk.now + self.desk.timers().heartbeat;
        self.desk.due(self.pulse.heartbeat);
        self.pulse.beats = self.pulse.beats.saturating_add(1);
        let work = self
            .sessions
            .get(&height)
            .and_then(|session| session.work.as_ref());
        let (done, of) = work.map_or((0, 0), |work| work.progress);
        let phase = self.phase.map_or(Phase::Advertise, |(_, phase)| phase);
        let sess = self
            .ledger
            .session_id(height)
            .or_else(|| self.ledger.session_id(self.ledger.head()));
        let Some(sess) = sess else { return };
        let body = Heartbeat {
            height,
            phase,
            done,
            of,
        };
        let letter = self
            .desk
            .sign(Kind::Heartbeat, sess, self.pulse.beats, &body);
        self.desk.publish(letter);
    }

    /// R50. Every T_sync one reachable peer is asked, in turn, while anything of others is waited for.
    fn sync(&mut self) {
        if !self.desk.due(self.pulse.sync) {
            return;
        }
        self.pulse.sync = self.desk.now + self.desk.timers().sync;
        self.desk.due(self.pulse.sync);
        if !self.desk.memory.is_settled() {
            // R60  Whoever has not told yet what it holds of us.
            let peers: Vec<_> = self.desk.peers.iter().copied().collect();
            for peer in peers {
                let id = self.ledger.member(&peer);
                if id.is_none_or(|id| !self.desk.memory.has_answered(id)) {
                    self.ask_recall(peer);
                }
            }
            self.ask_recall_afar();
        } else if self.is_resting() {
            return;
        }
        self.ask_in_turn();
    }

    /// Whether nothing of others is waited for: we train, and the next height is set up.
    fn is_resting(&mut self) -> bool {
        let height = self.ledger.next();
        let Some(session) = self.sessions.get(&height) else {
            return false;
        };
        let training = session.may_submit(&self.desk)
            && session
                .work
                .as_ref()
                .is_some_and(|work| work.ordered && !work.failed);
        let next = self.sessions.get(&Height(height.0.saturating_add(1)));
        let next = next.filter(|_| self.ledger.more_rounds(height));
        training && next.is_none_or(|next| next.is_set_up(&mut self.desk))
    }

    /// R44. One who is invited, or was removed for absence, asks to enter, naming the newest head it knows.
    fn join(&mut self) {
        let newest = Height(self.ledger.next().0.saturating_add(1));
        let inside = self.desk.me.is_some_and(|me| {
            self.ledger
                .roster(newest)
                .is_some_and(|roster| roster.contains(me))
        });
        let may = self.desk.me.is_some() || self.invite.is_some();
        let head_height = self.ledger.head();
        let fresh = self.joined.is_some_and(|joined| {
            joined.0.saturating_add(1) >= head_height.0 && joined <= head_height
        });
        let over = self.ledger.over() || self.leaving.is_some();
        if inside || !may || fresh || over || self.desk.peers.is_empty() {
            return;
        }
        let Some(sess) = self.ledger.session_id(head_height) else {
            return;
        };
        self.joined = Some(head_height);
        let invite = if self.desk.me.is_some() {
            None
        } else {
            self.invite.clone()
        };
        let head = self.ledger.head_digest();
        let name = self.name.clone();
        let body = Join {
            invite,
            key: self.desk.key,
            name,
            head,
            head_height,
        };
        let body = message::encode(&body);
        let key = &self.desk.identity;
        let letter = Letter::sign(key, Kind::Join, sess, MemberId::NEWCOMER, 0, body);
        if let Ok(envelope) = letter.envelope() {
            self.joins.insert(self.desk.key, envelope.clone());
        }
        self.desk.publish(letter);
    }

    /// R65. Why the job cannot go on, if the chain says so.
    pub(super) fn halt_reason(&self) -> Option<String> {
        let height = self.ledger.head().0;
        self.ledger.halted().then(|| {
            format!(
                "two sums in a row were out of range (the second is spent by record {height}): some member trains with \
                 values beyond the clamp, and which one cannot be seen under the masks. The last certified adapter \
                 stands; agree on a new charter without the member that you suspect"
            )
        })
    }

    /// R46. After the closing record a member stays until everybody near holds it, or T_linger is over.
    fn linger(&mut self) {
        let Some(closed) = self.closed else { return };
        let Some(adapter) = self.ledger.certified() else {
            return;
        };
        if self.finished || !self.adapters.contains_key(&adapter) {
            return;
        }
        let Some(roster) = self.ledger.roster(self.ledger.head()) else {
            return;
        };
        let beyond = self.ledger.next();
        let holds = |id: MemberId| {
            self.desk.me == Some(id) || self.pulse.heights.get(&id).is_some_and(|at| *at >= beyond)
        };
        let holders = roster.ids().filter(|id| holds(*id)).count();
        let near = roster.ids().zip(roster.keys());
        let mut near = near.filter(|(id, key)| self.desk.peers.contains(key) && !holds(*id));
        let all = holders >= roster.quorum() && near.next().is_none();
        let linger = self.desk.timers().linger;
        if all || self.desk.due(closed + linger) {
            self.finished = true;
            let head = self.ledger.head_digest();
            self.desk.report(match self.halt_reason() {
                Some(reason) => Report::Halted { reason },
                None => Report::Finished { head, adapter },
            });
        }
    }
}
