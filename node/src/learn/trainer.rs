//! The training loop: draw a batch, score it, collect the gradient in one flat vector, step.
//!
//! The same loop serves a federation's round (one factor moves, moments start at zero), solo training (both move) and
//! the making of a base (every weight moves). Same seed, same data, same bits, at any number of threads.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::data::DataError;
use super::device::{Device, is_full};
use super::dropout::Dropout;
use super::evaluate::{Measured, evaluate};
use super::examples::Examples;
use super::flatten::Flat;
use super::model::adapted::{MethodTensors, Moving};
use super::model::config::Config;
use super::model::{Model, ModelError};
use super::peft::{Adapter, AdapterError, AdapterSpec};
use super::steps::{Run, Step, Steps};
use super::training::{Training, TrainingError};
use crate::allocator;

/// What moves.
#[derive(Debug)]
pub enum Subject {
    /// An adapter on the frozen base.
    Adapter(Adapter),
    /// Every weight of the model.
    All(Flat),
}

/// A model, what moves in it, and how.
#[derive(Debug)]
pub struct Trainer {
    model: Model,
    subject: Subject,
    training: Training,
    pool: rayon::ThreadPool,
}

/// Why training stopped without a result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A key of the settings.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The device has no room for the model.
    #[error(
        "device {0}: its memory is too small for the model; hold it in fewer bits (precision), or compute on the cpu"
    )]
    TooLarge(Device),
    /// The device has no room for what is to be computed, at however few rows at once.
    #[error(
        "the device's memory is too small for one row, or for what is scored at once; lower sequence_len, set \
         gradient_checkpointing, or hold the model in fewer bits (precision)"
    )]
    NoRoom,
    /// The threads could not be started.
    #[error("cannot start the training threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// Nothing to learn from.
    #[error("no example has a token to score; give rows with text, or with a completion")]
    NoExamples,
    /// A token that the model does not have.
    #[error(
        "token {token} is outside the model's vocabulary of {vocabulary}; the tokenizer belongs to another model"
    )]
    Vocabulary {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// An example longer than the model's context.
    #[error(
        "sequence_len = {asked} is more than the {context} tokens that the model has room for; lower it"
    )]
    Context {
        /// What was asked.
        asked: usize,
        /// What the model has.
        context: usize,
    },
    /// The loss or the gradient is no number.
    #[error(
        "step {step}: the {what} is not finite; lower the learning rate (now {rate:e}), or look at the rows of its \
         batch: {rows}"
    )]
    NotFinite {
        /// The step, the first being 1.
        step: u64,
        /// Which.
        what: &'static str,
        /// The peak rate.
        rate: f64,
        /// Where the rows of its batch stood.
        rows: String,
    },
    /// The graph was cut somewhere.
    #[error("{0} got no gradient: the graph is cut, which is a fault of this program")]
    NoGradient(String),
    /// The caller asked to stop.
    #[error("stopped on request")]
    Stopped,
    /// An operation of the tensor library failed.
    #[error("tensor operation: {0}")]
    Candle(#[from] candle_core::Error),
}

