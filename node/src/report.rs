//! What a testnet leaves behind: one value with everything that was seen, shown in four ways.
//!
//! The supervisor fills a [`RunReport`] from the nodes' own status. [`RunReport::json`] is the object that
//! `testnet --json` prints, [`RunReport::full`] is `report.json`, [`RunReport::table`] is what the terminal shows, and
//! [`RunReport::html`] is `report.html`: one file without scripts that needs nothing from anywhere else. A number that
//! was not measured is `None` and shown as such; nothing here invents one.

pub mod churn;
mod curves;
mod html;
pub(crate) mod number;
#[cfg(test)]
mod sample;
mod scale;
mod table;
mod timeline;
pub mod training;
mod verdict;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use verdict::{Ranking, Verdict};

/// A run as its supervisor saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// What was run, in one or two plain sentences.
    pub about: String,
    /// The command line that runs it again.
    pub command: String,
    /// Governs data, split, initialisation, batches and faults.
    pub seed: u64,
    /// How many nodes began the run; those that joined late are among the members alone.
    pub nodes: u32,
    /// How many rounds were asked for.
    pub rounds: u32,
    /// The generated scenario, or `None` where the data was given.
    pub scenario: Option<String>,
    /// Whether the data was generated. Whether the model was stands in [`ModelReport::generated`].
    pub data_generated: bool,
    /// The frozen base model.
    pub model: ModelReport,
    /// Whether all living nodes hold the same adapter and the same ledger head.
    pub agreed: bool,
    /// Digest of the common adapter in hex; `None` where the nodes disagree or hold none.
    pub adapter_digest: Option<String>,
    /// Digest of the last common record in hex; `None` where the nodes disagree.
    pub ledger_head: Option<String>,
    /// Mean loss of the base model on everyone's held-out rows, in nats a token.
    pub eval_loss_before: Option<f64>,
    /// Mean loss after the last round, on the same rows.
    pub eval_loss_after: Option<f64>,
    /// Mean over the members of the loss after training alone for as many steps, on the same rows.
    pub eval_loss_local: Option<f64>,
    /// The share of the held-out rows whose label the base model tells right; `None` where it continues texts.
    pub accuracy_before: Option<f64>,
    /// The same after the last round.
    pub accuracy_after: Option<f64>,
    /// Rounds whose sum was opened.
    pub rounds_opened: u32,
    /// Rounds that were lost, the spent ones included.
    pub rounds_null: u32,
    /// Which rows the curves of the members are measured on.
    pub curve_rows: CurveRows,
    /// The members in the order in which they were started.
    pub members: Vec<MemberReport>,
    /// The rounds in the order in which they were decided.
    pub history: Vec<RoundReport>,
    /// What the supervisor did or saw besides, a sentence each: kills, late starts, deadlines.
    pub notes: Vec<String>,
    /// From the first process to the last answer, solo training included.
    pub wall_seconds: f64,
}

/// The base model of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// How people call it: a folder's name, or that of the embedded model.
    pub name: String,
    /// Digest of configuration and weights in hex.
    pub digest: String,
    /// Parameters of the frozen base.
    pub parameters: u64,
    /// Whether it was trained from generated text by our own recipe.
    pub generated: bool,
}

/// The held-out rows behind [`MemberReport::evals`] and [`MemberReport::solo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurveRows {
    /// Each member is measured on the rows that it set aside itself.
    #[default]
    Own,
    /// Every member is measured on the rows that all members set aside.
    All,
}

/// One member of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its key in hex.
    pub member: String,
    /// Its name in the charter.
    pub name: String,
    /// How it ended.
    pub status: MemberStatus,
    /// Digest of its adapter in hex.
    pub adapter_digest: Option<String>,
    /// Digest of the last record of its ledger in hex.
    pub ledger_head: Option<String>,
    /// Rounds whose sum holds its delta.
    pub rounds_contributed: u32,
    /// Loss of the base model on everyone's held-out rows, in nats a token.
    pub eval_loss_before: Option<f64>,
    /// Loss of its adapter at the end, on the same rows.
    pub eval_loss_after: Option<f64>,
    /// Loss after training alone for as many steps, on the same rows.
    pub eval_loss_local: Option<f64>,
    /// Rows that it trained on.
    pub examples: u64,
    /// Bytes that its process sent.
    pub bytes_sent: u64,
    /// Bytes that its process received.
    pub bytes_received: u64,
    /// Privacy spent; `None` where the charter asks for none.
    pub epsilon: Option<f64>,
    /// Held-out loss by round; round 0 is the base model.
    pub evals: Vec<CurvePoint>,
    /// Training loss by round.
    pub trains: Vec<CurvePoint>,
    /// Held-out loss of its solo training, on the rows of `evals`; the last point is what it ends with.
    pub solo: Vec<CurvePoint>,
    /// What its process moved in each round.
    pub traffic: Vec<RoundTraffic>,
}

/// How a member of a testnet ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberStatus {
    /// There from the start to the end.
    #[default]
    Finished,
    /// Killed by the supervisor.
    Killed,
    /// Started late and there to the end.
    Joined,
    /// Started too late: no record admitted it before the end.
    Late,
}

impl MemberStatus {
    /// Whether it was there at the end, as a member.
    pub const fn is_living(self) -> bool {
        matches!(self, Self::Finished | Self::Joined)
    }

    /// The word of the JSON object.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Killed => "killed",
            Self::Joined => "joined",
            Self::Late => "late",
        }
    }
}

/// One measured loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The round after which it was measured.
    pub round: u32,
    /// Nats a token.
    pub loss: f64,
}

