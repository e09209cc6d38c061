//! The engine of a node: one owned thread that trains, adopts and evaluates when the core orders it.
//!
//! Orders go in, reports come out; the driver never waits for it. Training looks for newer orders between two
//! steps, so a cancelled round frees the machine within one step. Evaluations wait while a round trains.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use conclave_crypto::digest::Digest;
use conclave_crypto::ladder::Delta;
use conclave_protocol::floats::Floats;
use conclave_protocol::layout::Layout;
use conclave_protocol::names::{Height, Round};
use conclave_protocol::output::Order;
use tokio::sync::mpsc;

use super::data::DataError;
use super::device::DeviceError;
use super::examples::Examples as _;
use super::model::{self, Model, ModelError};
use super::peft::{Adapter, AdapterError, AdapterSpec, Method};
use super::prepare::{Wanted, prepare};
use super::trainer::{Subject, TrainError, Trainer};
use super::training::{Training, TrainingError};
use thread::{Adopted, Thread};

mod thread;

/// What the engine needs to start.
#[derive(Debug, Clone)]
pub struct EngineSetup {
    /// The base model's folder.
    pub model: PathBuf,
    /// Private rows.
    pub data: PathBuf,
    /// Rows that score; without them 5 % of `data` is held out.
    pub eval_data: Option<PathBuf>,
    /// The charter's adapter.
    pub adapter: AdapterSpec,
    /// The node's training keys.
    pub training: Training,
    /// Rounds of the charter.
    pub rounds: u32,
    /// Optimiser steps a round.
    pub local_steps: u32,
    /// Threads to compute on.
    pub threads: usize,
    /// Where adopted adapters are kept, one folder a round; not at all without.
    pub adapters: Option<PathBuf>,
}

/// What starting has found out.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    /// The base model's digest.
    pub model_digest: Digest,
    /// Its architecture, as the charter names it.
    pub architecture: String,
    /// Its parameters, the adapter's not counted.
    pub parameters: u64,
    /// Where the factors stand in the flat vector.
    pub layout: Layout,
    /// The common start of the adapter.
    pub initial: Floats,
    /// Examples to train on.
    pub examples: u64,
    /// The first example, the lengths, what was cut or left out: for the operator to see.
    pub about: String,
}

/// What the engine tells the driver.
#[derive(Debug)]
pub enum EngineReport {
    /// Training goes on.
    Progress {
        /// The order's height.
        height: Height,
        /// Steps done.
        done: u32,
        /// Steps ordered.
        of: u32,
        /// Loss of the last step's batch.
        loss: f64,
        /// Speed of the last step.
        tokens_per_second: f64,
    },
    /// A round is trained.
    Trained {
        /// The order's height.
        height: Height,
        /// The change of the factor's coordinates, in the layout's order.
        delta: Delta,
        /// Mean loss of the steps' batches.
        loss: f64,
    },
    /// A round brought nothing that may be submitted.
    Failed {
        /// The order's height.
        height: Height,
        /// One sentence.
        reason: String,
    },
    /// Held-out loss: round 0 at the start, then after each adopted adapter.
    Evaluated {
        /// The height that opened the adapter; 0 at the start.
        height: Height,
        /// Its round; 0 at the start.
        round: Round,
        /// Mean negative log-likelihood of the scored tokens, nats.
        loss: f64,
        /// The share of scored tokens, or of an encoder's labels, that were the first choice.
        accuracy: f64,
    },
    /// Something went wrong and the engine went on.
    Warning {
        /// One sentence.
        reason: String,
    },
}

/// The handle of the engine's thread, which ends when the handle is dropped.
#[derive(Debug)]
pub struct Engine {
    orders: Sender<Order>,
    reports: mpsc::Receiver<EngineReport>,
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model folder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The training keys.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// Where it is to compute.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Anything of the trainer.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(std::io::Error),
}

