//! Who is gone: lost, and not heard to speak since. R75

use std::collections::BTreeMap;

use crate::names::MemberId;
use crate::time::{Span, Time};

/// The members that are gone.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    /// Since when.
    since: BTreeMap<MemberId, Time>,
    /// Counts who went and who came back.
    pub(crate) changes: u64,
}

impl Gone {
    /// A member could be reached, and was lost.
    pub(crate) fn lose(&mut self, member: MemberId, now: Time) {
        self.since.insert(member, now);
        self.changes = self.changes.saturating_add(1);
    }

    /// A member can be reached again.
    pub(crate) fn regain(&mut self, member: MemberId) {
        if self.since.remove(&member).is_some() {
            self.changes = self.changes.saturating_add(1);
        }
    }

    /// A member spoke for itself, to us or by way of others. For some time these may hand on what it said before it was
    /// lost.
    pub(crate) fn hear(&mut self, member: MemberId, now: Time, echo: Span) {
        let lost = self.since.get(&member);
        if lost.is_some_and(|at| *at + echo < now) {
            self.regain(member);
        }
    }

    /// Those that are gone.
    pub(crate) fn ids(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.since.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_lost_is_gone_until_it_speaks_or_can_be_reached() {
        // R75
        let mut gone = Gone::default();
        let ids = |gone: &Gone| gone.ids().map(|id| id.0).collect::<Vec<_>>();
        for id in [1, 2] {
            gone.lose(MemberId(id), Time(1000));
        }
        let changes = gone.changes;
        gone.hear(MemberId(1), Time(1500), Span(500));
        assert_eq!(ids(&gone), [1, 2], "others hand on what it said before");
        gone.hear(MemberId(1), Time(1501), Span(500));
        assert_eq!(ids(&gone), [2], "it speaks, and others hand it on");
        gone.regain(MemberId(2));
        assert_eq!(ids(&gone), []);
        assert_eq!(gone.changes, changes + 2);
        gone.regain(MemberId(2));
        gone.hear(MemberId(3), Time(9000), Span(500));
        assert_eq!(gone.changes, changes + 2, "nobody came back");
    }
}
