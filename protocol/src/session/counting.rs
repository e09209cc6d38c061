//! Counting: which announced vectors are held, by what the holders of the seats say. R73

use std::collections::BTreeSet;
use std::sync::Arc;

use conclave_crypto::digest::Digest;

use crate::desk::Desk;
use crate::message::Have;
use crate::names::MemberId;
use crate::session::Session;
use crate::session::sharding::{Fitting, Plan};

impl Session {
    /// There is a new plan: the Commits that fit it are found, and none is known to count.
    pub(super) fn count_anew(&mut self) {
        let Some(work) = &self.work else { return };
        let sharers: Vec<_> = work.sharers.keys().copied().collect();
        self.submissions.lacking.clone_from(&sharers);
        self.sharding.announced.clear();
        self.sharding.late_at = None;
        for member in sharers {
            self.note_announced(member);
        }
        self.sharding.announced.sort_by_key(|fitting| fitting.since);
        self.find_complete();
        self.sharding.stir();
    }

    /// Finds the members that say that they hold all shards that call them.
    pub(super) fn find_complete(&mut self) {
        let haves = self.submissions.haves.iter();
        let complete = haves.filter(|(id, have)| self.covers_calls(**id, have));
        let complete = complete.filter_map(|(id, _)| self.roster.place(*id));
        self.sharding.complete = complete.collect();
    }

    /// A member's Commit was taken: it may fit the plan.
    pub(super) fn note_announced(&mut self, member: MemberId) {
        let sharer = self.work.as_ref();
        let sharer = sharer.is_some_and(|work| work.sharers.contains_key(&member));
        let listed = self
            .submissions
            .commits
            .get(&member)
            .map(|commit| commit.since);
        if let (Some(commit), Some(since), true) = (self.fitting(member), listed, sharer) {
            self.sharding.stirred.insert(commit);
            self.sharding.announced.push(Fitting {
                member,
                commit,
                since,
                over: false,
                counted: false,
                here: 0,
            });
        }
    }

    /// A record names another Commit of a member than the one that was held.
    pub(super) fn lack_again(&mut self, member: MemberId) {
        let sharer = self.work.as_ref();
        let sharer = sharer.is_some_and(|work| work.sharers.contains_key(&member));
        let lacking = &mut self.submissions.lacking;
        if sharer && !lacking.contains(&member) {
            lacking.push(member);
        }
        let announced = &mut self.sharding.announced;
        announced.retain(|fitting| fitting.member != member);
        self.sharding.late_at = None;
    }

    /// Takes what a member says that it holds.
    pub(super) fn claim(&mut self, sender: MemberId, have: Arc<Have>) {
        let Some(place) = self.roster.place(sender) else {
            return;
        };
        let before = self.submissions.haves.get(&sender).map(Arc::clone);
        let (sharding, claims) = (&mut self.sharding, &mut self.submissions.claims);
        claims.take(place, before.as_deref(), &have, |commit| {
            // Without a plan nothing counts, and with a new one everything is counted anew.
            if sharding.plan.is_some() {
                sharding.stirred.insert(commit);
            }
        });
        let covers = before.is_none_or(|before| before.shards != have.shards);
        if covers && self.sharding.plan.is_some() {
            self.sharding.stirred.extend(have.commits.iter().copied());
            if self.covers_calls(sender, &have) {
                self.sharding.complete.insert(place);
            } else {
                self.sharding.complete.remove(place);
            }
        }
        self.submissions.haves.insert(sender, have);
    }

    /// Whether a Have names all shards that call its sender.
    fn covers_calls(&self, sender: MemberId, have: &Have) -> bool {
        let plan = self.sharding.plan.as_ref();
        let calls = plan.and_then(|plan| plan.calls.get(&sender));
        let mut calls = calls.into_iter().flatten();
        calls.all(|m| have.shards.binary_search(m).is_ok())
    }

    /// R73. A vector counts as held when all that every shard calls first say that they hold it, or at T_move when
    /// somebody does.
    pub(super) fn count_shards(&mut self, desk: &mut Desk) {
        let Some(plan) = &self.sharding.plan else {
            return;
        };
        let moving = self.moving(desk);
        let mut fresh = Vec::new();
        let mut over = true;
        for (at, fitting) in self.sharding.announced.iter().enumerate() {
            // Those behind it came later.
            over = over && desk.due(fitting.since + moving);
            let stirred = || self.sharding.stirred.contains(&fitting.commit);
            if !fitting.counted && (over && !fitting.over || stirred()) {
                let (member, commit) = (fitting.member, &fitting.commit);
                let counts = self.sharding.counted.contains(commit)
                    || self.is_held_by_first(plan, member, commit)
                    || over && self.is_claimed(member, commit);
                fresh.push((at, over, counts));
            }
        }
        self.sharding.stirred.clear();
        let mut counted = BTreeSet::new();
        for (at, over, counts) in fresh {
            let Some(fitting) = self.sharding.announced.get_mut(at) else {
                continue;
            };
            fitting.over = over;
            fitting.counted = counts;
            if counts {
                self.sharding.counted.insert(fitting.commit);
                counted.insert(fitting.member);
            }
        }
        if !counted.is_empty() {
            self.submissions.last = Some(desk.now);
            let lacking = &mut self.submissions.lacking;
            lacking.retain(|member| !counted.contains(member));
            self.sharding.stir();
        }
    }

    /// Whether all that the shards call first say that they hold theirs of this vector.
    fn is_held_by_first(&self, plan: &Plan, author: MemberId, commit: &Digest) -> bool {
        let mut asked = plan.first;
        if let Some(place) = self.roster.place(author)
            && !plan.bears_witness(author, author)
        {
            asked.remove(place);
        }
        let claims = &self.submissions.claims;
        asked.within(&claims.of(commit).and(&self.sharding.complete))
    }
}
