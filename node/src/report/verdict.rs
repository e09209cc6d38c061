//! What a run showed, in sentences that promise no more than the numbers do.

use std::collections::BTreeSet;

use super::{MemberStatus, RoundOutcome, RunReport, number};

/// What came of a run: whether the nodes agree, and whether it was worth it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all living nodes hold the same adapter and ledger.
    pub agreed: bool,
    /// Where the losses stand to each other.
    pub ranking: Ranking,
    /// Who holds what.
    pub agreement: String,
    /// What became of the held-out loss.
    pub learning: String,
    /// What became of the rounds.
    pub rounds: String,
}

/// Where the held-out losses before, after and alone stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// Federating beats training alone, which the run set out to show.
    Best,
    /// The loss fell, but a node alone gets as low or lower.
    BelowBefore,
    /// The loss fell; nobody trained alone to compare.
    Uncompared,
    /// The loss did not fall.
    NotBelow,
    /// It was not measured.
    Unknown,
}

impl Ranking {
    /// The ranking of three mean losses. An end that is not a number did not fall; otherwise what is not finite is
    /// unknown.
    pub fn of(before: Option<f64>, after: Option<f64>, alone: Option<f64>) -> Self {
        let (Some(before), Some(after)) = (before.filter(|loss| loss.is_finite()), after) else {
            return Self::Unknown;
        };
        if after.is_nan() || after >= before {
            return Self::NotBelow;
        }
        match alone.filter(|loss| loss.is_finite()) {
            None => Self::Uncompared,
            Some(alone) if after < alone => Self::Best,
            Some(_) => Self::BelowBefore,
        }
    }

    /// Whether the loss fell.
    pub const fn fell(self) -> bool {
        matches!(self, Self::Best | Self::BelowBefore | Self::Uncompared)
    }
}

impl RunReport {
    /// Whether all living nodes agree and the loss fell: what the exit status of `testnet` says.
    pub fn succeeded(&self) -> bool {
        self.agreed && self.ranking().fell()
    }

