//! The run itself: the processes, what they say, the kills, and when it is over.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::TestnetError;
use super::children::Process;
use super::folders::{Folders, Node};
use super::joins::{self, Joins};
use super::kills::{Kills, Strike};
use super::plan::Plan;
use super::poll::Pollers;
use super::progress::Progress;
use super::solo::Solos;
use super::view::View;
use crate::report::RoundTraffic;

/// So long without a training step or a decided round anywhere, and the run is given up.
const STANDSTILL: Duration = Duration::from_secs(240);

/// How long newcomers that are left alone may take to find out how it ended.
const STRANDED: Duration = Duration::from_secs(20);

/// How long the loop waits for news before it looks at the processes.
const TURN: Duration = Duration::from_millis(50);

/// What was seen of a run.
#[derive(Debug)]
pub struct Seen {
    /// The last word of every node.
    pub views: Vec<Option<View>>,
    /// In which round a node was killed.
    pub killed: Vec<Option<u32>>,
    /// Whether it came too late: no record admitted it before the end.
    pub late: Vec<bool>,
    /// What each node moved in each round.
    pub traffic: Vec<Vec<RoundTraffic>>,
    /// When each round was decided first, in seconds from the first training.
    pub over_at: BTreeMap<u32, f64>,
    /// Kills and other events, a sentence each.
    pub notes: Vec<String>,
}

/// A run under way.
#[derive(Debug)]
pub struct Watch<'a> {
    plan: &'a Plan,
    folders: &'a Folders,
    /// `None` before it starts, and once it ended or was killed.
    processes: Vec<Option<Process>>,
    pollers: Pollers,
    kills: Kills,
    joins: Joins,
    progress: Progress,
    seen: Seen,
    training_since: Option<Instant>,
    /// Since when only newcomers are left that nobody can admit any more.
    stranded_since: Option<Instant>,
    moved: (u64, Instant),
}

impl<'a> Watch<'a> {
    /// Starts all nodes but those that join.
    pub fn start(plan: &'a Plan, folders: &'a Folders) -> Result<Self, TestnetError> {
        let start = |node: &Node| match node.joins_in {
            None => launch(plan, node).map(Some),
            Some(_) => Ok(None),
        };
        let count = folders.nodes.len();
        let processes = folders.nodes.iter().map(start).collect::<Result<_, _>>()?;
        let dirs: Vec<_> = folders.nodes.iter().map(|node| node.dir.clone()).collect();
        let names = folders.nodes.iter().map(|node| node.name.clone()).collect();
        Ok(Self {
            plan,
            folders,
            processes,
            pollers: Pollers::start(&dirs),
            joins: Joins::new(folders),
            kills: Kills::new(&plan.kills, count, plan.seed),
            progress: Progress::start(names, plan.rounds, plan.local_steps),
            seen: Seen {
                views: vec![None; count],
                killed: vec![None; count],
                late: vec![false; count],
                traffic: vec![Vec::new(); count],
                over_at: BTreeMap::new(),
                notes: Vec::new(),
            },
            training_since: None,
            stranded_since: None,
            moved: (0, Instant::now()),
        })
    }

