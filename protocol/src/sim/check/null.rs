//! I-NULL: honest members show what a decided record with enough survivors calls for, and nothing after a null one.

use std::collections::BTreeMap;

use conclave_crypto::dealing::Secret;

use super::Violation;
use crate::params;
use crate::sim::World;
use crate::sim::watch::Scene;

const PROMISE: &str = "nothing revealed that is not called for";

/// Self seeds of survivors, pair keys of the other sharers, of the record's own height: nothing else is shown.
pub fn check(world: &World) -> Result<(), Violation> {
    let watch = world.watch();
    let hostile = world.hostile_ids();
    let mut decided = BTreeMap::new();
    for ((height, _), decisions) in &watch.decisions {
        decided.extend(
            decisions
                .iter()
                .map(|decision| (decision.head, (*height, decision))),
        );
    }
    let charter = world.charter();
    let shown = watch.shown.iter();
    for shown in shown.filter(|shown| !hostile.contains(&shown.holder)) {
        // Of enough survivors one at least is honest and masked a vector: the session is known.
        let scene = watch.scenes.get(&shown.sess);
        let own = |scene: &&Scene| {
            decided
                .get(&shown.record)
                .is_some_and(|(at, _)| *at == scene.height)
        };
        let least = scene
            .filter(own)
            .map(|scene| params::survivors_min(charter, scene.roster.len()));
        let decision = decided.get(&shown.record).map(|(_, decision)| *decision);
        let survivors = decision
            .and_then(|decision| decision.survivors.as_ref())
            .filter(|survivors| least.is_some_and(|least| survivors.len() >= least));
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
