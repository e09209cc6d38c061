//! One opening a session: no session is revealed under two records, and nobody's two secrets both come out.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::Secret;

use super::Violation;
use crate::sim::World;

const PROMISE: &str = "one opening a session";

/// Judges everything ever sent, across restarts.
pub fn check(world: &World) -> Result<(), Violation> {
    let watch = world.watch();
    for ((sess, member), records) in &watch.revealed {
        if records.len() > 1 {
            let what = format!(
                "member {} revealed session {} under {} records",
                member.0,
                sess.0.short(),
                records.len()
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    let mut records = BTreeMap::new();
    let mut secrets: BTreeMap<_, BTreeSet<Secret>> = BTreeMap::new();
    for shown in &watch.shown {
        let first = records.entry(shown.sess).or_insert(shown.record);
        if *first != shown.record {
            let what = format!("session {} opened by two records", shown.sess.0.short());
            return Err(Violation::new(PROMISE, what));
        }
        let kinds = secrets.entry((shown.sess, shown.dealer)).or_default();
        kinds.insert(shown.which);
        if kinds.len() > 1 {
            let what = format!(
                "both secrets of member {} came out in session {}",
                shown.dealer.0,
                shown.sess.0.short()
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    called_for(world)
}

/// Only what a decided record with enough survivors calls for is ever shown: self seeds of survivors, pair keys of
/// the other sharers, and nothing after a null record.
fn called_for(world: &World) -> Result<(), Violation> {
    let watch = world.watch();
    let decisions = watch.decisions.values().flatten();
    let decisions: BTreeMap<_, _> = decisions
        .map(|decision| (decision.head, decision))
        .collect();
    let least = world.terms().charter().aggregation.min_survivors;
    for shown in &watch.shown {
        let survivors = decisions
            .get(&shown.record)
            .and_then(|decision| decision.survivors.as_ref())
            .filter(|survivors| u32::try_from(survivors.len()).is_ok_and(|n| n >= least));
        // Ids are places: founders in their order, then the one joiner.
        let dealer = usize::try_from(shown.dealer.0).ok();
        let key = dealer.and_then(|place| world.key(place));
        let survived = survivors
            .zip(key)
            .map(|(survivors, key)| survivors.contains(&key));
        let called = match shown.which {
            Secret::SelfSeed => survived == Some(true),
            Secret::PairKey => survived == Some(false),
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
