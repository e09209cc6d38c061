//! I-BYTES: in a height in which nothing goes wrong no honest member moves more bytes of vectors and sums than the
//! transport's formula allows, nor more of everything else than the square of the members.
//!
//! Whole vectors: (n − 1) · B · 1.1, in shards: (a + 1) · B · 1.1, each way. Where coordinates do not divide evenly
//! among the sharers the seats of the fullest member count. In other heights seats are taken anew and sums are made
//! twice: there only a coarse bound holds.

use super::Violation;
use crate::names::{Height, Round};
use crate::params;
use crate::shard::Cut;
use crate::sim::diary::FOREVER;
use crate::sim::tally::Load;
use crate::sim::{Terms, Way, World};
use crate::time::Time;

const PROMISE: &str = "bounded bytes";

/// Bytes of all that is no vector and no sum, for each pair of members.
const CONTROL: u64 = 4096;

/// Judges every height of every honest place.
pub fn check(world: &World) -> Result<(), Violation> {
    let heights = world.watch().diary.decided.keys().copied();
    for height in heights.collect::<Vec<_>>() {
        let calm = is_calm(world, height);
        let most = blobs(world, height, calm);
        let n = count(members(world, height));
        let control = CONTROL.saturating_mul(n.saturating_mul(n));
        for place in (0..world.len()).filter(|place| !world.is_hostile(*place)) {
            for way in [Way::Sent, Way::Received] {
                let went = |load| world.tally().went(place, height, load, way);
                let vectors = went(Some(Load::Blob));
                let others = went(None).saturating_sub(vectors);
                let judged = calm || way == Way::Received;
                if judged && vectors > most {
                    let what = format!(
                        "place {place} moved {vectors} bytes of vectors and sums at height {}, {way:?}; {most} are \
                         enough",
                        height.0
                    );
                    return Err(Violation::new(PROMISE, what));
                }
                if calm && others > control {
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

/// The most bytes of vectors and sums that a member moves, each way, while it works at a height: the vectors of that
/// height, and the sums of the one before.
fn blobs(world: &World, height: Height, calm: bool) -> u64 {
    let (sharers, coordinates) = (sharers(world, height), coordinates(world, height));
    let vector = count(coordinates).saturating_mul(4);
    let all = count(sharers).saturating_mul(vector);
    if !calm {
        // Vectors and sums, each once, and again what was on its way when somebody died, and adapters.
        let sums = count(coordinates).saturating_mul(conclave_crypto::check::SUM_BYTES as u64);
        let once = all.saturating_add(sums.saturating_mul(count(sharers)));
        return once.saturating_mul(4).saturating_add(1 << 10);
    }
    let formula = if world.terms().sharded() {
        seats(world, coordinates, sharers).saturating_add(vector)
    } else {
        all.saturating_sub(vector)
    };
    formula.saturating_mul(11) / 10
}

/// Bytes of the shards that the fullest member holds of all vectors: a · B where the coordinates divide evenly.
fn seats(world: &World, coordinates: usize, sharers: usize) -> u64 {
    let replicas = world.terms().charter().aggregation.replicas;
    let shards = Cut::new(coordinates, sharers).shards();
    let turns = count(shards.div_ceil(sharers.max(1)));
    let longest = count(coordinates.div_ceil(shards.max(1))).saturating_mul(4);
    let held = turns
        .saturating_mul(replicas.into())
        .saturating_mul(longest);
    held.saturating_mul(count(sharers))
}

/// Whether nothing went wrong around a height: no loss, no cut, nobody away, late, coming or hostile, and a sum
/// before it.
fn is_calm(world: &World, height: Height) -> bool {
    let (watch, faults) = (world.watch(), world.faults());
    let decided = |height: Height| watch.diary.decided.get(&height).copied();
    let from = decided(earlier(height, 3)).unwrap_or(Time(0));
    let to = decided(Height(height.0.saturating_add(2))).unwrap_or(FOREVER);
    let sound = faults.loss.is_zero() || faults.heal.is_some_and(|heal| heal <= from);
    let whole = faults
        .splits
        .iter()
        .all(|(_, cut, joined)| *joined < from || *cut > to);
    let well = (0..world.len()).all(|place| {
        let diary = &watch.diary;
        !diary.was_away(place, from, to) && !diary.was_cut_off(place, from, to)
    });
    let honest = faults.hostile.is_empty() && faults.controls.is_empty();
    let patient = faults.slow.is_empty() && faults.apart.is_empty() && faults.failing_percent == 0;
    // Whoever comes or goes is told much that the others know.
    let settled = world.terms().joiners == 0 && faults.leaves.is_empty();
    sound && whole && well && honest && patient && settled && height.0 > 2
}

fn earlier(height: Height, back: u64) -> Height {
    Height(height.0.saturating_sub(back))
}

fn sharers(world: &World, height: Height) -> usize {
    let records = &world.watch().diary.records;
    let record = records.get(&earlier(height, 1));
    record.map_or(0, |record| record.sharers_next.len())
}

fn members(world: &World, height: Height) -> usize {
    let records = &world.watch().diary.records;
    let record = records.get(&earlier(height, 2)).filter(|_| height.0 > 2);
    let founders = world.terms().founders;
    record.map_or(founders, |record| record.members_after_next.len())
}

/// Coordinates of the factor of a height's round; of the larger one where it is none.
fn coordinates(world: &World, height: Height) -> usize {
    let layout = Terms::layout();
    let round = world.watch().diary.rounds.get(&height);
    let round = round.copied().unwrap_or(Round(1));
    layout.count(params::factor(&layout, round))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
