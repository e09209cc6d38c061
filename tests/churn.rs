//! Every way to leave and come back: snapshots, carried deltas, leaving in order, growing and shrinking, safe halts.
//!
//! A failing seed prints itself.

#[path = "worlds.rs"]
mod worlds;

use std::collections::BTreeSet;

use conclave_protocol::envelope::Kind;
use conclave_protocol::names::{Height, MemberId};
use conclave_protocol::output::Phase;
use conclave_protocol::sim::faults::{PHASES, POINTS};
use conclave_protocol::sim::{Crash, Faults, Loss, Point, Strike, Terms, World};
use conclave_protocol::time::Time;

use self::worlds::{LIMIT, Outcome, crash, ended, judged, left_out, left_out_and, sound, with};

/// The heights in which a place is among the survivors.
fn survived(world: &World, place: usize) -> BTreeSet<Height> {
    let key = world.key(place).expect("a place of the world");
    let decisions = world.watch().decisions.iter();
    let counts = decisions.filter(|(_, decisions)| {
        let survivors = decisions.iter().filter_map(|d| d.survivors.as_ref());
        survivors.flatten().any(|survivor| *survivor == key)
    });
    counts.map(|((height, _), _)| *height).collect()
}

/// How many members the height after next has, after each height.
fn sizes(world: &World) -> Vec<usize> {
    let mut sizes: Vec<(Height, usize)> = Vec::new();
    for ((height, _), decisions) in &world.watch().decisions {
        let size = decisions.first().map_or(0, |d| d.members_after_next.len());
        if sizes.last().is_none_or(|(last, _)| last < height) {
            sizes.push((*height, size));
        }
    }
    sizes.into_iter().map(|(_, size)| size).collect()
}

fn warned(world: &World, place: usize, what: &str) -> bool {
    let mut warnings = world.watch().warnings.iter();
    warnings.any(|(who, reason)| *who == place && reason.contains(what))
}

/// A member dies right behind its submission, and its disk is put back to the moment of its dealing.
fn snapshot(place: usize, height: u64) -> Crash {
    Crash {
        rollback: true,
        ..crash(
            place,
            Strike::AfterSubmitted { height },
            Point::AfterSend,
            Some(50),
        )
    }
}

// R60 R61: it asks, sits out, says so, and shares again; nothing is said twice.
#[test]
fn a_member_put_back_from_a_copy_sits_out_and_returns() -> Outcome {
    for seed in 30..50 {
        // Sometimes with vectors in shards.
        let sharded = seed % 10 == 0;
        let mut terms = Terms::new(seed, if sharded { 8 } else { 5 });
        terms.rounds = 9;
        if sharded {
            terms.inline_limit = 1;
        }
        let world = sound(terms, with(vec![snapshot(1, 3)]))?;
        let says = warned(&world, 1, "that are not stored here");
        let heights = survived(&world, 1);
        assert!(says, "seed {seed}: it does not say so");
        assert!(
            heights.range(Height(4)..=Height(5)).next().is_none(),
            "seed {seed}: it shared while it should sit out: {heights:?}"
        );
        assert!(
            heights.range(Height(6)..).next().is_some(),
            "seed {seed}: it never came back: {heights:?}"
        );
    }
    Ok(())
}

// R60 R61: a death in any phase, and back without outbox, journal, log and secrets: that costs only the own share for a
// while.
#[test]
fn a_member_that_lost_what_it_said_sits_out_and_returns() -> Outcome {
    for (number, phase) in PHASES.into_iter().enumerate() {
        for point in POINTS {
            forgets(Loss::Words, phase, point, number)?;
        }
    }
    Ok(())
}

// R60 R61: the same with a folder that was made anew around the identity.
#[test]
fn a_member_that_lost_its_folder_sits_out_and_returns() -> Outcome {
    for (number, phase) in PHASES.into_iter().enumerate() {
        let point = POINTS[number % POINTS.len()];
        forgets(Loss::Everything, phase, point, number)?;
    }
    Ok(())
}

fn forgets(loss: Loss, phase: Phase, point: Point, number: usize) -> Outcome {
    let mut terms = Terms::new(200 + u64::try_from(number).expect("small"), 5);
    terms.rounds = 11;
    let strike = Strike::AtHeight {
        height: 3,
        phase,
        skip: 0,
    };
    let death = crash(3, strike, point, Some(600));
    let faults = Faults {
        losses: vec![(3, loss)],
        ..with(vec![death])
    };
    let world = sound(terms, faults)?;
    let death = format!("{loss:?} {phase:?} {point:?}");
    if world.watch().struck.len() != 1 {
        return Err(format!("{death}: nobody died"));
    }
    let counted = survived(&world, 3);
    if counted.range(Height(4)..=Height(5)).next().is_some() {
        return Err(format!(
            "{death}: it shared while it should sit out: {counted:?}"
        ));
    }
    let last = counted.into_iter().next_back();
    if last.is_none_or(|height| height < Height(9)) {
        return Err(format!("{death}: last counted in {last:?}"));
    }
    Ok(())
}

