//! What the operator is told: `metrics.jsonl`, the log, and the object of `GET /v1/status`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use conclave_crypto::sign::PublicKey;
use conclave_protocol::names::{Height, Round};
use conclave_protocol::output::{Phase, Report};
use conclave_protocol::record::Cause;
use conclave_protocol::status::{Outcome, Past, Status};
use libp2p::Multiaddr;
use serde_json::{Value, json};

use super::peers::Peers;
use super::rounds::Sights;
use crate::learn::engine::EngineReport;
use crate::network::Traffic;
use crate::ticket;

/// What was measured of a round.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
struct Measured {
    /// The round; 0 is before training.
    round: u32,
    /// Mean negative log-likelihood of the scored tokens, in nats.
    loss: f64,
    /// The share of scored tokens or labels that were the first choice; only of held-out rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
}

/// The height and round that an evaluation is waited for.
type Pending = (Height, Round);

/// The running account of a node.
#[derive(Debug)]
pub struct Told {
    metrics: File,
    /// What was seen of whom.
    pub peers: Peers,
    /// How those looked that rounds left out.
    pub sights: Sights,
    /// Where the node listens, as bound.
    pub listening: Vec<Multiaddr>,
    /// Where others may call it instead, as its operator says.
    pub announced: Vec<Multiaddr>,
    /// Connections refused because the peer is no member.
    pub strangers: u64,
    /// The operator wants the node to leave, and no record has released it yet.
    pub leaving: bool,
    train_losses: Vec<Measured>,
    eval_losses: Vec<Measured>,
    training: Option<(Height, f64)>,
    evaluating: BTreeSet<Pending>,
    round: Round,
    last: Value,
}

impl Told {
    /// Appends to `metrics.jsonl` of the data folder. The adapter before training is being evaluated.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("metrics.jsonl"))?;
        Ok(Self {
            metrics,
            peers: Peers::default(),
            sights: Sights::default(),
            listening: Vec::new(),
            announced: Vec::new(),
            strangers: 0,
            leaving: false,
            train_losses: Vec::new(),
            eval_losses: Vec::new(),
            training: None,
            evaluating: BTreeSet::new(),
            round: Round(0),
            last: Value::Null,
        })
    }

    /// The engine has been asked to evaluate what this height opened.
    pub fn adopted(&mut self, height: Height, round: Round) {
        self.evaluating.insert((height, round));
    }

    /// Whether an evaluation is outstanding. (Without held-out rows none ever comes, not even that of round 0.)
    pub fn is_evaluating(&self) -> bool {
        !self.evaluating.is_empty() && !self.eval_losses.is_empty()
    }

    /// Takes note of what the engine says.
    pub fn learned(&mut self, report: &EngineReport) {
        match report {
            EngineReport::Progress {
                height,
                done,
                of,
                loss,
                tokens_per_second,
            } => {
                self.training = Some((*height, *loss));
                tracing::debug!(
                    height = height.0,
                    done,
                    of,
                    loss,
                    tokens_per_second,
                    "training"
                );
            }
            EngineReport::Trained { height, loss, .. } => {
                let loss = Measured {
                    round: self.round.0,
                    loss: *loss,
                    accuracy: None,
                };
                self.train_losses.push(loss);
                self.line(&json!({"event": "trained", "height": height.0, "round": loss.round, "loss": loss.loss}));
            }
            EngineReport::Warning { reason } => {
                tracing::warn!("{reason}");
                self.line(&json!({"event": "warning", "reason": reason}));
            }
            EngineReport::Failed { height, reason } => {
                tracing::warn!(height = height.0, "{reason}");
                self.line(&json!({"event": "train_failed", "height": height.0, "reason": reason}));
            }
            EngineReport::Evaluated {
                height,
                round,
                loss,
                accuracy,
            } => {
                self.evaluating.retain(|(pending, _)| pending > height);
                self.eval_losses.retain(|known| known.round != round.0);
                self.eval_losses.push(Measured {
                    round: round.0,
                    loss: *loss,
                    accuracy: Some(*accuracy),
                });
                tracing::info!(round = round.0, loss, accuracy, "evaluated");
                self.line(&json!({
                    "event": "evaluated", "height": height.0, "round": round.0, "loss": loss, "accuracy": accuracy,
                }));
            }
        }
    }

    /// Takes note of what the member reports.
    pub fn report(&mut self, report: &Report, round: Round) {
        self.round = round;
        let line = line(report);
        match report {
            Report::Warning { reason } => tracing::warn!("{reason}"),
            Report::Halted { reason } => tracing::error!("{reason}"),
            Report::Waiting { reason } => tracing::warn!("{reason}"),
            Report::Finished { .. } => tracing::info!("finished"),
            _ => tracing::info!("{line}"),
        }
        self.line(&line);
    }

    /// The node leaves: the last line of `metrics.jsonl`, and the last status.
    pub fn leave(&mut self, status: &Status, traffic: Traffic) {
        self.last = self.status(status, traffic);
        self.line(&json!({"event": "left", "bytes_sent": traffic.sent, "bytes_received": traffic.received}));
    }

    /// The status at the end of the node's life.
    pub const fn last(&self) -> &Value {
        &self.last
    }

    /// The object of `GET /v1/status`.
    pub fn status(&self, status: &Status, traffic: Traffic) -> Value {
        let training = self.training.filter(|(height, _)| *height == status.height);
        let loss = training.map(|(_, loss)| loss);
        let progress = status
            .progress
            .map(|(done, of)| json!({"done": done, "of": of, "loss": loss}));
        let phase = match (&status.halted, status.finished) {
            (Some(_), _) => "halted",
            (None, true) => "finished",
            (None, false) => phase(status.phase),
        };
        // Nobody is a member before a record took its Join in.
        let outside = status.name.is_none() && !status.finished;
        let entering = outside.then(|| "waiting for a record that admits this member".to_owned());
        let waiting = status.waiting.clone().or(entering);
        json!({
            "member": status.member.to_string(),
            "name": status.name,
            "height": status.height.0,
            "round": status.round.0,
            "rounds": status.rounds,
            "phase": phase,
            "progress": progress,
            "peers": self.peers.connected(),
            "addresses": self.addresses(&status.member),
            "ledger_head": status.ledger_head.to_string(),
            "adapter_digest": status.adapter.map(|digest| digest.to_string()),
            "rounds_opened": status.rounds_opened,
            "rounds_null": status.rounds_null,
            "rounds_contributed": status.rounds_contributed,
            "examples": status.examples,
            "bytes_sent": traffic.sent,
            "bytes_received": traffic.received,
            "history": status.history.iter().map(past).collect::<Vec<_>>(),
            "train_losses": self.train_losses,
            "eval_losses": self.eval_losses,
            "evaluating": self.is_evaluating(),
            "waiting": waiting,
            "warnings": status.warnings,
            "refused": status.refused.total(),
            "strangers": self.strangers,
            "leaving": self.leaving,
            "finished": status.finished,
            "halted": status.halted,
        })
    }

    /// Where others may call this node.
    fn addresses(&self, me: &PublicKey) -> Vec<String> {
        ticket::callable(&self.announced, &self.listening, me)
    }

    /// Appends one line. A full disk must not stop the round for want of a metric: it is said once in the log.
    fn line(&mut self, value: &Value) {
        let mut value = value.clone();
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        if let Value::Object(fields) = &mut value {
            fields.insert("time".to_owned(), json!(time.as_secs_f64()));
        }
        // In one piece: whoever reads along meets whole lines, and the system is called once.
        if let Err(error) = self.metrics.write_all(format!("{value}\n").as_bytes()) {
            tracing::warn!(%error, "metrics.jsonl was not written");
        }
    }
}

