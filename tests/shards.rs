//! Federations of eight and more whose vectors are too large for gossip: they are moved and summed in shards.
//!
//! A failing seed prints itself; `CONCLAVE_SEED=<seed> cargo test --release -p conclave-protocol --test shards faults`
//! runs it alone.

#[path = "shards/kept.rs"]
mod kept;
#[path = "shards/moved.rs"]
mod moved;
#[path = "shards/won.rs"]
mod won;
#[path = "worlds.rs"]
mod worlds;

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::digest::Digest;
use conclave_crypto::merkle;
use conclave_protocol::envelope::Kind;
use conclave_protocol::message::{self, SumCommit};
use conclave_protocol::names::{Height, MemberId};
use conclave_protocol::output::Table;
use conclave_protocol::record::Previous;
use conclave_protocol::sim::tally::{Load, Way};
use conclave_protocol::sim::{Faults, Point, Script, Strike, Terms, World};

use self::worlds::{Outcome, asked_for, crash, logged, opened, over, said, sound, with};

/// A federation that sums in shards.
fn terms(seed: u64, founders: usize) -> Terms {
    Terms {
        inline_limit: 1,
        ..Terms::new(seed, founders)
    }
}

/// How many members said a message of a kind in how many heights.
fn slots(world: &World, kind: Kind) -> usize {
    let slots = world.watch().slots.keys();
    slots.filter(|(_, said, _, _)| *said == kind).count()
}

/// Who committed to which sum of a shard at height 2.
fn sums(world: &World, shard: u32) -> BTreeMap<usize, Digest> {
    let chain = world.longest();
    let sess = chain.and_then(|chain| chain.session_id(Height(2)));
    let said = said(world, Kind::SumCommit).into_iter();
    let said = said.filter(|envelope| Some(envelope.sess) == sess);
    let named = said.filter_map(|envelope| {
        let body: SumCommit = message::decode(&envelope.body).ok()?;
        let (_, name) = body.sums.into_iter().find(|(m, _)| *m == shard)?;
        let place = usize::try_from(envelope.sender.0).ok()?;
        Some((place, name))
    });
    named.collect()
}

