//! Single links that are lost in the middle of a height, while others relay gossip.

use conclave_protocol::names::Height;
use conclave_protocol::record::Record;
use conclave_protocol::sim::{Faults, Terms, World};
use conclave_protocol::time::Time;

use super::worlds::{LIMIT, Outcome, opened, sound};

/// Something that happens at height 3.
type Moment = (&'static str, fn(&World) -> bool);

/// The moments after which a link is lost.
const MOMENTS: [Moment; 4] = [
    ("it begins", |world| {
        world.watch().diary.decided.contains_key(&Height(2))
    }),
    ("the first vector is announced", |world| {
        let submitted = world.watch().diary.submitted.keys();
        submitted
            .into_iter()
            .any(|(height, _)| *height == Height(3))
    }),
    ("it is decided", |world| {
        world.watch().diary.decided.contains_key(&Height(3))
    }),
    ("its sum is open somewhere", |world| {
        let opened = world.watch().diary.opened.keys();
        opened.into_iter().any(|(height, _)| *height == Height(3))
    }),
];

/// Members that send their vectors inline, that pull them, and that sum in shards.
const KINDS: [(usize, bool); 3] = [(5, false), (5, true), (9, true)];

/// R72. Loses one link in the middle of height 3, for so long: every round is opened with everybody in its sum, also
/// where the two hold the only seats of a shard.
fn costs_nobody(
    (founders, pulled): (usize, bool),
    moment: Moment,
    (one, other): (usize, usize),
    ms: u64,
) -> Outcome {
    let mut terms = Terms::new(90, founders);
    terms.rounds = 4;
    if pulled {
        terms.inline_limit = 1;
    }
    let mut plain = World::new(terms.clone(), Faults::default());
    let met = plain.run(LIMIT, moment.1);
    let at = met.map_err(|stuck| stuck.to_string())?.0 + 1;
    let faults = Faults {
        broken: [((one, other), (Time(at), Time(at + ms)))].into(),
        ..Faults::default()
    };
    let world = sound(terms, faults)?;
    let records = &world.watch().diary.records;
    for height in (2..6).map(Height) {
        let record = records.get(&height);
        let survivors = record.map(Record::survivor_ids).unwrap_or_default();
        let missing = |place: &usize| !survivors.iter().any(|id| id.0 as usize == *place);
        let missing: Vec<usize> = (0..founders).filter(missing).collect();
        if !missing.is_empty() || !opened(&world).contains(&height) {
            return Err(format!(
                "{founders} members, link {one}-{other} lost for {ms} ms when {}: {missing:?} are out at {height:?}",
                moment.0
            ));
        }
    }
    Ok(())
}

#[test]
fn a_link_that_is_lost_in_mid_height_costs_nobody_a_round() -> Outcome {
    for kind in KINDS {
        for moment in MOMENTS {
            for pair in [(0, 1), (2, 4)] {
                for ms in [4000, 30_000] {
                    costs_nobody(kind, moment, pair, ms)?;
                }
            }
        }
    }
    Ok(())
}
