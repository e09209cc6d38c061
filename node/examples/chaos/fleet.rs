//! The nodes: their folders, their processes, and what was seen of them over time.

use std::fs::{self, File};
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use conclave::config::NodeConfig;
use conclave::scenario::Scenario;
use conclave::testnet::folders;
use conclave::testnet::plan::{Plan, Rows};
use conclave::testnet::view::View;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::ground::Ground;
use crate::{Log, Settings, TURN};

/// All nodes.
pub(crate) struct Fleet {
    pub(crate) dir: PathBuf,
    pub(crate) log: Log,
    pub(crate) ground: Ground,
    pub(crate) nodes: Vec<Node>,
    program: PathBuf,
    /// The rounds that were decided, in order.
    pub(crate) decided: Vec<Decided>,
    /// When the last of them was seen.
    decided_at: Instant,
}

/// One node.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) state: State,
    process: Option<Child>,
    view: Option<View>,
    /// Since when nothing was wrong with it; none while something is.
    pub(crate) well: Option<Instant>,
    /// Resident bytes with their moment, of the process that runs now.
    pub(crate) memory: Vec<(Instant, u64)>,
    /// The same of the processes that ran before.
    pub(crate) before: Vec<Vec<(Instant, u64)>>,
}

/// What is wrong with a node at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Well,
    Dead,
    Paused,
    CutOff,
}

/// What `rounds --json` says, as far as it is read.
#[derive(Deserialize)]
struct Told {
    rounds: Vec<Round>,
}

#[derive(Deserialize)]
struct Round {
    #[serde(rename = "round")]
    number: u32,
    members: usize,
    #[serde(rename = "in")]
    survivors: Vec<serde_json::Value>,
}

/// A round that was decided, with how the nodes had fared since the round before.
pub(crate) struct Decided {
    pub(crate) round: u32,
    /// Nodes with which nothing was wrong for the whole of it.
    pub(crate) well: usize,
    /// Members of its height.
    pub(crate) members: usize,
}

impl Fleet {
    /// Writes the folders and starts all nodes.
    pub(crate) fn found(settings: &Settings, ground: Ground) -> Result<Self> {
        let plan = Plan {
            method: conclave_protocol::charter::Method::default(),
            nodes: settings.nodes,
            rounds: ROUNDS,
            local_steps: LOCAL_STEPS,
            learning_rate: None,
            seed: settings.seed,
            model: None,
            rows: Rows::Scenario(Scenario::Clinic),
            kills: Vec::new(),
            joins: Vec::new(),
            dir: settings.dir.clone(),
            program: settings.program.clone(),
            command: String::new(),
        };
        plan.check().map_err(anyhow::Error::msg)?;
        let made = folders::prepare(&plan)?;
        made.write_configs(&plan, 1)?;
        let mut nodes = Vec::new();
        for (index, node) in made.nodes.iter().enumerate() {
            let charter = node.dir.join("charter.toml");
            fs::write(&charter, hurried(&fs::read_to_string(&charter)?))?;
            let mut settings = NodeConfig::open(&node.dir)?;
            (settings.eval_data, settings.threads) = (None, Some(1));
            settings.listen = Some(vec![ground.address(index)]);
            settings.bootstrap = (index > 0).then(|| vec![ground.address(0)]);
            fs::write(node.dir.join("node.toml"), settings.to_toml())?;
            nodes.push(Node {
                dir: node.dir.clone(),
                state: State::Well,
                process: None,
                view: None,
                well: Some(Instant::now()),
                memory: Vec::new(),
                before: Vec::new(),
            });
        }
        let mut fleet = Self {
            log: Log {
                file: File::create(made.dir.join("chaos.log"))?,
                started: Instant::now(),
            },
            dir: made.dir,
            ground,
            nodes,
            program: settings.program.clone(),
            decided: Vec::new(),
            decided_at: Instant::now(),
        };
        for node in 0..fleet.nodes.len() {
            fleet.start(node)?;
        }
        Ok(fleet)
    }

