//! What is to happen, by the virtual clock: events of one moment in the order in which they were scheduled.

use std::collections::BTreeMap;

use super::world::Event;
use crate::time::Time;

/// The events that are still to come.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    moments: BTreeMap<Time, Vec<Event>>,
    /// Room that moments past have left.
    room: Vec<Vec<Event>>,
}

impl Agenda {
    /// Schedules an event.
    pub(super) fn add(&mut self, time: Time, event: Event) {
        let room = || self.room.pop().unwrap_or_default();
        self.moments.entry(time).or_insert_with(room).push(event);
    }

    /// The next moment with all its events.
    pub(super) fn next(&mut self) -> Option<(Time, Vec<Event>)> {
        self.moments.pop_first()
    }

    /// Takes back the room of a moment whose events have happened.
    pub(super) fn over(&mut self, events: Vec<Event>) {
        self.room.push(events);
    }
}
