//! I-MASK: one vector a mask. An honest member commits to one vector a session, stored or sent, restarts included.

use super::Violation;
use crate::sim::World;

const PROMISE: &str = "one vector a mask";

/// Judges all Commits ever stored or sent.
pub fn check(world: &World) -> Result<(), Violation> {
    let hostile = world.hostile_ids();
    for ((sess, member), roots) in &world.watch().roots {
        if roots.len() > 1 && !hostile.contains(member) {
            let what = format!(
                "member {} committed to {} vectors in session {}",
                member.0,
                roots.len(),
                sess.0.short()
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    for ((height, place), roots) in &world.watch().committed {
        if roots.len() > 1 && !world.is_hostile(*place) {
            let what = format!(
                "place {place} stored {} masked vectors at height {}",
                roots.len(),
                height.0
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    let mut late = world.watch().late_masks.iter();
    if let Some((height, place)) = late.find(|(_, place)| !world.is_hostile(*place)) {
        let what = format!(
            "place {place} sent its vector of height {} with the mask's seeds on disk",
            height.0
        );
        return Err(Violation::new(PROMISE, what));
    }
    Ok(())
}
