//! A sum that is made from the vectors is asked for beside them.

use std::collections::BTreeSet;

use conclave_crypto::merkle;
use conclave_protocol::names::Height;
use conclave_protocol::output::Table;
use conclave_protocol::sim::{Faults, World};
use conclave_protocol::time::{Span, Time};

use super::worlds::{Outcome, asked_for, logged, over, sound};
use super::{sums, terms};

/// Who made the sum of a shard at height 2, and who else stored it.
fn holders(world: &World, shard: u32) -> Outcome<(Vec<usize>, Vec<usize>)> {
    let sums = sums(world, shard);
    let makers: Vec<usize> = sums.keys().copied().collect();
    let name = *sums.values().next().ok_or("no sum")?;
    let stored = world.watch().stored.iter().flatten();
    let stored =
        stored.filter(|(_, table, bytes)| *table == Table::Shards && merkle::root(bytes) == name);
    let keepers: BTreeSet<usize> = stored.map(|(place, ..)| *place).collect();
    let keepers = keepers.into_iter().filter(|place| !makers.contains(place));
    Ok((makers.clone(), keepers.collect()))
}

#[test]
fn a_sum_that_could_not_be_had_is_taken_when_it_can_before_the_vectors_can() -> Outcome {
    // R77: as height 2 is decided a member loses its links to those that made a shard's sum, and for a shorter time to
    // its keepers. After three pulls in vain it makes the sum from the vectors; but those of the makers only they have.
    over(asked_for().unwrap_or(0..4), |seed| {
        let terms = terms(70 + seed, 9);
        let plain = logged(terms.clone(), Faults::default())?;
        let shard = u32::try_from(seed).expect("small");
        let (makers, keepers) = holders(&plain, shard)?;
        if (makers.len(), keepers.len()) != (2, 2) {
            return Err(format!("{makers:?} made the sum, {keepers:?} kept it"));
        }
        let other = |place: &usize| !makers.contains(place) && !keepers.contains(place);
        let late = (0..9).find(other).ok_or("nobody else")?;
        let from = plain.watch().diary.decided[&Height(2)] + Span(1);
        let (soon, long) = (from + Span::seconds(9), from + Span::seconds(25));
        let lost = |places: &[usize], to: Time| -> Vec<_> {
            let pair = |place: &usize| (late.min(*place), late.max(*place));
            places
                .iter()
                .map(|place| (pair(place), (from, to)))
                .collect()
        };
        let faults = Faults {
            broken: [lost(&makers, long), lost(&keepers, soon)]
                .concat()
                .into_iter()
                .collect(),
            ..Faults::default()
        };
        let world = sound(terms, faults)?;
        let opened = world.watch().diary.opened.get(&(Height(2), late));
        let opened = *opened.ok_or("it never opened the sum")?;
        if soon < opened && opened < soon + Span::seconds(4) {
            Ok(())
        } else {
            Err(format!(
                "opened at {opened:?}; keepers are back at {soon:?}, makers at {long:?}"
            ))
        }
    })
}
