//! Shards: large vectors are collected by the holders of their seats, and count as held when these say so. R70 to R73

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::digest::Digest;
use conclave_crypto::ladder::Masked;
use conclave_crypto::merkle;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::Bytes;
use crate::message::{Commit, Have};
use crate::names::{MemberId, SumId};
use crate::output::Table;
use crate::params;
use crate::places::Places;
use crate::session::Session;
use crate::session::pace::GATHER;
use crate::session::sharding::{Fitting, Plan};
use crate::session::submit::Blob;
use crate::shard::{self, Cut, seats::Seats};
use crate::time::{Span, Time};

impl Session {
    /// R70. Whether this height's vectors are moved and summed in shards.
    pub(crate) fn is_sharded(&self, desk: &Desk) -> bool {
        let Some(work) = &self.work else { return false };
        let bytes = u64::try_from(work.coordinates)
            .unwrap_or(u64::MAX)
            .saturating_mul(4);
        shard::applies(
            self.roster.len(),
            bytes,
            desk.charter.aggregation.inline_limit,
        )
    }

    /// R72. A masked vector in shards: the Commit that names them, and what must be durable before it is said.
    pub(super) fn cut_vector(
        &mut self,
        desk: &Desk,
        sid: SumId,
        masked: Masked,
    ) -> Option<(Commit, Vec<Blob>)> {
        self.plan_shards(desk);
        let cut = self.cut()?;
        // The shards are pieces of the one vector.
        let length = masked.length();
        let mut rest = Bytes::from_owner(masked);
        let shard = |m| {
            let bytes = usize::try_from(cut.bytes(m)).unwrap_or(usize::MAX);
            let bytes = rest.split_to(bytes.min(rest.len()));
            (Table::Shards, merkle::root(&bytes), bytes)
        };
        let blobs: Vec<Blob> = (0..cut.shards()).map(shard).collect();
        let shards: Vec<_> = blobs.iter().map(|(_, name, _)| *name).collect();
        self.sharding.held.extend(&shards);
        for (_, name, bytes) in &blobs {
            self.sharding.recent.keep(*name, bytes);
        }
        let commit = Commit {
            sid,
            root: shard::root(&shards),
            length,
            inline: None,
            shards,
        };
        Some((commit, blobs))
    }

    /// R16, R20, R73. The Commit of a member whose vector counts as held here.
    pub(crate) fn counts(&self, member: MemberId) -> Option<Digest> {
        if let Some((commit, _)) = self.vector_of(member) {
            return Some(commit.digest);
        }
        let digest = self.fitting(member)?;
        self.sharding.counted.contains(&digest).then_some(digest)
    }

    /// R73. Whether at least one member says of each shard that it holds it, its author left aside.
    pub(crate) fn is_claimed(&self, member: MemberId, commit: &Digest) -> bool {
        let Some(plan) = &self.sharding.plan else {
            return false;
        };
        if self.fitting(member) != Some(*commit) {
            return false;
        }
        let listed = self.submissions.claims.of(commit);
        let witness = |(id, _): &(&MemberId, _)| {
            let place = self.roster.place(**id);
            plan.bears_witness(**id, member)
                && place.is_some_and(|place| listed.contains(place) && plan.seated.contains(place))
        };
        let haves = self.submissions.haves.iter().filter(witness);
        let shards = plan.cut.shards();
        let mut open: BTreeSet<_> = (0..u32::try_from(shards).unwrap_or(u32::MAX)).collect();
        for (_, have) in haves {
            for m in &have.shards {
                open.remove(m);
            }
            if open.is_empty() {
                return true;
            }
        }
        open.is_empty()
    }

    /// R73. Whether we hold the shards that call us of a member's vector.
    pub(crate) fn holds_own_shards(&self, member: MemberId) -> bool {
        self.holds(member, &self.sharding.mine)
    }

    fn holds(&self, member: MemberId, shards: &BTreeSet<usize>) -> bool {
        let held = |m: &usize| {
            let name = self.sharding.name(member, *m);
            name.is_some_and(|name| self.sharding.held.contains(&name))
        };
        shards.iter().all(held)
    }

    /// What is due while the vectors come in: seats are taken, Haves sent, vectors counted, shards pulled.
    pub(crate) fn collect_shards(&mut self, desk: &mut Desk) {
        if !self.is_sharded(desk) {
            return;
        }
        self.look(
            desk,
            |looks| &mut looks.collecting,
            |session, desk| {
                session.plan_shards(desk);
                session.call_others(desk);
                session.take_seats(desk);
                session.count_shards(desk);
                session.announce_shards(desk);
                session.pull_shards(desk);
            },
        );
    }

