//! I-BYTES: in a height in which nothing goes wrong no honest member moves more bytes of vectors and sums than the
//! transport's formula allows, nor more of everything else than the square of the members.
//!
//! Whole vectors: (n − 1) · B · 1.1, in shards: (a + 1) · B · 1.1, each way. Where coordinates do not divide evenly
//! among the sharers the seats of the fullest member count. At other heights seats are taken anew and members fetch
//! what they missed: there only a coarse bound holds, and for messages none but where all that is wrong is that
//! somebody was left out.

use std::collections::BTreeSet;

use conclave_crypto::check::SUM_BYTES;

use super::Violation;
use crate::names::{Height, Round};
use crate::params;
use crate::shard::Cut;
use crate::sim::diary::FOREVER;
use crate::sim::tally::Load;
use crate::sim::timeline::{members, sharers};
use crate::sim::{Terms, Way, World};
use crate::time::Time;

const PROMISE: &str = "bounded bytes";

/// Bytes of all that is no vector and no sum, for each pair of members.
const CONTROL: u64 = 4096;

/// Judges every height of every honest place.
pub fn check(world: &World) -> Result<(), Violation> {
    for height in world.watch().diary.decided.keys().copied() {
        let sound = is_sound(world, height);
        let calm = sound && whole_around(world, height);
        let late = if calm {
            late(world, height)
        } else {
            BTreeSet::new()
        };
        let n = count(members(world, height).len());
        let control = CONTROL.saturating_mul(n.saturating_mul(n));
        for way in [Way::Sent, Way::Received] {
            let bound = if calm {
                formula(world, height)
            } else {
                coarse(world, height, way)
            };
            for place in (0..world.len()).filter(|place| !world.is_hostile(*place)) {
                let fetched = match way {
                    Way::Received => late.contains(&place).into(),
                    Way::Sent => late.len(),
                };
                let most = bound.saturating_add(adapters(fetched));
                let went = |load| world.tally().went(place, height, load, way);
                let vectors = went(Some(Load::Blob));
                if vectors > most {
                    let what = format!(
                        "place {place} moved {vectors} bytes of vectors and sums at height {}, {way:?}; {most} are \
                         enough",
                        height.0
                    );
                    return Err(Violation::new(PROMISE, what));
                }
                let others = went(None).saturating_sub(vectors);
                if sound && others > control {
                    let what = format!(
                        "place {place} moved {others} bytes of messages at height {} ({way:?}), {control} are enough",
                        height.0
                    );
                    return Err(Violation::new(PROMISE, what));
                }
            }
        }
    }
    Ok(())
}

/// The most bytes of vectors and sums that a member moves while it works at a calm height: the vectors of that height,
/// and the sums of the one before.
fn formula(world: &World, height: Height) -> u64 {
    let diary = &world.watch().diary;
    let sharers = sharers(diary, height).len();
    let coordinates = coordinates(world, height);
    let vector = count(coordinates).saturating_mul(4);
    let formula = if world.terms().sharded() {
        seats(world, coordinates, sharers).saturating_add(vector)
    } else {
        count(sharers).saturating_sub(1).saturating_mul(vector)
    };
    formula.saturating_mul(11) / 10
}

/// The places that had not opened the sum of the height before when a height without a round was decided: they fetch
/// the adapter that its record certifies (R35), each once.
fn late(world: &World, height: Height) -> BTreeSet<usize> {
    let diary = &world.watch().diary;
    let Some(decided) = diary.decided.get(&height) else {
        return BTreeSet::new();
    };
    let before = earlier(height, 1);
    if diary.rounds.contains_key(&height) || !diary.rounds.contains_key(&before) {
        return BTreeSet::new();
    }
    let opened = |place: &usize| diary.opened.get(&(before, *place));
    let late = |place: &usize| opened(place).is_none_or(|opened| opened > decided);
    members(world, height).into_iter().filter(late).collect()
}

/// Bytes of so many adapters.
fn adapters(fetched: usize) -> u64 {
    count(4 * Terms::layout().len * fetched)
}

