//! Federations in the deterministic world: the same `Member` that the node runs, over seeds and faults.
//!
//! A failing seed prints itself; `CONCLAVE_SEED=<seed> cargo test --release -p conclave-protocol --test simulation
//! mixed` runs it alone, and `CONCLAVE_SEED=200..2000` runs more of them.

#[path = "simulation/planted.rs"]
mod planted;
#[path = "simulation/torn.rs"]
mod torn;
#[path = "worlds.rs"]
mod worlds;

use std::collections::BTreeSet;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;
use conclave_protocol::names::Height;
use conclave_protocol::sim::byzantine;
use conclave_protocol::sim::faults::{PHASES, POINTS, percent};
use conclave_protocol::sim::watch::Decision;
use conclave_protocol::sim::{Faults, Point, Strike, Terms, World, check};
use conclave_protocol::time::Time;

use self::worlds::{Outcome, asked_for, crash, ended, over, sound, with};

/// The survivors of a height as places.
fn survivors(world: &World, height: u64) -> Vec<usize> {
    let decision = decision(world, height);
    let keys = decision.and_then(|decision| decision.survivors.as_deref());
    places(world, keys.unwrap_or_default())
}

/// The sharers of a height as places.
fn sharers(world: &World, height: u64) -> Vec<usize> {
    let decision = decision(world, height);
    places(world, decision.map_or(&[], |decision| &decision.sharers))
}

fn decision(world: &World, height: u64) -> Option<&Decision> {
    let mut decisions = world.watch().decisions.iter();
    let found = decisions.find(|((at, _), _)| *at == Height(height));
    found.and_then(|(_, decisions)| decisions.first())
}

fn places(world: &World, keys: &[PublicKey]) -> Vec<usize> {
    keys.iter().filter_map(|key| world.place(key)).collect()
}

#[test]
fn without_faults_everybody_survives_every_round() -> Outcome {
    for founders in [3, 4, 5, 7] {
        let world = sound(Terms::new(1, founders), Faults::default())?;
        let all: Vec<usize> = (0..founders).collect();
        assert_eq!(survivors(&world, 2), all, "round 1 of {founders}");
        assert_eq!(survivors(&world, 3), all, "round 2 of {founders}");
        let refused = &world.watch().refused;
        assert!(
            refused.is_empty(),
            "honest messages were refused: {refused:?}"
        );
    }
    Ok(())
}

#[test]
fn mixed_faults_over_200_seeds() -> Outcome {
    over(asked_for().unwrap_or(0..200), mixed)
}

#[test]
fn faults_that_heal_cost_few_rounds() -> Outcome {
    let (mut rounds, mut opened) = (0, 0);
    for seed in 1000..1030 {
        let world = sound(Terms::new(seed, 4), Faults::mixed(seed, 4))?;
        let heights: BTreeSet<_> = world.watch().adopted.keys().map(|(at, _)| *at).collect();
        rounds += 2;
        opened += heights.range(Height(2)..).count();
    }
    assert!(
        opened * 10 >= rounds * 9,
        "{opened} of {rounds} rounds were opened"
    );
    Ok(())
}

#[test]
fn wild_faults_over_seeds() -> Outcome {
    over(asked_for().unwrap_or(0..40), wild)
}

#[test]
fn links_that_are_lost_in_mid_height_over_seeds() -> Outcome {
    over(asked_for().unwrap_or(0..60), torn)
}

/// One seed: four to seven founders, vectors inline or pulled, and single links that are lost besides any other faults.
fn torn(seed: u64) -> Outcome {
    let founders = [4, 5, 6, 7][usize::try_from(seed % 4).expect("below four")];
    let mut terms = Terms::new(seed, founders);
    terms.rounds = 3;
    if seed.is_multiple_of(3) {
        terms.inline_limit = 1;
    }
    sound(terms, Faults::torn(seed, founders)).map(drop)
}

/// One seed of the harder kind: four to seven founders, three rounds, sometimes a joiner.
fn wild(seed: u64) -> Outcome {
    let founders = [4, 5, 6, 7][usize::try_from(seed % 4).expect("below four")];
    let mut terms = Terms::new(seed, founders);
    terms.rounds = 3;
    terms.joiners = usize::from(seed.is_multiple_of(5));
    if seed.is_multiple_of(3) {
        terms.inline_limit = 1;
    }
    let faults = Faults::wild(seed, founders);
    sound(terms, faults).map(drop)
}

/// One seed: three to five founders, vectors inline or pulled, any faults.
fn mixed(seed: u64) -> Outcome {
    let founders = [3, 4, 4, 5][usize::try_from(seed % 4).expect("below four")];
    let mut terms = Terms::new(seed, founders);
    if seed.is_multiple_of(5) {
        terms.inline_limit = 1;
    }
    let faults = Faults::mixed(seed, founders);
    sound(terms, faults).map(drop)
}

