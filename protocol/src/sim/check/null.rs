//! I-NULL: honest members show what a decided record with enough survivors calls for, and nothing after a null one.

use std::collections::BTreeMap;

use conclave_crypto::dealing::Secret;

use super::Violation;
use crate::sim::World;

const PROMISE: &str = "nothing revealed that is not called for";

/// Self seeds of survivors, pair keys of the other sharers, of the record's own height: nothing else is shown.
pub fn check(world: &World) -> Result<(), Violation> {
    let watch = world.watch();
    let hostile = world.hostile_ids();
    let decisions = watch.decisions.values().flatten();
    let decisions: BTreeMap<_, _> = decisions
        .map(|decision| (decision.head, decision))
        .collect();
    let least = world.terms().charter().aggregation.min_survivors;
    let shown = watch.shown.iter();
    for shown in shown.filter(|shown| !hostile.contains(&shown.holder)) {
        let decision = decisions.get(&shown.record);
        let survivors = decision
            .and_then(|decision| decision.survivors.as_ref())
            .filter(|survivors| u32::try_from(survivors.len()).is_ok_and(|n| n >= least));
        let key = world.key_of(shown.dealer);
        let survived = survivors.zip(key).map(|(survivors, key)| {
            let shares = decision.is_some_and(|decision| decision.sharers.contains(&key));
            (shares, survivors.contains(&key))
        });
        let called = match shown.which {
            Secret::SelfSeed => survived == Some((true, true)),
            Secret::PairKey => survived == Some((true, false)),
        };
        if !called {
            let what = format!(
                "member {} showed a share of {:?} of member {} that no record calls for",
                shown.holder.0, shown.which, shown.dealer.0
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    Ok(())
}
