//! What members report, written into the watch.

use super::watch::Decision;
use super::world::World;
use crate::output::Report;

impl World {
    /// Takes note of a report.
    pub(super) fn report(&mut self, place: usize, report: Report) {
        self.observe(&report);
        let now = self.now;
        let mut armed = self.armed.iter();
        let rolls_back = armed.any(|(crash, _)| crash.place == place && crash.rollback);
        let (places, watch) = self.parts();
        let Some(found) = places.get_mut(place) else {
            return;
        };
        watch.trace(format!("{place} {report:?}").as_bytes());
        match report {
            Report::Phase { height, phase, .. } => {
                found.phase = phase;
                found.height = height;
            }
            Report::Dealt { height } => {
                found.dealt = Some(height);
                if rolls_back {
                    found.snapshot.clone_from(&found.disk);
                }
            }
            Report::Decided {
                height,
                head,
                sharers,
                survivors,
                members_after_next,
                convicted,
                ..
            } => {
                let decisions = watch.decisions.entry((height, place)).or_default();
                decisions.insert(Decision {
                    head,
                    sharers,
                    survivors,
                    members_after_next,
                    convicted,
                });
            }
            Report::Opened {
                height, rebuilt, ..
            } => {
                watch.rebuilt.insert((height, place), rebuilt);
                watch.diary.opened.entry((height, place)).or_insert(now);
            }
            Report::Submitted {
                height, carried, ..
            } => {
                let left_out = carried.and_then(|round| found.deltas.get(&round).cloned());
                let handed = found.handed.as_mut().filter(|(at, _)| *at == height);
                if let Some((_, trained)) = handed {
                    trained.carried = left_out;
                }
            }
            Report::Waiting { .. } => {}
            Report::Warning { reason } => watch.warnings.push((place, reason)),
            Report::Finished { head, adapter } => {
                watch.finished.insert(place, (head, adapter));
            }
            Report::Left { reason } => {
                watch.left.insert(place, reason);
            }
            Report::Halted { reason } => {
                watch.halted.insert(place, reason);
            }
        }
    }
}
