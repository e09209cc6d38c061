//! A member's turn: it takes what was laid before it, and what it wants comes out.
//!
//! What a member makes of its inputs depends on nobody else: the turns of one moment may be taken on several threads,
//! and what came out of the first ones be performed meanwhile.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError};

use rayon::Yield;

use super::place::Wish;
use crate::input::{Input, Verdict};
use crate::letter::Letter;
use crate::member::Member;
use crate::output::{Output, Stored};
use crate::setup::Setup;
use crate::time::Time;

/// What a member starts from.
pub(super) struct Start {
    pub(super) setup: Setup,
    pub(super) disk: Stored,
    pub(super) seed: [u8; 32],
}

/// What a place needs for the turn of its member, and what is there when it is over.
pub(super) struct Turn {
    /// The member starts first.
    pub(super) start: Option<Box<Start>>,
    pub(super) member: Option<Box<Member>>,
    /// What was laid before it.
    pub(super) inbox: Vec<Input>,
    /// The member's own clock.
    pub(super) local: Time,
    /// It looks at everything, whatever came.
    pub(super) restless: bool,
    /// What it wants.
    pub(super) outbox: Vec<Wish>,
    /// What it refused, and why.
    pub(super) refused: Vec<String>,
    /// Why it did not start.
    pub(super) failed: Option<String>,
}

/// From so many inputs at one moment on, the members take their turns on several threads.
const INPUTS_TOGETHER: usize = 32;

impl Turn {
    /// Starts if it is to, takes all that was laid before it, then looks once at what is due.
    pub(super) fn take(&mut self) {
        if let Some(start) = self.start.take() {
            let Start { setup, disk, seed } = *start;
            match Member::open(setup, disk, self.local, seed) {
                Ok(member) => self.member = Some(Box::new(member)),
                Err(error) => self.failed = Some(error.to_string()),
            }
        }
        let Some(member) = &mut self.member else {
            return;
        };
        for input in self.inbox.drain(..) {
            let letter = match &input {
                Input::Received { bytes, .. } => Some(bytes.clone()),
                _ => None,
            };
            if let Verdict::Refused(refusal) = member.hear(self.local, input) {
                let refused = format!("{refusal:?}: {letter:?}");
                self.refused.push(refused);
            }
        }
        if self.restless {
            member.stir();
        }
        member.look();
        while let Some(output) = member.poll() {
            self.outbox.push(Wish::from(output));
        }
        self.prepare();
    }

    /// Works out what the world looks at in the letters: here, where others do the same beside it.
    fn prepare(&mut self) {
        let mut said = BTreeMap::new();
        // What is stored is said behind that, in the same bytes.
        for wish in self.outbox.iter_mut().rev() {
            let Some(letter) = &mut wish.letter else {
                continue;
            };
            if matches!(wish.output, Output::Store(_)) {
                if let Some(known) = said.get(&letter.as_ptr()) {
                    *letter = Letter::clone(known);
                }
            } else {
                said.insert(letter.as_ptr(), letter.clone());
            }
            letter.digest();
        }
    }

    /// How many inputs it is worth.
    fn load(&self) -> usize {
        let start = self.start.as_ref().map_or(0, |_| INPUTS_TOGETHER);
        self.inbox.len().saturating_add(start)
    }
}

/// Has the members of these places take their turns, and hands each to `settle` when those before it were handed over.
pub(super) fn take_all(mut turns: Vec<(usize, Turn)>, mut settle: impl FnMut(usize, Turn)) {
    let inputs: usize = turns.iter().map(|(_, turn)| turn.load()).sum();
    if turns.len() <= 1 || inputs < INPUTS_TOGETHER {
        for (place, mut turn) in turns {
            turn.take();
            settle(place, turn);
        }
        return;
    }
    let places: Vec<usize> = turns.iter().map(|(place, _)| *place).collect();
    // The longest come first: a start reads all that is stored.
    turns.sort_by_key(|(_, turn)| turn.start.is_none());
    let (sender, taken) = std::sync::mpsc::channel();
    rayon::in_place_scope_fifo(|scope| {
        for (place, mut turn) in turns {
            let sender = sender.clone();
            scope.spawn_fifo(move |_| {
                turn.take();
                sender.send((place, turn)).expect("all turns are awaited");
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for place in places {
            let Some(turn) = wait_for(place, &taken, &mut early) else {
                // A turn panicked: the scope says so.
                break;
            };
            settle(place, turn);
        }
    });
}

/// The turn of a place, once it is over. Meanwhile a thread of the pool does what else is to be done there: it may not
/// sleep, as others may wait for what it has begun.
fn wait_for(
    place: usize,
    taken: &Receiver<(usize, Turn)>,
    early: &mut BTreeMap<usize, Turn>,
) -> Option<Turn> {
    while !early.contains_key(&place) {
        match taken.try_recv() {
            Ok((other, turn)) => {
                early.insert(other, turn);
            }
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => match rayon::yield_now() {
                Some(Yield::Executed) => {}
                Some(Yield::Idle) => std::thread::yield_now(),
                None => early.extend(taken.recv()),
            },
        }
    }
    early.remove(&place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn that nobody is there to take.
    fn turn(inputs: usize) -> Turn {
        Turn {
            start: None,
            member: None,
            inbox: core::iter::repeat_with(|| Input::Wake)
                .take(inputs)
                .collect(),
            local: Time(0),
            restless: false,
            outbox: Vec::new(),
            refused: Vec::new(),
            failed: None,
        }
    }

    #[test]
    fn turns_are_handed_over_in_the_order_of_the_places() {
        let taken = |inputs| {
            let turns = (0..100).map(|place| (place * 3, turn(inputs)));
            let mut over = Vec::new();
            take_all(turns.collect(), |place, _| over.push(place));
            over
        };
        let all: Vec<_> = (0..100).map(|place| place * 3).collect();
        assert_eq!(taken(0), all, "one after the other");
        assert_eq!(taken(1), all, "beside each other");
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().expect("threads start");
            assert_eq!(pool.install(|| taken(1)), all, "in a pool of {threads}");
        }
    }
}