/// The bytes of one member in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTraffic {
    /// The round.
    pub round: u32,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// One round as the ledger tells it. Members are given by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Its number, from 1.
    pub round: u32,
    /// Its height in the ledger.
    pub height: u64,
    /// How it ended.
    pub outcome: RoundOutcome,
    /// Who dealt valid shares.
    pub sharers: Vec<String>,
    /// Whose masked delta counts; `None` where no survivors were decided.
    pub survivors: Option<Vec<String>>,
    /// Dropouts whose pair keys were rebuilt from shares, so that the sum opens without them.
    pub rebuilt: Vec<String>,
    /// How long it took, where the supervisor saw both ends.
    pub seconds: Option<f64>,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoundOutcome {
    /// The sum is open and applied.
    #[default]
    Opened,
    /// Too few survivors: nothing was revealed.
    Null,
    /// Survivors were decided, but the sum could not be opened or used.
    Spent,
}

impl RoundOutcome {
    /// The word of the JSON object.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Null => "null",
            Self::Spent => "spent",
        }
    }
}

impl RunReport {
    /// The object that `testnet --json` prints: keys and order are part of the interface.
    pub fn json(&self) -> Value {
        json!({
            "nodes": self.nodes,
            "rounds": self.rounds,
            "scenario": self.scenario,
            "model": {"digest": self.model.digest, "parameters": self.model.parameters},
            "agreed": self.agreed,
            "adapter_digest": self.adapter_digest,
            "ledger_head": self.ledger_head,
            "eval_loss_before": self.eval_loss_before,
            "eval_loss_after": self.eval_loss_after,
            "eval_loss_local": self.eval_loss_local,
            "accuracy_before": self.accuracy_before,
            "accuracy_after": self.accuracy_after,
            "rounds_opened": self.rounds_opened,
            "rounds_null": self.rounds_null,
            "members": self.members.iter().map(MemberReport::json).collect::<Vec<_>>(),
            "wall_seconds": self.wall_seconds,
        })
    }

    /// Everything, for `report.json`. A loss that is not finite becomes null.
    pub fn full(&self) -> Value {
        serde_json::to_value(self).expect("every key is a string and every field has a JSON form")
    }
}

impl MemberReport {
    /// One entry of `members` in the object of `testnet --json`.
    fn json(&self) -> Value {
        json!({
            "member": self.member,
            "status": self.status,
            "adapter_digest": self.adapter_digest,
            "ledger_head": self.ledger_head,
            "rounds_contributed": self.rounds_contributed,
            "eval_loss_before": self.eval_loss_before,
            "eval_loss_after": self.eval_loss_after,
            "eval_loss_local": self.eval_loss_local,
            "examples": self.examples,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "epsilon": self.epsilon,
        })
    }

    /// What its solo training ends with, on the rows of its curve: `None` where that was not measured.
    pub fn solo_final(&self, rows: CurveRows) -> Option<f64> {
        let last = self.solo.last().map(|point| point.loss);
        let union = self.eval_loss_local.filter(|_| rows == CurveRows::All);
        last.or(union).filter(|loss| loss.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(value: &Value) -> Vec<&str> {
        value
            .as_object()
            .map(|object| object.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }

    #[test]
    fn the_object_has_the_documented_keys_in_order() {
        let json = sample::clinic().json();
        let expected = "nodes rounds scenario model agreed adapter_digest ledger_head eval_loss_before eval_loss_after \
                        eval_loss_local accuracy_before accuracy_after rounds_opened rounds_null members wall_seconds";
        assert_eq!(keys(&json), expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!(keys(&json["model"]), ["digest", "parameters"]);
        let expected = "member status adapter_digest ledger_head rounds_contributed eval_loss_before eval_loss_after \
                        eval_loss_local examples bytes_sent bytes_received epsilon";
        assert_eq!(
            keys(&json["members"][0]),
            expected.split_whitespace().collect::<Vec<_>>()
        );
        assert_eq!(json["members"][3]["status"], "killed");
        assert_eq!(json["members"].as_array().map(Vec::len), Some(5));
    }

    #[test]
    fn numbers_are_numbers_and_the_unknown_is_null() {
        let mut report = sample::diverged();
        report.scenario = None;
        report.eval_loss_after = Some(f64::NAN);
        let json = report.json();
        assert!(json["eval_loss_before"].is_f64() && json["members"][0]["bytes_sent"].is_u64());
        for key in [
            "scenario",
            "adapter_digest",
            "ledger_head",
            "eval_loss_after",
        ] {
            assert!(json[key].is_null(), "{key}");
        }
        assert!(
            json["members"][3]["eval_loss_after"].is_null()
                && json["members"][0]["epsilon"].is_null()
        );
        assert!(!json.to_string().contains('\n'));
    }

    #[test]
    fn the_full_report_reads_back() -> Result<(), serde_json::Error> {
        let report = sample::clinic();
        assert_eq!(serde_json::from_value::<RunReport>(report.full())?, report);
        Ok(())
    }

    #[test]
    fn each_round_names_sharers_survivors_and_whose_keys_were_rebuilt() {
        let full = sample::clinic().full();
        let third = &full["history"][2];
        assert_eq!(third["sharers"].as_array().map(Vec::len), Some(5));
        assert_eq!(third["survivors"].as_array().map(Vec::len), Some(4));
        assert_eq!(third["rebuilt"], json!(["Dunmore"]));
        assert_eq!(third["outcome"], "opened");
    }

    #[test]
    fn solo_training_is_compared_on_the_rows_of_the_curve_only() {
        let mut member = sample::clinic().members.remove(0);
        member.solo.clear();
        assert_eq!(member.solo_final(CurveRows::Own), None);
        assert_eq!(member.solo_final(CurveRows::All), member.eval_loss_local);
    }
}
