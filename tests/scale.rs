//! What a larger federation says and holds, counted: bounds that no more work by each for each may break.

#[path = "worlds.rs"]
mod worlds;

use conclave_protocol::envelope::Kind;
use conclave_protocol::sim::faults::{never, percent};
use conclave_protocol::sim::{Climate, Latency, Load, Terms, Way, World};
use conclave_protocol::time::Time;

use self::worlds::{Outcome, judged};

const MEMBERS: usize = 40;
const ROUNDS: u32 = 2;

/// Messages of these kinds that all members together said, for each member and round.
fn said(world: &World, kinds: &[Kind]) -> u64 {
    let load = |kind: &Kind| world.tally().load(Load::Envelope(*kind), Way::Sent);
    let all: u64 = kinds.iter().map(|kind| load(kind).messages).sum();
    let members = u64::try_from(MEMBERS).expect("small");
    all / (members * u64::from(ROUNDS))
}

// R50, R60: what is asked for and said again stays in proportion to what is new.
#[test]
fn a_federation_says_little_twice() -> Outcome {
    let mut terms = Terms::new(7, MEMBERS);
    (terms.rounds, terms.inline_limit) = (ROUNDS, 1);
    let climate = Climate {
        churn: percent(10),
        loss: never(),
        partition: never(),
        latency: Latency::Wan,
        hostile: 0,
    };
    let faults = climate.faults(&terms);
    let mut world = World::new(terms, faults);
    world
        .finish(Time(900_000))
        .map_err(|stuck| stuck.to_string())?;
    judged(&world)?;
    // Everybody says each of these once, and three heights are set up for two rounds. The rest was said again.
    let again = [
        (Kind::KeyAd, 8),
        (Kind::Deal, 24),
        (Kind::Ack, 24),
        (Kind::Commit, 8),
        (Kind::Reveal, 8),
        (Kind::Want, 100),
        (Kind::Recall, 30),
    ];
    for (kind, most) in again {
        let count = said(&world, &[kind]);
        assert!(
            count <= most,
            "{count} {} for each member and round",
            kind.name()
        );
    }
    Ok(())
}
