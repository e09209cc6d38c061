//! What goes wrong, at random from the seed, and how it is put right.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use conclave::learn::data::Chance;
use rustix::process::Signal;

use crate::fleet::{Fleet, State};

/// The faults of a run.
pub(crate) struct Faults {
    chance: Chance,
    /// What is wrong now, and when it is put right.
    open: Vec<(usize, State, Instant)>,
    next: Instant,
    /// How often each was done.
    pub(crate) kills: u32,
    /// Kills after which the node came back with an older copy of its folder, or without its database.
    pub(crate) rollbacks: u32,
    pub(crate) pauses: u32,
    pub(crate) partitions: u32,
}

impl Faults {
    /// None yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed, STREAM),
            open: Vec::new(),
            next: Instant::now(),
            kills: 0,
            rollbacks: 0,
            pauses: 0,
            partitions: 0,
        }
    }

    /// Puts right what is due, and does something new now and then.
    pub(crate) fn step(&mut self, fleet: &mut Fleet) -> Result<()> {
        let now = Instant::now();
        let (due, open): (Vec<_>, Vec<_>) =
            self.open.drain(..).partition(|(_, _, end)| *end <= now);
        self.open = open;
        for (node, state, _) in due {
            recover(fleet, node, state)?;
        }
        if now >= self.next {
            self.next = now + self.span(4, 16);
            self.strike(fleet)?;
        }
        Ok(())
    }

    /// Puts everything right.
    pub(crate) fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        for (node, state, _) in std::mem::take(&mut self.open) {
            recover(fleet, node, state)?;
        }
        Ok(())
    }

    /// Something goes wrong with nodes that can be missed; nothing if none can.
    fn strike(&mut self, fleet: &mut Fleet) -> Result<()> {
        let well: Vec<usize> = (1..fleet.nodes.len())
            .filter(|&node| fleet.nodes[node].well.is_some())
            .collect();
        let all = fleet.nodes.len();
        let unwell = all - 1 - well.len();
        let spare = all.saturating_sub(quorum(all) + unwell);
        if spare == 0 || well.is_empty() {
            return Ok(());
        }
        let mut victims = well;
        self.chance.shuffle(&mut victims);
        let kinds = if fleet.ground.has_networks() { 3 } else { 2 };
        let (state, count) = match self.chance.below(kinds) {
            0 => (State::Dead, 1),
            1 => (State::Paused, 1),
            _ => (State::CutOff, 1 + self.chance.below(spare)),
        };
        let lasts = match state {
            State::Paused => self.span(2, 25),
            _ => self.span(3, 40),
        };
        victims.truncate(count.min(spare));
        match state {
            State::Dead => self.kills += 1,
            State::Paused => self.pauses += 1,
            State::CutOff | State::Well => self.partitions += 1,
        }
        for node in victims {
            match state {
                State::Dead => {
                    fleet.signal(node, Signal::KILL)?;
                    let dir = fleet.nodes[node].dir.clone();
                    if let Some(what) = self.forget(&dir).context(KEPT)? {
                        fleet.log.say(&format!("node {} {what}", node + 1));
                    }
                }
                State::Paused => fleet.signal(node, Signal::STOP)?,
                State::CutOff | State::Well => fleet.ground.cut(node, true)?,
            }
            fleet.nodes[node].state = state;
            fleet.nodes[node].well = None;
            let what = match state {
                State::Dead => "killed",
                State::Paused => "paused",
                State::CutOff | State::Well => "cut off",
            };
            fleet.log.say(&format!(
                "node {} is {what} for {} s",
                node + 1,
                lasts.as_secs()
            ));
            self.open.push((node, state, Instant::now() + lasts));
        }
        Ok(())
    }

    /// Now and then a node that is down loses what it knew: the folder as it was at an earlier kill comes back, as from
    /// a backup, or its database is gone. Says what was done.
    fn forget(&mut self, dir: &Path) -> Result<Option<&'static str>, io::Error> {
        let copy = dir.join(KEPT);
        match self.chance.below(3) {
            0 if copy.exists() => {
                copy_state(&copy, dir)?;
                self.rollbacks += 1;
                Ok(Some("goes back to an older copy of its folder"))
            }
            1 => {
                fs::remove_file(dir.join("db"))?;
                self.rollbacks += 1;
                Ok(Some("loses its database"))
            }
            _ => {
                copy_state(dir, &copy)?;
                Ok(None)
            }
        }
    }

    fn span(&mut self, low: u64, high: u64) -> Duration {
        let room = usize::try_from((high - low) * 1000).unwrap_or(1);
        Duration::from_millis(low * 1000 + self.chance.below(room) as u64)
    }
}

fn recover(fleet: &mut Fleet, node: usize, state: State) -> Result<()> {
    let what = match state {
        State::Dead => {
            fleet.start(node)?;
            "starts again"
        }
        State::Paused => {
            fleet.signal(node, Signal::CONT)?;
            "goes on"
        }
        State::CutOff | State::Well => {
            fleet.ground.cut(node, false)?;
            "is connected again"
        }
    };
    fleet.nodes[node].state = State::Well;
    fleet.log.say(&format!("node {} {what}", node + 1));
    Ok(())
}

/// Copies what a node keeps of the protocol: its database, its secrets and its blobs, instead of what was there.
fn copy_state(from: &Path, to: &Path) -> io::Result<()> {
    for folder in ["secrets", "blobs"] {
        match fs::remove_dir_all(to.join(folder)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => copy_folder(&from.join(folder), &to.join(folder))?,
        }
    }
    fs::copy(from.join("db"), to.join("db")).map(drop)
}

/// Copies a folder with everything in it.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

/// How many must sign.
pub(crate) fn quorum(members: usize) -> usize {
    2 * members / 3 + 1
}

/// Where a node's older state is kept, in its folder.
const KEPT: &str = "older";
/// The seed's stream of faults.
const STREAM: u64 = 91;