    /// Starts a node that does not run.
    pub(crate) fn start(&mut self, node: usize) -> Result<()> {
        let dir = &self.nodes[node].dir;
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))?;
        let child = self
            .ground
            .command(node, &self.program)
            .args([
                "--child-of",
                &std::process::id().to_string(),
                "--log",
                "warn",
                "run",
                "--dir",
            ])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let node = &mut self.nodes[node];
        node.process = Some(child);
        node.state = State::Well;
        node.before.push(mem::take(&mut node.memory));
        Ok(())
    }

    /// Sends a signal to a node's process.
    pub(crate) fn signal(&mut self, node: usize, signal: Signal) -> Result<()> {
        let process = self.nodes[node].process.as_mut().context("it runs")?;
        kill_process(Pid::from_child(process), signal)?;
        if signal == Signal::KILL {
            process.wait()?;
            self.nodes[node].process = None;
        }
        Ok(())
    }

    /// What the nodes said last; nothing of those with which something is wrong.
    pub(crate) fn views(&self) -> Vec<Option<View>> {
        let view = |node: &Node| node.view.clone().filter(|_| node.state == State::Well);
        self.nodes.iter().map(view).collect()
    }

    /// Asks every node that can answer, and takes note of rounds, memory and who has recovered.
    pub(crate) fn look(&mut self) -> Result<()> {
        for node in 0..self.nodes.len() {
            self.collect(node)?;
            let askable = !matches!(self.nodes[node].state, State::Dead | State::Paused);
            let view = if askable {
                self.ask(node, &["status", "--json"])
            } else {
                None
            };
            let seen = &mut self.nodes[node];
            if view.is_some() {
                seen.view = view;
            }
            if let Some(bytes) = seen.process.as_ref().and_then(|child| resident(child.id())) {
                seen.memory.push((Instant::now(), bytes));
            }
        }
        let views = self.views();
        let newest = views
            .iter()
            .flatten()
            .filter_map(|view| view.history.last());
        let newest = newest.max_by_key(|past| past.round);
        // Who was away is well again once it shares in the newest round.
        let shares = |view: &View| {
            newest.is_none_or(|past| {
                past.sharers.contains(&view.member) && view.decided() + 1 >= past.round
            })
        };
        for (node, view) in self.nodes.iter_mut().zip(&views) {
            let well = view.as_ref().is_some_and(shares);
            node.well = if well {
                node.well.or_else(|| Some(Instant::now()))
            } else {
                None
            };
        }
        self.note_rounds();
        Ok(())
    }

    /// A node must not end by itself.
    fn collect(&mut self, node: usize) -> Result<()> {
        let seen = &mut self.nodes[node];
        let Some(process) = &mut seen.process else {
            return Ok(());
        };
        if let Some(status) = process.try_wait()? {
            seen.process = None;
            let text = fs::read_to_string(seen.dir.join("log")).unwrap_or_default();
            let last = text.lines().next_back().unwrap_or_default();
            bail!(
                "{} ended by itself with {status}: {last}",
                seen.dir.display()
            );
        }
        Ok(())
    }

    fn ask<T: DeserializeOwned>(&self, node: usize, question: &[&str]) -> Option<T> {
        let mut command = self.ground.command(node, &self.program);
        let said = command
            .args(question)
            .arg("--dir")
            .arg(&self.nodes[node].dir)
            .output()
            .ok()?;
        serde_json::from_slice(&said.stdout).ok()
    }

    fn note_rounds(&mut self) {
        let known = self.decided.last().map_or(0, |decided| decided.round);
        let views = self.views();
        let views = views
            .iter()
            .enumerate()
            .filter_map(|(node, view)| Some((node, view.as_ref()?)));
        let Some((node, view)) = views.max_by_key(|(_, view)| view.decided()) else {
            return;
        };
        if view.decided() <= known {
            return;
        }
        let Some(told) = self.ask::<Told>(node, &["rounds", "--json", "--last", "20"]) else {
            return;
        };
        let since = self.decided_at;
        let whole = |node: &&Node| node.well.is_some_and(|well| well <= since);
        let well = self.nodes.iter().filter(whole).count();
        for round in told.rounds.into_iter().filter(|round| round.number > known) {
            let (number, survivors, members) = (round.number, round.survivors.len(), round.members);
            self.log.say(&format!(
                "round {number}: {survivors} of {members} members in, {well} were well"
            ));
            self.decided.push(Decided {
                round: number,
                well,
                members,
            });
        }
        self.decided_at = Instant::now();
    }

    /// Whether all nodes are well and hold the same ledger and adapter at this moment.
    pub(crate) fn agrees(&mut self) -> bool {
        let views = self.views();
        let mut held = views.iter().map(|view| {
            let view = view.as_ref()?;
            let adapter = view.adapter_digest.clone()?;
            view.name
                .as_ref()
                .map(|_| (adapter, view.ledger_head.clone()))
        });
        let first = held.next().flatten();
        first.is_some() && held.all(|other| other == first)
    }

    /// Looks until a condition holds.
    pub(crate) fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            self.look()?;
            if holds(self) {
                return Ok(());
            }
            if Instant::now() > end {
                let said = self
                    .views()
                    .into_iter()
                    .enumerate()
                    .map(|(node, view)| match view {
                        Some(view) => format!(
                            "node {}: round {} {} ({})",
                            node + 1,
                            view.round,
                            view.phase,
                            view.waiting.unwrap_or_default()
                        ),
                        None => format!("node {} does not answer", node + 1),
                    });
                bail!(
                    "waited {patience:?} in vain for {what}: {}",
                    said.collect::<Vec<_>>().join("; ")
                );
            }
            std::thread::sleep(TURN);
        }
    }

    /// Stops all nodes at once and in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        for node in 0..self.nodes.len() {
            self.signal(node, Signal::INT)?;
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let status = process.wait()?;
                ensure!(
                    status.success(),
                    "{} ended with {status}",
                    node.dir.display()
                );
            }
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                process.kill().ok();
                process.wait().ok();
            }
        }
    }
}

/// The testnet's timers, shorter still: bad days come fast here.
fn hurried(charter: &str) -> String {
    let quick = [
        ("setup_ms", 6000),
        ("quiet_ms", 5000),
        ("submit_min_ms", 20_000),
        ("reveal_ms", 6000),
    ];
    let lines = charter.lines().map(|line| {
        let key = line.split('=').next().unwrap_or_default().trim();
        let found = quick.iter().find(|(name, _)| *name == key);
        found.map_or_else(|| line.to_owned(), |(name, ms)| format!("{name} = {ms}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The resident bytes of a process, mapped files aside.
fn resident(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// More rounds than any run sees.
const ROUNDS: u32 = 100_000;
/// Optimiser steps of a round.
const LOCAL_STEPS: u32 = 4;
