//! Sums that a member keeps for those that can reach none of their makers.

use conclave_crypto::digest::Digest;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::{Bytes, Letter};
use crate::names::MemberId;
use crate::outbox;
use crate::output::Table;
use crate::post::Slot;
use crate::session::Session;

impl Session {
    /// R77. Stores a sum if its shard calls us to keep it, and beside it a SumCommit that lists it: by that it is known
    /// after a restart.
    pub(super) fn keep_sum(&mut self, desk: &mut Desk, m: usize, name: Digest, bytes: &Bytes) {
        let fixed = self.fixed_sums();
        let made_by = fixed.get(&m).and_then(|sums| sums.get(&name));
        let (Some(made_by), Some(me)) = (made_by, desk.me) else {
            return;
        };
        let maker = made_by.first().copied();
        let said = maker.and_then(|maker| Some((maker, self.sum_commit(maker)?)));
        let Some((maker, letter)) = said.filter(|_| self.keepers(m, made_by).contains(&me)) else {
            return;
        };
        if self.sharding.held.insert(name) {
            let key = outbox::slot_key(self.height, Kind::SumCommit, maker);
            desk.store(Table::Inbox, key, letter.bytes().clone());
            desk.store(Table::Shards, name.as_bytes().to_vec(), bytes.clone());
        }
    }

    fn sum_commit(&self, member: MemberId) -> Option<Letter> {
        let held = self.post.held(Slot::of(Kind::SumCommit, member))?;
        Some(held.bytes.clone())
    }

    /// R77. The sharers that a shard calls first besides those that made its sum: they keep and serve it too, for those
    /// that can reach none of its makers.
    pub(super) fn keepers(&self, m: usize, made_by: &[MemberId]) -> Vec<MemberId> {
        let Some(plan) = &self.sharding.plan else {
            return Vec::new();
        };
        let others = plan.seats.order(m).filter(|id| !made_by.contains(id));
        others.take(plan.replicas).collect()
    }
}
