//! Optimiser steps, one at a time, from wherever they stood.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use conclave_crypto::digest::Digest;
use conclave_protocol::names::Factor;

use super::batch::Batch;
use super::data::Example;
use super::device::is_full;
use super::draw::{Draw, Drawn};
use super::examples::Examples;
use super::optimise::{AdamW, Moments, clip};
use super::schedule::rate;
use super::trainer::{TrainError, Trainer};

/// A run of steps.
#[derive(Debug)]
pub struct Run<'a> {
    /// What to train on.
    pub examples: &'a dyn Examples,
    /// Which coordinates move.
    pub factor: Factor,
    /// The steps of this run, counted over the whole schedule.
    pub steps: Range<u64>,
    /// The length of the whole schedule.
    pub total: u64,
    /// Draws the batches, and what dropout drops.
    pub seed: [u8; 32],
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Step {
    /// Its index in the schedule.
    pub index: u64,
    /// Mean loss of its scored tokens, before the step.
    pub loss: f64,
    /// The learning rate that it took.
    pub rate: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens of its examples.
    pub tokens: u64,
    /// How long it took.
    pub time: Duration,
}

/// What a run has to remember between two steps, besides the vector itself.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct State {
    /// The next step.
    pub next: u64,
    /// Of the optimiser.
    pub moments: Moments,
    /// Of the stream of batches.
    pub drawn: Drawn,
}

/// A run under way.
#[derive(Debug)]
pub struct Steps<'a> {
    trainer: &'a Trainer,
    run: &'a Run<'a>,
    /// What stands still, made once.
    frozen: BTreeMap<String, Tensor>,
    peak: f64,
    next: u64,
    adam: AdamW,
    draw: Draw<'a>,
    /// How many examples go through the model at once, if the device has room for no more.
    room: usize,
}

impl<'a> Steps<'a> {
    /// Begins a run from a vector, with moments of zero. [`Layout::gather`] gives what moves in it.
    ///
    /// [`Layout::gather`]: conclave_protocol::layout::Layout::gather
    ///
    /// # Panics
    /// If the vector has another length than the trainer's.
    pub fn new(trainer: &'a Trainer, run: &'a Run<'a>, start: &[f32]) -> Result<Self, TrainError> {
        if run.examples.count() == 0 {
            return Err(TrainError::NoExamples);
        }
        let (flat, training) = (trainer.flat(), trainer.training());
        let count = flat.layout().count(run.factor);
        let config = trainer.model().config();
        let packed = training
            .sample_packing
            .then(|| training.length_for(trainer.context()));
        Ok(Self {
            trainer,
            run,
            frozen: flat.frozen(trainer.model().device(), start, run.factor)?,
            peak: training.rate_for(config, trainer.subject()),
            next: run.steps.start,
            adam: AdamW::new(count, training.weight_decay),
            draw: Draw::new(run.examples, run.seed, packed)
                .behind(config.context - trainer.context()),
            room: usize::MAX,
        })
    }

    /// What to remember to go on from here.
    pub fn state(&self) -> State {
        State {
            next: self.next,
            moments: self.adam.moments().clone(),
            drawn: self.draw.drawn(),
        }
    }

    /// Goes on from what another run with the same settings remembered; `false` if it cannot have been the same.
    pub fn resume(&mut self, state: State) -> bool {
        let within = (self.run.steps.start..=self.run.steps.end).contains(&state.next);
        self.next = state.next;
        within && self.adam.resume(state.moments) && self.draw.resume(&state.drawn)
    }

