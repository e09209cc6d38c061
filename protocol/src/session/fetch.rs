//! Shards that a member fetches for others, which may not reach their author.

use crate::desk::Desk;
use crate::names::MemberId;
use crate::params;
use crate::session::Session;
use crate::session::pull::{Source, Wanted};
use crate::time::Span;

impl Session {
    /// R72. T_move/2 after a Commit, of the shards that call us next behind their seats: those of which somebody who
    /// holds a seat does not say that it holds the vector. Where many do not, it is on its way to them. What was asked
    /// for once is asked for until it is here, whatever they say then: a Have may be taken back.
    pub(super) fn wanted_for_others(&mut self, desk: &mut Desk) -> Vec<Wanted> {
        let (Some(me), Some(plan)) = (self.me(desk), &self.sharding.plan) else {
            return Vec::new();
        };
        if self.opening.called.is_some() {
            return Vec::new();
        }
        let half = Span(self.moving(desk).0 / 2);
        let open = self.sharding.announced.iter();
        let late = open.filter(|fitting| !fitting.counted);
        // Those behind it came later.
        let mut late = late
            .take_while(|fitting| desk.due(fitting.since + half))
            .peekable();
        if late.peek().is_none() {
            return Vec::new();
        }
        let ours = |m: &usize| plan.next_called(&self.roster, *m).any(|id| id == me);
        let ours: Vec<usize> = (0..plan.cut.shards()).filter(ours).collect();
        let mut wanted = Vec::new();
        for fitting in late {
            let claimed = self.submissions.claims.of(&fitting.commit);
            let few = plan.first.without(&claimed).count() <= params::faults(plan.first.count());
            let lacks = |id: MemberId| id != fitting.member && !self.roster.is_in(&claimed, id);
            for m in &ours {
                let name = self.sharding.name(fitting.member, *m);
                let Some(name) = name.filter(|name| !self.sharding.held.contains(name)) else {
                    continue;
                };
                let lacking = || plan.called(&self.roster, *m).take(plan.replicas).any(lacks);
                if self.sharding.for_others.contains(&name) || few && lacking() {
                    let from = Source::Witnesses(fitting.member);
                    wanted.push(Wanted::new(name, *m, plan.cut.bytes(*m), from));
                }
            }
        }
        let names = wanted.iter().map(|wanted| wanted.name);
        self.sharding.for_others.extend(names);
        wanted
    }
}