/// The same at any other height. Twice every vector and sum comes to a member that died before it had stored it, and an
/// adapter; one that holds what others lost sends three times as much.
fn coarse(world: &World, height: Height, way: Way) -> u64 {
    let bytes = if world.terms().sharded() {
        4 + SUM_BYTES
    } else {
        4
    };
    let members = members(world, height).len();
    let once = count(bytes * coordinates(world, height) * members);
    let times = match way {
        Way::Received => 2,
        Way::Sent => 3,
    };
    once.saturating_mul(times).saturating_add(adapters(1))
}

/// Bytes of the shards that the fullest member holds of all vectors: a · B where the coordinates divide evenly.
fn seats(world: &World, coordinates: usize, sharers: usize) -> u64 {
    let replicas = world.charter().aggregation.replicas;
    let shards = Cut::new(coordinates, sharers).shards();
    let turns = count(shards.div_ceil(sharers.max(1)));
    let longest = count(coordinates.div_ceil(shards.max(1))).saturating_mul(4);
    let held = turns
        .saturating_mul(replicas.into())
        .saturating_mul(longest);
    held.saturating_mul(count(sharers))
}

/// Whether nothing went wrong around a height, and nobody is so slow that a sum goes without it.
pub fn is_calm(world: &World, height: Height) -> bool {
    is_sound(world, height) && whole_around(world, height)
}

fn whole_around(world: &World, height: Height) -> bool {
    let around = [earlier(height, 1), height, later(height, 1)];
    around.iter().all(|at| is_whole(world, *at))
}

/// Whether there is no loss and no cut around a height, and nobody away, coming, going or hostile.
fn is_sound(world: &World, height: Height) -> bool {
    let (watch, faults) = (world.watch(), world.faults());
    let diary = &watch.diary;
    let decided = |height: Height| diary.decided.get(&height).copied();
    let from = decided(earlier(height, 3)).unwrap_or(Time(0));
    let to = decided(later(height, 2)).unwrap_or(FOREVER);
    // Lost messages, and engines that fail, end when the network heals.
    let sick = !faults.loss.is_zero() || faults.failing_percent > 0;
    let sound = !sick || faults.heal.is_some_and(|heal| heal <= from);
    let well = (0..world.len())
        .all(|place| !diary.was_away(place, from, to) && !diary.was_cut_off(place, from, to));
    let well = well && !diary.was_torn(from, to);
    // These last as long as the run does.
    let honest = faults.hostile.is_empty() && faults.controls.is_empty() && faults.apart.is_empty();
    // Whoever comes or goes is told much that the others know.
    let all = (0..world.len()).collect();
    let stays = |(_, at): &(usize, Time)| *at < from || *at > to;
    let settled = [earlier(height, 3), later(height, 2)].map(|at| members(world, at) == all);
    let settled = settled == [true; 2] && faults.leaves.iter().all(stays);
    sound && well && honest && settled && height.0 > 2
}

/// Whether all members share in a height's round, and none is left out of its sum; so too where it is none.
fn is_whole(world: &World, height: Height) -> bool {
    let diary = &world.watch().diary;
    if !diary.rounds.contains_key(&height) {
        return true;
    }
    let all = members(world, height);
    let record = diary.records.get(&height);
    let survivors = record.and_then(|record| record.survivors.as_ref());
    let counted = survivors.is_some_and(|survivors| survivors.commits.len() == all.len());
    counted && sharers(diary, height) == all
}

fn earlier(height: Height, back: u64) -> Height {
    Height(height.0.saturating_sub(back))
}

fn later(height: Height, on: u64) -> Height {
    Height(height.0.saturating_add(on))
}

/// Coordinates of the factor of a height's round; of the first round's where it is none. (Both are equally large here.)
fn coordinates(world: &World, height: Height) -> usize {
    let layout = Terms::layout();
    let round = world.watch().diary.rounds.get(&height);
    let round = round.copied().unwrap_or(Round(1));
    layout.count(params::factor(&layout, round))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
