//! The way of one run: steps, held-out losses, the best vector, checkpoints; from the start or from a checkpoint.

use anyhow::Context as _;

use super::folder::Folder;
use super::show::Show;
use crate::learn::checkpoint::{Best, Checkpoint, Past};
use crate::learn::examples::Examples;
use crate::learn::steps::{Run, Steps};
use crate::learn::trainer::Trainer;

/// What happens between the steps.
#[derive(Debug)]
pub(super) struct Course<'a> {
    /// The trainer.
    pub(super) trainer: &'a Trainer,
    /// The steps.
    pub(super) run: &'a Run<'a>,
    /// Rows that score; may be empty.
    pub(super) held_out: &'a dyn Examples,
    /// Score after every so many steps, and keep the best vector.
    pub(super) eval_every: Option<u64>,
    /// Stop after so many scores in a row that were no better.
    pub(super) patience: Option<u32>,
    /// Write a checkpoint after every so many steps.
    pub(super) checkpoint_every: Option<u64>,
    /// Everything that the bits depend on.
    pub(super) settings: Vec<(String, String)>,
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The vector to keep.
    pub(super) values: Vec<f32>,
    /// After how many steps it stood so.
    pub(super) kept: u64,
    /// Its held-out loss.
    pub(super) after: Option<f64>,
    /// Everything that was seen.
    pub(super) past: Past,
}

impl Course<'_> {
    /// Runs to the end, from a checkpoint if one is given.
    pub(super) fn run(
        &self,
        from: Option<Checkpoint>,
        folder: Option<&mut Folder>,
        show: &Show,
    ) -> anyhow::Result<Ended> {
        let mut folder = folder;
        let (mut values, past, state) = match from {
            Some(Checkpoint {
                values,
                past,
                state,
                ..
            }) => (values, Some(past), Some(state)),
            None => (self.trainer.initial(), None, None),
        };
        let other = "the checkpoint belongs to another run; begin anew in another --out";
        anyhow::ensure!(values.len() == self.trainer.flat().len(), other);
        let mut steps = Steps::new(self.trainer, self.run, &values)?;
        anyhow::ensure!(state.is_none_or(|state| steps.resume(state)), other);
        let mut past = match past {
            Some(past) => past,
            None => Past {
                before: self.score(&values)?,
                ..Past::default()
            },
        };
        if let Some(folder) = &mut folder {
            folder.begin(&past)?;
        }
        while self.patience.is_none_or(|patience| past.stale < patience) {
            let Some(step) = steps.step(&mut values)? else {
                break;
            };
            past.steps.push(step);
            let done = step.index + 1;
            let due = |every: Option<u64>| every.is_some_and(|every| done.is_multiple_of(every));
            let last = done == self.run.steps.end;
            let scores = self.eval_every.is_some() && (last || due(self.eval_every));
            let loss = if scores { self.score(&values)? } else { None };
            if let Some(loss) = loss {
                past.note(done, loss, &values);
            }
            show.step(&step, loss);
            if let Some(folder) = &mut folder {
                folder.note(&step, loss)?;
                if due(self.checkpoint_every) && !last {
                    let checkpoint = Checkpoint {
                        settings: self.settings.clone(),
                        values: values.clone(),
                        state: steps.state(),
                        past: past.clone(),
                    };
                    folder.keep(&checkpoint)?;
                }
            }
        }
        self.end(values, past)
    }

    fn end(&self, values: Vec<f32>, mut past: Past) -> anyhow::Result<Ended> {
        let done = past.steps.len() as u64;
        if let Some(best) = past.best.take() {
            return Ok(Ended {
                values: best.values,
                kept: best.step,
                after: Some(best.loss),
                past,
            });
        }
        let after = self.score(&values)?;
        Ok(Ended {
            values,
            kept: done,
            after,
            past,
        })
    }

    fn score(&self, values: &[f32]) -> anyhow::Result<Option<f64>> {
        let measured = self.trainer.evaluate(values, self.held_out);
        let measured = measured.context("the held-out rows could not be scored")?;
        Ok(measured.map(|measured| measured.loss))
    }
}

impl Past {
    /// Takes in a held-out loss.
    fn note(&mut self, step: u64, loss: f64, values: &[f32]) {
        self.evals.push((step, loss));
        if self.best.as_ref().is_some_and(|best| loss >= best.loss) {
            self.stale += 1;
            return;
        }
        self.stale = 0;
        let values = values.to_vec();
        self.best = Some(Best { loss, step, values });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_kept_and_the_stale_are_counted() {
        let mut past = Past::default();
        for (step, loss) in [(10, 3.0), (20, 2.0), (30, 2.0), (40, 2.5)] {
            past.note(step, loss, &[f32::from(u8::try_from(step).unwrap())]);
        }
        let best = past.best.as_ref().unwrap();
        assert_eq!(
            (best.step, &best.values[..], past.stale),
            (20, &[20.0][..], 2)
        );
        past.note(50, 1.0, &[1.0]);
        assert_eq!((past.stale, past.evals.len()), (0, 5));
    }
}
