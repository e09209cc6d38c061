//! What a testnet writes before anything runs: a data folder for each node, and the held-out rows of all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use conclave_protocol::charter::{
    Admission, Aggregation, Charter, Federation, Founder, Model, Rounds, Timers,
};
use rand::RngExt as _;

use super::plan::{Plan, Rows};
use super::{TestnetError, named};
use crate::config::NodeConfig;
use crate::learn::data::{Place, Row, Tokens, hold_out, labels_among, read_rows, split};
use crate::learn::model::config::Config;
use crate::learn::model::{self, Model as Network, ModelError};
use crate::learn::peft;
use crate::report::ModelReport;
use crate::scenario::base;
use crate::{config, keys};

/// The name of the union of all held-out rows in a node's folder.
pub const EVAL: &str = "eval.jsonl";

/// The name of a node's private rows in its folder.
pub const DATA: &str = "data.jsonl";

/// A testnet that is ready to start.
#[derive(Debug)]
pub struct Folders {
    /// Holds everything.
    pub dir: PathBuf,
    /// The folder of the base model.
    pub model_dir: PathBuf,
    /// What it is.
    pub model: ModelReport,
    /// Its architecture, as `config.json` names it.
    pub architecture: String,
    /// Whether it tells labels apart.
    pub classifies: bool,
    /// What the rows are, in a sentence.
    pub about: String,
    /// The nodes, in order.
    pub nodes: Vec<Node>,
    /// Threads for each process.
    pub threads: usize,
}

/// One node before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in the charter.
    pub name: String,
    /// Its public key in hex.
    pub key: String,
    /// Its data folder.
    pub dir: PathBuf,
    /// When it starts: in the round that it joins in, or at once.
    pub joins_in: Option<u32>,
}

/// The rows of all nodes.
struct Dealt {
    names: Vec<String>,
    members: Vec<Vec<Row>>,
    about: String,
}

