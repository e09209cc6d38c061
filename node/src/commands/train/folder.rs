//! The folder of a run under way, beside `--out`: `metrics.jsonl` and the checkpoint. The end of the run moves what is
//! worth keeping into `--out`, which appears whole, by rename.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::super::loading::flag;
use crate::learn::checkpoint::{self, Checkpoint, Past};
use crate::learn::export::Output;
use crate::learn::peft::Adapter;
use crate::learn::peft::folder::{self, Base};
use crate::learn::steps::Step;
use crate::report::training;

const METRICS: &str = "metrics.jsonl";
const PLOT: &str = "loss.svg";

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    out: PathBuf,
    metrics: Option<File>,
}

impl Folder {
    /// The folder that belongs to this `--out`. Refuses an `--out` that is taken, and a checkpoint that is there
    /// without `--resume` or is not there with it. Writes nothing.
    pub(super) fn new(out: &Path, resume: bool) -> anyhow::Result<Self> {
        Output::check(out).map_err(|error| flag(format!("--out {error}")))?;
        let name = out.file_name();
        let name = name.map_or_else(|| "out".into(), std::ffi::OsStr::to_string_lossy);
        let path = out.with_file_name(format!(".{name}.training"));
        let (place, there) = (path.display(), path.join(checkpoint::FILE).exists());
        match (resume, there) {
            (true, false) => Err(flag(format!(
                "--resume: there is no checkpoint in {place}; begin without it, with --checkpoint-every"
            ))),
            (false, true) => Err(flag(format!(
                "--out: {place} holds the checkpoint of a run that did not end; go on with --resume, or remove it"
            ))),
            _ => Ok(Self {
                path,
                out: out.to_owned(),
                metrics: None,
            }),
        }
    }

    /// The checkpoint of a run with these settings.
    pub(super) fn checkpoint(&self, settings: &[(String, String)]) -> anyhow::Result<Checkpoint> {
        Ok(Checkpoint::read(&self.path, settings)?)
    }

    /// Makes the folder, and `metrics.jsonl` with what was seen so far.
    pub(super) fn begin(&mut self, past: &Past) -> anyhow::Result<()> {
        let failed = || self.path.display().to_string();
        fs::create_dir_all(&self.path).with_context(failed)?;
        let aside = self.path.join("metrics.new");
        let mut text = String::new();
        for step in &past.steps {
            let scored = past.evals.iter().find(|eval| eval.0 == step.index + 1);
            text.push_str(&line(step, scored.map(|eval| eval.1)));
        }
        let place = self.path.join(METRICS);
        let file = fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &place))
            .and_then(|()| OpenOptions::new().append(true).open(&place));
        self.metrics = Some(file.with_context(failed)?);
        Ok(())
    }

    /// Adds a step to `metrics.jsonl`.
    pub(super) fn note(&mut self, step: &Step, eval_loss: Option<f64>) -> anyhow::Result<()> {
        if let Some(file) = &mut self.metrics {
            let written = file.write_all(line(step, eval_loss).as_bytes());
            written.with_context(|| self.path.join(METRICS).display().to_string())?;
        }
        Ok(())
    }

    /// Writes the checkpoint, in place of the one before.
    pub(super) fn keep(&self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        Ok(checkpoint.write(&self.path)?)
    }

    /// Puts the adapter, the metrics and a plot of the losses into `--out`, and removes this folder.
    pub(super) fn finish(
        self,
        adapter: &Adapter,
        values: &[f32],
        base: Base<'_>,
        past: &Past,
    ) -> anyhow::Result<()> {
        let output = Output::begin(&self.out)?;
        folder::write(output.path(), adapter, values, base)?;
        let failed = || self.out.display().to_string();
        let metrics = fs::copy(self.path.join(METRICS), output.path().join(METRICS));
        metrics.with_context(failed)?;
        let losses: Vec<(u64, f64)> = past.steps.iter().map(|s| (s.index + 1, s.loss)).collect();
        let plot = training::plot(&losses, past.before, &past.evals);
        fs::write(output.path().join(PLOT), plot).with_context(failed)?;
        output.finish()?;
        let _best_effort = fs::remove_dir_all(&self.path);
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "token counts are small")]
fn line(step: &Step, eval_loss: Option<f64>) -> String {
    let line = json!({
        "step": step.index + 1,
        "loss": step.loss,
        "eval_loss": eval_loss,
        "learning_rate": step.rate,
        "gradient_norm": step.gradient_norm,
        "tokens_per_second": step.tokens as f64 / step.time.as_secs_f64(),
    });
    format!("{line}\n")
}