/// Loads model and data, starts the thread, and orders the evaluation of round 0.
pub fn start(setup: EngineSetup) -> Result<(Engine, EngineFacts), EngineError> {
    setup.training.check()?;
    let device = setup.training.device.open()?;
    let model = Model::open_at(&setup.model, setup.training.precision)?;
    let model_digest = model::digest(&setup.model)?;
    let adapter = Adapter::new(setup.adapter.clone(), model.config())?;
    if setup.training.lora_dropout > 0.0 && !matches!(setup.adapter.method, Method::Lora(_)) {
        return Err(EngineError::Training(TrainingError {
            key: "lora_dropout",
            value: setup.training.lora_dropout.to_string(),
            range: "0 where the charter's method is not lora",
        }));
    }
    let length = setup.training.bounds_for(adapter.room(model.config()));
    let wanted = Wanted {
        data: &setup.data,
        eval: setup.eval_data.as_deref(),
        length,
        seed: setup.training.seed,
        labels: false,
        classes: model.config().classes(),
    };
    let prepared = prepare(&setup.model, &wanted)?;
    let parameters = model.config().parameters();
    let architecture = model.config().model_type().to_owned();
    let initial = Floats::from(adapter.initial(&model));
    let layout = adapter.flat().layout();
    let trainer = Trainer::new(
        model,
        Subject::Adapter(adapter),
        setup.training.clone(),
        setup.threads,
        &device,
    )?;
    let about = prepared.about(length);
    let (examples, held_out) = (prepared.examples, prepared.held_out);
    trainer.admit(&examples)?;
    if held_out.count() > 0 {
        trainer.admit(&held_out)?;
    }
    let facts = EngineFacts {
        model_digest,
        architecture,
        parameters,
        layout: layout.clone(),
        initial: initial.clone(),
        examples: examples.count() as u64,
        about,
    };
    let (orders, received) = channel();
    let (sender, reports) = mpsc::channel(REPORTS);
    let thread = Thread {
        trainer,
        layout,
        examples: examples.into(),
        held_out,
        adapters: setup.adapters,
        base: setup.model.display().to_string(),
        orders: received,
        reports: sender,
        next: None,
        adopted: VecDeque::from([Adopted {
            height: Height(0),
            round: Round(0),
            adapter: initial,
        }]),
        gone: false,
    };
    let builder = std::thread::Builder::new()
        .name("engine".into())
        .stack_size(STACK);
    let _detached = builder
        .spawn(move || thread.live())
        .map_err(EngineError::Thread)?;
    Ok((Engine { orders, reports }, facts))
}

impl Engine {
    /// Gives an order; the engine answers when it can.
    pub fn order(&self, order: Order) {
        let _gone = self.orders.send(order);
    }

    /// The next report; `None` if the thread has died. May be dropped while waiting.
    pub async fn next(&mut self) -> Option<EngineReport> {
        self.reports.recv().await
    }
}