    /// R70, R71. Cuts the vectors and draws the seats, once the masking context is known.
    pub(super) fn plan_shards(&mut self, desk: &Desk) {
        let Some(work) = &self.work else { return };
        let Some(terms) = &work.terms else { return };
        if self
            .sharding
            .plan
            .as_ref()
            .is_some_and(|plan| plan.sid == terms.sid)
        {
            return;
        }
        let sharers: Vec<_> = work.sharers.keys().copied().collect();
        let cut = Cut::new(work.coordinates, sharers.len());
        let replicas = desk.charter.aggregation.replicas.try_into().unwrap_or(1);
        // R79  Members that lied hold no seats, as long as there are others.
        let honest = sharers.iter().filter(|id| !desk.unseated.contains(id));
        let honest: Vec<_> = honest.copied().collect();
        let seated = if honest.len() > replicas {
            honest
        } else {
            sharers
        };
        let (sid, seats) = (terms.sid, Seats::draw(&terms.sid, &seated, cut.shards()));
        let place = |id: &MemberId| self.roster.place(*id);
        let mut plan = Plan {
            sid,
            seated: seated.iter().filter_map(place).collect(),
            seats,
            gone: Places::default(),
            first: Places::default(),
            calls: BTreeMap::new(),
            cut,
            replicas,
            liars: desk.unseated.clone(),
        };
        plan.call(&self.roster, Places::default());
        self.sharding.plan = Some(plan);
        self.sharding.mine.clear();
        self.sharding.late = None;
        self.sharding.book.stir();
        self.count_anew();
    }

    /// R71. Calls others in the place of members that are gone, while a vector lacks holders and enough can be called.
    fn call_others(&mut self, desk: &Desk) {
        let gone = self.gone(desk);
        let Some(plan) = self.sharding.plan.as_mut() else {
            return;
        };
        let mut gone = gone.and(&plan.seated);
        if plan.seated.without(&gone).count() <= plan.replicas {
            gone = Places::default();
        }
        let announced = &self.sharding.announced;
        if gone == plan.gone || announced.iter().all(|fitting| fitting.counted) {
            return;
        }
        plan.call(&self.roster, gone);
        let commits = announced.iter().map(|fitting| fitting.commit);
        self.sharding.stirred.extend(commits);
        self.sharding.late_at = None;
        self.find_complete();
    }

    /// R71. We sum the shards that call us among the first `replicas`, leaving out members that are gone, and of those
    /// so called who T_move after a Commit does not say that it holds its vector, while more than a third of them do.
    pub(super) fn take_seats(&mut self, desk: &mut Desk) {
        let Some(me) = self.me(desk) else { return };
        let Some(plan) = &self.sharding.plan else {
            return;
        };
        // Few shards call few members: f of all would be more than there are.
        let (moving, faults) = (self.moving(desk), params::faults(plan.first.count()));
        // Those behind it came later.
        let announced = self.sharding.announced.iter();
        let over = announced.take_while(|fitting| desk.due(fitting.since + moving));
        let over = over.count();
        let at = Some((self.submissions.claims.news, over));
        if self.sharding.late.is_some() {
            // Many say at once what they hold.
            let soon = self.sharding.seats_at;
            if self.sharding.late_at == at || soon.is_some_and(|soon| !desk.due(soon)) {
                return;
            }
        }
        self.sharding.late_at = at;
        self.sharding.seats_at = Some(desk.now + GATHER);
        let mut late = plan.gone;
        for fitting in self.sharding.announced.iter().take(over) {
            let holders = self.submissions.claims.of(&fitting.commit);
            if plan.first.and(&holders).count() > faults {
                late.join(&plan.first.without(&holders));
            }
        }
        let place = |id: MemberId| self.roster.place(id);
        if let Some(own) = place(me) {
            late.remove(own);
        }
        if self.sharding.late == Some(late) {
            return;
        }
        let in_time = |id: &MemberId| !self.roster.is_in(&late, *id);
        for m in 0..plan.cut.shards() {
            let mut called = plan.seats.order(m).filter(in_time);
            if called.by_ref().take(plan.replicas).any(|id| id == me) {
                self.sharding.mine.insert(m);
            }
        }
        self.sharding.late = Some(late);
    }