// R60: a member that reaches fewer than it has to ask does so through others, at the beginning and later.
#[test]
fn a_member_that_reaches_too_few_asks_through_others() -> Outcome {
    for seed in 80..90 {
        let mut terms = Terms::new(seed, 5);
        terms.rounds = 8;
        let death = Strike::AfterSubmitted { height: 3 };
        let faults = Faults {
            apart: BTreeSet::from([(0, 1), (0, 4)]),
            ..with(vec![crash(0, death, Point::AfterSend, Some(400))])
        };
        let world = sound(terms, faults)?;
        let counted = survived(&world, 0);
        let (early, late) = (counted.range(..Height(3)), counted.range(Height(6)..));
        assert!(early.count() > 0, "seed {seed}: {counted:?}");
        assert!(late.count() > 1, "seed {seed}: {counted:?}");
    }
    Ok(())
}

// R60: with nobody in reach whom it could ask it says that it lives, and nothing else, however long; what it said
// before the others hand on.
#[test]
fn a_member_put_back_from_a_copy_alone_says_nothing() -> Outcome {
    let submitted = |world: &World| world.watch().diary.submitted.contains_key(&(Height(2), 1));
    let mut plain = World::new(Terms::new(30, 4), Faults::default());
    let at = plain
        .run(LIMIT, submitted)
        .map_err(|stuck| stuck.to_string())?;
    let mut faults = with(vec![snapshot(1, 2)]);
    faults.splits = vec![(vec![1], Time(at.0 + 1), Time(at.0 + 30_000))];
    let mut world = World::new(Terms::new(30, 4), faults);
    world.keep_log();
    let said = |world: &World| {
        let log = world.watch().said.iter().flatten();
        let own = log.filter_map(|letter| {
            let envelope = letter.envelope().ok()?;
            (envelope.sender == MemberId(1)).then(|| (letter.digest(), envelope.kind))
        });
        own.collect::<BTreeSet<_>>()
    };
    world
        .run(LIMIT, |world| !world.watch().struck.is_empty())
        .map_err(|stuck| stuck.to_string())?;
    let before = said(&world);
    assert!(!before.is_empty(), "it never said anything");
    let alone = Time(at.0 + 29_000);
    world
        .run(LIMIT, |world| world.now() >= alone)
        .map_err(|stuck| stuck.to_string())?;
    assert!(world.up_since(1).is_some(), "it is not back");
    let new: BTreeSet<_> = said(&world).difference(&before).copied().collect();
    let kinds: BTreeSet<_> = new.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds, BTreeSet::from([Kind::Heartbeat]));
    ended(world).map(drop)
}

// R63: the delta of a member that was cut off when it submitted counts in the factor's next round, before the clamp.
#[test]
fn a_delta_that_a_certificate_left_out_is_carried() -> Outcome {
    let mut carried = 0;
    for seed in 0..6 {
        let world = left_out(seed)?;
        let bound = world.watch().committed.iter();
        let own = bound.filter(|((_, place), _)| *place == 2);
        let left_out = own
            .flat_map(|(_, roots)| roots.values())
            .filter_map(|trained| trained.carried.as_ref());
        carried += left_out.filter(|(height, _)| *height == Height(3)).count();
    }
    assert!(carried > 0, "nothing was ever carried");
    Ok(())
}

// R17 R63: a member that dies as it submits says the same vector again, with what it carried in it.
#[test]
fn what_is_carried_counts_though_its_member_dies_as_it_submits() -> Outcome {
    let mut struck = 0;
    for seed in 0..6 {
        for point in [Point::AfterStore, Point::AfterSend] {
            let strike = Strike::AtHeight {
                height: 5,
                phase: Phase::Submit,
                skip: 0,
            };
            let world = left_out_and(seed, vec![crash(2, strike, point, Some(300))])?;
            let bound = world.watch().committed.get(&(Height(5), 2));
            let carries = bound.is_some_and(|roots| roots.values().any(|t| t.carried.is_some()));
            struck += usize::from(carries && !world.watch().struck.is_empty());
        }
    }
    assert!(struck > 0, "nobody died with what it carried");
    Ok(())
}