const REPORTS: usize = 256;
const STACK: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::path::Path;

    use conclave_protocol::names::Factor;

    use super::*;
    use crate::learn::export::write_model;
    use crate::learn::fixture::{encoder, folder};
    use crate::learn::peft::Targets;

    fn setup(folder: &Path) -> EngineSetup {
        EngineSetup {
            model: folder.to_owned(),
            data: folder.join("rows.jsonl"),
            eval_data: None,
            adapter: AdapterSpec::lora(2, 4, Targets::AllLinear, 1),
            training: Training::default(),
            rounds: 2,
            local_steps: 6,
            threads: 1,
            adapters: Some(folder.join("adapters")),
        }
    }

    fn train(height: u64, factor: Factor, adapter: &[f32], local_steps: u32) -> Order {
        Order::Train {
            height: Height(height),
            round: Round(1),
            rounds: 2,
            factor,
            adapter: adapter.to_vec().into(),
            digest: Digest::ZERO,
            local_steps,
            seed: [3; 32],
        }
    }

    /// The next report but progress.
    fn next(engine: &mut Engine) -> EngineReport {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            loop {
                let report = tokio::time::timeout(Duration::from_secs(60), engine.next());
                match report
                    .await
                    .expect("a report within a minute")
                    .expect("a living engine")
                {
                    EngineReport::Progress { .. } => {}
                    report => return report,
                }
            }
        })
    }

    #[test]
    fn a_round_moves_one_factor_and_gives_the_same_bits_again() {
        let folder = folder();
        let (mut engine, facts) = start(setup(folder.path())).unwrap();
        assert_eq!(facts.examples, 57);
        assert!(
            facts.about.starts_with("the first example: "),
            "{}",
            facts.about
        );
        let EngineReport::Evaluated {
            round: Round(0),
            loss: before,
            ..
        } = next(&mut engine)
        else {
            panic!("round 0 is evaluated first");
        };
        let layout = facts.layout;
        let mut losses = Vec::new();
        for height in [5, 6] {
            engine.order(train(height, Factor::B, &facts.initial, 6));
            let EngineReport::Trained {
                height: of,
                delta,
                loss,
            } = next(&mut engine)
            else {
                panic!("the round is trained");
            };
            assert_eq!(of, Height(height));
            assert!(loss.is_finite());
            assert_eq!(delta.len(), layout.count(Factor::B));
            losses.push(loss.to_bits());
        }
        assert_eq!(
            losses[0], losses[1],
            "moments start at zero, batches come from the order's seed"
        );
        engine.order(Order::Adopt {
            height: Height(6),
            round: Round(1),
            adapter: facts.initial.clone(),
            digest: Digest::ZERO,
        });
        let EngineReport::Evaluated {
            round: Round(1),
            loss,
            ..
        } = next(&mut engine)
        else {
            panic!("the adopted adapter is evaluated");
        };
        assert!(
            (loss - before).abs() < 1e-12,
            "the same adapter scores the same"
        );
        assert!(
            folder
                .path()
                .join("adapters/1/adapter_config.json")
                .exists()
        );
    }

    #[test]
    fn cancelled_rounds_stop_and_broken_ones_are_never_submitted() {
        let folder = folder();
        let (mut engine, facts) = start(setup(folder.path())).unwrap();
        assert!(matches!(next(&mut engine), EngineReport::Evaluated { .. }));
        engine.order(train(1, Factor::A, &facts.initial, u32::MAX));
        engine.order(Order::Cancel { height: Height(1) });
        let mut broken = facts.initial.to_vec();
        broken[0] = f32::NAN;
        engine.order(train(2, Factor::A, &broken, 6));
        let EngineReport::Failed {
            height: Height(2),
            reason,
        } = next(&mut engine)
        else {
            panic!("the cancelled round says nothing, the broken one fails");
        };
        assert!(reason.contains("not finite"), "{reason}");
        engine.order(train(3, Factor::A, &facts.initial, 6));
        let EngineReport::Failed {
            height: Height(3),
            reason,
        } = next(&mut engine)
        else {
            panic!("with B = 0 the factor A has no gradient: an all-zero delta is no delta");
        };
        assert!(reason.contains("zero"), "{reason}");
    }

    #[test]
    fn a_bare_encoder_federates_on_the_labels_that_its_configuration_names() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        write_model(folder.path(), &encoder("BertModel")).unwrap();
        let rows = ["a", "b", "c"].map(|of| format!(r#"{{"text": "{of}{of}a", "label": "{of}"}}"#));
        std::fs::write(
            at("rows.jsonl"),
            [rows.join("\n"), "\n".into()].concat().repeat(20),
        )
        .unwrap();
        let config = std::fs::read_to_string(at("config.json")).unwrap();
        let said = start(setup(folder.path())).unwrap_err().to_string();
        assert!(said.contains("encoder without labels"), "{said}");
        let named = r#"{"id2label": {"0": "a", "1": "b", "2": "c"}, "#;
        std::fs::write(at("config.json"), config.replacen('{', named, 1)).unwrap();
        let (mut engine, facts) = start(setup(folder.path())).unwrap();
        assert_eq!(facts.examples, 57);
        assert!(matches!(next(&mut engine), EngineReport::Evaluated { .. }));
        engine.order(train(1, Factor::B, &facts.initial, 6));
        let EngineReport::Trained { delta, loss, .. } = next(&mut engine) else {
            panic!("the round is trained");
        };
        assert_eq!(delta.len(), facts.layout.count(Factor::B));
        assert!((loss - 3.0f64.ln()).abs() < 0.2, "{loss}");
    }
}
