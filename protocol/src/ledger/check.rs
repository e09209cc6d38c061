//! What a record must be to follow the chain: everything that the chain alone decides.

use std::collections::BTreeSet;

use crate::evidence::Evidence;
use crate::ledger::{Broken, Ledger};
use crate::limits;
use crate::names::{Height, MemberId};
use crate::params;
use crate::record::{Cause, Previous, Record, Sharer, Survivors};

impl Ledger {
    /// R40. Everything of a record that the chain alone decides.
    pub fn check(&self, record: &Record) -> Result<(), Broken> {
        let must = |holds: bool, what: &str| {
            if holds {
                Ok(())
            } else {
                Err(self.broken(what))
            }
        };
        must(!self.finished(), "the closing record was decided before it")?;
        must(!self.halted(), "the job was halted before it")?;
        must(
            record.height == self.next() && record.epoch == 0,
            "it names another height",
        )?;
        must(
            record.before == self.head_digest(),
            "it does not follow the head",
        )?;
        self.check_evidence(record)?;
        self.check_previous(record)?;
        if let Some(survivors) = &record.survivors {
            self.check_survivors(record, survivors)?;
        }
        self.check_sharers(record)?;
        let members = self
            .members_after_next(record)
            .map_err(|what| self.broken(&what))?;
        must(
            record.members_after_next == members,
            "its members do not follow from the rules",
        )
    }

    /// R42. A sum was called for if and only if it was opened or spent; a spent one leaves no survivors.
    fn check_previous(&self, record: &Record) -> Result<(), Broken> {
        let called = self
            .entries
            .last()
            .is_some_and(|entry| entry.record.survivors.is_some());
        let (fits, what) = match &record.previous {
            Previous::None => (!called, "it is silent on the sum before"),
            Previous::Opened(_) => (called, "it certifies a sum that nobody called for"),
            Previous::Spent {
                cause,
                culprits,
                silent,
            } => {
                let dealt = self.sharers(self.head());
                let dealers: BTreeSet<_> = dealt.iter().map(|sharer| sharer.member).collect();
                let holders: BTreeSet<_> = dealt.iter().flat_map(|sharer| &sharer.ackers).collect();
                // R62  Only who acknowledged shares can withhold them.
                let caused = match cause {
                    Cause::Dealing => !culprits.is_empty() && silent.is_empty(),
                    Cause::Range => culprits.is_empty() && silent.is_empty(),
                    Cause::Withheld => culprits.is_empty(),
                };
                let fits = called
                    && record.survivors.is_none()
                    && caused
                    && ascending(culprits)
                    && ascending(silent)
                    && culprits.iter().all(|culprit| dealers.contains(culprit))
                    && silent.iter().all(|member| holders.contains(member));
                (fits, "it spends what cannot be spent")
            }
        };
        if fits { Ok(()) } else { Err(self.broken(what)) }
    }

    /// R64. Evidence proves itself under the keys of the chain and convicts each member once; convicts do not survive.
    fn check_evidence(&self, record: &Record) -> Result<(), Broken> {
        let against: Vec<_> = record.evidence.iter().map(Evidence::against).collect();
        if !ascending(&against) || against.len() > limits::CONVICTS {
            return Err(self.broken("its evidence is not in order, or too much"));
        }
        let survivors = record.survivor_ids();
        if against.iter().any(|convict| survivors.contains(convict)) {
            return Err(self.broken("it counts a member on which it has evidence"));
        }
        let sound = |evidence: &Evidence| {
            let person = self.person(evidence.against());
            let known = self.session_height(&evidence.sess()).is_some();
            let new = !self.is_convicted(evidence.against());
            known && new && person.is_some_and(|person| evidence.proves(&person.key))
        };
        if record.evidence.iter().all(sound) {
            Ok(())
        } else {
            Err(self.broken("its evidence proves nothing"))
        }
    }

    /// R20, R2. Survivors are sharers, enough of them, under the masking context of the chain.
    fn check_survivors(&self, record: &Record, survivors: &Survivors) -> Result<(), Broken> {
        let height = record.height;
        let sharers = self.sharer_ids(height);
        let ids = record.survivor_ids();
        let n = self.roster(height).map_or(0, |roster| roster.len());
        if !ascending(&ids) || !ids.iter().all(|id| sharers.contains(id)) {
            return Err(self.broken("its survivors are not sharers"));
        }
        if ids.len() < params::survivors_min(&self.charter, n) {
            return Err(self.broken("it has too few survivors"));
        }
        let adapter = match &record.previous {
            Previous::Opened(adapter) => Some(*adapter),
            Previous::None | Previous::Spent { .. } => self.certified,
        };
        if let (Some(adapter), Some(_)) = (adapter, &self.start)
            && self.sum_id(height, &adapter) != Some(survivors.sid)
        {
            return Err(self.broken("its masking context does not follow from the chain"));
        }
        Ok(())
    }

    /// R12. Sharers are members that at least t members acknowledged; too few are none; none after the last round.
    fn check_sharers(&self, record: &Record) -> Result<(), Broken> {
        let sharers = record.sharers_next.as_slice();
        let Some(roster) = self.roster(Height(self.next().0.saturating_add(1))) else {
            return Err(self.broken("its next height has no members"));
        };
        let ids: Vec<_> = sharers.iter().map(|sharer| sharer.member).collect();
        let excluded = self.exclusion(record);
        let sound = |sharer: &Sharer| {
            roster.contains(sharer.member)
                && !excluded(sharer.member)
                && ascending(&sharer.ackers)
                && sharer.ackers.iter().all(|acker| roster.contains(*acker))
                && sharer.ackers.contains(&sharer.member)
                && sharer.ackers.len() >= roster.quorum()
        };
        if !ascending(&ids) || !sharers.iter().all(sound) {
            return Err(self.broken("its sharers are not acknowledged members"));
        }
        if !ids.is_empty() && ids.len() < params::survivors_min(&self.charter, roster.len()) {
            return Err(self.broken("it has too few sharers"));
        }
        if !ids.is_empty() && self.rounds_through(self.next()) >= self.charter.round.rounds {
            return Err(self.broken("no sharers follow the last round"));
        }
        Ok(())
    }
}

fn ascending(ids: &[MemberId]) -> bool {
    ids.is_sorted_by(|a, b| a < b)
}