fn keys(keys: &[PublicKey]) -> Vec<String> {
    keys.iter().map(PublicKey::to_string).collect()
}

fn past(past: &Past) -> Value {
    let outcome = match past.outcome {
        Outcome::Decided => "decided",
        Outcome::Opened => "opened",
        Outcome::Null => "null",
        Outcome::Spent => "spent",
    };
    json!({
        "height": past.height.0,
        "round": past.round.0,
        "outcome": outcome,
        "sharers": keys(&past.sharers),
        "survivors": past.survivors.as_deref().map(keys),
        "rebuilt": keys(&past.rebuilt),
    })
}

const fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Dealing => "dealing",
        Cause::Range => "range",
        Cause::Withheld => "withheld",
    }
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Advertise => "advertise",
        Phase::Deal => "deal",
        Phase::Train => "train",
        Phase::Submit => "submit",
        Phase::Decide => "decide",
        Phase::Reveal => "reveal",
        Phase::Open => "open",
    }
}

fn line(report: &Report) -> Value {
    match report {
        Report::Phase {
            height,
            round,
            phase: at,
        } => {
            json!({"event": "phase", "height": height.0, "round": round.map(|round| round.0), "phase": phase(*at)})
        }
        Report::Dealt { height } => json!({"event": "dealt", "height": height.0}),
        Report::Decided {
            height,
            round,
            head,
            sharers,
            survivors,
            members_after_next,
            spent,
            convicted,
        } => json!({
            "event": "decided",
            "height": height.0,
            "round": round.map(|round| round.0),
            "head": head.to_string(),
            "sharers": keys(sharers),
            "survivors": survivors.as_deref().map(keys),
            "members_after_next": keys(members_after_next),
            "spent": spent.map(cause),
            "convicted": keys(convicted),
        }),
        Report::Opened {
            height,
            round,
            adapter,
            rebuilt,
        } => json!({
            "event": "opened",
            "height": height.0,
            "round": round.0,
            "adapter": adapter.to_string(),
            "rebuilt": keys(rebuilt),
        }),
        Report::Submitted {
            height,
            coordinates,
            clipped,
            bytes,
            carried,
        } => json!({
            "event": "submitted",
            "height": height.0,
            "coordinates": coordinates,
            "clipped": clipped,
            "bytes": bytes,
            "carried": carried.map(|round| round.0),
        }),
        Report::Waiting { reason } => json!({"event": "waiting", "reason": reason}),
        Report::Warning { reason } => json!({"event": "warning", "reason": reason}),
        Report::Finished { head, adapter } => {
            json!({"event": "finished", "head": head.to_string(), "adapter": adapter.to_string()})
        }
        Report::Left { reason } => json!({"event": "left_federation", "reason": reason}),
        Report::Halted { reason } => json!({"event": "halted", "reason": reason}),
    }
}