#[test]
fn sums_in_shards_are_exact_from_eight_members_on() -> Outcome {
    // R70, R71, R74, R76: the checkers compare every result with the plain sum.
    for founders in [8, 10, 13] {
        let world = sound(terms(1, founders), Faults::default())?;
        assert_eq!(opened(&world).len(), 2, "both rounds of {founders}");
        let seats = founders.min(12);
        assert!(
            slots(&world, Kind::SumCommit) >= 2 * seats,
            "sums of {founders}"
        );
        assert_eq!(
            slots(&world, Kind::Tags),
            2 * founders,
            "tags of {founders}"
        );
        let (refused, warnings) = (&world.watch().refused, &world.watch().warnings);
        assert!(
            refused.is_empty(),
            "honest messages were refused: {refused:?}"
        );
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    Ok(())
}

#[test]
fn fewer_members_or_small_vectors_use_no_shards() -> Outcome {
    // R70
    let seven = sound(terms(2, 7), Faults::default())?;
    let inline = sound(Terms::new(2, 8), Faults::default())?;
    for world in [seven, inline] {
        assert_eq!(
            slots(&world, Kind::SumCommit) + slots(&world, Kind::Tags),
            0
        );
        assert_eq!(opened(&world).len(), 2);
    }
    Ok(())
}

#[test]
fn what_a_member_moves_does_not_grow_with_the_federation() -> Outcome {
    // R71: two replicas and the sums, each way; whole vectors would be n - 1 of them.
    let coordinates = 1 << 17;
    let vector = 4 * coordinates as u64;
    for founders in [8, 12, 16] {
        let moved = moved::moved(founders, coordinates)?;
        for (member, moved) in moved.iter().enumerate() {
            let most = moved.sent.max(moved.received);
            assert!(
                10 * most <= 33 * vector,
                "member {member} of {founders} moved {moved:?} for vectors of {vector} bytes"
            );
            assert!(moved.longest * founders as u64 <= 5 * vector / 4 + 64 * founders as u64);
        }
    }
    Ok(())
}

#[test]
fn liars_are_outvoted_by_arithmetic_and_lose_their_seats() -> Outcome {
    // R76, R77, R79: the checkers hold every result to be the plain sum; nobody honest is accused.
    for (seed, script) in [(6, Script::FalseSums), (7, Script::FalseTags)] {
        let mut terms = terms(seed, 9);
        terms.rounds = 3;
        let faults = Faults {
            hostile: vec![(4, script)],
            ..Faults::default()
        };
        let world = sound(terms, faults)?;
        assert!(world.acted(4), "{}", script.name());
        assert_eq!(opened(&world).len(), 3, "{}", script.name());
        let told = |place: usize| {
            let warnings = world.watch().warnings.iter();
            let told = warnings.filter(move |(who, _)| *who == place);
            told.map(|(_, reason)| reason.as_str()).collect::<Vec<_>>()
        };
        for place in (0..9).filter(|place| *place != 4) {
            let told = told(place);
            assert!(
                matches!(told.as_slice(), [only] if only.starts_with("member 4 ")),
                "{}: place {place} was told {told:?}",
                script.name()
            );
        }
    }
    Ok(())
}

#[test]
fn two_liars_that_agree_are_not_believed() -> Outcome {
    // R76, R77: where both replicas of a shard lie alike the tags alone tell.
    over(asked_for().unwrap_or(0..9), |seed| {
        let shard = u32::try_from(seed % 9).expect("below nine");
        let honest = sums(&logged(terms(40 + seed, 9), Faults::default())?, shard);
        let makers: Vec<usize> = honest.keys().copied().collect();
        if makers.len() != 2 {
            return Err(format!("places {makers:?} summed shard {shard}"));
        }
        let liars = makers.iter().map(|place| (*place, Script::FalseSums));
        let faults = Faults {
            hostile: liars.collect(),
            ..Faults::default()
        };
        let world = logged(terms(40 + seed, 9), faults)?;
        let lies = sums(&world, shard);
        let alike = lies.values().collect::<BTreeSet<_>>().len() == 1;
        let lied = lies.iter().all(|(place, sum)| honest[place] != *sum);
        if lies.len() != 2 || !alike || !lied || opened(&world).len() < 2 {
            let opened = opened(&world);
            return Err(format!("liars {makers:?}: {lies:?}, opened {opened:?}"));
        }
        Ok(())
    })
}

#[test]
fn a_sum_that_was_made_again_is_kept() -> Outcome {
    // R77: where one of two replicas lies everybody adds the vectors, and the keepers of the true sum store it as well.
    let faults = Faults {
        hostile: vec![(4, Script::FalseSums)],
        ..Faults::default()
    };
    let world = logged(terms(6, 9), faults)?;
    let mut disputed = 0;
    for shard in 0..9 {
        let sums = sums(&world, shard);
        let Some(truth) = sums.iter().find(|(place, _)| **place != 4) else {
            continue;
        };
        if !sums.contains_key(&4) {
            continue;
        }
        disputed += 1;
        let stored = world.watch().stored.iter().flatten();
        let stored = stored
            .filter(|(_, table, bytes)| *table == Table::Shards && merkle::root(bytes) == *truth.1);
        // The liar is one of the two that the shard calls first besides who made this sum.
        let keepers: BTreeSet<_> = stored
            .map(|(place, ..)| place)
            .filter(|place| *place != truth.0 && **place != 4)
            .collect();
        assert_eq!(keepers.len(), 1, "shard {shard}: {sums:?}");
    }
    assert!(disputed > 0, "no shard has a liar and an honest member");
    Ok(())
}

#[test]
fn a_vector_that_nobody_can_have_spoils_no_round() -> Outcome {
    // R73: its author's word for it proves nothing, so it is left out of the sum.
    let mut terms = terms(11, 9);
    terms.rounds = 3;
    let faults = Faults {
        hostile: vec![(2, Script::Unserved)],
        ..Faults::default()
    };
    let world = sound(terms, faults)?;
    assert!(world.acted(2), "its shards were served");
    assert_eq!(opened(&world).len(), 3);
    Ok(())
}

#[test]
fn a_vector_with_a_gap_spoils_few_rounds() -> Outcome {
    // R62, R73: one shard of it is handed to nobody, and an accomplice says that it holds it. Whoever's vector cannot
    // be had is named in the record that spends the round, and does not share for a while.
    let mut terms = terms(12, 9);
    terms.rounds = 9;
    let faults = Faults {
        hostile: vec![(2, Script::Gap), (6, Script::Claims)],
        ..Faults::default()
    };
    let world = sound(terms, faults)?;
    assert!(world.acted(2) && world.acted(6));
    let records = world.watch().diary.records.values();
    let silent: Vec<_> = records
        .filter_map(|record| match &record.previous {
            Previous::Spent { silent, .. } => Some(silent.clone()),
            Previous::None | Previous::Opened(_) => None,
        })
        .collect();
    assert!(!silent.is_empty(), "no round was spoiled");
    for named in &silent {
        assert!(named.contains(&MemberId(2)), "{silent:?}");
    }
    assert!(silent.len() <= 2, "{silent:?}");
    assert!(opened(&world).len() >= 5, "{:?}", opened(&world));
    Ok(())
}

#[test]
fn a_word_that_is_taken_back_moves_few_more_shards() -> Outcome {
    // R72: what was asked for once for others is asked for until it is here, however often a holder turns round.
    over(asked_for().unwrap_or(0..8), |seed| {
        let pulled = |hostile| -> Outcome<u64> {
            let faults = Faults {
                hostile,
                ..Faults::torn(seed, 9)
            };
            let world = sound(terms(seed, 9), faults)?;
            let (acted, opened) = (world.acted(3), opened(&world).len());
            assert_eq!((acted, opened), (world.is_hostile(3), 2), "seed {seed}");
            Ok(world.tally().load(Load::Blob, Way::Received).bytes)
        };
        let calm = pulled(Vec::new())?;
        let turned = pulled(vec![(3, Script::TakesBack)])?;
        assert!(
            turned * 4 <= calm * 5,
            "seed {seed}: {calm} and {turned} bytes"
        );
        Ok(())
    })
}

#[test]
fn other_lies_do_shards_no_more_harm() -> Outcome {
    // R31, R72: of two Commits of one member the recorded one is summed.
    for (seed, script) in [
        (8, Script::ForkedCommit),
        (9, Script::Withhold),
        (10, Script::Isolate),
    ] {
        let faults = Faults {
            hostile: vec![(3, script)],
            ..Faults::default()
        };
        let world = sound(terms(seed, 8), faults)?;
        assert!(world.acted(3), "{}", script.name());
        assert_eq!(opened(&world).len(), 2, "{}", script.name());
    }
    Ok(())
}

#[test]
fn dead_holders_are_replaced() -> Outcome {
    // R71, R73, R77, R78: fewer than a third may be gone; their shards are summed all the same. (In one of ten worlds
    // two that die as they submit take all copies of a shard with them, and cost that round: not in these.)
    for (seed, dead) in [(3, vec![1]), (100, vec![2, 5]), (101, vec![0, 7])] {
        let strike = Strike::AfterSubmitted { height: 2 };
        let crashes = dead
            .iter()
            .map(|place| crash(*place, strike, Point::AfterSend, None));
        let world = sound(terms(seed, 9), with(crashes.collect()))?;
        assert_eq!(opened(&world).len(), 2, "seed {seed}");
    }
    Ok(())
}

#[test]
fn shards_survive_lost_links_over_seeds() -> Outcome {
    // R71, R72, R77
    over(asked_for().unwrap_or(0..12), |seed| {
        let founders = [8, 9, 11][usize::try_from(seed % 3).expect("below three")];
        sound(terms(seed, founders), Faults::torn(seed, founders)).map(drop)
    })
}

#[test]
fn shards_survive_faults_over_seeds() -> Outcome {
    // R72, R75
    over(asked_for().unwrap_or(0..12), |seed| {
        let founders = [8, 9, 11][usize::try_from(seed % 3).expect("below three")];
        sound(terms(seed, founders), Faults::mixed(seed, founders)).map(drop)
    })
}
