//! The learning rate over the steps of all rounds.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Along half a cosine to zero.
    #[default]
    Cosine,
    /// Along a line to zero.
    Linear,
    /// Not at all.
    Constant,
}

/// The rate of a step, counted from 0, of `total`: a linear rise over the first `warmup` share, then the fall.
pub fn rate(scheduler: Scheduler, peak: f64, warmup: f64, step: u64, total: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "steps are far below 2^53 and not negative"
    )]
    let (rise, step, total) = (
        (warmup * total as f64).ceil() as u64 as f64,
        step as f64,
        total as f64,
    );
    if step < rise {
        return peak * (step + 1.0) / rise;
    }
    let gone = ((step - rise) / (total - rise).max(1.0)).min(1.0);
    match scheduler {
        Scheduler::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * gone).cos()),
        Scheduler::Linear => peak * (1.0 - gone),
        Scheduler::Constant => peak,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_almost_nothing() {
        let at = |step| rate(Scheduler::Cosine, 1.0, 0.03, step, 120);
        assert!((at(0) - 0.25).abs() < 1e-12);
        assert!((at(3) - 1.0).abs() < 1e-12);
        assert!((at(4) - 1.0).abs() < 1e-12);
        assert!((at(62) - 0.5).abs() < 1e-12);
        assert!(at(119) > 0.0 && at(119) < 1e-3);
        assert!((rate(Scheduler::Linear, 2.0, 0.0, 5, 10) - 1.0).abs() < 1e-12);
        assert!((rate(Scheduler::Constant, 2.0, 0.0, 9, 10) - 2.0).abs() < 1e-12);
        assert!(rate(Scheduler::Cosine, 1.0, 0.03, 0, 1) > 0.0);
    }
}
