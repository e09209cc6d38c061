//! I-AGREE: one record a height and one result a height, whichever honest member reports it and however often.

use std::collections::BTreeMap;

use super::Violation;
use crate::sim::World;

const PROMISE: &str = "agreement";

/// All ledgers are prefixes of one, and equal heights give equal adapters.
pub fn check(world: &World) -> Result<(), Violation> {
    let watch = world.watch();
    let mut heads = BTreeMap::new();
    let honest = |place: &usize| !world.is_hostile(*place);
    for ((height, place), decisions) in watch.decisions.iter().filter(|((_, at), _)| honest(at)) {
        for decision in decisions {
            let first = heads.entry(*height).or_insert(decision);
            if *first != decision {
                return Err(Violation::new(
                    PROMISE,
                    format!(
                        "place {place} decided {} at height {}, somebody else {}",
                        decision.head.short(),
                        height.0,
                        first.head.short()
                    ),
                ));
            }
        }
    }
    let mut results = BTreeMap::new();
    for ((height, place), adopted) in watch.adopted.iter().filter(|((_, at), _)| honest(at)) {
        for (digest, adapter) in adopted {
            let first = results.entry(*height).or_insert((digest, adapter));
            if first.0 != digest || bits(first.1) != bits(adapter) {
                return Err(Violation::new(
                    PROMISE,
                    format!(
                        "place {place} adopted {} at height {}, somebody else {}",
                        digest.short(),
                        height.0,
                        first.0.short()
                    ),
                ));
            }
        }
    }
    let finished = watch.finished.iter().filter(|(place, _)| honest(place));
    let mut finished = finished.map(|(_, end)| end);
    if let Some(first) = finished.next()
        && let Some(other) = finished.find(|other| *other != first)
    {
        return Err(Violation::new(
            PROMISE,
            format!("two ends: {first:?} and {other:?}"),
        ));
    }
    Ok(())
}

fn bits(adapter: &[f32]) -> Vec<u32> {
    adapter.iter().map(|value| value.to_bits()).collect()
}
