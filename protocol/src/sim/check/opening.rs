//! I-ONE: no session is opened under two records, and nobody's two secrets both come out.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::Secret;

use super::Violation;
use crate::sim::World;

const PROMISE: &str = "one opening a session";

/// Judges every share that honest members showed, across restarts.
pub fn check(world: &World) -> Result<(), Violation> {
    let hostile = world.hostile_ids();
    let mut records = BTreeMap::new();
    let mut secrets: BTreeMap<_, BTreeSet<Secret>> = BTreeMap::new();
    let shown = world.watch().shown.iter();
    for shown in shown.filter(|shown| !hostile.contains(&shown.holder)) {
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
    Ok(())
}
