//! What a testnet is asked to do.

use std::path::PathBuf;
use std::str::FromStr;

use conclave_protocol::charter::{Adapter, Method};

use crate::learn::data::Split;
use crate::learn::training::Training;
use crate::scenario::Scenario;

/// The fewest nodes: no sum of fewer than three deltas is ever opened.
pub const NODES_MIN: u32 = 3;

/// The terms of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many nodes.
    pub nodes: u32,
    /// How many rounds, won or not.
    pub rounds: u32,
    /// Optimiser steps of a node in a round.
    pub local_steps: u32,
    /// The peak of every node's schedule; the usual one where absent.
    pub learning_rate: Option<f64>,
    /// Governs data, split, initialisation, batches and kills; never keys or masks.
    pub seed: u64,
    /// What is trained.
    pub method: Method,
    /// The base model; the embedded one where absent.
    pub model: Option<PathBuf>,
    /// The private rows.
    pub rows: Rows,
    /// How many nodes die when.
    pub kills: Vec<At>,
    /// How many nodes start late, and when.
    pub joins: Vec<At>,
    /// An empty or absent folder; a new temporary one where absent.
    pub dir: Option<PathBuf>,
    /// The program whose `run` and `train` are started.
    pub program: PathBuf,
    /// The command line that runs it again, for the report.
    pub command: String,
}

/// Where the rows come from.
#[derive(Debug, Clone)]
pub enum Rows {
    /// Generated, a part for each node.
    Scenario(Scenario),
    /// One data set, dealt to the nodes.
    Given {
        /// A file or a folder.
        data: PathBuf,
        /// How it is dealt.
        split: Split,
    },
}

/// `N@ROUND`: something happens to so many nodes in that round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// How many.
    pub count: u32,
    /// In which round, from 1.
    pub round: u32,
}

/// A text that is no `N@ROUND`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no N@ROUND; write 1@3 for one node in round 3")]
pub struct NoDate(String);

impl FromStr for At {
    type Err = NoDate;

    fn from_str(text: &str) -> Result<Self, NoDate> {
        let parse = || {
            let (count, round) = text.split_once('@')?;
            let (count, round) = (count.parse().ok()?, round.parse().ok()?);
            (count > 0 && round > 0).then_some(Self { count, round })
        };
        parse().ok_or_else(|| NoDate(text.to_owned()))
    }
}

impl Plan {
    /// What the charter says of the adapter.
    pub fn adapter(&self) -> Adapter {
        Adapter {
            method: self.method.clone(),
            seed: self.seed,
        }
    }

    /// Those that begin and those that join.
    pub fn nodes_in_all(&self) -> usize {
        let joiners: usize = self.joins.iter().map(|at| at.count as usize).sum();
        self.nodes as usize + joiners
    }

    /// In which round the node of this number (from 1) joins; none for those that begin.
    pub fn joins_in(&self, number: usize) -> Option<u32> {
        let mut late = number.checked_sub(self.nodes as usize + 1)?;
        for at in &self.joins {
            match late.checked_sub(at.count as usize) {
                Some(rest) => late = rest,
                None => return Some(at.round),
            }
        }
        None
    }

