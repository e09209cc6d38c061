//! Training alone: `conclave train` on each node's rows, two processes at a time.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::PathBuf;

use conclave_protocol::charter::{Method, Targets};
use serde::Deserialize;

use super::TestnetError;
use super::children::Process;
use super::folders::{DATA, EVAL, Folders};
use super::plan::Plan;

/// How many train at the same time.
const AT_ONCE: usize = 2;

/// What `train --json` says, as far as it is read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Solo {
    /// Held-out loss of the base model.
    pub eval_loss_before: Option<f64>,
    /// Held-out loss after as many steps as the federation took.
    pub eval_loss_after: Option<f64>,
}

/// The solo runs of all nodes.
#[derive(Debug)]
pub struct Solos {
    waiting: VecDeque<Job>,
    running: Vec<(Job, Process)>,
    /// What came out, one place a node.
    pub done: Vec<Option<Solo>>,
}

#[derive(Debug)]
struct Job {
    node: usize,
    program: PathBuf,
    arguments: Vec<String>,
    out: PathBuf,
    log: PathBuf,
}

impl Solos {
    /// The same start, rows, optimiser and schedule as in the federation, for rounds x local steps.
    pub fn new(plan: &Plan, folders: &Folders) -> Result<Self, TestnetError> {
        let place = folders.dir.join("solo");
        std::fs::create_dir(&place).map_err(|error| TestnetError::io(&place, error))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let steps = u64::from(plan.rounds) * u64::from(plan.local_steps);
        let job = |(node, folder): (usize, &super::folders::Node)| {
            let path = |path: PathBuf| path.to_string_lossy().into_owned();
            let flags = [
                ("--model", path(folders.model_dir.clone())),
                ("--data", path(folder.dir.join(DATA))),
                ("--eval-data", path(folder.dir.join(EVAL))),
                ("--steps", steps.to_string()),
                ("--threads", (cores / AT_ONCE).max(1).to_string()),
                ("--seed", plan.seed.to_string()),
            ];
            let rate = plan
                .learning_rate
                .map(|rate| ("--learning-rate", rate.to_string()));
            let pairs = flags.into_iter().chain(rate);
            let words = pairs.flat_map(|(flag, value)| [flag.to_owned(), value]);
            Job {
                node,
                program: plan.program.clone(),
                arguments: ["train".to_owned(), "--json".to_owned()]
                    .into_iter()
                    .chain(words)
                    .chain(terms(&plan.method))
                    .collect(),
                out: place.join(format!("node-{}.json", node + 1)),
                log: place.join(format!("node-{}.log", node + 1)),
            }
        };
        Ok(Self {
            waiting: folders.nodes.iter().enumerate().map(job).collect(),
            running: Vec::new(),
            done: vec![None; folders.nodes.len()],
        })
    }

    /// Takes in what ended and starts what may start; `true` once all are done.
    pub fn advance(&mut self) -> Result<bool, TestnetError> {
        let mut index = 0;
        while let Some((job, process)) = self.running.get_mut(index) {
            let Some(status) = process.ended() else {
                index += 1;
                continue;
            };
            if !status.success() {
                return Err(TestnetError::Solo {
                    node: job.node + 1,
                    words: process.last_words(),
                    log: job.log.clone(),
                });
            }
            self.done[job.node] = Some(job.result()?);
            self.running.swap_remove(index);
        }
        while self.running.len() < AT_ONCE {
            let Some(job) = self.waiting.pop_front() else {
                break;
            };
            let arguments: Vec<&OsStr> = job.arguments.iter().map(OsStr::new).collect();
            let process = Process::start(&job.program, &arguments, &job.log, Some(&job.out))
                .map_err(|error| TestnetError::io(&job.program, error))?;
            self.running.push((job, process));
        }
        Ok(self.running.is_empty())
    }

    /// How many are done.
    pub fn count(&self) -> usize {
        self.done.iter().flatten().count()
    }
}

/// The flags of `train` that mean the charter's terms.
fn terms(method: &Method) -> Vec<String> {
    let mut words = Vec::new();
    let mut give = |flag: &str, value: &dyn ToString| {
        words.extend([flag.to_owned(), value.to_string()]);
    };
    give("--method", &method.name());
    match method {
        Method::Lora(lora) => {
            give("--lora-r", &lora.r);
            give("--lora-alpha", &lora.alpha);
            if let Targets::Named(names) = &lora.target_modules {
                give("--target-modules", &names.join(","));
            }
            for (flag, pattern) in [
                ("--rank-pattern", &lora.rank_pattern),
                ("--alpha-pattern", &lora.alpha_pattern),
            ] {
                for (name, number) in pattern {
                    give(flag, &format!("{name}={number}"));
                }
            }
            if lora.rslora {
                words.push("--use-rslora".to_owned());
            }
        }
        Method::Bottleneck(terms) => {
            give("--bottleneck-size", &terms.size);
            give("--non-linearity", &terms.non_linearity);
        }
        Method::Prompt(terms) => {
            give("--num-virtual-tokens", &terms.virtual_tokens);
            if let Some(text) = &terms.init_text {
                give("--prompt-tuning-init-text", text);
            }
        }
    }
    words
}

impl Job {
    fn result(&self) -> Result<Solo, TestnetError> {
        let text = std::fs::read_to_string(&self.out)
            .map_err(|error| TestnetError::io(&self.out, error))?;
        let last = text.lines().next_back().unwrap_or_default();
        serde_json::from_str(last).map_err(|error| TestnetError::Solo {
            node: self.node + 1,
            words: format!("its result is no JSON object ({error})"),
            log: self.out.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use conclave_protocol::charter::{Bottleneck, Lora, NonLinearity, Prompt};

    use super::*;
    use crate::commands::method::MethodArgs;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        method: MethodArgs,
    }

    #[test]
    fn alone_a_node_trains_by_the_charters_terms() {
        let pattern = |entries: &[(&str, u32)]| {
            let entries = entries.iter();
            entries.map(|(name, n)| ((*name).to_owned(), *n)).collect()
        };
        let lora = Lora {
            r: 3,
            alpha: 5,
            target_modules: Targets::Named(vec!["q_proj".to_owned(), "v_proj".to_owned()]),
            rslora: true,
            rank_pattern: pattern(&[("0.self_attn.q_proj", 2), ("v_proj", 4)]),
            alpha_pattern: pattern(&[("v_proj", 7)]),
            ..Lora::default()
        };
        for method in [
            Method::Lora(lora),
            Method::default(),
            Method::Bottleneck(Bottleneck {
                size: 9,
                non_linearity: NonLinearity::Tanh,
            }),
            Method::Prompt(Prompt {
                virtual_tokens: 5,
                init_text: Some("-- answer:".to_owned()),
            }),
        ] {
            let words = ["train".to_owned()].into_iter().chain(terms(&method));
            let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(line.method.charter().unwrap(), method);
        }
    }
}