#[test]
fn a_crash_at_every_point_of_every_phase_is_survived() -> Outcome {
    let mut struck = BTreeSet::new();
    for (number, phase) in PHASES.into_iter().enumerate() {
        for point in POINTS {
            // Height h is proposed by place h of four; another one stands for those who do not propose.
            for (height, place) in [(1, 1), (2, 2), (3, 3), (1, 3), (2, 0), (3, 1)] {
                let seed = 5000 + u64::try_from(number).expect("small");
                let strike = Strike::AtHeight {
                    height,
                    phase,
                    skip: 0,
                };
                let crashes = vec![crash(place, strike, point, Some(700))];
                let world = sound(Terms::new(seed, 4), with(crashes))?;
                struck.extend(world.watch().struck.iter().copied());
            }
        }
    }
    let mut missed = Vec::new();
    for phase in PHASES {
        for point in POINTS {
            for proposer in [false, true] {
                if !struck.contains(&(phase, point, proposer)) {
                    missed.push((phase, point, proposer));
                }
            }
        }
    }
    assert!(missed.is_empty(), "no crash struck at {missed:?}");
    Ok(())
}

#[test]
fn a_dropout_after_dealing_is_rebuilt_and_the_sum_is_right() -> Outcome {
    let strike = Strike::AfterDealt { height: 3 };
    let crashes = vec![crash(2, strike, Point::AfterSend, None)];
    let mut terms = Terms::new(11, 5);
    terms.rounds = 3;
    let world = sound(terms, with(crashes))?;
    assert_eq!(sharers(&world, 3), [0, 1, 2, 3, 4], "it had dealt");
    assert_eq!(survivors(&world, 3), [0, 1, 3, 4], "it had not submitted");
    let key = world.key(2).ok_or("no such place")?;
    for place in [0, 1, 3, 4] {
        let rebuilt = world.watch().rebuilt.get(&(Height(3), place));
        assert_eq!(
            rebuilt,
            Some(&vec![key]),
            "its pair keys were rebuilt by {place}"
        );
        assert!(world.watch().adopted.contains_key(&(Height(3), place)));
    }
    assert_eq!(
        survivors(&world, 4),
        [0, 1, 3, 4],
        "later rounds go on without it"
    );
    Ok(())
}

#[test]
fn a_crash_after_submission_still_counts() -> Outcome {
    let strike = Strike::AfterSubmitted { height: 2 };
    let crashes = vec![crash(1, strike, Point::AfterSend, None)];
    let world = sound(Terms::new(12, 5), with(crashes))?;
    assert!(
        world
            .watch()
            .struck
            .iter()
            .any(|(_, point, _)| *point == Point::AfterSend)
    );
    assert_eq!(survivors(&world, 2), [0, 1, 2, 3, 4]);
    assert!(!survivors(&world, 3).contains(&1));
    Ok(())
}

#[test]
fn a_restarted_member_catches_up_and_contributes_again() -> Outcome {
    let strike = Strike::AfterDealt { height: 3 };
    let crashes = vec![crash(3, strike, Point::AfterSend, Some(12_000))];
    let mut terms = Terms::new(13, 5);
    terms.rounds = 9;
    let world = sound(terms, with(crashes))?;
    assert!(!survivors(&world, 3).contains(&3), "it was away");
    let again = (4..=10).any(|height| survivors(&world, height).contains(&3));
    assert!(again, "it never came back into a sum");
    Ok(())
}

#[test]
fn a_joiner_with_an_invitation_is_admitted_and_contributes() -> Outcome {
    let mut terms = Terms::new(14, 4);
    terms.joiners = 1;
    terms.rounds = 8;
    let world = sound(terms, Faults::default())?;
    let contributed = (2..=9).any(|height| survivors(&world, height).contains(&4));
    assert!(contributed, "the joiner is in no sum");
    assert!(world.watch().finished.contains_key(&4));
    Ok(())
}

#[test]
fn an_absent_member_is_removed() -> Outcome {
    let strike = Strike::AfterDealt { height: 2 };
    let crashes = vec![crash(4, strike, Point::AfterSend, None)];
    let mut terms = Terms::new(15, 5);
    terms.rounds = 8;
    terms.absent_rounds = 2;
    let world = sound(terms, with(crashes))?;
    let key = world.key(4).ok_or("no such place")?;
    let last = world.watch().decisions.iter().next_back();
    let (_, decisions) = last.ok_or("nothing was decided")?;
    let members = &decisions
        .first()
        .ok_or("nothing was decided")?
        .members_after_next;
    assert!(!members.contains(&key) && members.len() == 4, "{members:?}");
    Ok(())
}