    /// Takes the next step on the moving coordinates in place; `None` once all are done.
    pub fn step(&mut self, moving: &mut [f32]) -> Result<Option<Step>, TrainError> {
        if self.next >= self.run.steps.end {
            return Ok(None);
        }
        let (start, index, training) = (Instant::now(), self.next, self.trainer.training());
        let drawn: Vec<Vec<usize>> = (0..training.gradient_accumulation_steps)
            .map(|_| {
                (0..training.micro_batch_size)
                    .flat_map(|_| self.draw.row())
                    .collect()
            })
            .collect();
        let mut gradient = vec![0.0; moving.len()];
        let (loss, tokens) = self.gradient(moving, &drawn, &mut gradient)?;
        let gradient_norm = clip(&mut gradient, training.max_grad_norm);
        if !gradient_norm.is_finite() {
            return Err(self.not_finite("gradient", &drawn.concat()));
        }
        let (how, warmup) = (training.lr_scheduler, training.warmup_ratio);
        let rate = rate(how, self.peak, warmup, index, self.run.total);
        self.adam.step(moving, &gradient, rate);
        self.next += 1;
        Ok(Some(Step {
            index,
            loss,
            rate,
            gradient_norm,
            tokens,
            time: start.elapsed(),
        }))
    }

    /// The mean loss of the drawn examples, their tokens, and the gradient: micro-batch by micro-batch, each weighted
    /// by its scored tokens, so that accumulation gives what one large batch would.
    fn gradient(
        &mut self,
        moving: &[f32],
        drawn: &[Vec<usize>],
        sum: &mut [f32],
    ) -> Result<(f64, u64), TrainError> {
        let all: Vec<Cow<'_, Example>> = drawn
            .iter()
            .flatten()
            .map(|i| self.run.examples.example(*i))
            .collect::<Result<_, _>>()?;
        let tokens = all.iter().map(|example| example.ids.len() as u64).sum();
        let scored = Batch::pack(all.iter().map(AsRef::as_ref)).scored();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "token counts are far below 2^53; the graph computes in f32"
        )]
        let (count, weight) = (scored as f64, (1.0 / scored as f64) as f32);
        let (trainer, factor) = (self.trainer, self.run.factor);
        let (flat, device) = (trainer.flat(), trainer.model().device());
        let mut tensors = self.frozen.clone();
        tensors.extend(flat.moving(device, moving, factor)?);
        let mut nats = 0.0;
        let mut rest = all.as_slice();
        for (micro, numbers) in drawn.iter().enumerate() {
            let (examples, others) = rest.split_at(numbers.len());
            rest = others;
            let seed = |from| dropout_seed(self.run.seed, [self.next, micro as u64, from]);
            nats += in_parts(examples, &mut self.room, |from, part| {
                let moving = trainer.moving(tensors.clone(), Some(seed(from)));
                let batch = Batch::pack(part.iter().map(AsRef::as_ref));
                let (gradient, score) = trainer.within(|| {
                    let again = trainer.training().gradient_checkpointing;
                    trainer.model().gradient(&batch, &moving, weight, again)
                })?;
                if !score.nats.is_finite() {
                    return Ok(f64::NAN);
                }
                match flat.add_gradients(&tensors, &gradient, sum)? {
                    Some(name) => Err(TrainError::NoGradient(name)),
                    None => Ok(score.nats),
                }
            })?;
            if !nats.is_finite() {
                return Err(self.not_finite("loss", numbers));
            }
        }
        Ok((nats / count, tokens))
    }

    fn not_finite(&self, what: &'static str, numbers: &[usize]) -> TrainError {
        let places = numbers.iter().take(ROWS_NAMED);
        let mut rows: Vec<String> = places.map(|i| self.run.examples.place(*i)).collect();
        if numbers.len() > ROWS_NAMED {
            rows.push(format!("{} more", numbers.len() - ROWS_NAMED));
        }
        TrainError::NotFinite {
            step: self.next + 1,
            what,
            rate: self.peak,
            rows: rows.join(", "),
        }
    }
}