    /// R73. Says which shards we hold of which vectors, when that is more than we said before.
    fn announce_shards(&mut self, desk: &mut Desk) {
        let Some(me) = self.me(desk) else { return };
        let said = self.submissions.haves.get(&me);
        if self.sharding.mine.is_empty() && said.is_none() {
            return;
        }
        let sharers = self.work.as_ref().map_or(0, |work| work.sharers.len());
        let gathers = self.sharding.have_at;
        if gathers.is_some_and(|at| !desk.due(at)) && self.sharding.announced.len() < sharers {
            return;
        }
        self.sharding.count_here();
        let sharding = &self.sharding;
        let whole = sharding.whole(true).count();
        let said = self.submissions.haves.get(&me);
        let same = said.is_none_or(|said| {
            let shards = said.shards.iter().map(|m| usize::try_from(*m).ok());
            shards.eq(sharding.mine.iter().map(|m| Some(*m)))
        });
        if same && whole <= said.map_or(0, |said| said.commits.len()) {
            return;
        }
        let before: BTreeSet<_> = said
            .iter()
            .flat_map(|said| &said.shards)
            .filter_map(|m| usize::try_from(*m).ok())
            .collect();
        let said = said.map_or(&[][..], |said| said.commits.as_slice());
        let commits = sharding.whole(true).map(|fitting| fitting.commit);
        let commits: BTreeSet<_> = commits.collect();
        let (commits, shards) = if said.iter().all(|commit| commits.contains(commit)) {
            (commits, sharding.mine.clone())
        } else {
            let held = |fitting: &&Fitting| self.holds(fitting.member, &before);
            let commits = sharding.announced.iter().filter(held);
            let commits = commits.map(|fitting| fitting.commit).collect();
            (commits, before.clone())
        };
        let more = commits.len() > said.len() || shards.len() > before.len();
        if commits.is_empty() || shards.is_empty() || !more {
            return;
        }
        let all = sharers == commits.len();
        let patience = self.gathering();
        let at = *self.sharding.have_at.get_or_insert(desk.now + patience);
        if !all && !desk.due(at) {
            return;
        }
        self.sharding.have_at = None;
        let seq = self.next_seq(me, Kind::Have);
        let shards = shards
            .iter()
            .filter_map(|m| u32::try_from(*m).ok())
            .collect();
        let commits = commits.into_iter().collect();
        let envelope = desk.sign(Kind::Have, self.sess, seq, &Have { commits, shards });
        self.say(desk, &envelope);
    }

    /// The Commit of a sharer, if it announces a vector in shards under this height's terms.
    pub(super) fn fitting(&self, member: MemberId) -> Option<Digest> {
        let (plan, work) = (self.sharding.plan.as_ref()?, self.work.as_ref()?);
        let commit = self.submissions.commits.get(&member)?;
        let list = self.sharding.lists.get(&member)?;
        let fits = work.fits(commit)
            && commit.sid == plan.sid
            && list.commit == commit.digest
            && list.names().len() == plan.cut.shards();
        fits.then_some(commit.digest)
    }

    pub(super) fn cut(&self) -> Option<Cut> {
        Some(self.sharding.plan.as_ref()?.cut)
    }

    /// R73. T_move, how long shards may be on their way: T_have and a second for each MiB of the vector.
    pub(super) fn moving(&self, desk: &Desk) -> Span {
        let coordinates = self.work.as_ref().map_or(0, |work| work.coordinates);
        let mebibytes = u64::try_from(coordinates >> 18).unwrap_or(u64::MAX);
        let moving = mebibytes.saturating_mul(1000);
        Span(desk.timers().have.0.saturating_add(moving))
    }

    /// R21. When T_submit is over: counted from when there was something to train from.
    pub(crate) fn submit_ends(&self, desk: &Desk, patience: Span) -> Option<Time> {
        let work = self.work.as_ref()?;
        let late = work.since + self.opening_patience(desk);
        Some(work.ready.unwrap_or(late) + patience)
    }

    /// R21. Whether a vector that was announced by then may still be on its way.
    pub(crate) fn any_moving(&self, desk: &mut Desk, by: Time, moves: u64) -> bool {
        // What is not lacking has arrived.
        let lacking = self.submissions.lacking.iter();
        let mut announced = lacking.filter(|id| {
            let commit = self.submissions.commits.get(*id);
            commit.is_some_and(|commit| commit.since <= by)
        });
        announced.any(|id| self.is_moving(desk, *id, moves))
    }

    /// R21, R73. Whether a member's vector is announced, does not count yet and may still be on its way: for so many
    /// times T_move.
    pub(crate) fn is_moving(&self, desk: &mut Desk, member: MemberId, moves: u64) -> bool {
        let commit = self.submissions.commits.get(&member);
        let fits = if self.is_sharded(desk) {
            self.fitting(member).is_some()
        } else {
            let work = self.work.as_ref().zip(commit);
            work.is_some_and(|(work, commit)| work.fits(commit))
        };
        fits && self.counts(member).is_none() && !self.moved(desk, member, moves)
    }

    /// Whether so many times T_move are over since a member's vector was announced.
    fn moved(&self, desk: &mut Desk, member: MemberId, moves: u64) -> bool {
        let commit = self.submissions.commits.get(&member);
        let since = commit.map_or(desk.now, |commit| commit.since);
        desk.due(since + Span(self.moving(desk).0.saturating_mul(moves)))
    }

    /// R42, R78. How long the opening of the sum may take before it counts as failed.
    pub(crate) fn opening_patience(&self, desk: &Desk) -> Span {
        let reveal = desk.timers().reveal;
        if !self.is_sharded(desk) {
            return reveal;
        }
        let moving = self.moving(desk).0.saturating_mul(2);
        Span(reveal.0.saturating_add(moving))
    }
}