impl Trainer {
    /// Makes a trainer that computes on `threads` threads, and on the device that `training` names, opened.
    pub fn new(
        model: Model,
        subject: Subject,
        training: Training,
        threads: usize,
        device: &candle_core::Device,
    ) -> Result<Self, TrainError> {
        training.check()?;
        let context = subject.room(model.config());
        if let Some(asked) = training
            .sequence_len
            .map(|len| len as usize)
            .filter(|len| *len > context)
        {
            return Err(TrainError::Context { asked, context });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("learn-{i}"))
            .stack_size(STACK)
            .build()?;
        let full = |error: candle_core::Error| {
            if is_full(&error) {
                TrainError::TooLarge(training.device)
            } else {
                error.into()
            }
        };
        let model = model.on(device, training.precision).map_err(full)?;
        Ok(Self {
            model,
            subject,
            training,
            pool,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What moves.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// How many tokens of an example the model has room for.
    pub fn context(&self) -> usize {
        self.subject.room(self.model.config())
    }

    /// The settings.
    pub fn training(&self) -> &Training {
        &self.training
    }

    /// The order of the coordinates.
    pub fn flat(&self) -> &Flat {
        match &self.subject {
            Subject::Adapter(adapter) => adapter.flat(),
            Subject::All(flat) => flat,
        }
    }

    /// Where the coordinates start: the adapter's start, or the model's weights.
    pub fn initial(&self) -> Vec<f32> {
        match &self.subject {
            Subject::Adapter(adapter) => adapter.initial(&self.model),
            Subject::All(flat) => {
                let tensors = self.model.tensors();
                let values = flat
                    .slots()
                    .iter()
                    .flat_map(|slot| tensors[&slot.name].values());
                values.copied().collect()
            }
        }
    }

    /// Refuses examples that the model cannot take.
    pub fn admit(&self, examples: &dyn Examples) -> Result<(), TrainError> {
        admit(self.model.config(), self.context(), examples)
    }

    /// Scores examples under a vector; `None` if no token counts.
    pub fn evaluate(
        &self,
        values: &[f32],
        examples: &dyn Examples,
    ) -> Result<Option<Measured>, TrainError> {
        let device = self.model.device();
        let tensors = self.flat().tensors_on(device, values, |_| false);
        let measured = tensors.and_then(|tensors| {
            let moving = self.moving(tensors, None);
            let pool = &self.pool;
            pool.install(|| evaluate(&self.model, &moving, examples))
        });
        measured.map_err(|error| {
            if is_full(&error) {
                TrainError::NoRoom
            } else {
                error.into()
            }
        })
    }

    /// Runs steps from a vector; gives what moves with the run's factor as it ends. `watch` sees each step and may
    /// break off.
    ///
    /// # Panics
    /// If the vector has another length than [`Self::flat`].
    pub fn run(
        &self,
        start: &[f32],
        run: &Run<'_>,
        mut watch: impl FnMut(Step) -> ControlFlow<()>,
    ) -> Result<Vec<f32>, TrainError> {
        let mut steps = Steps::new(self, run, start)?;
        let mut moving = self.flat().layout().gather(run.factor, start);
        while let Some(step) = steps.step(&mut moving)? {
            if watch(step).is_break() {
                return Err(TrainError::Stopped);
            }
        }
        Ok(moving)
    }

    /// Gives the system the memory that runs and evaluations have freed, on this thread and on the trainer's.
    pub fn give_back_memory(&self) {
        self.pool.broadcast(|_| allocator::give_back());
        allocator::give_back();
    }

    /// Computes on the trainer's threads.
    pub(super) fn within<T: Send>(&self, compute: impl FnOnce() -> T + Send) -> T {
        self.pool.install(compute)
    }

    /// What a forward pass takes; a pass of training drops what this seed says.
    pub(super) fn moving(
        &self,
        tensors: BTreeMap<String, candle_core::Tensor>,
        dropout: Option<[u8; 32]>,
    ) -> Moving {
        match &self.subject {
            Subject::Adapter(adapter) => {
                let mut adapter = adapter.bind(&tensors);
                if let MethodTensors::Lora(lora) = &mut adapter.method {
                    let share = self.training.lora_dropout;
                    let dropout = dropout.filter(|_| share > 0.0);
                    lora.dropout = dropout.map(|seed| Dropout::new(share, seed));
                }
                Moving::Adapter(adapter)
            }
            Subject::All(_) => Moving::All(tensors),
        }
    }
}

impl Subject {
    /// The adapter's terms; none where every weight moves.
    pub fn spec(&self) -> Option<&AdapterSpec> {
        match self {
            Self::Adapter(adapter) => Some(adapter.spec()),
            Self::All(_) => None,
        }
    }

    /// How much of a model's context it leaves to texts.
    fn room(&self, config: &Config) -> usize {
        match self {
            Self::Adapter(adapter) => adapter.room(config),
            Self::All(_) => config.context,
        }
    }
}

/// Refuses examples that a model with room for `context` tokens cannot take.
pub fn admit(config: &Config, context: usize, examples: &dyn Examples) -> Result<(), TrainError> {
    let vocabulary = config.vocabulary;
    if examples.count() == 0 {
        return Err(TrainError::NoExamples);
    }
    for index in 0..examples.count() {
        let example = examples.example(index)?;
        if let Some(&token) = example.ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(TrainError::Vocabulary { token, vocabulary });
        }
        if example.ids.len() > context + 1 {
            let asked = example.ids.len();
            return Err(TrainError::Context { asked, context });
        }
    }
    Ok(())
}

/// Deep models make deep graphs, which are walked recursively.
const STACK: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use conclave_protocol::charter::NonLinearity;
    use conclave_protocol::names::Factor;

    use super::*;
    use crate::learn::data::Example;
    use crate::learn::fixture::{adapter, attached, bottleneck, examples, prompt, tiny};

    fn trainer(training: Training, threads: usize) -> Trainer {
        let model = tiny(true);
        let adapter = adapter(2, &model);
        Trainer::new(
            model,
            Subject::Adapter(adapter),
            training,
            threads,
            &candle_core::Device::Cpu,
        )
        .unwrap()
    }

    fn trained(trainer: &Trainer, factor: Factor, steps: u64) -> (Vec<f32>, Vec<f64>) {
        let examples = examples();
        let mut values = trainer.initial();
        let mut losses = Vec::new();
        let run = Run {
            examples: &examples,
            factor,
            steps: 0..steps,
            total: steps,
            seed: [7; 32],
        };
        let watch = |step: Step| {
            losses.push(step.loss);
            ControlFlow::Continue(())
        };
        let moved = trainer.run(&values, &run, watch).unwrap();
        trainer.flat().layout().scatter(factor, &moved, &mut values);
        (values, losses)
    }

    #[test]
    fn the_loss_falls_and_the_same_seed_gives_the_same_bits_at_any_number_of_threads() {
        let one = trained(&trainer(Training::default(), 1), Factor::All, 60);
        let two = trained(&trainer(Training::default(), 2), Factor::All, 60);
        assert_eq!(one, two);
        let (first, last) = (one.1[0], one.1[59]);
        assert!(last < first - 0.5, "from {first} to {last}");
    }

    #[test]
    fn every_tensor_of_every_method_moves_and_the_loss_falls() {
        for method in [bottleneck(4, NonLinearity::Relu), prompt(4)] {
            let trainer = |threads| {
                let model = tiny(true);
                let subject = Subject::Adapter(attached(method.clone(), &model));
                let training = Training {
                    learning_rate: Some(0.02),
                    ..Training::default()
                };
                Trainer::new(model, subject, training, threads, &candle_core::Device::Cpu).unwrap()
            };
            let (one, start) = (trainer(1), trainer(1).initial());
            // The way down moves from the second step on: in the first the way up is nothing.
            let (moved, _) = trained(&one, Factor::All, 2);
            for slot in one.flat().slots() {
                let range = slot.range.clone();
                assert_ne!(moved[range.clone()], start[range], "{}", slot.name);
            }
            let (values, losses) = trained(&one, Factor::All, 60);
            assert_eq!(trained(&trainer(2), Factor::All, 60).0, values);
            let (first, last) = (losses[0], losses[59]);
            assert!(last < first - 0.4, "{method:?}: from {first} to {last}");
        }
    }

    #[test]
    fn a_soft_prompt_takes_room_in_the_context() {
        let model = tiny(true);
        let subject = Subject::Adapter(attached(prompt(100), &model));
        let trainer = Trainer::new(
            model,
            subject,
            Training::default(),
            1,
            &candle_core::Device::Cpu,
        )
        .unwrap();
        assert_eq!(trainer.context(), 28);
        let text = |length: usize| Example {
            ids: vec![2; length],
            scored: (0..length).map(|at| at > 0).collect(),
        };
        let values = trainer.initial();
        let longest = vec![text(29)];
        trainer.admit(&longest).unwrap();
        assert!(trainer.evaluate(&values, &longest).unwrap().is_some());
        let said = trainer.admit(&vec![text(30)]).unwrap_err().to_string();
        assert!(said.contains("28 tokens"), "{said}");
        let model = tiny(true);
        let subject = Subject::Adapter(attached(prompt(100), &model));
        let training = Training {
            sequence_len: Some(64),
            ..Training::default()
        };
        let said =
            Trainer::new(model, subject, training, 1, &candle_core::Device::Cpu).unwrap_err();
        assert!(said.to_string().contains("28 tokens"), "{said}");
    }

    #[test]
    fn one_factor_moves_and_the_other_keeps_its_bits() {
        let trainer = trainer(Training::default(), 1);
        let (values, _) = trained(&trainer, Factor::B, 5);
        let start = trainer.initial();
        for slot in trainer.flat().slots() {
            let moved = values[slot.range.clone()] != start[slot.range.clone()];
            assert_eq!(moved, slot.belongs_to(Factor::B), "{}", slot.name);
        }
    }

    #[test]
    fn accumulated_micro_batches_equal_the_big_batch() {
        let sized = |micro_batch_size, gradient_accumulation_steps| Training {
            micro_batch_size,
            gradient_accumulation_steps,
            ..Training::default()
        };
        let (big, big_losses) = trained(&trainer(sized(8, 1), 1), Factor::All, 10);
        let (small, small_losses) = trained(&trainer(sized(2, 4), 1), Factor::All, 10);
        for (b, s) in big_losses.iter().zip(&small_losses) {
            assert!((b - s).abs() < 1e-4, "{b} at once, {s} accumulated");
        }
        let apart = big
            .iter()
            .zip(&small)
            .map(|(b, s)| (b - s).abs())
            .fold(0.0, f32::max);
        assert!(apart < 1e-2, "{apart}");
    }

    #[test]
    fn every_weight_can_train() {
        let model = tiny(false);
        let tensors = model.tensors().into_iter();
        let flat = Flat::new(tensors.map(|(name, w)| (name, w.shape().to_vec())));
        let trainer = Trainer::new(
            model,
            Subject::All(flat),
            Training::default(),
            1,
            &candle_core::Device::Cpu,
        )
        .unwrap();
        let (values, losses) = trained(&trainer, Factor::All, 60);
        assert!(
            losses[59] < losses[0] * 0.5,
            "from {} to {}",
            losses[0],
            losses[59]
        );
        let measured = trainer.evaluate(&values, &examples()).unwrap().unwrap();
        assert!(
            measured.loss < losses[0] * 0.5 && measured.accuracy > 0.5,
            "{measured:?}"
        );
        let before = trainer
            .evaluate(&trainer.initial(), &examples())
            .unwrap()
            .unwrap();
        let scored = |e: &Example| e.scored.iter().filter(|s| **s).count();
        assert_eq!(
            before.tokens,
            examples().iter().map(scored).sum::<usize>() as u64
        );
    }

    #[test]
    fn tokens_outside_the_vocabulary_and_numbers_that_are_none_are_named() {
        let trainer = trainer(Training::default(), 1);
        let foreign = Example {
            ids: vec![1, 32],
            scored: vec![false, true],
        };
        let error = trainer.admit(&vec![foreign]).unwrap_err().to_string();
        assert!(
            error.contains("token 32") && error.contains("vocabulary of 32"),
            "{error}"
        );
        assert!(matches!(
            trainer.admit(&Vec::new()),
            Err(TrainError::NoExamples)
        ));
        let mut values = trainer.initial();
        values[3] = f32::INFINITY;
        let examples = examples();
        let run = Run {
            examples: &examples,
            factor: Factor::All,
            steps: 4..9,
            total: 9,
            seed: [0; 32],
        };
        let error = trainer
            .run(&values, &run, |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("step 5") && error.contains("not finite"),
            "{error}"
        );
    }
}
