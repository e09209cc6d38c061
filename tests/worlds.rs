//! What the tests in the deterministic world share: runs that are judged at their end, over seeds.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeSet;
use std::ops::Range;

use conclave_protocol::envelope::{Envelope, Kind};
use conclave_protocol::names::Height;
use conclave_protocol::sim::{Crash, Faults, Point, Strike, Terms, World, check};
use conclave_protocol::time::Time;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

pub(crate) type Outcome<T = ()> = Result<T, String>;

/// The latest end of a run, in virtual time.
pub(crate) const LIMIT: Time = Time(900_000);

/// Runs a world to its end, with everything that is said and stored kept.
pub(crate) fn logged(terms: Terms, faults: Faults) -> Outcome<World> {
    let mut world = World::new(terms, faults);
    world.keep_log();
    ended(world)
}

/// All envelopes of a kind that were said, in a world that keeps a log.
pub(crate) fn said(world: &World, kind: Kind) -> Vec<Envelope> {
    let log = world.watch().said.iter().flatten();
    let envelopes = log.filter_map(|letter| letter.envelope().ok().cloned());
    envelopes.filter(|envelope| envelope.kind == kind).collect()
}

/// Runs a world to its end and lets all checkers judge it; nobody may halt.
pub(crate) fn sound(terms: Terms, faults: Faults) -> Outcome<World> {
    ended(World::new(terms, faults))
}

/// The same, of a world that was made ready.
pub(crate) fn ended(mut world: World) -> Outcome<World> {
    let end = world.finish(LIMIT);
    judged(&world)?;
    end.map_err(|stuck| format!("{stuck}\n{}", label(&world)))?;
    if let Some((place, reason)) = world.watch().halted.iter().next() {
        return Err(format!("place {place} halted: {reason}\n{}", label(&world)));
    }
    Ok(world)
}

/// What all checkers say of a world so far.
pub(crate) fn judged(world: &World) -> Outcome {
    check::all(world).map_err(|violation| format!("{violation}\n{}", label(world)))
}

/// The heights after the first whose result somebody honest adopted.
pub(crate) fn opened(world: &World) -> BTreeSet<Height> {
    let adopted = world.watch().adopted.keys();
    let honest = adopted.filter(|(height, place)| height.0 > 1 && !world.is_hostile(*place));
    honest.map(|(height, _)| *height).collect()
}

fn label(world: &World) -> String {
    format!("{:?} {:?}", world.terms(), world.faults())
}

/// One death with the disk as it was.
pub(crate) fn crash(place: usize, strike: Strike, point: Point, back_after: Option<u64>) -> Crash {
    Crash {
        place,
        strike,
        point,
        back_after,
        rollback: false,
    }
}

/// Deaths, and nothing else that goes wrong.
pub(crate) fn with(crashes: Vec<Crash>) -> Faults {
    Faults {
        crashes,
        ..Faults::default()
    }
}

/// Five members, of which one is cut off when it submits in height 3, for 3.6 to 5.6 seconds by the seed (0 to 5): long
/// enough to be left out of that sum, mostly short enough to share in the factor's next one.
pub(crate) fn left_out(seed: u64) -> Outcome<World> {
    left_out_and(seed, Vec::new())
}

/// The same, with deaths.
pub(crate) fn left_out_and(seed: u64, crashes: Vec<Crash>) -> Outcome<World> {
    let mut terms = Terms::new(60 + seed, 5);
    terms.rounds = 8;
    let submitted = |world: &World| world.watch().diary.submitted.contains_key(&(Height(3), 2));
    let mut plain = World::new(terms.clone(), Faults::default());
    let at = plain
        .run(LIMIT, submitted)
        .map_err(|stuck| stuck.to_string())?;
    let away = (vec![2], Time(at.0 - 1), Time(at.0 + 3600 + 400 * seed));
    let faults = Faults {
        splits: vec![away],
        ..with(crashes)
    };
    sound(terms, faults)
}

/// Runs all seeds, on all cores.
pub(crate) fn over(seeds: Range<u64>, run: impl Fn(u64) -> Outcome + Sync) -> Outcome {
    let runs = seeds.end.saturating_sub(seeds.start);
    let fails = |seed: u64| run(seed).err().map(|why| (seed, why));
    let failures: Vec<(u64, String)> = seeds.into_par_iter().filter_map(fails).collect();
    let Some((first, why)) = failures.first() else {
        return Ok(());
    };
    let all: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    let failing = failures.len();
    Err(format!(
        "{failing} of {runs} seeds fail, {all:?}; seed {first}: {why}"
    ))
}

/// `CONCLAVE_SEED=7` or `CONCLAVE_SEED=200..2000`.
#[expect(clippy::disallowed_methods, reason = "a test may be told its seeds")]
pub(crate) fn asked_for() -> Option<Range<u64>> {
    let text = std::env::var("CONCLAVE_SEED").ok()?;
    let (from, to) = text.split_once("..").unwrap_or((&text, ""));
    let from: u64 = from.parse().ok()?;
    Some(from..to.parse().unwrap_or(from + 1))
}
