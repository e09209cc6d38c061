//! Vectors: which are held, said to be held, and pulled from whoever holds them.

use std::collections::BTreeSet;
use std::sync::Arc;

use conclave_crypto::digest::Digest;
use conclave_crypto::merkle;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::Bytes;
use crate::limits;
use crate::message::Have;
use crate::names::MemberId;
use crate::output::{Stored, Table};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::session::pace::GATHER;
use crate::session::submit::{Committed, Submissions};

impl Session {
    pub(crate) fn take_have(&mut self, sender: MemberId, body: Arc<Have>) -> Result<(), Refusal> {
        let ascending = body.commits.is_sorted_by(|a, b| a < b);
        let shards_too = body.shards.is_sorted_by(|a, b| a < b);
        let few = body.commits.len() <= self.roster.len() && body.shards.len() <= limits::SHARDS;
        if !ascending || !shards_too || !few {
            return Err(Refusal::Rule);
        }
        self.claim(sender, body);
        Ok(())
    }

    /// Whether a member says that it holds the vector of this Commit.
    pub(crate) fn has(&self, member: MemberId, commit: &Digest) -> bool {
        let place = self.roster.place(member);
        place.is_some_and(|place| self.submissions.claims.of(commit).contains(place))
    }

    /// R73. Whether a member says that it holds this shard of this vector.
    pub(super) fn covers(&self, member: MemberId, commit: &Digest, shard: usize) -> bool {
        let have = self.submissions.haves.get(&member);
        let shard = u32::try_from(shard);
        have.zip(shard.ok()).is_some_and(|(have, shard)| {
            have.shards.binary_search(&shard).is_ok() && self.has(member, commit)
        })
    }

    /// Finds out whose vectors we lack, if anything has changed.
    pub(crate) fn count_vectors(&mut self, desk: &Desk) {
        let Some(work) = self.work.as_ref().filter(|_| !self.is_sharded(desk)) else {
            return;
        };
        let now = self.submissions.news;
        if self.submissions.found_at != Some(now) {
            let lacks = |id: &&MemberId| self.vector_of(**id).is_none();
            let lacking = work.sharers.keys().filter(lacks).copied().collect();
            self.submissions.lacking = lacking;
            self.submissions.found_at = Some(now);
        }
    }

    /// The announced vector of a member, if it fits this height's terms and we hold it.
    pub(crate) fn vector_of(&self, member: MemberId) -> Option<(&Committed, &Bytes)> {
        let commit = self.submissions.commits.get(&member)?;
        let vector = self.submissions.vectors.get(&commit.root)?;
        let work = self.work.as_ref()?;
        let whole = u64::try_from(vector.len()) == Ok(commit.length);
        (whole && work.fits(commit)).then_some((commit, vector))
    }

    /// R16. Says which vectors we hold: at once when those are all, else after a short gathering.
    pub(crate) fn announce_held(&mut self, desk: &mut Desk) {
        if self.is_sharded(desk) {
            return;
        }
        let (Some(me), Some(work)) = (self.me(desk), &self.work) else {
            return;
        };
        let news = self.submissions.news;
        if self.submissions.said_at == Some(news) {
            return;
        }
        let all = self.submissions.lacking.is_empty();
        if let Some(at) = self.submissions.have_at
            && !all
            && !desk.due(at)
        {
            return;
        }
        let held: BTreeSet<_> = work
            .sharers
            .keys()
            .filter_map(|member| Some(self.vector_of(*member)?.0.digest))
            .collect();
        if held.iter().all(|commit| self.has(me, commit)) {
            self.submissions.said_at = Some(news);
            return;
        }
        let at = *self.submissions.have_at.get_or_insert(desk.now + GATHER);
        if !all && !desk.due(at) {
            return;
        }
        self.submissions.have_at = None;
        self.submissions.said_at = Some(news);
        let seq = self.next_seq(me, Kind::Have);
        let commits = held.into_iter().collect();
        let shards = Vec::new();
        let envelope = desk.sign(Kind::Have, self.sess, seq, &Have { commits, shards });
        self.say(desk, &envelope);
    }

