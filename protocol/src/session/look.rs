//! Looking once: what follows from the state of a session is done again only when that state has changed, or when a
//! moment has come that was waited for.

use crate::desk::Desk;
use crate::names::MemberId;
use crate::session::Session;
use crate::time::Time;

/// Everything that the collecting and the opening of vectors rest on, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Envelopes, vectors, shards, the terms of the work.
    news: u64,
    /// Keys, dealings and boxes.
    dealt: u64,
    /// Since when a sum is called for.
    called: Option<Time>,
    gathering: bool,
    opened: bool,
    /// Who went and who came back: nobody waits for those that are gone.
    gone: u64,
    me: Option<MemberId>,
    speaks: bool,
}

/// What was looked at last, and when time alone may change what follows from it.
#[derive(Debug, Default)]
pub(crate) struct Look {
    state: Option<State>,
    until: Option<Time>,
}

/// The looks at a session.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    pub(crate) collecting: Look,
    pub(crate) opening: Look,
}

impl Session {
    /// Does what follows from the state of the session, unless it was done and no moment for more has come.
    pub(crate) fn look(
        &mut self,
        desk: &mut Desk,
        which: fn(&mut Looks) -> &mut Look,
        act: impl FnOnce(&mut Self, &mut Desk),
    ) {
        let state = self.state(desk);
        let last = which(&mut self.looks);
        if last.state == Some(state) && last.until.is_none_or(|until| !desk.due(until)) {
            return;
        }
        let alarm = desk.set_alarm_aside();
        act(self, desk);
        *which(&mut self.looks) = Look {
            state: Some(state),
            until: desk.alarm(),
        };
        if let Some(alarm) = alarm {
            desk.due(alarm);
        }
    }

    fn state(&self, desk: &Desk) -> State {
        State {
            news: self.news(),
            dealt: self.dealings.news,
            called: self.opening.called.as_ref().map(|called| called.since),
            gathering: self.opening.gathering.is_some(),
            opened: self.opening.result.is_some(),
            gone: desk.gone.changes,
            me: self.me(desk),
            speaks: self.speaker(desk).is_some(),
        }
    }
}