#[test]
fn large_vectors_are_pulled_under_loss() -> Outcome {
    for seed in 0..5 {
        let mut terms = Terms::new(300 + seed, 4);
        terms.inline_limit = 1;
        let faults = Faults {
            loss: percent(20),
            heal: Some(Time(60_000)),
            ..Faults::default()
        };
        sound(terms, faults)?;
    }
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_run() -> Outcome {
    let run = |seed| sound(Terms::new(seed, 4), Faults::mixed(seed, 4));
    let trace = run(77)?.watch().trace;
    assert_eq!(run(77)?.watch().trace, trace);
    assert_ne!(run(78)?.watch().trace, trace);
    Ok(())
}

#[test]
fn without_a_quorum_nothing_is_decided_and_nothing_revealed() -> Outcome {
    let dead = |place| {
        crash(
            place,
            Strike::AfterDealt { height: 2 },
            Point::AfterSend,
            None,
        )
    };
    let mut world = World::new(Terms::new(16, 5), with(vec![dead(0), dead(1)]));
    let stuck = world.finish(Time(120_000));
    assert!(stuck.is_err(), "three of five decided");
    check::all(&world).map_err(|violation| violation.to_string())?;
    assert!(
        world.watch().shown.is_empty(),
        "shares were shown without a certificate"
    );
    Ok(())
}

/// A world for each of some seeds, eight members that sum in shards and hostile ones among them.
fn various() -> [World; 3] {
    let mut sharded = Terms::new(78, 8);
    sharded.inline_limit = 1;
    let mut hostile = Faults::mixed(79, 7);
    hostile.hostile = byzantine::assign(&Terms::new(79, 7), 300);
    [
        World::new(Terms::new(77, 4), Faults::mixed(77, 4)),
        World::new(sharded, Faults::mixed(78, 8)),
        World::new(Terms::new(79, 7), hostile),
    ]
}

#[test]
fn neither_the_memo_nor_the_threads_change_a_run() -> Outcome {
    let traces = |worlds: [World; 3]| -> Outcome<Vec<Digest>> {
        let ended = worlds.into_iter().map(ended);
        ended.map(|world| Ok(world?.watch().trace)).collect()
    };
    let traced = traces(various())?;
    assert_eq!(traces(various().map(World::forgetful))?, traced, "no memo");
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().map_err(|error| error.to_string())?;
        let again = pool.install(|| traces(various()))?;
        assert_eq!(again, traced, "on {threads} threads");
    }
    Ok(())
}

/// Seventy-two members of whom many have something to do at every step of their clock, deaths and cuts among it.
#[test]
fn the_threads_change_no_large_world() -> Outcome {
    let trace = || -> Outcome<Digest> {
        let mut world = World::new(Terms::new(80, 72), Faults::mixed(80, 72));
        let decided = |world: &World| world.longest().is_some_and(|chain| chain.head().0 > 0);
        let end = world.run(Time(60_000), decided);
        end.map_err(|stuck| stuck.to_string())?;
        Ok(world.watch().trace)
    };
    let traced = trace()?;
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().map_err(|error| error.to_string())?;
        assert_eq!(pool.install(trace)?, traced, "on {threads} threads");
    }
    Ok(())
}

// What a member need not look at anew changes nothing, whatever happens.
#[test]
fn spared_looks_change_nothing() {
    for seed in 0..24_u64 {
        let world = || {
            let size = 4 + usize::try_from(seed).unwrap_or(0) % 9;
            let mut terms = Terms::new(seed, size);
            if seed % 3 == 0 {
                terms.inline_limit = 1;
            }
            let mut faults = if seed % 4 == 1 {
                Faults::torn(seed, size)
            } else {
                Faults::mixed(seed, size)
            };
            if seed % 2 == 0 {
                faults.hostile = byzantine::assign(&terms, 300);
            }
            World::new(terms, faults)
        };
        let traced = |mut world: World| {
            let end = world.finish(Time(4_000_000));
            (end, world.watch().trace)
        };
        assert_eq!(traced(world()), traced(world().restless()), "seed {seed}");
    }
}

// The same world on every machine: nothing in it depends on floats, addresses, hashes of the process or the clock.
#[test]
fn a_fixed_world_has_this_digest() -> Outcome {
    let [_, sharded, _] = various();
    let world = ended(sharded)?;
    let ends: BTreeSet<_> = world.watch().finished.values().copied().collect();
    let ends: Vec<String> = ends
        .iter()
        .map(|(head, adapter)| format!("{head} {adapter}"))
        .collect();
    assert_eq!(
        ends,
        [GOLDEN],
        "what members decide has changed: if that is meant, this is the new end"
    );
    Ok(())
}

/// The last record and the adapter of eight members that sum in shards, with mixed faults of seed 78.
const GOLDEN: &str = "55684a7b3332152dbe2c44213c54228d225eeff3b39fe67cd44b3c9761777fa2 \
                      a8ffaa5cc248c0662e846c33a6f21174ef67875dbf32ba5f4b741f95006776b3";

#[test]
fn ten_members_and_more_under_mixed_faults() -> Outcome {
    for (seed, founders) in [(1, 10), (2, 10), (3, 13), (4, 16)] {
        sound(Terms::new(seed, founders), Faults::mixed(seed, founders))?;
    }
    Ok(())
}
