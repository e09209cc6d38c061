//! What is seen while a world lives: a line a round on stdout, and on stderr where it is when that takes long.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use conclave_protocol::names::Height;
use conclave_protocol::sim::{World, timeline};
use indicatif::{ProgressBar, ProgressStyle};

use super::lines;
use super::plan::Plan;
use crate::cli;
use crate::report::number;

/// How often a plain line tells where the world is.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// So many pairs are named, the others counted.
const PAIRS_NAMED: usize = 12;

/// The display.
#[derive(Debug)]
pub(super) struct Show {
    /// Rounds and members of the run.
    of: (u32, u32),
    /// Whether rounds are printed as lines.
    lines: bool,
    /// The rounds that were printed.
    shown: Option<Height>,
    decided: usize,
    bar: Option<ProgressBar>,
    noted: Instant,
}

impl Show {
    /// Says what begins.
    pub(super) fn begin(plan: &Plan, world: &World, json: bool) -> Self {
        if !json {
            cli::print(&opening(plan, world));
        }
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} round {pos} of {len}, {msg}")
                .expect("a literal template");
            let bar = ProgressBar::new(u64::from(plan.rounds)).with_style(style);
            bar.set_message("setting up");
            bar
        });
        Self {
            of: (plan.rounds, plan.members),
            lines: !json,
            shown: None,
            decided: 0,
            bar,
            noted: Instant::now(),
        }
    }

    /// Prints the rounds of which all is known by now.
    pub(super) fn look(&mut self, world: &World) {
        let rounds = timeline::rounds(world);
        self.decided = rounds.len();
        let told = rounds.into_iter().filter(|height| {
            self.shown.is_none_or(|shown| *height > shown) && timeline::told(world, *height)
        });
        for height in told.collect::<Vec<_>>() {
            self.shown = Some(height);
            if let Some(line) = timeline::line(world, height).filter(|_| self.lines) {
                let line = lines::line(&line, self.of.0, self.of.1);
                match &self.bar {
                    Some(bar) => bar.suspend(|| cli::print(&line)),
                    None => cli::print(&line),
                }
            }
        }
        let seconds = world.now().0 / 1000;
        let up = world.up();
        let text = format!("{seconds} virtual seconds, {up} members up");
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(self.decided).unwrap_or(u64::MAX));
            bar.set_message(text);
        } else if self.noted.elapsed() >= PLAIN_EVERY {
            self.noted = Instant::now();
            cli::note(&format!("{} of {} rounds, {text}", self.decided, self.of.0));
        }
    }

    /// How many rounds were decided.
    pub(super) const fn rounds(&self) -> usize {
        self.decided
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The world in a line or two, before anything happens in it.
fn opening(plan: &Plan, world: &World) -> String {
    let faults = world.faults();
    let mut lines = vec![format!("$ {}", plan.command())];
    if !faults.hostile.is_empty() {
        let hostile = faults.hostile.iter();
        let hostile = hostile.map(|(place, script)| format!("{place} ({})", script.name()));
        let hostile: Vec<String> = hostile.collect();
        lines.push(format!("hostile: {}", hostile.join(", ")));
    }
    if !faults.slow.is_empty() {
        let slow = faults.slow.iter();
        let slow = slow.map(|(place, times)| format!("{place} ({times} times)"));
        let slow: Vec<String> = slow.collect();
        lines.push(format!("slower than the others: {}", slow.join(", ")));
    }
    if !faults.apart.is_empty() {
        let pairs = faults.apart.iter().take(PAIRS_NAMED);
        let pairs = pairs.map(|(one, other)| format!("{one}-{other}"));
        let pairs: Vec<String> = pairs.collect();
        let more = if faults.apart.len() > PAIRS_NAMED {
            ", …"
        } else {
            ""
        };
        lines.push(format!(
            "{} cannot reach each other directly: {}{more}",
            number::count(faults.apart.len(), "pair"),
            pairs.join(", ")
        ));
    }
    lines.join("\n")
}
