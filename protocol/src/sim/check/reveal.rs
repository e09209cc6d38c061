//! I-REVEAL: an honest member reveals under one record a session, across restarts.

use super::Violation;
use crate::sim::World;

const PROMISE: &str = "one reveal a session";

/// Judges every Reveal ever stored or sent.
pub fn check(world: &World) -> Result<(), Violation> {
    let hostile = world.hostile_ids();
    for ((sess, member), records) in &world.watch().revealed {
        if records.len() > 1 && !hostile.contains(member) {
            let what = format!(
                "member {} revealed session {} under {} records",
                member.0,
                sess.0.short(),
                records.len()
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    if let Some((place, sess)) = world.watch().early_reveals.first() {
        let session = sess.0.short();
        let what =
            format!("place {place} revealed in session {session} before its journal was durable");
        return Err(Violation::new(PROMISE, what));
    }
    Ok(())
}
