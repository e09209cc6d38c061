//! What a member tells its operator: phases, whom it waits for, and the status when asked.

use crate::decide::Decider;
use crate::member::Member;
use crate::names::{Height, MemberId, Round};
use crate::output::{Phase, Report};
use crate::record::Previous;
use crate::status::{Outcome, Past, Status};
use crate::time::{Span, Time};

/// How often it is looked up whom a member waits for, among few.
const TELL: Span = Span(500);

impl Member {
    /// Reports a new phase and a new reason to wait, once each.
    pub(super) fn tell(&mut self) {
        let standing = self.standing();
        if self.phase != Some(standing) {
            self.phase = Some(standing);
            self.told = None;
            let (height, phase) = standing;
            let round = self.ledger.round(height);
            self.desk.report(Report::Phase {
                height,
                round,
                phase,
            });
        }
        // Whom it waits for is many names: they are looked up now and then.
        let session = self.sessions.get(&standing.0);
        let pause = session.map_or(TELL, |session| session.longer(TELL));
        if let Some(at) = self.told
            && !self.desk.due(at + pause)
        {
            return;
        }
        self.told = Some(self.desk.now);
        self.desk.due(self.desk.now + pause);
        let waiting = self.reason();
        if waiting != self.waiting {
            self.waiting.clone_from(&waiting);
            if let Some(reason) = waiting {
                self.desk.report(Report::Waiting { reason });
            }
        }
    }

    /// The engine could not train: the round goes on without us.
    pub(super) fn train_failed(&mut self, height: Height, reason: &str) {
        let work = self
            .sessions
            .get_mut(&height)
            .and_then(|session| session.work.as_mut());
        if let Some(work) = work {
            work.failed = true;
        }
        self.desk.warn(format!("height {}: {reason}", height.0));
    }

    fn standing(&self) -> (Height, Phase) {
        let (head, next) = (self.ledger.head(), self.ledger.next());
        let opening = self
            .sessions
            .get(&head)
            .filter(|session| session.opening.called.is_some());
        if opening.is_some_and(|session| session.opening.result.is_none()) {
            return (head, Phase::Reveal);
        }
        if self.ledger.over() {
            return (head, Phase::Open);
        }
        if self.decider.as_ref().is_some_and(Decider::started) {
            return (next, Phase::Decide);
        }
        let Some(session) = self.sessions.get(&next) else {
            return (next, Phase::Advertise);
        };
        let phase = match &session.work {
            Some(work) if session.may_submit(&self.desk) && !work.failed => Phase::Train,
            Some(_) => Phase::Submit,
            None => {
                let after = self.sessions.get(&Height(next.0.saturating_add(1)));
                let dealt = after
                    .is_some_and(|session| session.said(&self.desk, crate::envelope::Kind::Deal));
                if dealt { Phase::Deal } else { Phase::Advertise }
            }
        };
        (next, phase)
    }

    /// Why a newcomer is not admitted, once it knows the chain as far as the others do.
    fn outside(&self) -> Option<String> {
        let invite = self.invite.as_ref().filter(|_| self.desk.me.is_none())?;
        let next = self.ledger.next();
        let mut heights = self.pulse.heights.values().peekable();
        heights.peek()?;
        if self.ledger.over() || heights.any(|height| *height > next) {
            return None;
        }
        let why = self.ledger.invitation(invite, next).err()?;
        Some(format!(
            "waiting to be admitted, but {why}: ask a member for a new invitation"
        ))
    }

