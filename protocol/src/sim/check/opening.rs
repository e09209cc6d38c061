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
    Ok(())
}