    /// What came of the run.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            agreed: self.agreed,
            ranking: self.ranking(),
            agreement: self.agreement(),
            learning: self.learning(),
            rounds: self.rounds_sentence(),
        }
    }

    /// What is generated in this run, if anything: shown wherever its numbers are.
    pub fn provenance(&self) -> Option<&'static str> {
        match (self.data_generated, self.model.generated) {
            (true, true) => Some("generated data and base model"),
            (true, false) => Some("generated data"),
            (false, true) => Some("generated base model"),
            (false, false) => None,
        }
    }

    fn ranking(&self) -> Ranking {
        Ranking::of(
            self.eval_loss_before,
            self.eval_loss_after,
            self.eval_loss_local,
        )
    }

    fn agreement(&self) -> String {
        let count = |status: MemberStatus| {
            let members = self.members.iter();
            members.filter(|member| member.status == status).count()
        };
        let (killed, late) = (count(MemberStatus::Killed), count(MemberStatus::Late));
        let living = self
            .members
            .iter()
            .filter(|member| member.status.is_living())
            .count();
        let dead = match (killed, late) {
            (0, 0) => String::new(),
            (killed, 0) => format!(" ({killed} killed)"),
            (0, late) => format!(" ({late} too late to enter)"),
            (killed, late) => format!(" ({killed} killed, {late} too late to enter)"),
        };
        if !self.agreed {
            let living = number::count(living, "living node");
            return match self.states() {
                0 | 1 => format!(
                    "The run did not reach its end: {living}{dead}, not all past the last round."
                ),
                states => {
                    format!("The nodes do NOT agree: {living} in {states} different states{dead}.")
                }
            };
        }
        let who = if dead.is_empty() {
            format!("All {living} nodes")
        } else {
            format!("All {living} living nodes{dead}")
        };
        match &self.adapter_digest {
            Some(digest) => format!(
                "{who} hold the same adapter {} and ledger.",
                number::short(digest)
            ),
            None => format!("{who} hold the same ledger; no adapter was opened."),
        }
    }

    /// How many different pairs of adapter and ledger the living nodes hold.
    pub(super) fn states(&self) -> usize {
        let living = self
            .members
            .iter()
            .filter(|member| member.status.is_living());
        let states: BTreeSet<_> = living
            .map(|member| (&member.adapter_digest, &member.ledger_head))
            .collect();
        states.len()
    }

    fn learning(&self) -> String {
        let losses = self.losses();
        match (self.accuracy_before, self.accuracy_after) {
            (Some(before), Some(after)) => {
                format!("{losses} Labels told right: {before:.3} before, {after:.3} after.")
            }
            _ => losses,
        }
    }

    fn losses(&self) -> String {
        let [before, after, alone] = [
            self.eval_loss_before,
            self.eval_loss_after,
            self.eval_loss_local,
        ]
        .map(number::loss);
        let fell = format!("The held-out loss fell from {before} to {after} nats a token");
        match self.ranking() {
            Ranking::Best => format!("{fell}; training alone only reaches {alone}."),
            Ranking::BelowBefore => {
                format!("{fell}, but training alone reaches {alone}: federating did not pay here.")
            }
            Ranking::Uncompared => format!("{fell}; nobody trained alone to compare."),
            Ranking::NotBelow => {
                format!(
                    "The held-out loss did NOT fall: {before} before, {after} after, {alone} alone."
                )
            }
            Ranking::Unknown => "The held-out loss was not measured before and after.".into(),
        }
    }

    fn rounds_sentence(&self) -> String {
        let decided = self.rounds_opened + self.rounds_null;
        let opened = self
            .history
            .iter()
            .filter(|round| round.outcome == RoundOutcome::Opened);
        let rebuilt: usize = opened.map(|round| round.rebuilt.len()).sum();
        let mut parts = vec![format!(
            "{} of {} rounds opened",
            self.rounds_opened, self.rounds
        )];
        if self.rounds_null > 0 {
            parts.push(format!(", {} lost", self.rounds_null));
        }
        if decided < self.rounds {
            parts.push(format!(", {} not reached", self.rounds - decided));
        }
        if rebuilt > 0 {
            parts.push(format!(
                "; pair keys rebuilt for {}",
                number::count(rebuilt, "dropout")
            ));
        }
        parts.concat() + "."
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_ranking_flatters_nobody() {
        assert_eq!(Ranking::of(Some(3.0), Some(1.0), Some(2.0)), Ranking::Best);
        assert_eq!(
            Ranking::of(Some(3.0), Some(2.0), Some(2.0)),
            Ranking::BelowBefore
        );
        assert_eq!(Ranking::of(Some(3.0), Some(2.0), None), Ranking::Uncompared);
        assert_eq!(
            Ranking::of(Some(3.0), Some(3.0), Some(4.0)),
            Ranking::NotBelow
        );
        assert_eq!(
            Ranking::of(Some(3.0), Some(f64::NAN), Some(2.0)),
            Ranking::NotBelow
        );
        assert_eq!(Ranking::of(None, Some(1.0), Some(2.0)), Ranking::Unknown);
    }

    #[test]
    fn a_good_run_says_who_agrees_on_what() {
        let report = sample::clinic();
        let verdict = report.verdict();
        assert!(report.succeeded());
        assert_eq!(
            verdict.agreement,
            "All 4 living nodes (1 killed) hold the same adapter 5d0f5d0f5d0f and ledger."
        );
        assert!(
            verdict.learning.contains("training alone only reaches"),
            "{}",
            verdict.learning
        );
        assert_eq!(
            verdict.rounds,
            "6 of 6 rounds opened; pair keys rebuilt for 2 dropouts."
        );
    }

    #[test]
    fn a_newcomer_that_came_too_late_is_no_dead_node_and_no_disagreement() {
        let mut report = sample::clinic();
        report.members[0].status = MemberStatus::Late;
        report.members[0].ledger_head = None;
        let expected = "All 3 living nodes (1 killed, 1 too late to enter) hold the same adapter";
        let agreement = report.verdict().agreement;
        assert!(agreement.starts_with(expected), "{agreement}");
        assert_eq!(report.states(), 1);
    }

    #[test]
    fn disagreement_and_a_loss_that_did_not_fall_are_said_aloud() {
        let report = sample::diverged();
        let verdict = report.verdict();
        assert!(!report.succeeded());
        assert!(
            verdict
                .agreement
                .contains("do NOT agree: 4 living nodes in 2 different states"),
            "{verdict:?}"
        );
        assert!(verdict.learning.contains("did NOT fall"), "{verdict:?}");
    }

    #[test]
    fn a_run_cut_short_is_not_called_a_disagreement() {
        let mut report = sample::clinic();
        report.agreed = false;
        report.rounds_opened = 4;
        let verdict = report.verdict();
        assert!(
            verdict
                .agreement
                .starts_with("The run did not reach its end: 4 living nodes"),
            "{verdict:?}"
        );
        assert!(verdict.rounds.contains("2 not reached"), "{verdict:?}");
    }

    #[test]
    fn an_empty_report_claims_nothing() {
        let verdict = RunReport::default().verdict();
        assert_eq!(
            verdict.learning,
            "The held-out loss was not measured before and after."
        );
        assert!(!verdict.agreed);
    }
}