    /// Whom we wait for, if it is somebody else.
    fn reason(&self) -> Option<String> {
        if let Some(reason) = self.outside() {
            return Some(reason);
        }
        let (height, phase) = self.phase?;
        let session = self.sessions.get(&height)?;
        let quorum = session.roster.quorum();
        let n = session.roster.len();
        let missing = |held: &dyn Fn(MemberId) -> bool| {
            let absent = session
                .roster
                .ids()
                .filter(|id| desk_me(self) != Some(*id) && !held(*id));
            absent
                .filter_map(|id| self.ledger.person(id).map(|p| p.name.clone()))
                .collect::<Vec<_>>()
        };
        // Connected, or heard of through others a short while ago.
        let quiet = self.desk.timers().quiet;
        let recent = |at: &Time| self.desk.now - *at <= quiet;
        let near = |id: MemberId| {
            let connected = |key| self.desk.peers.contains(key);
            self.desk.heard.get(&id).is_some_and(recent)
                || session.roster.key(id).is_some_and(connected)
        };
        let absent = missing(&near);
        if n.saturating_sub(absent.len()) < quorum {
            return Some(format!(
                "waiting for {}: {quorum} of {n} members are needed",
                absent.join(", ")
            ));
        }
        match phase {
            Phase::Submit => {
                let sharers = session.work.as_ref().map(|work| &work.sharers)?;
                let lacking = missing(&|id| {
                    !sharers.contains_key(&id) || session.submissions.commits.contains_key(&id)
                });
                (!lacking.is_empty())
                    .then(|| format!("waiting for the vectors of {}", lacking.join(", ")))
            }
            Phase::Reveal => {
                let revealed = |id: MemberId| {
                    let slot = crate::post::Slot::of(crate::envelope::Kind::Reveal, id);
                    session.post.held(slot).is_some()
                };
                let lacking = missing(&revealed);
                Some(format!(
                    "waiting for shares of {quorum} of {n} members; none yet from {}",
                    lacking.join(", ")
                ))
            }
            Phase::Advertise if !absent.is_empty() && self.meeting.met.is_none() => {
                Some(format!("waiting to meet {}", absent.join(", ")))
            }
            Phase::Advertise | Phase::Deal | Phase::Train | Phase::Decide | Phase::Open => None,
        }
    }

    /// A snapshot of everything that the local API shows.
    pub fn status(&self) -> Status {
        let summary = self.ledger.summary();
        let height = self.ledger.next();
        let (_, phase) = self.standing();
        let work = self
            .sessions
            .get(&height)
            .and_then(|session| session.work.as_ref());
        let me = self.desk.me;
        let history: Vec<_> = (1..=self.ledger.head().0)
            .filter_map(|h| self.past(Height(h)))
            .collect();
        let contributed = (1..=self.ledger.head().0).map(Height).filter(|height| {
            let entry = self.ledger.entry(*height);
            entry
                .is_some_and(|entry| me.is_some_and(|me| entry.record.survivor_ids().contains(&me)))
        });
        Status {
            member: self.desk.key,
            name: me
                .and_then(|me| self.ledger.person(me))
                .map(|person| person.name.clone()),
            height,
            round: Round(self.ledger.rounds_through(height)),
            rounds: self.desk.charter.round.rounds,
            phase,
            progress: work
                .filter(|work| work.ordered && phase == Phase::Train)
                .map(|work| work.progress),
            ledger_head: self.ledger.head_digest(),
            adapter: self.newest_adapter(),
            rounds_opened: summary.rounds_opened,
            rounds_null: summary.rounds_null,
            rounds_contributed: u32::try_from(contributed.count()).unwrap_or(u32::MAX),
            examples: self.desk.examples,
            history,
            waiting: self.waiting.clone(),
            warnings: self.desk.warnings,
            refused: self.desk.refused.clone(),
            finished: self.finished,
            halted: self.halt_reason(),
        }
    }

    fn past(&self, height: Height) -> Option<Past> {
        let round = self.ledger.round(height)?;
        let record = &self.ledger.entry(height)?.record;
        let keys = |ids: &[MemberId]| {
            ids.iter()
                .filter_map(|id| Some(self.ledger.person(*id)?.key))
                .collect::<Vec<_>>()
        };
        let (sharers, survivors) = (self.ledger.sharer_ids(height), record.survivor_ids());
        let outcome = match (&record.survivors, self.ledger.outcome(height)) {
            (None, _) => Outcome::Null,
            (Some(_), Some(Previous::Opened(_))) => Outcome::Opened,
            (Some(_), Some(Previous::Spent { .. })) => Outcome::Spent,
            (Some(_), Some(Previous::None) | None) => Outcome::Decided,
        };
        let called = record.survivors.is_some();
        let dropouts: Vec<_> = sharers
            .iter()
            .copied()
            .filter(|id| called && !survivors.contains(id))
            .collect();
        Some(Past {
            height,
            round,
            outcome,
            sharers: keys(&sharers),
            survivors: called.then(|| keys(&survivors)),
            rebuilt: keys(&dropouts),
        })
    }
}

fn desk_me(member: &Member) -> Option<MemberId> {
    member.desk.me
}
