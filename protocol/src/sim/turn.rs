//! A member's turn: it takes what was laid before it, and what it wants comes out.
//!
//! What a member makes of its inputs depends on nobody else: the turns of one moment may be taken on several threads,
//! and what came out of the first ones be performed meanwhile.

use std::collections::{BTreeMap, VecDeque};
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
    pub(super) outbox: VecDeque<Wish>,
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
            self.outbox.push_back(Wish::from(output));
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
        let start = if self.start.is_some() {
            INPUTS_TOGETHER
        } else {
            0
        };
        self.inbox.len().saturating_add(start)
    }
}

/// Has the members of these places take their turns, and hands each to `over` as soon as it is over and those before it
/// were handed over.
pub(super) fn take_all<E: Send>(
    mut turns: Vec<(usize, Turn)>,
    mut over: impl FnMut(usize, Turn) -> Result<(), E>,
) -> Result<(), E> {
    let inputs: usize = turns.iter().map(|(_, turn)| turn.load()).sum();
    if turns.len() <= 1 || inputs < INPUTS_TOGETHER {
        return turns.into_iter().try_for_each(|(place, mut turn)| {
            turn.take();
            over(place, turn)
        });
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
                // Nobody waits for it if an earlier one went wrong.
                let _heard = sender.send((place, turn));
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for place in places {
            let Some(turn) = await_turn(place, &taken, &mut early) else {
                // A turn panicked: the scope says so.
                break;
            };
            over(place, turn)?;
        }
        Ok(())
    })
}

/// The turn of a place, once it is over. Meanwhile this thread takes those of others, if it is one of the pool's.
fn await_turn(
    place: usize,
    taken: &Receiver<(usize, Turn)>,
    early: &mut BTreeMap<usize, Turn>,
) -> Option<Turn> {
    loop {
        if let Some(turn) = early.remove(&place) {
            return Some(turn);
        }
        let (other, turn) = match taken.try_recv() {
            Ok(taken) => taken,
            Err(TryRecvError::Empty) => {
                if rayon::yield_now() == Some(Yield::Executed) {
                    continue;
                }
                taken.recv().ok()?
            }
            Err(TryRecvError::Disconnected) => return None,
        };
        early.insert(other, turn);
    }
}
