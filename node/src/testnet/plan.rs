//! What a testnet is asked to do.

use std::path::PathBuf;
use std::str::FromStr;

use crate::learn::data::Split;
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
    /// Governs data, split, initialisation, batches and kills; never keys or masks.
    pub seed: u64,
    /// The base model; the embedded one where absent.
    pub model: Option<PathBuf>,
    /// The private rows.
    pub rows: Rows,
    /// Which nodes die when.
    pub kills: Vec<Kill>,
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

/// `N@ROUND`: so many living nodes are killed in that round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// How many.
    pub count: u32,
    /// In which round, from 1.
    pub round: u32,
}

/// A text that is no `N@ROUND`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no N@ROUND; write 1@3 to kill one node in round 3")]
pub struct NotAKill(String);

impl FromStr for Kill {
    type Err = NotAKill;

    fn from_str(text: &str) -> Result<Self, NotAKill> {
        let parse = || {
            let (count, round) = text.split_once('@')?;
            let (count, round) = (count.parse().ok()?, round.parse().ok()?);
            (count > 0 && round > 0).then_some(Self { count, round })
        };
        parse().ok_or_else(|| NotAKill(text.to_owned()))
    }
}

impl Plan {
    /// What in the flags cannot be meant, with the way out.
    pub fn check(&self) -> Result<(), String> {
        let (nodes, killed) = (
            self.nodes,
            self.kills.iter().map(|kill| kill.count).sum::<u32>(),
        );
        if nodes < NODES_MIN {
            return Err(format!(
                "--nodes {nodes} is too few: no sum of fewer than {NODES_MIN} deltas is opened; \
                 ask for at least {NODES_MIN}"
            ));
        }
        if nodes > conclave_protocol::charter::MEMBERS_MAX {
            return Err(format!(
                "--nodes {nodes} is too many: a federation has at most {} members",
                conclave_protocol::charter::MEMBERS_MAX
            ));
        }
        if self.rounds == 0 || self.local_steps == 0 {
            return Err("--rounds and --local-steps must be at least 1".to_owned());
        }
        if let Some(kill) = self.kills.iter().find(|kill| kill.round > self.rounds) {
            return Err(format!(
                "--kill {}@{}: there are only {} rounds",
                kill.count, kill.round, self.rounds
            ));
        }
        if nodes.saturating_sub(killed) < NODES_MIN {
            return Err(format!(
                "--kill ends {killed} of {nodes} nodes, but {NODES_MIN} must stay alive; kill at most {}",
                nodes - NODES_MIN
            ));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: u32, kills: &[&str]) -> Plan {
        Plan {
            nodes,
            rounds: 6,
            local_steps: 20,
            seed: 1,
            model: None,
            rows: Rows::Scenario(Scenario::Clinic),
            kills: kills.iter().map(|kill| kill.parse().unwrap()).collect(),
            dir: None,
            program: PathBuf::from("conclave"),
            command: String::new(),
        }
    }

    #[test]
    fn kills_parse_and_the_rest_is_refused() {
        assert_eq!("2@3".parse(), Ok(Kill { count: 2, round: 3 }));
        for wrong in ["", "1", "@", "0@1", "1@0", "x@1", "1@x", "-1@2"] {
            assert!(wrong.parse::<Kill>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_way_out() {
        assert_eq!(plan(5, &["1@2", "1@6"]).check(), Ok(()));
        for (plan, expected) in [
            (plan(2, &[]), "at least 3"),
            (plan(201, &[]), "at most 200"),
            (plan(5, &["1@7"]), "only 6 rounds"),
            (plan(5, &["1@1", "2@2"]), "kill at most 2"),
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