    /// Until every living node has finished, and every solo training too.
    pub fn until_over(
        mut self,
        solos: &mut Solos,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Seen, TestnetError> {
        let mut solos_done = None;
        loop {
            if interrupted.load(Ordering::Relaxed) {
                return Err(TestnetError::Interrupted(self.folders.dir.clone()));
            }
            if let Some((node, view)) = self.pollers.next(TURN) {
                self.hear(node, view);
            }
            self.strike();
            self.let_in()?;
            self.collect_ended()?;
            self.end_stranded();
            self.progress.tell_all(&self.living());
            let over = self.processes.iter().all(Option::is_none) && self.joins.is_over();
            if over || self.rounds_are_over() {
                let before = solos.count();
                solos_done = Some(solos.advance()?);
                if solos.count() > before {
                    let (done, of) = (solos.count(), solos.done.len());
                    self.progress
                        .say(&format!("trained alone for comparison: {done} of {of}"));
                }
            } else {
                self.give_up_when_stuck()?;
            }
            if over && solos_done == Some(true) {
                self.progress.finish();
                return Ok(self.seen);
            }
        }
    }

    /// The last words of those that still run.
    fn living(&self) -> Vec<Option<View>> {
        let alive = self.processes.iter().map(Option::is_some);
        let views = self.seen.views.iter().zip(alive);
        views
            .map(|(view, alive)| view.clone().filter(|_| alive))
            .collect()
    }

    fn rounds_are_over(&self) -> bool {
        let mut living = self.processes.iter().zip(&self.seen.views);
        living.all(|(process, view)| {
            process.is_none()
                || view
                    .as_ref()
                    .is_some_and(|view| view.rounds_over() >= self.plan.rounds)
        })
    }

    fn hear(&mut self, node: usize, view: View) {
        if self.processes[node].is_none() {
            return;
        }
        if view.round > 0 && view.phase == "train" && self.training_since.is_none() {
            self.training_since = Some(Instant::now());
        }
        let over = view.decided();
        let before = self.seen.views[node].as_ref().map_or(0, View::decided);
        if over > before {
            self.count_traffic(node, &view);
        }
        if over
            > self
                .seen
                .over_at
                .last_key_value()
                .map_or(0, |(&round, _)| round)
        {
            let since = self
                .training_since
                .map_or(0.0, |since| since.elapsed().as_secs_f64());
            self.seen.over_at.insert(over, since);
            self.tell_round(&view);
        }
        self.progress.seen(node, &view, self.plan.local_steps);
        self.pollers.watch_closely(self.kills.is_near(view.round));
        self.seen.views[node] = Some(view);
        let steps = self.seen.views.iter().flatten().map(View::steps).sum();
        if steps > self.moved.0 {
            self.moved = (steps, Instant::now());
        }
    }

    /// The bytes since the round before.
    fn count_traffic(&mut self, node: usize, view: &View) {
        let known = &mut self.seen.traffic[node];
        let (sent, received) = known.iter().fold((0, 0), |(sent, received), past| {
            (sent + past.sent, received + past.received)
        });
        known.push(RoundTraffic {
            round: view.decided(),
            sent: view.bytes_sent.saturating_sub(sent),
            received: view.bytes_received.saturating_sub(received),
        });
    }

    fn tell_round(&self, view: &View) {
        let Some(past) = view.history.iter().last() else {
            return;
        };
        let (round, rounds) = (past.round, self.plan.rounds);
        let rebuilt: Vec<&str> = past.rebuilt.iter().map(|key| self.name(key)).collect();
        let sentence = match &past.survivors {
            Some(survivors) if rebuilt.is_empty() => {
                let (of, all) = (survivors.len(), past.sharers.len());
                format!("round {round} of {rounds}: the sum of {of} of {all} deltas")
            }
            Some(survivors) => {
                let (of, all, names) = (survivors.len(), past.sharers.len(), rebuilt.join(", "));
                format!(
                    "round {round} of {rounds}: the sum of {of} of {all} deltas; pair keys of {names} rebuilt"
                )
            }
            None => format!("round {round} of {rounds}: {}", past.outcome),
        };
        self.progress.say(&sentence);
    }

    fn name<'b>(&'b self, key: &'b str) -> &'b str {
        let known = self.folders.nodes.iter().find(|node| node.key == key);
        known.map_or(key, |node| &node.name)
    }

    fn strike(&mut self) {
        while let Some(strike) = self.kills.next(&self.living()) {
            let sentence = match strike {
                Strike::Now { node, round } => {
                    if let Some(mut process) = self.processes[node].take() {
                        process.kill();
                    }
                    self.seen.killed[node] = Some(round);
                    self.progress
                        .gone(node, &format!("killed in round {round}"));
                    let name = &self.folders.nodes[node].name;
                    format!(
                        "{name} (node-{}) killed in round {round}: its shares were dealt, nothing submitted",
                        node + 1
                    )
                }
                Strike::Missed(kill) => format!(
                    "--kill {}@{}: every node had trained before one could be killed; more --local-steps give time",
                    kill.count, kill.round
                ),
            };
            self.progress.say(&sentence);
            self.seen.notes.push(sentence);
        }
    }

    /// Starts the newcomers whose round has begun, each by a ticket of a living member.
    fn let_in(&mut self) -> Result<(), TestnetError> {
        if self.processes.iter().all(Option::is_none) {
            for index in self.joins.give_up() {
                self.came_too_late(index, "the run was over before it could be invited");
            }
            return Ok(());
        }
        let views = self.living();
        for (round, index) in self.joins.due(&views) {
            let nodes = &self.folders.nodes;
            let Some(sponsor) = joins::sponsor(&views) else {
                self.joins.put_back(round, index);
                continue;
            };
            joins::invite(&nodes[sponsor], &nodes[index])?;
            self.processes[index] = Some(launch(self.plan, &nodes[index])?);
            let sentence = format!(
                "{} (node-{}) starts in round {round} by a ticket of {}",
                nodes[index].name,
                index + 1,
                nodes[sponsor].name
            );
            self.progress.say(&sentence);
            self.seen.notes.push(sentence);
        }
        Ok(())
    }

    /// Ends newcomers that no record had admitted when all others had finished.
    fn end_stranded(&mut self) {
        let outside = |node: &usize| {
            let admitted = self.seen.views[*node]
                .as_ref()
                .is_some_and(|view| view.name.is_some());
            self.folders.nodes[*node].joins_in.is_some() && !admitted
        };
        let count = self.processes.len();
        let living: Vec<usize> = (0..count)
            .filter(|&node| self.processes[node].is_some())
            .collect();
        if living.is_empty() || !living.iter().all(outside) {
            self.stranded_since = None;
            return;
        }
        let since = *self.stranded_since.get_or_insert_with(Instant::now);
        if since.elapsed() < STRANDED {
            return;
        }
        for node in living {
            self.processes[node] = None;
            self.came_too_late(node, "no record admitted it before the end");
        }
    }

    fn came_too_late(&mut self, node: usize, why: &str) {
        self.seen.late[node] = true;
        self.progress.gone(node, "came too late");
        let name = &self.folders.nodes[node].name;
        let sentence = format!("{name} (node-{}) came too late: {why}", node + 1);
        self.progress.say(&sentence);
        self.seen.notes.push(sentence);
    }

    /// Takes in the processes that ended.
    fn collect_ended(&mut self) -> Result<(), TestnetError> {
        for (index, slot) in self.processes.iter_mut().enumerate() {
            let Some(process) = slot else { continue };
            let Some(status) = process.ended() else {
                continue;
            };
            let dir = &self.folders.nodes[index].dir;
            if !status.success() {
                return Err(TestnetError::Died {
                    node: index + 1,
                    words: process.last_words(),
                    log: dir.join("log"),
                });
            }
            let path = dir.join("reports").join("final.json");
            let bytes = std::fs::read(&path).map_err(|error| TestnetError::io(&path, error))?;
            let view: View = serde_json::from_slice(&bytes)
                .map_err(|error| TestnetError::io(&path, error.into()))?;
            self.progress.seen(index, &view, self.plan.local_steps);
            self.seen.views[index] = Some(view);
            *slot = None;
        }
        Ok(())
    }

    fn give_up_when_stuck(&self) -> Result<(), TestnetError> {
        let (_, since) = self.moved;
        if since.elapsed() < STANDSTILL {
            return Ok(());
        }
        let said = |(node, view): (&Node, Option<View>)| {
            let view = view?;
            let reason = view.waiting.unwrap_or_else(|| "gives no reason".to_owned());
            Some(format!(
                "{} in round {} ({}): {reason}",
                node.name, view.round, view.phase
            ))
        };
        let reasons: Vec<String> = self
            .folders
            .nodes
            .iter()
            .zip(self.living())
            .filter_map(said)
            .collect();
        Err(TestnetError::Stuck {
            seconds: STANDSTILL.as_secs(),
            reasons: if reasons.is_empty() {
                "no node answers".to_owned()
            } else {
                reasons.join("; ")
            },
            dir: self.folders.dir.clone(),
        })
    }
}

/// Starts the process of a node.
fn launch(plan: &Plan, node: &Node) -> Result<Process, TestnetError> {
    let arguments = [OsStr::new("run"), OsStr::new("--dir"), node.dir.as_os_str()];
    Process::start(&plan.program, &arguments, &node.dir.join("log"), None)
        .map_err(|error| TestnetError::io(&plan.program, error))
}
