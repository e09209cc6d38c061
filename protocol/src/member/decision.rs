//! The decision on the current height: when it starts, what the engine is told, what its effects do.

use conclave_crypto::digest::Digest;

use crate::decide::{ConsensusTimers, Decider, Effect, Feed};
use crate::desk::Desk;
use crate::letter::{Bytes, Letter};
use crate::member::Member;
use crate::member::advance::PASSES;
use crate::names::{Height, MemberId};
use crate::outbox;
use crate::output::Table;
use crate::record::{Entry, Previous, Record};
use crate::session::decide::{Bench, Judgement};
use crate::session::open::Outcome;
use crate::time::Span;

impl Member {
    /// R41. A decision for the current height, fed with what came early; started at once if its log is not empty.
    pub(super) fn begin_decision(&mut self) {
        self.decider = None;
        let height = self.ledger.next();
        let Some(session) = self.sessions.get(&height) else {
            return;
        };
        // R60  Not before it is known what was said before.
        if self.ledger.over() || session.roster.is_empty() || !self.desk.memory.is_settled() {
            return;
        }
        let speaker = session.speaker(&self.desk);
        let decider = self.new_decider(speaker);
        let early: Vec<_> = session.post.talk().cloned().collect();
        self.decider = decider;
        if speaker.is_some() && !self.wal.is_empty() {
            self.start_decision();
        }
        for bytes in early {
            if let Some(decider) = &mut self.decider {
                decider.handle(self.desk.now, Feed::Letter(&bytes), &self.desk.identity);
            }
        }
    }

