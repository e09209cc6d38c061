//! Hostile members in the deterministic world: they are refused, they stop nobody, and nobody honest is convicted.
//!
//! A failing seed prints itself; `CONCLAVE_SEED=<seed> cargo test --release -p conclave-protocol --test byzantine
//! scripts` runs it alone, and `CONCLAVE_SEED=200..400` runs more of them.

#[path = "worlds.rs"]
mod worlds;

use std::collections::BTreeSet;

use conclave_protocol::sim::byzantine::{self, SCRIPTS, SHARD_SCRIPTS};
use conclave_protocol::sim::{Faults, Script, Terms};

use self::worlds::{Outcome, asked_for, opened, over, sound};

fn hostile(hostile: Vec<(usize, Script)>) -> Faults {
    Faults {
        hostile,
        ..Faults::default()
    }
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
            // It proposes the record of height 3.
            let place = 3;
            let world = match sound(terms, hostile(vec![(place, script)])) {
                Ok(world) => world,
                Err(why) => {
                    failures.push(format!("{}, seed {seed}: {why}", script.name()));
                    continue;
                }
            };
            if !world.acted(place) {
                failures.push(format!("{}, seed {seed}: it did nothing", script.name()));
            }
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

// R12: one that acknowledges these dealings before some and those before others stops nobody where all others are
// needed.
#[test]
fn who_acknowledges_this_here_and_that_there_stops_nobody() -> Outcome {
    for seed in 40..60 {
        let mut terms = Terms::new(seed, 5);
        terms.rounds = 3;
        let faults = Faults {
            loss: "0.1".parse().expect("a fraction"),
            ..hostile(vec![(3, Script::ForkedAck)])
        };
        let world = sound(terms, faults)?;
        assert_eq!(opened(&world).len(), 3, "seed {seed}");
    }
    Ok(())
}

// R64, R43: what two halves of a fork prove to everybody who holds both costs the forker its seat.
#[test]
fn a_fork_that_reaches_its_witnesses_is_convicted() -> Outcome {
    for (seed, script) in [
        (1, Script::ForkedAdvert),
        (2, Script::ForkedDeal),
        (3, Script::ForkedCommit),
        (4, Script::ForkedVote),
        (5, Script::ForkedProposal),
    ] {
        let mut terms = Terms::new(seed, 7);
        terms.rounds = 5;
        let faults = Faults {
            meshed: true,
            ..hostile(vec![(3, script)])
        };
        let world = sound(terms, faults)?;
        let name = script.name();
        let forker = world.key(3).ok_or("no such place")?;
        let honest = world.watch().decisions.iter();
        let honest = honest.filter(|((_, place), _)| !world.is_hostile(*place));
        let decisions: Vec<_> = honest.flat_map(|(_, decisions)| decisions).collect();
        let convicts = decisions
            .iter()
            .any(|decision| decision.convicted == [forker]);
        assert!(convicts, "{name}: no record convicts it");
        let last = decisions.last().ok_or("nothing was decided")?;
        let members = &last.members_after_next;
        assert!(
            !members.contains(&forker) && members.len() == 6,
            "{name}: it kept its seat: {members:?}"
        );
        assert!(opened(&world).len() >= 4, "{name}: {:?}", opened(&world));
    }
    Ok(())
}

#[test]
fn scripts_and_faults_together_over_seeds() -> Outcome {
    over(asked_for().unwrap_or(0..48), mixed)
}

/// One seed: as many hostile members as the rules bear, any scripts, and faults beside them. Each is drawn from its own
/// digit of the seed, so that 48 seeds in a row hold every combination once.
fn mixed(seed: u64) -> Outcome {
    let founders = [4, 5, 7, 10][usize::try_from(seed % 4).expect("below four")];
    let mut terms = Terms::new(seed, founders);
    terms.rounds = 3;
    if seed.is_multiple_of(3) {
        terms.inline_limit = 1;
    }
    let mut faults = if (seed / 4).is_multiple_of(2) {
        Faults::mixed(seed, founders)
    } else {
        Faults::default()
    };
    faults.hostile = byzantine::assign(&terms, 333);
    faults.meshed = seed / 8 % 2 == 1;
    let world = sound(terms, faults)?;
    if opened(&world).is_empty() {
        return Err("nothing was opened".to_owned());
    }
    Ok(())
}

#[test]
fn a_hostile_share_is_drawn_from_the_seed() {
    for (members, permille, count) in [(10, 100, 1), (10, 333, 3), (7, 140, 0), (200, 200, 40)] {
        let terms = Terms::new(5, members);
        let assigned = byzantine::assign(&terms, permille);
        assert_eq!(assigned.len(), count);
        assert_eq!(assigned, byzantine::assign(&terms, permille));
        let places: BTreeSet<_> = assigned.iter().map(|(place, _)| *place).collect();
        assert_eq!(places.len(), count);
        let wide = assigned
            .iter()
            .filter(|(_, script)| *script == Script::OutOfRange);
        assert!(wide.count() <= 1);
        let shards = |assigned: &[(usize, Script)]| {
            let mut scripts = assigned.iter().map(|(_, script)| script);
            scripts.any(|script| SHARD_SCRIPTS.contains(script))
        };
        assert!(!shards(&assigned), "there are no shards");
        let mut sharded = terms.clone();
        sharded.inline_limit = 1;
        let assigned = byzantine::assign(&sharded, permille);
        assert_eq!(assigned.len(), count);
        assert!(shards(&assigned) || members < 200, "of forty members none");
    }
    let twenty = |seed| byzantine::assign(&Terms::new(seed, 20), 300);
    assert_ne!(twenty(5), twenty(6));
}

#[test]
fn a_run_with_hostile_members_repeats_itself() -> Outcome {
    let run = |seed| {
        let mut faults = Faults::mixed(seed, 7);
        faults.hostile = byzantine::assign(&Terms::new(seed, 7), 300);
        sound(Terms::new(seed, 7), faults)
    };
    assert_eq!(run(9)?.watch().trace, run(9)?.watch().trace);
    Ok(())
}
