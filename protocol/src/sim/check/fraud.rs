//! I-FRAUD: nobody honest is ever convicted, its restarts included.

use super::Violation;
use crate::record::Previous;
use crate::sim::World;

const PROMISE: &str = "nobody honest is convicted";

/// Judges the culprits of all decided records, and those named by their evidence.
pub fn check(world: &World) -> Result<(), Violation> {
    let hostile = world.hostile_ids();
    for record in world.watch().diary.records.values() {
        let spent = match &record.previous {
            Previous::Spent { culprits, .. } => culprits.as_slice(),
            Previous::None | Previous::Opened(_) => &[],
        };
        let named = record.evidence.iter().map(|proof| &proof.first.sender);
        if let Some(victim) = spent.iter().chain(named).find(|id| !hostile.contains(id)) {
            let what = format!(
                "record {} convicts member {}, which is honest",
                record.height.0, victim.0
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    Ok(())
}