    /// R16. Pulls announced vectors that are not here yet: from their author, then from whoever holds them.
    pub(crate) fn pull_vectors(&mut self, desk: &mut Desk) {
        if self.is_sharded(desk) {
            return;
        }
        let Some(work) = &self.work else { return };
        let length = u64::try_from(work.coordinates)
            .unwrap_or(u64::MAX)
            .saturating_mul(4);
        for member in &self.submissions.apart {
            let Some(commit) = self.submissions.commits.get(member) else {
                continue;
            };
            if !work.sharers.contains_key(member) || commit.length != length {
                continue;
            }
            if !self.submissions.pulls.may_ask(desk, &commit.root) {
                continue;
            }
            let has = |id: &MemberId| id != member && self.has(*id, &commit.digest);
            let order = core::iter::once(*member).chain(self.roster.ids().filter(has));
            let from = self.others(desk, order);
            let pulls = &mut self.submissions.pulls;
            let from = pulls.order(&commit.root, from, Vec::new());
            pulls.ask(desk, commit.root, length, from);
        }
    }

    /// Takes a pulled vector; its bytes must have the announced root. `None`: nobody announced it here.
    pub(crate) fn pulled(&mut self, desk: &mut Desk, name: Digest, bytes: &Bytes) -> Option<bool> {
        // One that copies another's root may have announced it with another length.
        let announced = self.submissions.commits.values();
        let lengths = announced.filter(|commit| commit.root == name);
        let mut lengths = lengths.map(|commit| commit.length).peekable();
        lengths.peek()?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let fits = lengths.any(|announced| announced == length) && merkle::root(bytes) == name;
        if fits && !self.submissions.vectors.contains_key(&name) {
            let key = name.as_bytes().to_vec();
            desk.store(Table::Vectors, key, bytes.clone());
            self.submissions.vectors.insert(name, bytes.clone());
            self.submissions.arrived();
        }
        if !fits {
            self.pull_failed(desk, name);
        }
        Some(fits)
    }

    /// A pull failed: ask again soon.
    pub(crate) fn pull_failed(&mut self, desk: &Desk, name: Digest) {
        self.submissions.pulls.fail(desk, &name);
    }
}

impl Submissions {
    /// Takes up the vectors that an earlier run stored, for the Commits known by now.
    pub(crate) fn restore(&mut self, stored: &Stored) {
        for commit in self.commits.values() {
            let key = (Table::Vectors, commit.root.as_bytes().to_vec());
            if let Some(bytes) = stored.get(&key) {
                self.vectors.insert(commit.root, bytes.clone());
            }
        }
        self.arrived();
    }

    /// A vector stands in its table: it is held as it stands there.
    pub(crate) fn settle(&mut self, name: &Digest, bytes: &Bytes) {
        if let Some(held) = self
            .vectors
            .get_mut(name)
            .filter(|held| held.len() == bytes.len())
        {
            *held = bytes.clone();
        }
    }

    /// Something came in, or another masking context is known: others may count now.
    pub(crate) fn stir(&mut self) {
        self.news = self.news.saturating_add(1);
    }

    /// A vector came in.
    pub(super) fn arrived(&mut self) {
        self.stir();
        let (commits, vectors) = (&self.commits, &self.vectors);
        let held = |id: &MemberId| {
            let commit = commits.get(id);
            commit.is_some_and(|commit| vectors.contains_key(&commit.root))
        };
        self.apart.retain(|id| !held(id));
    }

    /// A record names another Commit of this member.
    pub(crate) fn forget(&mut self, member: MemberId) {
        self.commits.remove(&member);
        self.apart.remove(&member);
        self.stir();
    }

    /// The roots of all announced vectors: of those that stand in the table, too.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Digest> {
        self.commits.values().map(|commit| &commit.root)
    }
}
