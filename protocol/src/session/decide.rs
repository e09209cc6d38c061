//! Decide: when to start, what to propose, and what a proposal is worth.

use conclave_crypto::digest::Digest;

use crate::desk::Desk;
use crate::envelope::Envelope;
use crate::evidence::Evidence;
use crate::ledger::Ledger;
use crate::limits;
use crate::message::{self, Join};
use crate::names::MemberId;
use crate::params;
use crate::places::Places;
use crate::record::{Cause, Previous, Record, Sharer, Survivors};
use crate::session::Session;
use crate::session::open::Outcome;
use crate::session::weighed::Weighed;
use crate::time::Span;

/// What a member decides from: the chain, the three open sessions and the Joins that wait.
pub(crate) struct Bench<'a> {
    pub(crate) ledger: &'a Ledger,
    /// The height before: its sum is being opened.
    pub(crate) before: Option<&'a Session>,
    /// The height to be decided.
    pub(crate) current: &'a Session,
    /// The next height: it is being set up. None after the last round.
    pub(crate) next: Option<&'a Session>,
    /// Joins that wait, by key.
    pub(crate) joins: Vec<&'a Envelope>,
    /// Leaves that wait, by sender.
    pub(crate) leaves: Vec<&'a Envelope>,
    /// T_submit, as it has adapted.
    pub(crate) patience: Span,
}

/// What a proposal is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It holds, for good.
    Valid,
    /// It can never hold.
    Invalid,
    /// It may still come to hold: say nothing.
    Open,
}

