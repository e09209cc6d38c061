//! Who was lost, and who of them is gone: not heard to speak since. R75

use std::collections::BTreeMap;

use crate::names::MemberId;
use crate::time::{Span, Time};

/// The members that could be reached and cannot be any more.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    lost: BTreeMap<MemberId, Lost>,
    /// Counts who went and who came back.
    pub(crate) changes: u64,
}

#[derive(Debug)]
struct Lost {
    at: Time,
    /// It has spoken for itself since.
    speaks: bool,
}

impl Gone {
    /// A member could be reached, and was lost.
    pub(crate) fn lose(&mut self, member: MemberId, now: Time) {
        let lost = Lost {
            at: now,
            speaks: false,
        };
        self.lost.insert(member, lost);
        self.changes = self.changes.saturating_add(1);
    }

    /// A member can be reached again.
    pub(crate) fn regain(&mut self, member: MemberId) {
        if self.lost.remove(&member).is_some() {
            self.changes = self.changes.saturating_add(1);
        }
    }

    /// A member spoke for itself, to us or by way of others. For some time these may hand on what it said before it was
    /// lost.
    pub(crate) fn hear(&mut self, member: MemberId, now: Time, echo: Span) {
        let lost = self.lost.get_mut(&member);
        if let Some(lost) = lost.filter(|lost| !lost.speaks && lost.at + echo < now) {
            lost.speaks = true;
            self.changes = self.changes.saturating_add(1);
        }
    }

    /// When a member was lost that cannot be reached now.
    pub(crate) fn lost(&self, member: MemberId) -> Option<Time> {
        self.lost.get(&member).map(|lost| lost.at)
    }

    /// Those that are gone.
    pub(crate) fn ids(&self) -> impl Iterator<Item = MemberId> + '_ {
        let gone = self.lost.iter().filter(|(_, lost)| !lost.speaks);
        gone.map(|(id, _)| *id)
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
        assert_eq!(gone.lost(MemberId(1)), Some(Time(1000)));
        gone.regain(MemberId(2));
        assert_eq!(ids(&gone), []);
        assert_eq!(gone.lost(MemberId(2)), None);
        assert_eq!(gone.changes, changes + 2);
        gone.regain(MemberId(2));
        gone.hear(MemberId(3), Time(9000), Span(500));
        assert_eq!(gone.changes, changes + 2, "nobody came back");
    }
}