/// The sum of what `score` gives for the examples (the number of the first, and these), at most `room` at a time: half
/// as many, from then on, where the device's memory is full with more than one.
fn in_parts<T>(
    examples: &[T],
    room: &mut usize,
    mut score: impl FnMut(u64, &[T]) -> Result<f64, TrainError>,
) -> Result<f64, TrainError> {
    let (mut sum, mut rest) = (0.0, examples);
    while !rest.is_empty() {
        let (part, others) = rest.split_at(rest.len().min(*room));
        match score((examples.len() - rest.len()) as u64, part) {
            Ok(nats) => {
                sum += nats;
                rest = others;
            }
            Err(TrainError::Candle(error)) if is_full(&error) => {
                if part.len() == 1 {
                    return Err(TrainError::NoRoom);
                }
                *room = part.len().div_ceil(2);
                tracing::warn!(
                    "the device's memory is full with {} examples at once: going on with {room}; a smaller \
                     micro_batch_size with more gradient_accumulation_steps avoids the first try",
                    part.len(),
                );
            }
            Err(other) => return Err(other),
        }
    }
    Ok(sum)
}

/// Of what a part of a batch drops, by step, micro-batch and first example: the same in every run of the same seed.
fn dropout_seed(run: [u8; 32], part: [u64; 3]) -> [u8; 32] {
    let [step, micro, from] = part.map(u64::to_le_bytes);
    *Digest::of("conclave/v1/dropout", &[&run, &step, &micro, &from]).as_bytes()
}

