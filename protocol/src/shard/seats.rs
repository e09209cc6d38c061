//! Who sums which shard: a seating drawn anew each height, equal for all, and even.
//!
//! The draw is by the masking context `sid`: it follows from the record before and from the adapter that the sum
//! before gave, so nobody knows it before that sum was opened, and everybody who can take part in the height knows it.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;

use crate::names::{MemberId, SumId};

/// R71. The order in which the sharers of a height are called to each shard.
///
/// In each turn of as many shards as there are sharers, these stand in a ring by
/// `SHA-256("conclave/v1/seat" ‖ sid ‖ turn u32 ‖ member u32)`, and the k-th shard of the turn calls them from the
/// k-th on: at every rank each sharer is called once a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seats {
    /// The ring of each turn.
    rings: Vec<Vec<MemberId>>,
    /// The place of each member in the ring of each turn.
    places: Vec<BTreeMap<MemberId, usize>>,
    sharers: usize,
}

impl Seats {
    /// Draws the seats of so many shards among the sharers.
    pub fn draw(sid: &SumId, sharers: &[MemberId], shards: usize) -> Self {
        let turns = shards.div_ceil(sharers.len().max(1));
        let ring = |turn: usize| {
            let turn = u32::try_from(turn).unwrap_or(u32::MAX);
            let mut ring = sharers.to_vec();
            ring.sort_by_cached_key(|member| (lot(sid, turn, *member), *member));
            ring
        };
        let rings: Vec<_> = (0..turns).map(ring).collect();
        let places = rings.iter().map(|ring| {
            let places = ring.iter().enumerate();
            places.map(|(place, member)| (*member, place)).collect()
        });
        Self {
            places: places.collect(),
            rings,
            sharers: sharers.len(),
        }
    }

    /// All sharers in the order in which a shard calls them.
    pub fn order(&self, shard: usize) -> impl Iterator<Item = MemberId> + '_ {
        let turn = shard.checked_div(self.sharers).unwrap_or(0);
        let first = shard.checked_rem(self.sharers).unwrap_or(0);
        let ring = self.rings.get(turn).map_or(&[][..], Vec::as_slice);
        let (before, from) = ring.split_at_checked(first).unwrap_or((&[], ring));
        from.iter().chain(before).copied()
    }

    /// The rank of a member at a shard, 0 for the one called first; `None` if it is no sharer.
    pub fn rank(&self, shard: usize, member: MemberId) -> Option<usize> {
        let turn = shard.checked_div(self.sharers)?;
        let first = shard.checked_rem(self.sharers)?;
        let place = *self.places.get(turn)?.get(&member)?;
        let around = place.saturating_add(self.sharers).saturating_sub(first);
        around.checked_rem(self.sharers)
    }
}

fn lot(sid: &SumId, turn: u32, member: MemberId) -> Digest {
    let (turn, member) = (turn.to_le_bytes(), member.0.to_le_bytes());
    Digest::of("conclave/v1/seat", &[sid.0.as_bytes(), &turn, &member])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharers(n: u32) -> Vec<MemberId> {
        (0..n).map(|id| MemberId(id * 3 + 1)).collect()
    }

    #[test]
    fn seats_are_even_at_every_rank() {
        // R71
        let members = sharers(9);
        let seats = Seats::draw(&SumId(Digest([7; 32])), &members, 27);
        for rank in 0..9 {
            let mut called = BTreeMap::<MemberId, usize>::new();
            for shard in 0..27 {
                let order: Vec<_> = seats.order(shard).collect();
                assert_eq!(order.len(), 9);
                *called.entry(order[rank]).or_default() += 1;
                assert_eq!(seats.rank(shard, order[rank]), Some(rank));
            }
            assert!(called.len() == 9 && called.values().all(|times| *times == 3));
        }
        assert_eq!(seats.rank(0, MemberId(2)), None);
        assert_eq!(seats.order(27).count(), 0);
    }

    #[test]
    fn another_context_draws_other_seats() {
        let members = sharers(20);
        let one = Seats::draw(&SumId(Digest([1; 32])), &members, 40);
        let other = Seats::draw(&SumId(Digest([2; 32])), &members, 40);
        assert_ne!(one, other);
        assert_ne!(
            one.order(0).collect::<Vec<_>>(),
            one.order(20).collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_draw_is_the_one_of_an_independent_computation() {
        // Python's hashlib over sid = 32 bytes of 7, members 0..8, turns 0 and 1.
        let members: Vec<_> = (0..8).map(MemberId).collect();
        let seats = Seats::draw(&SumId(Digest([7; 32])), &members, 16);
        let ids = |shard| seats.order(shard).map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids(0), RING_0);
        assert_eq!(ids(8), RING_1);
        let mut turned = RING_0;
        turned.rotate_left(3);
        assert_eq!(ids(3), turned);
    }

    const RING_0: [u32; 8] = [1, 7, 6, 2, 0, 3, 5, 4];
    const RING_1: [u32; 8] = [1, 5, 7, 4, 3, 0, 2, 6];
}