    /// What in the flags cannot be meant, with the way out.
    pub fn check(&self) -> Result<(), String> {
        let nodes = self.nodes;
        if nodes < NODES_MIN {
            return Err(format!(
                "--nodes {nodes} is too few: no sum of fewer than {NODES_MIN} deltas is opened; \
                 ask for at least {NODES_MIN}"
            ));
        }
        let most = u64::from(conclave_protocol::charter::MEMBERS_MAX);
        let all = u64::from(nodes) + count(&self.joins, self.rounds);
        if all > most {
            return Err(format!(
                "--nodes and --join ask for {all} nodes, which is too many: a federation has at most {most} members"
            ));
        }
        if self.rounds == 0 || self.local_steps == 0 {
            return Err("--rounds and --local-steps must be at least 1".to_owned());
        }
        let training = Training {
            learning_rate: self.learning_rate,
            ..Training::default()
        };
        training.check().map_err(|error| error.to_string())?;
        for (flag, dates) in [("--kill", &self.kills), ("--join", &self.joins)] {
            if let Some(at) = dates.iter().find(|at| at.round > self.rounds) {
                return Err(format!(
                    "{flag} {}@{}: there are only {} rounds",
                    at.count, at.round, self.rounds
                ));
            }
        }
        if let Some(at) = self.joins.iter().find(|at| at.round == self.rounds) {
            return Err(format!(
                "--join {}@{}: a node that starts in the last round comes too late to be admitted; \
                 let it start before round {}",
                at.count, at.round, self.rounds
            ));
        }
        for round in 1..=self.rounds {
            let started = u64::from(nodes) + count(&self.joins, round);
            let (killed, spare) = (count(&self.kills, round), started - u64::from(NODES_MIN));
            if killed > spare {
                return Err(format!(
                    "--kill ends {killed} of {started} nodes by round {round}, but {NODES_MIN} must stay alive; \
                     kill at most {spare} by then"
                ));
            }
        }
        if let Some(dir) = &self.dir {
            let mut inside = match std::fs::read_dir(dir) {
                Ok(inside) => inside,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(format!("--dir {}: {error}", dir.display())),
            };
            if inside.next().is_some() {
                return Err(format!(
                    "--dir {} is not empty; name a new folder",
                    dir.display()
                ));
            }
        }
        Ok(())
    }
}

/// How many nodes it happens to, up to and with a round.
fn count(dates: &[At], round: u32) -> u64 {
    let due = dates.iter().filter(|at| at.round <= round);
    due.map(|at| u64::from(at.count)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: u32, kills: &[&str]) -> Plan {
        Plan {
            nodes,
            rounds: 6,
            local_steps: 20,
            learning_rate: None,
            seed: 1,
            method: Method::default(),
            model: None,
            rows: Rows::Scenario(Scenario::Clinic),
            kills: kills.iter().map(|kill| kill.parse().unwrap()).collect(),
            joins: Vec::new(),
            dir: None,
            program: PathBuf::from("conclave"),
            command: String::new(),
        }
    }

    fn joined(plan: Plan, joins: &[&str]) -> Plan {
        Plan {
            joins: joins.iter().map(|join| join.parse().unwrap()).collect(),
            ..plan
        }
    }

    #[test]
    fn dates_parse_and_the_rest_is_refused() {
        assert_eq!("2@3".parse(), Ok(At { count: 2, round: 3 }));
        for wrong in ["", "1", "@", "0@1", "1@0", "x@1", "1@x", "-1@2"] {
            assert!(wrong.parse::<At>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_way_out() {
        assert_eq!(plan(5, &["1@2", "1@6"]).check(), Ok(()));
        // Those that came late may die too, so a schedule may be of any length.
        let long = joined(plan(5, &["2@1", "2@3", "1@5"]), &["1@2", "1@2", "1@4"]);
        assert_eq!(long.check(), Ok(()));
        for (plan, expected) in [
            (plan(2, &[]), "at least 3"),
            (plan(201, &[]), "at most 200"),
            (plan(5, &["1@7"]), "only 6 rounds"),
            (plan(5, &["1@1", "2@2"]), "kill at most 2"),
            (joined(plan(5, &["3@2"]), &["1@3"]), "kill at most 2"),
            (joined(plan(5, &[]), &["1@7"]), "only 6 rounds"),
            (joined(plan(5, &[]), &["1@6"]), "before round 6"),
            (joined(plan(5, &[]), &["150@1", "46@2"]), "at most 200"),
        ] {
            let said = plan.check().unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        let full = tempfile::tempdir().unwrap();
        std::fs::write(full.path().join("x"), "").unwrap();
        let mut plan = plan(5, &[]);
        plan.dir = Some(full.path().to_owned());
        assert!(plan.check().unwrap_err().contains("not empty"));
        plan.dir = Some(full.path().join("new"));
        assert_eq!(plan.check(), Ok(()));
    }
}