const ROWS_NAMED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::data::Example;
    use crate::learn::fixture::{adapter, bert, examples, tiny};
    use crate::learn::trainer::Subject;
    use crate::learn::training::Training;

    fn trainer(training: Training) -> Trainer {
        let model = tiny(true);
        let adapter = adapter(2, &model);
        Trainer::new(
            model,
            Subject::Adapter(adapter),
            training,
            1,
            &candle_core::Device::Cpu,
        )
        .unwrap()
    }

    /// A run of these steps, which end the schedule.
    fn run(examples: &dyn Examples, steps: Range<u64>) -> Run<'_> {
        Run {
            examples,
            factor: Factor::All,
            total: steps.end,
            steps,
            seed: [7; 32],
        }
    }

    #[test]
    fn a_run_goes_on_bit_for_bit_from_whatever_was_remembered() {
        for (sample_packing, lora_dropout) in [(false, 0.0), (true, 0.0), (false, 0.25)] {
            let training = Training {
                micro_batch_size: 3,
                gradient_accumulation_steps: 2,
                sample_packing,
                lora_dropout,
                ..Training::default()
            };
            let (trainer, examples) = (trainer(training), examples());
            let run = run(&examples, 0..14);
            let mut values = trainer.initial();
            let mut steps = Steps::new(&trainer, &run, &trainer.initial()).unwrap();
            let mut remembered = Vec::new();
            let mut losses = Vec::new();
            loop {
                remembered.push((steps.state(), values.clone()));
                let Some(step) = steps.step(&mut values).unwrap() else {
                    break;
                };
                losses.push((step.loss.to_bits(), step.gradient_norm.to_bits()));
            }
            assert_eq!(losses.len(), 14);
            for (at, (state, mut from)) in remembered.into_iter().enumerate().step_by(5) {
                let mut steps = Steps::new(&trainer, &run, &trainer.initial()).unwrap();
                assert!(steps.resume(state));
                let mut rest = Vec::new();
                while let Some(step) = steps.step(&mut from).unwrap() {
                    rest.push((step.loss.to_bits(), step.gradient_norm.to_bits()));
                }
                assert_eq!(rest, losses[at..], "from step {at}");
                assert_eq!(from, values, "from step {at}");
            }
        }
    }

    #[test]
    fn what_another_run_remembered_is_refused() {
        let (trainer, examples) = (trainer(Training::default()), examples());
        let (long, short) = (run(&examples, 0..9), run(&examples, 4..9));
        let start = trainer.initial();
        let state = Steps::new(&trainer, &long, &start).unwrap().state();
        assert!(
            Steps::new(&trainer, &long, &start)
                .unwrap()
                .resume(state.clone())
        );
        assert!(
            !Steps::new(&trainer, &short, &start)
                .unwrap()
                .resume(state.clone())
        );
        let mut cut = state;
        cut.moments.first.pop();
        assert!(!Steps::new(&trainer, &long, &start).unwrap().resume(cut));
    }

    #[test]
    fn numbers_that_are_none_name_the_step_and_the_rows() {
        let (trainer, examples) = (trainer(Training::default()), examples());
        let run = run(&examples, 4..9);
        let mut values = trainer.initial();
        values[3] = f32::INFINITY;
        let error = Steps::new(&trainer, &run, &trainer.initial())
            .unwrap()
            .step(&mut values);
        let said = error.unwrap_err().to_string();
        let first = Draw::new(&examples, [7; 32], None).row()[0];
        for words in ["step 5", "loss is not finite", &examples.place(first)] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    #[test]
    fn where_the_memory_is_full_halves_give_the_same_sum_and_stay_halves() {
        let full = || candle_core::Error::Cuda("CUDA_ERROR_OUT_OF_MEMORY".into());
        let (mut room, mut asked) = (usize::MAX, Vec::new());
        for _ in 0..2 {
            let sum = in_parts(&[1.0, 2.0, 4.0, 8.0, 16.0], &mut room, |from, part| {
                asked.push((from, part.len()));
                if part.len() > 2 {
                    return Err(TrainError::Candle(full()));
                }
                Ok(part.iter().sum())
            });
            assert!((sum.unwrap() - 31.0).abs() < 1e-12);
        }
        let parts = [(0, 2), (2, 2), (4, 1)];
        assert_eq!(asked[..2], [(0, 5), (0, 3)]);
        assert_eq!(asked[2..], [parts, parts].concat());
        let none = in_parts(&[1, 2], &mut room, |_, _| Err(TrainError::Candle(full())));
        let said = none.unwrap_err().to_string();
        assert!(said.contains("too small for one row"), "{said}");
    }

    #[test]
    fn rows_in_parts_give_the_gradient_of_all_at_once() {
        let examples = examples();
        let [whole, parts] = [usize::MAX, 3].map(|room| {
            let trainer = trainer(Training::default());
            let run = run(&examples, 0..3);
            let mut steps = Steps::new(&trainer, &run, &trainer.initial()).unwrap();
            steps.room = room;
            let mut values = trainer.initial();
            let mut losses = Vec::new();
            while let Some(step) = steps.step(&mut values).unwrap() {
                losses.push(step.loss);
            }
            losses
        });
        for (whole, part) in whole.iter().zip(&parts) {
            assert!((whole - part).abs() < 1e-5, "{whole} and {part}");
        }
    }

    #[test]
    fn an_encoder_learns_to_tell_labels_apart() {
        let make = |i: u32| {
            let label = i % 3;
            let mut ids: Vec<u32> = (0..5 + i % 4).map(|j| 3 + (i * 5 + j * 7) % 20).collect();
            ids[1 + i as usize % 3] = 24 + label;
            let mut scored = vec![false; ids.len()];
            ids.push(label);
            scored.push(true);
            Example { ids, scored }
        };
        let examples: Vec<Example> = (0..60).map(make).collect();
        let model = bert(false);
        let adapter = adapter(4, &model);
        let training = Training::default();
        let trainer = Trainer::new(
            model,
            Subject::Adapter(adapter),
            training,
            1,
            &candle_core::Device::Cpu,
        )
        .unwrap();
        let mut values = trainer.initial();
        let before = trainer.evaluate(&values, &examples).unwrap().unwrap();
        assert!((before.loss - 3.0f64.ln()).abs() < 0.1, "{}", before.loss);
        let run = run(&examples, 0..150);
        let mut steps = Steps::new(&trainer, &run, &trainer.initial()).unwrap();
        while steps.step(&mut values).unwrap().is_some() {}
        let after = trainer.evaluate(&values, &examples).unwrap().unwrap();
        assert!(
            after.loss < 0.8 && after.accuracy > 0.6,
            "{} and {}",
            after.loss,
            after.accuracy
        );
    }
}
