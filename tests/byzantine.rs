//! Hostile members in the deterministic world: they are refused, they stop nobody, and nobody honest is convicted.
//!
//! A failing seed prints itself; `CONCLAVE_SEED=<seed> cargo test --release -p conclave-protocol --test byzantine
//! scripts` runs it alone, and `CONCLAVE_SEED=200..400` runs more of them.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::ops::Range;

use conclave_protocol::names::Height;
use conclave_protocol::sim::byzantine::{self, SCRIPTS};
use conclave_protocol::sim::{Faults, Script, Terms, World, check};
use conclave_protocol::time::Time;

type Outcome<T = ()> = Result<T, String>;

/// The latest end of a run, in virtual time.
const LIMIT: Time = Time(900_000);

/// Runs a world to its end and lets all checkers judge it.
fn sound(terms: Terms, faults: Faults) -> Outcome<World> {
    let label = format!("{terms:?} {faults:?}");
    let mut world = World::new(terms, faults);
    let end = world.finish(LIMIT);
    check::all(&world).map_err(|violation| format!("{violation}\n{label}"))?;
    end.map_err(|stuck| format!("{stuck}\n{label}"))?;
    Ok(world)
}

fn with(hostile: Vec<(usize, Script)>) -> Faults {
    Faults {
        hostile,
        ..Faults::default()
    }
}

/// The heights whose sum was opened by somebody honest.
fn opened(world: &World) -> BTreeSet<Height> {
    let adopted = world.watch().adopted.keys();
    let adopted = adopted.filter(|(height, place)| height.0 >= 2 && !world.is_hostile(*place));
    adopted.map(|(height, _)| *height).collect()
}

#[test]
fn each_script_alone_stops_nobody() {
    let mut failures = Vec::new();
    for script in SCRIPTS {
        for (seed, founders, inline) in [(1, 4, true), (2, 5, false), (3, 7, true)] {
            let mut terms = Terms::new(seed, founders);
            terms.rounds = 3;
            if !inline {
                terms.inline_limit = 1;
            }
            let place = usize::try_from(seed).expect("small") % founders;
            let world = match sound(terms, with(vec![(place, script)])) {
                Ok(world) => world,
                Err(why) => {
                    failures.push(format!("{}, seed {seed}: {why}", script.name()));
                    continue;
                }
            };
            let lost = usize::from(script.spends()) * 2;
            if opened(&world).len() + lost < 3 {
                let heights = opened(&world);
                failures.push(format!(
                    "{}, seed {seed}: only {heights:?} were opened",
                    script.name()
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn scripts_and_faults_together_over_seeds() -> Outcome {
    over(asked_for().unwrap_or(0..48), mixed)
}

/// One seed: as many hostile members as the rules bear, any scripts, and faults beside them.
fn mixed(seed: u64) -> Outcome {
    let founders = [4, 5, 7, 10][usize::try_from(seed % 4).expect("below four")];
    let mut terms = Terms::new(seed, founders);
    terms.rounds = 3;
    if seed.is_multiple_of(3) {
        terms.inline_limit = 1;
    }
    let mut faults = if seed.is_multiple_of(2) {
        Faults::mixed(seed, founders)
    } else {
        Faults::default()
    };
    faults.hostile = byzantine::assign(seed, founders, 333);
    sound(terms, faults)
        .map(drop)
        .map_err(|why| format!("seed {seed}: {why}"))
}

/// Runs all seeds, on all cores.
fn over(seeds: Range<u64>, run: fn(u64) -> Outcome) -> Outcome {
    let seeds: Vec<u64> = seeds.collect();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let parts = seeds.chunks(seeds.len().div_ceil(threads).max(1));
        let running: Vec<_> = parts
            .map(|part| {
                let fails = move |seed: &u64| run(*seed).err();
                scope.spawn(move || part.iter().filter_map(fails).collect::<Vec<_>>())
            })
            .collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().expect("a run does not panic"))
            .collect()
    });
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(format!(
            "{} of {} seeds fail; the first: {first}",
            failures.len(),
            seeds.len()
        )),
    }
}

/// `CONCLAVE_SEED=7` or `CONCLAVE_SEED=200..2000`.
#[expect(clippy::disallowed_methods, reason = "a test may be told its seeds")]
fn asked_for() -> Option<Range<u64>> {
    let text = std::env::var("CONCLAVE_SEED").ok()?;
    let (from, to) = text.split_once("..").unwrap_or((&text, ""));
    let from: u64 = from.parse().ok()?;
    Some(from..to.parse().unwrap_or(from + 1))
}

#[test]
fn a_hostile_share_is_drawn_from_the_seed() {
    for (members, permille, count) in [(10, 100, 1), (10, 333, 3), (7, 140, 0), (200, 200, 40)] {
        let assigned = byzantine::assign(5, members, permille);
        assert_eq!(assigned.len(), count);
        assert_eq!(assigned, byzantine::assign(5, members, permille));
        let places: BTreeSet<_> = assigned.iter().map(|(place, _)| *place).collect();
        assert_eq!(places.len(), count);
        let wide = assigned
            .iter()
            .filter(|(_, script)| *script == Script::OutOfRange);
        assert!(wide.count() <= 1);
    }
    assert_ne!(byzantine::assign(5, 20, 300), byzantine::assign(6, 20, 300));
}

#[test]
fn a_run_with_hostile_members_repeats_itself() -> Outcome {
    let run = |seed| {
        let mut faults = Faults::mixed(seed, 7);
        faults.hostile = byzantine::assign(seed, 7, 300);
        sound(Terms::new(seed, 7), faults)
    };
    assert_eq!(run(9)?.watch().trace, run(9)?.watch().trace);
    Ok(())
}
