//! What is seen while it runs: a bar a node on a terminal, plain lines elsewhere. All of it on stderr.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use super::view::View;
use crate::cli;

/// How often a plain line tells where everybody is.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The display.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    names: Vec<String>,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bars(MultiProgress, Vec<ProgressBar>),
    Lines { last: Option<Instant>, text: String },
}

impl Progress {
    /// A display for these nodes.
    pub fn start(names: Vec<String>, rounds: u32, local_steps: u32) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{prefix:>24!} {bar:24} {msg}")
                .expect("a literal template");
            let steps = u64::from(rounds) * u64::from(local_steps);
            let bar = |name: &String| {
                let bar = all.add(ProgressBar::new(steps).with_style(style.clone()));
                bar.set_prefix(name.clone());
                bar.set_message("starting");
                bar
            };
            let bars = names.iter().map(bar).collect();
            Shown::Bars(all, bars)
        } else {
            Shown::Lines {
                last: None,
                text: String::new(),
            }
        };
        Self {
            started: Instant::now(),
            names,
            shown,
        }
    }

    /// A node said something new.
    pub fn seen(&self, node: usize, view: &View, local_steps: u32) {
        if let Shown::Bars(_, bars) = &self.shown {
            let before = u64::from(view.round.saturating_sub(1)) * u64::from(local_steps);
            let now = view.progress.map_or(0, |progress| u64::from(progress.done));
            bars[node].set_position(if view.finished {
                u64::MAX
            } else {
                before + now
            });
            bars[node].set_message(line(view));
        }
    }

    /// A node is no more.
    pub fn gone(&self, node: usize, why: &str) {
        if let Shown::Bars(_, bars) = &self.shown {
            bars[node].abandon_with_message(why.to_owned());
        }
    }

    /// Now and then, where everybody is; only where there are no bars.
    pub fn tell_all(&mut self, views: &[Option<View>]) {
        let Shown::Lines { last, text } = &mut self.shown else {
            return;
        };
        if last.is_some_and(|last| last.elapsed() < PLAIN_EVERY) {
            return;
        }
        let said = |(name, view): (&String, &Option<View>)| {
            view.as_ref().map(|view| format!("{name}: {}", line(view)))
        };
        let now: Vec<String> = self.names.iter().zip(views).filter_map(said).collect();
        let now = now.join(" | ");
        if !now.is_empty() && now != *text {
            cli::note(&format!(
                "[{:6.1} s] {now}",
                self.started.elapsed().as_secs_f64()
            ));
            *last = Some(Instant::now());
            *text = now;
        }
    }

    /// A sentence above the bars.
    pub fn say(&self, sentence: &str) {
        let sentence = format!(
            "[{:6.1} s] {sentence}",
            self.started.elapsed().as_secs_f64()
        );
        match &self.shown {
            Shown::Bars(all, _) => all.suspend(|| cli::note(&sentence)),
            Shown::Lines { .. } => cli::note(&sentence),
        }
    }

    /// Leaves the bars as they are.
    pub fn finish(&self) {
        if let Shown::Bars(_, bars) = &self.shown {
            for bar in bars {
                bar.abandon();
            }
        }
    }
}

/// Where a node is.
fn line(view: &View) -> String {
    let sent = HumanBytes(view.bytes_sent);
    let held_out = view.eval_after().or_else(|| view.eval_before());
    let held_out = held_out.and_then(|eval| eval.loss);
    let held_out = held_out.map_or_else(String::new, |loss| format!(", held-out {loss:.3}"));
    let training = match view.progress {
        Some(progress) if view.phase == "train" => {
            let loss = progress
                .loss
                .map_or_else(String::new, |loss| format!(" loss {loss:.3}"));
            format!(" {}/{}{loss}", progress.done, progress.of)
        }
        _ => String::new(),
    };
    if view.finished {
        return format!("finished{held_out}");
    }
    format!(
        "round {} {}{training}{held_out}, sent {sent}",
        view.round, view.phase
    )
}
