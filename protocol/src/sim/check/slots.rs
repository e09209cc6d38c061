//! One message a slot: an honest member never says two things where there is room for one.

use super::Violation;
use crate::sim::World;

const PROMISE: &str = "one message a slot";

/// Judges all slot-unique messages ever stored or sent, votes and proposals among them.
pub fn check(world: &World) -> Result<(), Violation> {
    let hostile = world.hostile_ids();
    for ((sess, kind, member, place), others) in &world.watch().contradicted {
        if !hostile.contains(member) {
            let what = format!(
                "member {} said {} different things as {} {place:?} in session {}",
                member.0,
                others.len().saturating_add(1),
                kind.name(),
                sess.0.short()
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    Ok(())
}
