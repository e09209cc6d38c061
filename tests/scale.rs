//! What a larger federation says and holds, counted: bounds that no more work by each for each may break.

#[path = "worlds.rs"]
mod worlds;

use conclave_protocol::envelope::Kind;
use conclave_protocol::sim::faults::{never, percent};
use conclave_protocol::sim::{Climate, Latency, Load, Terms, Way, World};

use self::worlds::{Outcome, sound};

const MEMBERS: usize = 40;
const ROUNDS: u32 = 2;

/// Messages of a kind that all members together said, for each member and round.
fn said(world: &World, kind: Kind) -> u64 {
    let all = world.tally().load(Load::Envelope(kind), Way::Sent).messages;
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
        breaks: never(),
        partition: never(),
        latency: Latency::Wan,
        hostile: 0,
    };
    let faults = climate.faults(&terms);
    let world = sound(terms, faults)?;
    // Everybody says each of these once, and three heights are set up for two rounds. The rest was said again.
    let again = [
        (Kind::KeyAd, 8),
        (Kind::Deal, 13),
        (Kind::Ack, 6),
        (Kind::Commit, 7),
        (Kind::Have, 7),
        (Kind::Reveal, 3),
        (Kind::Want, 80),
        (Kind::Recall, 30),
        (Kind::Decided, 4),
    ];
    for (kind, most) in again {
        let count = said(&world, kind);
        assert!(
            count <= most,
            "{count} {} for each member and round",
            kind.name()
        );
    }
    // R11: a box for each other member goes to that one, by others where two cannot reach each other.
    let boxes = world
        .tally()
        .load(Load::Envelope(Kind::Seal), Way::Received);
    let pairs = u64::try_from(MEMBERS * MEMBERS).expect("small");
    let (set_ups, sent) = (u64::from(ROUNDS) + 1, boxes.messages);
    assert!(sent <= 2 * set_ups * pairs, "{sent} boxes came in");
    Ok(())
}
