//! What a simulation amounts to: numbers, the verdict, and the same as JSON and as a drawing.

use std::time::Duration;

use conclave_crypto::digest::Digest;
use conclave_protocol::sim::{Way, World, timeline};
use serde_json::{Value, json};

use super::plan::Plan;
use super::violations;
use crate::report::churn::{Churn, Column};
use crate::report::number;

/// The account of a run.
#[derive(Debug)]
pub(super) struct Account {
    command: String,
    seed: u64,
    members: u32,
    quorum: u32,
    hostile: usize,
    rounds: u32,
    opened: usize,
    null: usize,
    agreed: bool,
    violations: Vec<String>,
    crashes: usize,
    cuts: usize,
    broken_links: usize,
    virtual_ms: u64,
    wall: Duration,
    bytes_p50: u64,
    bytes_max: u64,
    messages: u64,
    digest: Digest,
}

impl Account {
    /// Judges a world that has ended, or has got stuck for a reason.
    pub(super) fn of(plan: &Plan, world: &World, stuck: Option<String>, wall: Duration) -> Self {
        let watch = world.watch();
        let mut violations = violations(world);
        violations.extend(stuck.map(|why| format!("liveness is broken: {why}")));
        let lines: Vec<_> = timeline::rounds(world)
            .into_iter()
            .filter_map(|height| timeline::line(world, height))
            .collect();
        let opened = lines
            .iter()
            .filter(|line| line.outcome == timeline::Outcome::Opened)
            .count();
        let all = 0..plan.size();
        let honest = all.filter(|place| !world.is_hostile(*place));
        let mut ends = honest.map(|place| watch.finished.get(&place));
        let first = ends.next().flatten();
        let moved = world.tally().bytes_by_place(plan.size());
        Self {
            command: plan.command(),
            seed: plan.seed,
            members: plan.members,
            quorum: plan.quorum(),
            hostile: plan.hostile(),
            rounds: plan.rounds,
            opened,
            null: lines.len() - opened,
            agreed: first.is_some() && ends.all(|end| end == first),
            violations,
            crashes: watch.diary.crashes(),
            cuts: watch.diary.cuts.len(),
            broken_links: watch.diary.breaks.len(),
            virtual_ms: world.now().0,
            wall,
            bytes_p50: moved.get(moved.len() / 2).copied().unwrap_or(0),
            bytes_max: moved.last().copied().unwrap_or(0),
            messages: world.tally().total(Way::Sent).messages,
            digest: watch.trace,
        }
    }

    /// The object of `--json`: keys and order are part of the interface.
    pub(super) fn json(&self) -> Value {
        json!({
            "members": self.members,
            "rounds": self.rounds,
            "rounds_opened": self.opened,
            "rounds_null": self.null,
            "agreed": self.agreed,
            "invariant_violations": self.violations,
            "virtual_seconds": self.virtual_seconds(),
            "wall_seconds": self.wall.as_secs_f64(),
            "bytes_per_member_p50": self.bytes_p50,
            "bytes_per_member_max": self.bytes_max,
            "messages": self.messages,
            "digest": self.digest.to_string(),
        })
    }

    /// The last lines for people.
    pub(super) fn summary(&self) -> String {
        let agreement = if self.agreed {
            let who = if self.hostile > 0 {
                "honest members"
            } else {
                "members"
            };
            let count = usize::try_from(self.members).unwrap_or(usize::MAX) - self.hostile;
            format!("all {count} {who} hold one adapter and one ledger")
        } else {
            "the honest members do not hold one adapter and one ledger".to_owned()
        };
        let promises = if self.violations.is_empty() {
            "nothing promised was broken".to_owned()
        } else {
            number::count(self.violations.len(), "broken promise")
        };
        format!(
            "\n{}: {} opened, {} null; {agreement}; {promises}.\n\
             A record needs {} of {} members: up to {} may be away at once. Here {} happened.\n\
             {} passed in {}; a member moved {} (median) to {} (most), all together sent {} messages.\n\
             Digest of all that was said and stored: {}",
            number::count(usize::try_from(self.rounds).unwrap_or(usize::MAX), "round"),
            self.opened,
            self.null,
            self.quorum,
            self.members,
            self.members - self.quorum,
            self.happened(),
            number::seconds(self.virtual_seconds()),
            number::seconds(self.wall.as_secs_f64()),
            number::bytes(self.bytes_p50),
            number::bytes(self.bytes_max),
            number::grouped(self.messages),
            self.digest,
        )
    }

    /// What went wrong, counted.
    fn happened(&self) -> String {
        let crashes = number::count_of(self.crashes, "crash", "crashes");
        let cuts = number::count(self.cuts, "cut");
        if self.broken_links == 0 {
            return format!("{crashes} and {cuts}");
        }
        let links = number::count(self.broken_links, "broken link");
        format!("{crashes}, {cuts} and {links}")
    }

    /// Fails with one sentence and the command that shows the same again, unless all is well.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        let wrong = match self.violations.first() {
            Some(first) => first.clone(),
            None if !self.agreed => "the members do not agree in the end".to_owned(),
            None => return Ok(()),
        };
        anyhow::bail!(
            "seed {}: {wrong}\nreplay it with: {}",
            self.seed,
            self.command
        )
    }

    /// What the drawing shows.
    pub(super) fn churn(&self, world: &World) -> Churn {
        let columns = timeline::rounds(world)
            .into_iter()
            .filter_map(|height| timeline::line(world, height))
            .map(|line| Column {
                round: line.round.0,
                opened: line.outcome == timeline::Outcome::Opened,
                word: line.outcome.word(),
                counted: line.counted.len(),
                out: timeline::Why::ALL.map(|why| line.out.get(&why).map_or(0, Vec::len)),
                bytes: line.bytes / u64::from(self.members),
            });
        Churn {
            command: self.command.clone(),
            members: self.members,
            quorum: self.quorum,
            columns: columns.collect(),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a simulation lasts less than 2^52 milliseconds"
    )]
    fn virtual_seconds(&self) -> f64 {
        self.virtual_ms as f64 / 1000.0
    }
}