    fn new_decider(&self, me: Option<MemberId>) -> Option<Decider> {
        let height = self.ledger.next();
        let session = self.sessions.get(&height)?;
        let timers = self.desk.timers();
        let timers = ConsensusTimers {
            base: timers.consensus_base,
            step: timers.consensus_step,
        };
        Some(Decider::new(
            height,
            session.sess,
            me,
            session.roster.voters(),
            timers,
        ))
    }

    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method is not general over the lifetime of its bench"
    )]
    fn may_start(&mut self, height: Height) -> bool {
        self.with_bench(height, |bench, desk| bench.ready(desk))
            .unwrap_or(false)
    }

    fn start_decision(&mut self) {
        let session = self.sessions.get(&self.ledger.next());
        let speaks = session.is_some_and(|session| session.speaker(&self.desk).is_some());
        let Some(decider) = &mut self.decider else {
            return;
        };
        let log: &[Bytes] = if speaks { &self.wal } else { &[] };
        if let Err(error) = decider.start(self.desk.now, log, &self.desk.identity) {
            // R25  What was signed before is unknown: follow this height without a vote.
            self.desk.warn(error.to_string());
            self.decider = self.new_decider(None);
            if let Some(decider) = &mut self.decider {
                let followed = decider.start(self.desk.now, &[], &self.desk.identity);
                followed.expect("an empty log has nothing unreadable");
            }
        }
    }

    /// R21 to R25. Starts the decision when its time has come, answers the engine, performs its effects.
    pub(super) fn decide(&mut self) {
        let height = self.ledger.next();
        let Some(decider) = &self.decider else { return };
        if !decider.started() {
            let urged = decider.urged();
            if !urged && !self.may_start(height) {
                return;
            }
            self.start_decision();
        }
        for _ in 0..PASSES {
            self.answer_engine(height);
            let Some(decider) = &mut self.decider else {
                return;
            };
            let effects: Vec<_> = core::iter::from_fn(|| decider.poll()).collect();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                if self.perform(height, effect) {
                    return;
                }
            }
        }
    }

    /// Wakes the engine, gives it the value it waits for, and judges what is proposed.
    fn answer_engine(&mut self, height: Height) {
        let Some(decider) = &mut self.decider else {
            return;
        };
        if let Some(at) = decider.deadline()
            && self.desk.due(at)
        {
            decider.handle(self.desk.now, Feed::Wake, &self.desk.identity);
            if let Some(at) = decider.deadline() {
                self.desk.due(at);
            }
        }
        if let Some(round) = decider.wanted() {
            let record = self
                .with_bench(height, |bench, desk| bench.propose(desk, round))
                .flatten();
            if let (Some(record), Some(decider)) = (record, &mut self.decider) {
                decider.handle(
                    self.desk.now,
                    Feed::Value(record.to_bytes()),
                    &self.desk.identity,
                );
            }
        }
        let Some(decider) = &self.decider else { return };
        let pending: Vec<_> = decider.pending().collect();
        for (digest, bytes) in pending {
            self.judge(height, digest, &bytes);
        }
    }

    fn judge(&mut self, height: Height, digest: Digest, bytes: &[u8]) {
        let valid = match self.weigh(height, digest, bytes) {
            Some(Judgement::Valid) => true,
            Some(Judgement::Invalid) => false,
            Some(Judgement::Open) | None => return,
        };
        if let Some(decider) = &mut self.decider {
            let feed = Feed::Judged {
                record: digest,
                valid,
            };
            decider.handle(self.desk.now, feed, &self.desk.identity);
        }
    }

    /// R77. Another result than ours is proposed: sums that we took from others are made again from the vectors.
    pub(super) fn doubt(&mut self, height: Height, digest: Digest, record: &Record) {
        let before = Height(height.0.saturating_sub(1));
        let (Previous::Opened(proposed), Some(session)) =
            (&record.previous, self.sessions.get_mut(&before))
        else {
            return;
        };
        let differs = matches!(&session.opening.result, Some(Outcome::Opened { digest, .. }) if digest != proposed);
        // One honest voter at least must stand behind it.
        let decider = self.decider.as_ref();
        let backed = || decider.is_some_and(|decider| decider.is_backed(&digest));
        if differs && backed() && session.sum_again(&self.desk) {
            let reason = format!(
                "another result of height {} is proposed: it is summed again",
                before.0
            );
            self.desk.warn(reason);
        }
    }

    /// R6. What a proposal names may take its slot.
    pub(super) fn cite(&mut self, height: Height, record: &Record) {
        let next = Height(height.0.saturating_add(1));
        if let Some(session) = self.sessions.get_mut(&next) {
            let sharers = record.sharers_next.iter();
            session.cite(sharers.flat_map(|sharer| [sharer.key_ad, sharer.deal]));
        }
        if let (Some(session), Some(survivors)) =
            (self.sessions.get_mut(&height), &record.survivors)
        {
            session.cite(survivors.commits.iter().map(|(_, digest)| *digest));
        }
    }

    /// Performs one effect; true if the height is decided.
    fn perform(&mut self, height: Height, effect: Effect) -> bool {
        match effect {
            Effect::Wal(entry) => {
                let index = u64::try_from(self.wal.len()).unwrap_or(u64::MAX);
                let entry = Bytes::from(entry);
                let key = outbox::wal_key(height, index);
                self.desk.store(Table::Wal, key, entry.clone());
                self.wal.push(entry);
            }
            Effect::Publish(envelope) => {
                let sender = envelope.sender;
                let letter = Letter::of(envelope);
                if let Some(session) = self.sessions.get_mut(&height) {
                    session.post.keep(sender, letter.digest(), letter.clone());
                }
                self.desk.publish(letter);
            }
            Effect::Decided {
                record,
                certificate,
            } => {
                let entry = Entry::known(&self.desk.memo, &record, certificate);
                return entry.is_ok_and(|entry| self.decided(&entry));
            }
            Effect::NeedValue { .. } | Effect::Judge { .. } => {}
            Effect::Evidence(evidence) => {
                self.desk.accuse(&evidence.first, &evidence.second);
            }
            Effect::Fault(reason) => {
                self.desk
                    .warn(format!("the consensus engine gave an input up: {reason}"));
            }
        }
        false
    }

    /// Looks at the current height with everything that a decision rests on.
    pub(super) fn with_bench<T>(
        &mut self,
        height: Height,
        look: impl FnOnce(&Bench<'_>, &mut Desk) -> T,
    ) -> Option<T> {
        let before = height
            .0
            .checked_sub(1)
            .and_then(|before| self.sessions.get(&Height(before)));
        let after = Height(height.0.saturating_add(1));
        let more = self.ledger.more_rounds(height);
        let bench = Bench {
            ledger: &self.ledger,
            before,
            current: self.sessions.get(&height)?,
            next: self.sessions.get(&after).filter(|_| more),
            joins: self.joins.values().collect(),
            leaves: self.leaves.values().collect(),
            patience: patience(&self.desk, &self.paces),
        };
        Some(look(&bench, &mut self.desk))
    }
}

/// T_submit: one and a half times the median of the last three opened rounds, within the charter's bounds.
fn patience(desk: &Desk, paces: &[Span]) -> Span {
    let timers = desk.timers();
    let mut last: Vec<_> = paces.iter().rev().take(3).copied().collect();
    last.sort_unstable();
    let Some(median) = last.get(last.len().checked_div(2).unwrap_or(0)) else {
        return timers.submit_max;
    };
    let half = median.0.checked_div(2).unwrap_or(0);
    Span(median.0.saturating_add(half))
        .clamp(timers.submit_min, timers.submit_max.max(timers.submit_min))
}