impl Bench<'_> {
    /// R21. Whether to start the height: its vectors are in (or time is up) and the next session is set up.
    pub(crate) fn ready(&self, desk: &mut Desk) -> bool {
        // Whether the next session is set up is known at once.
        self.set_up(desk) && self.settled(desk)
    }

    fn settled(&self, desk: &mut Desk) -> bool {
        let Some(work) = &self.current.work else {
            // What became of the height before stands in the record.
            return self.previous(desk).is_some();
        };
        if matches!(self.previous(desk), Some(Previous::Spent { .. })) {
            return true;
        }
        let missing = &self.current.submissions.lacking;
        if missing.is_empty() || self.submit_is_over(desk) {
            return true;
        }
        // R21  Members that have gone quiet are not waited for, if a sum is possible without them.
        let quiet = desk.timers().quiet;
        let gone = missing.iter().all(|id| {
            let working = desk.me == Some(*id) && self.current.may_submit(desk) && !work.failed;
            !working && !self.current.is_moving(desk, *id, 1) && {
                let at = desk.working_since(*id, work.since) + quiet;
                desk.due(at)
            }
        });
        gone && self.choose(desk, 0).is_some()
    }

    /// R21. T_submit is over, and T_move for each vector that was announced within it; another one, for members that
    /// take dead ones' seats, if no sum is in sight without.
    fn submit_is_over(&self, desk: &mut Desk) -> bool {
        let Some(end) = self.current.submit_ends(desk, self.patience) else {
            return true;
        };
        desk.due(end)
            && !self.current.any_moving(desk, end, 1)
            && (!self.current.any_moving(desk, end, 2) || self.choose(desk, 0).is_some())
    }

    /// R13. Set-up of the next height is complete, or its time is over, or there is none.
    fn set_up(&self, desk: &mut Desk) -> bool {
        let Some(next) = self.next else { return true };
        next.is_set_up(desk) || {
            let setup = desk.timers().setup;
            next.begun.is_some_and(|begun| desk.due(begun + setup))
        }
    }

    /// R42. What became of the height before, as far as we know; none while that may still change.
    fn previous(&self, desk: &mut Desk) -> Option<Previous> {
        let called = self
            .before
            .and_then(|before| before.opening.called.as_ref().map(|c| (before, c)));
        let Some((before, called)) = called else {
            return Some(Previous::None);
        };
        let spent = |cause, culprits, silent| {
            Some(Previous::Spent {
                cause,
                culprits,
                silent,
            })
        };
        match &before.opening.result {
            Some(Outcome::Opened { digest, .. }) => Some(Previous::Opened(*digest)),
            Some(Outcome::Guilty(culprits)) => spent(Cause::Dealing, culprits.clone(), Vec::new()),
            Some(Outcome::OutOfRange) => spent(Cause::Range, Vec::new(), Vec::new()),
            None if desk.due(called.since + before.opening_patience(desk)) => {
                spent(Cause::Withheld, Vec::new(), before.silent())
            }
            None => None,
        }
    }

    /// R22. The record that we propose; none while something for it is still to come.
    pub(crate) fn propose(&self, desk: &mut Desk, round: u32) -> Option<Record> {
        let previous = self.previous(desk)?;
        let survivors = match (&self.current.work, &previous) {
            (None, _) | (_, Previous::Spent { .. }) => None,
            // R22  Others may have started too soon: they do not make us leave anybody out.
            (Some(_), Previous::None | Previous::Opened(_)) if !self.settled(desk) => return None,
            (Some(_), Previous::None | Previous::Opened(_)) => match self.choose(desk, round) {
                Some(survivors) => Some(survivors),
                None if self.submit_is_over(desk) => None,
                None => return None,
            },
        };
        if !self.set_up(desk) {
            return None;
        }
        let mut record = Record {
            epoch: 0,
            height: self.current.height,
            before: self.ledger.head_digest(),
            survivors,
            sharers_next: Vec::new(),
            joins: Vec::new(),
            leaves: Vec::new(),
            members_after_next: Vec::new(),
            previous,
            evidence: self.evidence(desk),
        };
        let excluded = self.ledger.exclusion(&record);
        let sharers = self.next.map(|next| next.sharers(desk, excluded));
        record.sharers_next = sharers.unwrap_or_default();
        self.release(&mut record);
        self.admit(&mut record);
        Some(record)
    }

    /// R64. The contradictions that we hold and the chain does not know.
    fn evidence(&self, desk: &Desk) -> Vec<Evidence> {
        let new = desk
            .evidence
            .values()
            .filter(|evidence| !self.ledger.is_convicted(evidence.against()));
        new.take(limits::CONVICTS).cloned().collect()
    }

    /// R66. Releases who wants to leave, as many as the others can do without.
    fn release(&self, record: &mut Record) {
        for leave in &self.leaves {
            record.leaves.push((*leave).clone());
            if self.ledger.members_after_next(record).is_err() {
                record.leaves.pop();
            }
        }
    }

    /// R44. Admits whom the rules let in, as many as the quorum can bear.
    fn admit(&self, record: &mut Record) {
        record.members_after_next = self.ledger.members_after_next(record).unwrap_or_default();
        for join in &self.joins {
            record.joins.push((*join).clone());
            record.joins.sort_by_key(|join| {
                let body = message::decode::<Join>(&join.body);
                body.ok().map(|body| body.key)
            });
            if let Ok(members) = self.ledger.members_after_next(record) {
                record.members_after_next = members;
            } else {
                record.joins.retain(|known| known != *join);
            }
        }
    }

    /// R20. The survivors that we would propose: everybody whose vector we hold; after a lost round those whose
    /// vectors a quorum says it holds.
    fn choose(&self, desk: &Desk, round: u32) -> Option<Survivors> {
        let work = self.current.work.as_ref()?;
        let sid = work.terms.as_ref()?.sid;
        let held = |id: &MemberId| Some((*id, self.current.counts(*id)?));
        // R64  No sum with a member that contradicted itself.
        let trusted = work
            .sharers
            .keys()
            .filter(|id| !desk.evidence.contains_key(id));
        let held: Vec<_> = trusted.filter_map(held).collect();
        let announced = |(_, commit): &(MemberId, Digest)| {
            let holders = self.current.submissions.claims.of(commit);
            holders.count() >= self.current.roster.quorum()
        };
        let least = params::survivors_min(&desk.charter, self.current.roster.len());
        let mut commits = held;
        if round > 0 {
            let known: Vec<_> = commits.iter().copied().filter(announced).collect();
            if known.len() >= least {
                commits = known;
            }
        }
        let fit = commits.len() >= least && self.reachable(desk);
        fit.then_some(Survivors { sid, commits })
    }

    /// R23. Every sharer's secret can be rebuilt: t of those that acknowledged it were heard in this height.
    fn reachable(&self, desk: &Desk) -> bool {
        let Some(work) = &self.current.work else {
            return false;
        };
        let roster = &self.current.roster;
        let heard = |id: MemberId| {
            desk.me == Some(id) || desk.heard.get(&id).is_some_and(|at| *at >= work.since)
        };
        let heard = roster.ids().enumerate().filter(|(_, id)| heard(*id));
        let heard: Places = heard.map(|(place, _)| place).collect();
        let threshold = roster.quorum();
        let reached = |ackers: &Places| ackers.and(&heard).count() >= threshold;
        work.ackers.iter().all(reached)
    }

    /// R24. What a proposed record is worth. With a quorum's prevotes behind it only lasting conditions count.
    pub(crate) fn judge(&self, desk: &mut Desk, weighed: &Weighed, polka: bool) -> Judgement {
        let Some(record) = weighed.record.as_ref().filter(|_| weighed.follows) else {
            return Judgement::Invalid;
        };
        let parts = [
            self.judge_previous(desk, record, polka),
            self.judge_survivors(desk, record, polka),
            self.judge_sharers(record, &weighed.ackers, polka),
        ];
        if parts.contains(&Judgement::Invalid) {
            Judgement::Invalid
        } else if parts.contains(&Judgement::Open) {
            Judgement::Open
        } else {
            Judgement::Valid
        }
    }

    fn judge_previous(&self, desk: &mut Desk, record: &Record, polka: bool) -> Judgement {
        let result = self
            .before
            .and_then(|before| before.opening.result.as_ref());
        let Previous::Spent {
            cause,
            culprits,
            silent,
        } = &record.previous
        else {
            return match (&record.previous, result) {
                (Previous::Opened(digest), Some(Outcome::Opened { digest: own, .. })) => {
                    // R77  Ours may turn out to be the wrong one.
                    if digest == own {
                        Judgement::Valid
                    } else {
                        Judgement::Open
                    }
                }
                (Previous::Opened(_), Some(Outcome::OutOfRange | Outcome::Guilty(_))) => {
                    Judgement::Invalid
                }
                (Previous::Opened(_), None) => Judgement::Open,
                (Previous::None | Previous::Spent { .. }, _) => Judgement::Valid,
            };
        };
        match (cause, result) {
            (Cause::Withheld, _) => self.judge_withheld(desk, silent, polka),
            // What the others opened we may come to open.
            (Cause::Dealing | Cause::Range, None) => Judgement::Open,
            (Cause::Dealing, Some(Outcome::Guilty(guilty))) => valid(culprits == guilty),
            (Cause::Range, Some(Outcome::OutOfRange)) => Judgement::Valid,
            (Cause::Dealing | Cause::Range, Some(_)) => Judgement::Invalid,
        }
    }

    /// R24, R62. Passing: T_reveal is over, we cannot open, and those who are said to have withheld did.
    fn judge_withheld(&self, desk: &mut Desk, silent: &[MemberId], polka: bool) -> Judgement {
        let ours = match self.previous(desk) {
            Some(Previous::Spent {
                cause: Cause::Withheld,
                silent,
                ..
            }) => Some(silent),
            Some(Previous::None | Previous::Opened(_) | Previous::Spent { .. }) | None => None,
        };
        let agreed = ours.is_some_and(|ours| silent.iter().all(|member| ours.contains(member)));
        if agreed || polka {
            Judgement::Valid
        } else {
            Judgement::Open
        }
    }

    fn judge_survivors(&self, desk: &mut Desk, record: &Record, polka: bool) -> Judgement {
        let Some(work) = &self.current.work else {
            return Judgement::Valid;
        };
        let Some(survivors) = &record.survivors else {
            // R24  A passing condition: time is up and no sum is in sight.
            let spent = matches!(record.previous, Previous::Spent { .. });
            let over = spent || polka || self.submit_is_over(desk);
            let hopeless = spent || polka || self.choose(desk, 0).is_none();
            return if over && hopeless {
                Judgement::Valid
            } else {
                Judgement::Open
            };
        };
        let Some(terms) = &work.terms else {
            return Judgement::Open;
        };
        // The chain has checked it: another one is of another result than ours, which may turn out to be the wrong one.
        if survivors.sid != terms.sid {
            return Judgement::Open;
        }
        // R64  A passing condition: we hold nothing against a survivor.
        let accused = survivors
            .commits
            .iter()
            .any(|(id, _)| desk.evidence.contains_key(id));
        if accused && !polka {
            return Judgement::Open;
        }
        let held = |(id, digest): &(MemberId, Digest)| {
            let counts =
                self.current.counts(*id) == Some(*digest) && self.current.holds_own_shards(*id);
            counts || polka && self.current.is_claimed(*id, digest)
        };
        if survivors.commits.iter().all(held) {
            Judgement::Valid
        } else {
            Judgement::Open
        }
    }

    /// R12. A voter holds the keys, dealings and acknowledgements that it votes for.
    fn judge_sharers(&self, record: &Record, ackers: &[Places], polka: bool) -> Judgement {
        let Some(next) = self.next else {
            return valid(record.sharers_next.is_empty());
        };
        let held = |(sharer, ackers): (&Sharer, &Places)| {
            next.recorded_advert(sharer).is_some()
                && next.recorded_deal(sharer)
                && (polka || next.have_acked(ackers, sharer))
        };
        if record.sharers_next.iter().zip(ackers).all(held) {
            Judgement::Valid
        } else {
            Judgement::Open
        }
    }
}

impl Session {
    /// R6. A proposal names these envelopes: whoever sends them gets the slot.
    pub(crate) fn cite(&mut self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            self.post.cite(digest);
        }
    }
}

const fn valid(holds: bool) -> Judgement {
    if holds {
        Judgement::Valid
    } else {
        Judgement::Invalid
    }
}