/// Checks the model, then the data, then writes everything.
pub fn prepare(plan: &Plan) -> Result<Folders, TestnetError> {
    let mut config = match &plan.model {
        Some(folder) => check_model(folder)?,
        None => base::config(),
    };
    let read = name_labels(plan, &mut config)?;
    let named = read.is_some();
    peft::fits(&plan.adapter(), &config, plan.model.as_deref())?;
    let dealt = deal(plan, read)?;
    let dir = make_dir(plan)?;
    let model_dir = match &plan.model {
        Some(folder) if !named => {
            std::path::absolute(folder).map_err(|error| TestnetError::io(folder, error))?
        }
        given => {
            let own = dir.join("model");
            match given {
                Some(folder) => named::write(folder, &config, &own)?,
                None => base::unpack(&own)?,
            }
            own
        }
    };
    let model = ModelReport {
        name: match &plan.model {
            Some(folder) => folder
                .file_name()
                .unwrap_or(folder.as_os_str())
                .to_string_lossy()
                .into_owned(),
            None => base::LABEL.to_owned(),
        },
        digest: model::digest(&model_dir)?.to_string(),
        parameters: config.parameters(),
        generated: plan.model.is_none(),
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut folders = Folders {
        dir,
        model_dir,
        model,
        architecture: config.model_type().to_owned(),
        classifies: config.classifies(),
        about: dealt.about,
        nodes: Vec::new(),
        threads: (cores / dealt.members.len().max(1)).max(1),
    };
    folders.write_nodes(plan, &dealt.names, dealt.members)?;
    Ok(folders)
}

impl Folders {
    /// Identities, rows and, for those who begin, the charter.
    fn write_nodes(
        &mut self,
        plan: &Plan,
        names: &[String],
        members: Vec<Vec<Row>>,
    ) -> Result<(), TestnetError> {
        let count = members.len();
        let mut union = Vec::new();
        let mut founders = Vec::new();
        for (number, (name, rows)) in (1..).zip(names.iter().zip(members)) {
            let dir = self.dir.join(format!("node-{number}"));
            std::fs::create_dir(&dir).map_err(|error| TestnetError::io(&dir, error))?;
            let (kept, held_out) = hold_out(rows, count, plan.seed);
            write_rows(&dir.join(DATA), &kept)?;
            union.extend(held_out);
            let key = keys::create(&dir)?.public();
            let joins_in = plan.joins_in(number);
            if joins_in.is_none() {
                founders.push(Founder {
                    name: name.clone(),
                    key,
                });
            }
            self.nodes.push(Node {
                name: name.clone(),
                key: key.to_string(),
                dir,
                joins_in,
            });
        }
        let charter = charter(plan, self, founders, count)?;
        for node in &self.nodes {
            write_rows(&node.dir.join(EVAL), &union)?;
            if node.joins_in.is_none() {
                write(&node.dir.join("charter.toml"), &charter.to_toml())?;
            }
        }
        Ok(())
    }

    /// Writes every `node.toml`: the first node listens at `port`, the others begin with it, or with their ticket.
    pub fn write_configs(&self, plan: &Plan, port: u16) -> Result<(), TestnetError> {
        let first = format!("/ip4/127.0.0.1/tcp/{port}");
        for (index, node) in self.nodes.iter().enumerate() {
            let listen = match index {
                0 => first.clone(),
                _ => "/ip4/127.0.0.1/tcp/0".to_owned(),
            };
            let mut settings = NodeConfig {
                name: Some(node.name.clone()),
                model: Some(self.model_dir.clone()),
                data: Some(DATA.into()),
                eval_data: Some(EVAL.into()),
                threads: Some(self.threads),
                listen: Some(vec![listen]),
                bootstrap: (index > 0 && node.joins_in.is_none()).then(|| vec![first.clone()]),
                ..NodeConfig::default()
            };
            settings.training.seed = Some(plan.seed);
            settings.training.learning_rate = plan.learning_rate;
            write(&node.dir.join(config::FILE), &settings.to_toml())?;
        }
        Ok(())
    }
}

/// That the folder holds a whole model and a tokenizer that fits it; gives the model's shape.
fn check_model(folder: &Path) -> Result<Config, TestnetError> {
    let network = Network::open(folder)?;
    Tokens::open(folder)?;
    Ok(network.config().clone())
}

/// Gives an encoder whose folder names no labels those of the rows, which it has read then.
fn name_labels(plan: &Plan, config: &mut Config) -> Result<Option<Vec<Row>>, TestnetError> {
    match &plan.rows {
        Rows::Given { data, .. } if config.classifies() && config.labels.is_empty() => {
            let rows = read_rows(data)?;
            config
                .set_labels(labels_among(&rows)?)
                .map_err(ModelError::from)?;
            Ok(Some(rows))
        }
        Rows::Given { .. } | Rows::Scenario(_) => Ok(None),
    }
}

/// The rows of each node, of those that were read already if they were.
fn deal(plan: &Plan, read: Option<Vec<Row>>) -> Result<Dealt, TestnetError> {
    let count = plan.nodes_in_all();
    match &plan.rows {
        Rows::Scenario(scenario) => {
            let made = scenario.generate(plan.seed, count);
            let file: Arc<Path> = Path::new("the generated scenario").into();
            let parse = |lines: Vec<String>| {
                let row = |(number, line): (u64, String)| {
                    Row::parse(
                        &line,
                        Place {
                            file: Arc::clone(&file),
                            line: number,
                        },
                    )
                };
                (1..).zip(lines).map(row).collect::<Result<Vec<_>, _>>()
            };
            Ok(Dealt {
                names: made.names,
                members: made
                    .members
                    .into_iter()
                    .map(parse)
                    .collect::<Result<_, _>>()?,
                about: made.about,
            })
        }
        Rows::Given { data, split: how } => Ok(Dealt {
            names: (1..=count).map(|number| format!("node-{number}")).collect(),
            members: {
                let rows = read.map_or_else(|| read_rows(data), Ok)?;
                split(rows, how, count, plan.seed)?
            },
            about: format!("{} dealt {how} to {count} nodes", data.display()),
        }),
    }
}

fn make_dir(plan: &Plan) -> Result<PathBuf, TestnetError> {
    let Some(dir) = &plan.dir else {
        let temporary = tempfile::Builder::new()
            .prefix("conclave-testnet-")
            .tempdir()
            .map_err(|error| TestnetError::io(&std::env::temp_dir(), error))?;
        return Ok(temporary.keep());
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| std::path::absolute(dir))
        .map_err(|error| TestnetError::io(dir, error))
}

fn charter(
    plan: &Plan,
    folders: &Folders,
    members: Vec<Founder>,
    nodes: usize,
) -> Result<Charter, TestnetError> {
    let charter = Charter {
        federation: Federation {
            name: "testnet".to_owned(),
            protocol: 1,
            nonce: rand::rng().random(),
        },
        model: Model {
            digest: folders.model.digest.parse().expect("a digest was written"),
            architecture: folders.architecture.clone(),
        },
        adapter: plan.adapter(),
        round: Rounds {
            rounds: plan.rounds,
            local_steps: plan.local_steps,
            timers: Timers::testnet(),
        },
        aggregation: Aggregation {
            members_max: Charter::default_members_max(nodes),
            absent_rounds: 2,
            ..Aggregation::default()
        },
        admission: Admission::Invite,
        members,
    };
    Ok(charter.checked()?)
}

fn write_rows(path: &Path, rows: &[Row]) -> Result<(), TestnetError> {
    let text: String = rows.iter().map(|row| row.to_line() + "\n").collect();
    write(path, &text)
}

fn write(path: &Path, text: &str) -> Result<(), TestnetError> {
    std::fs::write(path, text).map_err(|error| TestnetError::io(path, error))
}
