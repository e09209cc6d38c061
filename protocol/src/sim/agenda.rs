//! What is to happen, by the virtual clock: events of one moment in the order in which they were scheduled.

use std::collections::BTreeMap;

use super::world::Event;
use crate::time::Time;

/// The events that are still to come.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeMap<Time, Vec<Event>>);

impl Agenda {
    /// Schedules an event.
    pub(super) fn add(&mut self, time: Time, event: Event) {
        self.0.entry(time).or_default().push(event);
    }

    /// The next moment with all its events.
    pub(super) fn next(&mut self) -> Option<(Time, Vec<Event>)> {
        self.0.pop_first()
    }
}