// R66: SIGTERM in any phase costs no round, and the leaver is told when it is out.
#[test]
fn members_leave_in_order() -> Outcome {
    for seed in 50..54 {
        let mut terms = Terms::new(seed, 6);
        terms.rounds = 8;
        let faults = Faults {
            leaves: vec![(1, Time(3000 + 700 * (seed - 50))), (4, Time(9000))],
            ..Faults::default()
        };
        let world = sound(terms, faults)?;
        for place in [1, 4] {
            let left = world.watch().left.get(&place);
            assert_eq!(left, Some(&None), "seed {seed}: place {place}");
        }
        assert_eq!(sizes(&world).last(), Some(&4), "seed {seed}");
        let rounds: BTreeSet<_> = world.watch().adopted.keys().map(|(at, _)| *at).collect();
        assert!(
            rounds.range(Height(2)..).count() >= 8,
            "seed {seed}: a round was lost: {rounds:?}"
        );
    }
    Ok(())
}

// R66: said while it was cut off, a Leave is said again: the record of the same height releases it.
#[test]
fn a_leave_that_nobody_heard_is_said_again() -> Outcome {
    let mut terms = Terms::new(75, 6);
    terms.rounds = 3;
    let faults = Faults {
        training: (15_000, 16_000),
        splits: vec![(vec![1], Time(7_900), Time(8_500))],
        leaves: vec![(1, Time(8_000))],
        ..Faults::default()
    };
    let world = sound(terms, faults)?;
    assert_eq!(sizes(&world)[..2], [6, 5]);
    Ok(())
}

// R66: too few to do without it: told at once, and it goes on being counted on.
#[test]
fn the_last_four_cannot_leave() -> Outcome {
    let faults = Faults {
        leaves: vec![(2, Time(3000))],
        ..Faults::default()
    };
    let mut terms = Terms::new(70, 4);
    terms.rounds = 5;
    let world = sound(terms, faults)?;
    let left = world.watch().left.get(&2).cloned().flatten();
    let reason = left.ok_or("it was let go")?;
    assert!(reason.contains("leaving would halt it"), "{reason}");
    assert!(world.watch().finished.contains_key(&2));
    Ok(())
}

// R43 R44: removed for absence from 9 down to 4, and back by their own Joins.
#[test]
fn a_federation_shrinks_from_nine_to_four_and_grows_again() -> Outcome {
    let mut terms = Terms::new(80, 9);
    terms.rounds = 90;
    terms.absent_rounds = 2;
    let back = |place: u64| Some(80_000 + 1000 * place);
    let away = [4u64, 5, 6, 7, 8].map(|place| {
        let strike = Strike::AtHeight {
            height: 4 + 6 * (place - 4),
            phase: Phase::Train,
            skip: 0,
        };
        let place_number = usize::try_from(place).expect("small");
        crash(place_number, strike, Point::AfterSend, back(place))
    });
    let world = sound(terms, with(away.to_vec()))?;
    let sizes = sizes(&world);
    assert_eq!(sizes.iter().min(), Some(&4), "{sizes:?}");
    assert_eq!(sizes.last(), Some(&9), "{sizes:?}");
    for place in 4..9 {
        let last = survived(&world, place).into_iter().next_back();
        assert!(
            last.is_some_and(|height| height > Height(60)),
            "place {place} last counted in {last:?}"
        );
    }
    Ok(())
}

// R21: a third away: nothing is decided or shown, the others say whom they wait for, and go on when they return.
#[test]
fn with_a_third_away_the_others_name_them_and_wait() -> Outcome {
    let mut terms = Terms::new(90, 6);
    terms.rounds = 4;
    let strike = Strike::AfterDealt { height: 3 };
    let away = [4, 5].map(|place| crash(place, strike, Point::AfterSend, Some(90_000)));
    let mut world = World::new(terms, with(away.to_vec()));
    let stuck = world.run(Time(60_000), |_| false);
    assert!(stuck.is_err(), "it ended");
    judged(&world)?;
    let shown = world.watch().shown.len();
    let text = stuck
        .err()
        .map(|stuck| stuck.to_string())
        .unwrap_or_default();
    assert!(
        text.contains("waiting for member 4, member 5: 5 of 6 members are needed"),
        "{text}"
    );
    let world = ended(world)?;
    assert!(
        world.watch().shown.len() > shown,
        "no round was opened afterwards"
    );
    Ok(())
}
