//! I-LIVE: when the network is sound and a quorum of honest members runs unhalted, every height decides.
//!
//! (The other half, that fewer decide and reveal nothing, is in I-VALID, which verifies every certificate, and in
//! I-NULL, which allows no share without a decided record.)

use super::Violation;
use crate::sim::World;
use crate::time::Span;

const PROMISE: &str = "a quorum makes progress";

/// Judges the end of a run: it stands still only if it may.
pub fn check(world: &World) -> Result<(), Violation> {
    let watch = world.watch();
    let Some(chain) = world.longest() else {
        return Ok(());
    };
    let Some(roster) = chain.roster(chain.next()) else {
        return Ok(());
    };
    let timers = world.charter().round.timers;
    let height = [
        timers.setup,
        timers.submit_max,
        timers.quiet,
        timers.reveal,
        timers.linger,
    ];
    let height = height.iter().fold(0, |sum, span| sum + span.0);
    let patience = Span(height.saturating_mul(8));
    let running = |place: &usize| {
        let key = world.key(*place);
        let member = key.is_some_and(|key| roster.member(&key).is_some());
        let up = world
            .up_since(*place)
            .is_some_and(|up| up + patience <= world.now());
        member && up && !world.is_hostile(*place) && !watch.halted.contains_key(place)
    };
    let running = (0..world.len()).filter(running).count();
    let sound = world.sound_since() + patience <= world.now();
    let decided = watch.diary.last_decided();
    let moved = decided + patience > world.now();
    if sound && running >= roster.quorum() && !moved && !chain.finished() {
        let what = format!(
            "{running} of {} members run, {} are enough, and height {} is not decided since {} ms",
            roster.len(),
            roster.quorum(),
            chain.next().0,
            (world.now() - decided).0
        );
        return Err(Violation::new(PROMISE, what));
    }
    Ok(())
}
