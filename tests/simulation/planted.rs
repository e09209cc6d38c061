//! Every checker catches a fault that is planted in what a sound run left.

use std::collections::BTreeSet;

use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;
use conclave_protocol::envelope::Kind;
use conclave_protocol::names::{Height, MemberId};
use conclave_protocol::record::{Cause, Previous};
use conclave_protocol::sim::check::{self, Violation};
use conclave_protocol::sim::watch::{Decision, Shown};
use conclave_protocol::sim::{Faults, Load, Terms, Watch, Way, World};

use crate::worlds::{Outcome, sound};

type Check = fn(&World) -> Result<(), Violation>;

/// What is planted, the checker that is there for it, and how it is planted.
type Fault = (&'static str, Check, fn(&mut Watch));

/// A sound run, in which nothing is caught.
fn run(founders: usize) -> Outcome<World> {
    sound(Terms::new(20, founders), Faults::default())
}

/// What a checker says of a run with a fault planted in it, which is taken out again.
fn planted(
    world: &mut World,
    check: Check,
    plant: impl FnOnce(&mut Watch),
) -> Result<(), Violation> {
    let whole = world.watch().clone();
    plant(world.watch_mut());
    let told = check(world);
    *world.watch_mut() = whole;
    told
}

/// Every fault is caught by the checker that is there for it.
fn caught(faults: Vec<Fault>) -> Outcome {
    let mut world = run(4)?;
    for (what, check, plant) in faults {
        if planted(&mut world, check, plant).is_ok() {
            return Err(format!("{what} is not caught"));
        }
    }
    check::all(&world).map_err(|violation| violation.to_string())
}

/// A share of a survivor's self seed that was shown.
fn shown(watch: &Watch) -> Shown {
    let mut shown = watch.shown.iter();
    let own = shown.find(|shown| shown.which == Secret::SelfSeed);
    *own.expect("shares were shown")
}

fn show_under_no_record(watch: &mut Watch) {
    let record = Digest([1; 32]);
    let shown = shown(watch);
    watch.shown.insert(Shown { record, ..shown });
}

fn show_pair_key(watch: &mut Watch) {
    let which = Secret::PairKey;
    let shown = shown(watch);
    watch.shown.insert(Shown { which, ..shown });
}

#[test]
fn other_results_and_records_are_caught() -> Outcome {
    caught(vec![
        ("a forked record", check::agreement::check, |watch| {
            let decisions = watch.decisions.values_mut().next().expect("a decision");
            let mut other = decisions.first().cloned().expect("one decision");
            other.head.0[0] ^= 1;
            decisions.insert(other);
        }),
        ("a differing result", check::agreement::check, |watch| {
            let adopted = watch.adopted.values_mut().next().expect("a result");
            for (digest, _) in adopted {
                digest.0[0] ^= 1;
            }
        }),
        ("another end", check::agreement::check, |watch| {
            let (head, _) = watch.finished.get_mut(&0).expect("the run ended");
            head.0[0] ^= 1;
        }),
        // One member's delta differs by the smallest step of one coordinate.
        ("a wrong sum", check::exactness::check, |watch| {
            let mut committed = watch.committed.values_mut();
            let trained = committed.next().and_then(|roots| roots.values_mut().next());
            trained.expect("a vector was committed").delta[0] += 1.0e-5;
        }),
    ])
}

#[test]
fn openings_that_are_not_called_for_are_caught() -> Outcome {
    caught(vec![
        ("a second opening", check::reveal::check, |watch| {
            let records = watch.revealed.values_mut().next().expect("a Reveal");
            records.insert(Digest([1; 32]));
        }),
        ("an early Reveal", check::reveal::check, |watch| {
            let sess = shown(watch).sess;
            watch.early_reveals.push((0, sess));
        }),
        (
            "a session under two records",
            check::opening::check,
            show_under_no_record,
        ),
        (
            "both secrets of a member",
            check::opening::check,
            show_pair_key,
        ),
        (
            "a share for no record",
            check::null::check,
            show_under_no_record,
        ),
        (
            "a share for the record of another height",
            check::null::check,
            |watch| {
                let shown = shown(watch);
                let mut others = watch.shown.iter();
                let other = others.find(|other| other.sess != shown.sess);
                let record = other.expect("two rounds").record;
                watch.shown.insert(Shown { record, ..shown });
            },
        ),
        ("a survivor's pair key", check::null::check, show_pair_key),
        (
            "a vector that stands open",
            check::privacy::check,
            |watch| {
                let Shown { sess, dealer, .. } = shown(watch);
                let fits = |shown: &&Shown| shown.sess == sess && shown.dealer == dealer;
                let own: Vec<_> = watch.shown.iter().filter(fits).copied().collect();
                let which = Secret::PairKey;
                let pair = own.into_iter().map(|shown| Shown { which, ..shown });
                watch.shown.extend(pair);
            },
        ),
    ])
}

// R2: of seven members two may be hostile: no sum of three is opened, though the charter asks for three only.
#[test]
fn an_opening_for_too_few_survivors_is_caught() -> Outcome {
    let mut world = run(7)?;
    let mut with = |left: usize| {
        planted(&mut world, check::null::check, |watch| {
            let few = |decision: &Decision| {
                let mut decision = decision.clone();
                if let Some(survivors) = &mut decision.survivors {
                    survivors.truncate(left);
                }
                decision
            };
            for decisions in watch.decisions.values_mut() {
                *decisions = decisions.iter().map(few).collect::<BTreeSet<_>>();
            }
            // Founders are members in the order of their places, and all of them survived.
            let left = u32::try_from(left).expect("small");
            watch.shown.retain(|shown| shown.dealer < MemberId(left));
        })
    };
    assert_eq!(with(4), Ok(()));
    assert!(with(3).is_err());
    Ok(())
}

#[test]
fn two_words_and_two_vectors_are_caught() -> Outcome {
    caught(vec![
        ("two messages in a slot", check::slots::check, |watch| {
            let slot = *watch.slots.keys().next().expect("a slot");
            let others = watch.contradicted.entry(slot).or_default();
            others.insert(Digest([1; 32]));
        }),
        ("two roots in a session", check::mask::check, |watch| {
            let roots = watch.roots.values_mut().next().expect("a Commit");
            roots.insert(Digest([1; 32]));
        }),
        ("two stored vectors", check::mask::check, |watch| {
            let bound = watch.committed.values_mut().next().expect("a vector");
            let (_, trained) = bound.first_key_value().expect("one");
            let trained = trained.clone();
            bound.insert(Digest([1; 32]), trained);
        }),
        (
            "a vector with its mask's seeds on disk",
            check::mask::check,
            |watch| {
                watch.late_masks.insert((Height(2), 0));
            },
        ),
        ("a message of another form", check::canon::check, |watch| {
            watch.uncanonical.push((0, Kind::Ack));
        }),
    ])
}

// R71: I-BYTES allows a member no vector more than the formula, in shards and whole, no adapter at the closing height
// (the sixth here) when it has opened the last sum, and no flood of messages; twice
// what there is and an adapter where not all is calm, as at height 2 and where members come or go, and three times out.
#[test]
fn a_vector_too_many_is_caught() -> Outcome {
    for (founders, height, load, bytes) in [
        (12, 3, Load::Blob, [48; 2]),
        (5, 3, Load::Blob, [48; 2]),
        (5, 3, Load::Envelope(Kind::Ack), [1 << 20; 2]),
        (12, 6, Load::Blob, [96; 2]),
        (5, 6, Load::Blob, [96; 2]),
        (12, 2, Load::Blob, [3 * 12 * 108 + 96, 2 * 12 * 108 + 96]),
        (5, 2, Load::Blob, [3 * 5 * 48 + 96, 2 * 5 * 48 + 96]),
    ] {
        let mut terms = Terms::new(20, founders);
        (terms.rounds, terms.inline_limit) = (4, 1);
        let mut world = sound(terms, Faults::default())?;
        for (way, bytes) in [Way::Sent, Way::Received].into_iter().zip(bytes) {
            let tally = world.tally().clone();
            let counted = world.tally_mut();
            counted.count(2, Height(height), load, way, bytes);
            assert!(
                check::bytes::check(&world).is_err(),
                "{founders} members, height {height}, {load:?}, {way:?}"
            );
            *world.tally_mut() = tally;
        }
    }
    Ok(())
}

// R71: a fault-free world is judged by the formula from height 3 on, in shards and whole.
#[test]
fn the_formula_holds_wherever_nothing_goes_wrong() -> Outcome {
    for founders in [5, 12] {
        let mut terms = Terms::new(21, founders);
        (terms.rounds, terms.inline_limit) = (4, 1);
        let world = sound(terms, Faults::default())?;
        let heights = world.watch().diary.decided.keys();
        let calm = heights.filter(|height| check::bytes::is_calm(&world, **height));
        let calm: Vec<_> = calm.map(|height| height.0).collect();
        assert_eq!(calm, [3, 4, 5, 6], "{founders} members");
    }
    Ok(())
}

// R20, R12: each part of I-VALID.
#[test]
fn decisions_on_what_nobody_said_are_caught() -> Outcome {
    caught(vec![
        (
            "a vote for a vector that is not held",
            check::validity::check,
            |watch| {
                watch.unheld.push((0, Height(2), MemberId(1)));
            },
        ),
        (
            "sharers that nobody acknowledged",
            check::validity::check,
            |watch| {
                watch.acks.clear();
            },
        ),
        (
            "a sharer without a quorum of acknowledgers",
            check::validity::check,
            |watch| {
                // One of the three that are needed, of four, is left beside another.
                watch.acks.retain(|(_, holder), _| *holder < MemberId(2));
            },
        ),
        (
            "survivors that announced nothing",
            check::validity::check,
            |watch| {
                watch.commits.clear();
            },
        ),
        (
            "a vector under another masking context",
            check::validity::check,
            |watch| {
                let (_, sid) = watch.commits.values_mut().next().expect("a Commit");
                sid.0.0[0] ^= 1;
            },
        ),
        (
            "a certified result that nobody opened",
            check::validity::check,
            |watch| {
                for ((height, _), adopted) in &mut watch.adopted {
                    for (digest, _) in adopted.iter_mut().filter(|_| *height == Height(2)) {
                        digest.0[0] ^= 1;
                    }
                }
            },
        ),
    ])
}

#[test]
fn convictions_of_the_honest_are_caught() -> Outcome {
    caught(vec![(
        "a spent round's culprit",
        check::fraud::check,
        |watch| {
            let record = watch.diary.records.values_mut().next().expect("a record");
            record.previous = Previous::Spent {
                cause: Cause::Withheld,
                culprits: vec![MemberId(1)],
                silent: Vec::new(),
            };
        },
    )])
}
