//! Optimiser steps, one at a time, from wherever they stood.

use std::ops::Range;
use std::time::{Duration, Instant};

use conclave_crypto::digest::Digest;
use conclave_protocol::names::Factor;

use super::batch::Batch;
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
    ranges: Vec<Range<usize>>,
    peak: f64,
    next: u64,
    adam: AdamW,
    draw: Draw<'a>,
}

impl<'a> Steps<'a> {
    /// Begins a run, with moments of zero.
    pub fn new(trainer: &'a Trainer, run: &'a Run<'a>) -> Result<Self, TrainError> {
        if run.examples.count() == 0 {
            return Err(TrainError::NoExamples);
        }
        let (flat, training) = (trainer.flat(), trainer.training());
        let slots = flat.slots().iter();
        let moving = slots.filter(|slot| slot.belongs_to(run.factor));
        let ranges = moving.map(|slot| slot.range.clone()).collect();
        let config = trainer.model().config();
        let packed = training
            .sample_packing
            .then(|| training.length_for(trainer.context()));
        Ok(Self {
            trainer,
            run,
            ranges,
            peak: training.rate_for(config, trainer.subject()),
            next: run.steps.start,
            adam: AdamW::new(flat.len(), training.weight_decay),
            draw: Draw::new(run.examples, run.seed, packed)
                .behind(config.context - trainer.context()),
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

    /// Takes the next step on the vector in place; `None` once all are done.
    pub fn step(&mut self, values: &mut [f32]) -> Result<Option<Step>, TrainError> {
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
        let mut gradient = vec![0.0; values.len()];
        let (loss, tokens) = self.gradient(values, &drawn, &mut gradient)?;
        let gradient_norm = clip(&mut gradient, training.max_grad_norm);
        if !gradient_norm.is_finite() {
            return Err(self.not_finite("gradient", &drawn.concat()));
        }
        let (how, warmup) = (training.lr_scheduler, training.warmup_ratio);
        let rate = rate(how, self.peak, warmup, index, self.run.total);
        self.adam.step(values, &gradient, &self.ranges, rate);
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
        &self,
        values: &[f32],
        drawn: &[Vec<usize>],
        sum: &mut [f32],
    ) -> Result<(f64, u64), TrainError> {
        let mut tokens = 0;
        let mut batches = Vec::with_capacity(drawn.len());
        for numbers in drawn {
            let examples = numbers.iter().map(|i| self.run.examples.example(*i));
            let examples: Vec<_> = examples.collect::<Result<_, _>>()?;
            tokens += examples
                .iter()
                .map(|example| example.ids.len() as u64)
                .sum::<u64>();
            batches.push(Batch::pack(examples.iter().map(AsRef::as_ref)));
        }
        let scored: usize = batches.iter().map(Batch::scored).sum();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "token counts are far below 2^53; the graph computes in f32"
        )]
        let (count, weight) = (scored as f64, (1.0 / scored as f64) as f32);
        let (trainer, flat) = (self.trainer, self.trainer.flat());
        let tensors = flat.tensors(values, |slot| slot.belongs_to(self.run.factor))?;
        let mut nats = 0.0;
        for (micro, (batch, numbers)) in batches.iter().zip(drawn).enumerate() {
            let moving = trainer.moving(tensors.clone(), Some(self.dropout_seed(micro)));
            let loss = trainer.within(|| -> Result<f64, TrainError> {
                let again = trainer.training().gradient_checkpointing;
                let model = trainer.model();
                let (gradient, score) = model.gradient(batch, &moving, weight, again)?;
                if !score.nats.is_finite() {
                    return Err(self.not_finite("loss", numbers));
                }
                match flat.add_gradients(&tensors, &gradient, sum)? {
                    Some(name) => Err(TrainError::NoGradient(name)),
                    None => Ok(score.nats),
                }
            });
            nats += loss?;
        }
        Ok((nats / count, tokens))
    }

    /// Of what this micro-batch drops: the same in every run of the same seed.
    fn dropout_seed(&self, micro: usize) -> [u8; 32] {
        let (step, micro) = (self.next.to_le_bytes(), (micro as u64).to_le_bytes());
        *Digest::of("conclave/v1/dropout", &[&self.run.seed, &step, &micro]).as_bytes()
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
        Trainer::new(model, Subject::Adapter(adapter), training, 1).unwrap()
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
            let mut steps = Steps::new(&trainer, &run).unwrap();
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
                let mut steps = Steps::new(&trainer, &run).unwrap();
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
        let state = Steps::new(&trainer, &long).unwrap().state();
        assert!(Steps::new(&trainer, &long).unwrap().resume(state.clone()));
        assert!(!Steps::new(&trainer, &short).unwrap().resume(state.clone()));
        let mut cut = state;
        cut.moments.first.pop();
        assert!(!Steps::new(&trainer, &long).unwrap().resume(cut));
    }

    #[test]
    fn numbers_that_are_none_name_the_step_and_the_rows() {
        let (trainer, examples) = (trainer(Training::default()), examples());
        let run = run(&examples, 4..9);
        let mut values = trainer.initial();
        values[3] = f32::INFINITY;
        let error = Steps::new(&trainer, &run).unwrap().step(&mut values);
        let said = error.unwrap_err().to_string();
        let first = Draw::new(&examples, [7; 32], None).row()[0];
        for words in ["step 5", "loss is not finite", &examples.place(first)] {
            assert!(said.contains(words), "{words}: {said}");
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
        let trainer = Trainer::new(model, Subject::Adapter(adapter), training, 1).unwrap();
        let mut values = trainer.initial();
        let before = trainer.evaluate(&values, &examples).unwrap().unwrap();
        assert!((before.loss - 3.0f64.ln()).abs() < 0.1, "{}", before.loss);
        let run = run(&examples, 0..150);
        let mut steps = Steps::new(&trainer, &run).unwrap();
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
