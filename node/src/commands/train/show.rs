//! What is seen of a run: a bar on a terminal, plain lines elsewhere; on stderr.

use std::cell::Cell;
use std::io::IsTerminal as _;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::cli::note;
use crate::learn::steps::Step;

/// A line for every so many steps, where there is no bar.
const PLAIN_EVERY: u64 = 10;

/// The display.
#[derive(Debug)]
pub(super) struct Show {
    total: u64,
    bar: Option<ProgressBar>,
    seen: Cell<(u64, f64)>,
    eval_loss: Cell<Option<f64>>,
}

impl Show {
    /// A display of so many steps, of which some may be done.
    pub(super) fn start(total: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}");
            let bar = ProgressBar::new(total).with_style(style.expect("a literal template"));
            bar.set_position(done);
            bar
        });
        Self {
            total,
            bar,
            seen: Cell::new((0, 0.0)),
            eval_loss: Cell::new(None),
        }
    }

    /// A step is done.
    pub(super) fn step(&self, step: &Step, eval_loss: Option<f64>) {
        let done = step.index + 1;
        let (count, time) = self.seen.get();
        let (count, time) = (count + 1, time + step.time.as_secs_f64());
        self.seen.set((count, time));
        self.eval_loss
            .set(eval_loss.or_else(|| self.eval_loss.get()));
        #[expect(clippy::cast_precision_loss, reason = "step counts are small")]
        let left = time / count as f64 * self.total.saturating_sub(done) as f64;
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(words(step, self.eval_loss.get(), left));
            }
            None => {
                if done.is_multiple_of(PLAIN_EVERY) || done == self.total || eval_loss.is_some() {
                    let words = words(step, eval_loss, left);
                    note(&format!("step {done}/{}: {words}", self.total));
                }
            }
        }
    }

    /// Leaves the bar as it is.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn words(step: &Step, eval_loss: Option<f64>, left: f64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "token counts are small")]
    let speed = step.tokens as f64 / step.time.as_secs_f64();
    let eval = eval_loss.map_or_else(String::new, |loss| format!(", held-out {loss:.4}"));
    let left = HumanDuration(std::time::Duration::from_secs_f64(left));
    format!(
        "loss {:.4}{eval}, rate {:.1e}, gradient {:.3}, {speed:.0} tokens/s, {left} left",
        step.loss, step.rate, step.gradient_norm
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_tells_all_that_is_known() {
        let step = Step {
            index: 0,
            loss: 2.5,
            rate: 0.005,
            gradient_norm: 0.25,
            tokens: 100,
            time: Duration::from_millis(500),
        };
        assert_eq!(
            words(&step, Some(3.0), 90.0),
            "loss 2.5000, held-out 3.0000, rate 5.0e-3, gradient 0.250, 200 tokens/s, 2 minutes left"
        );
        assert!(words(&step, None, 1.0).starts_with("loss 2.5000, rate"));
    }
}
