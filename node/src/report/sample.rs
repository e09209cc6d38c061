//! Made-up reports for the tests of this folder.

use super::{
    CurvePoint, CurveRows, MemberReport, MemberStatus, ModelReport, RoundOutcome, RoundReport,
    RoundTraffic, RunReport,
};

/// Five hospitals, six rounds, one of them killed in the third.
pub(super) fn clinic() -> RunReport {
    let names = [
        "Ahrenfeld",
        "Brockheim",
        "Castelmont",
        "Dunmore",
        "Eastvale",
    ];
    RunReport {
        about: "Five node processes on this machine federated the embedded base model over six rounds of the \
                clinic scenario. Each trained on its own rows; only masked deltas left a process."
            .into(),
        command: "conclave testnet --kill 1@3 --seed 7".into(),
        seed: 7,
        nodes: 5,
        rounds: 6,
        scenario: Some("clinic".into()),
        data_generated: true,
        model: ModelReport {
            name: "embedded".into(),
            digest: "c0ffee11".repeat(8),
            parameters: 1_640_448,
            generated: true,
        },
        agreed: true,
        adapter_digest: Some("5d0f".repeat(16)),
        ledger_head: Some("91be".repeat(16)),
        eval_loss_before: Some(2.412),
        eval_loss_after: Some(1.217),
        eval_loss_local: Some(1.684),
        accuracy_before: None,
        accuracy_after: None,
        rounds_opened: 6,
        rounds_null: 0,
        curve_rows: CurveRows::Own,
        members: names.iter().zip(0..).map(|(name, at)| member(name, at)).collect(),
        history: (1..=6).map(|round| history(&names, round)).collect(),
        notes: vec!["Round 3: Dunmore was killed (SIGKILL) after its shares were acknowledged.".into()],
        wall_seconds: 128.4,
    }
}

/// The same run gone wrong: two adapters, a lost round, a loss that rose.
pub(super) fn diverged() -> RunReport {
    let mut report = clinic();
    report.agreed = false;
    report.adapter_digest = None;
    report.ledger_head = None;
    report.eval_loss_after = Some(2.6);
    report.rounds_opened = 5;
    report.rounds_null = 1;
    report.history[4].outcome = RoundOutcome::Null;
    report.history[4].survivors = None;
    report.members[2].adapter_digest = Some("0bad".repeat(16));
    report
}

fn member(name: &str, at: u8) -> MemberReport {
    let spread = f64::from(at) * 0.09;
    let killed = at == 3;
    let last: u8 = if killed { 2 } else { 6 };
    let evals: Vec<_> = (0..=last)
        .map(|round| point(round, 1.1 + spread / 2.0 + 1.2 * 0.6_f64.powi(round.into())))
        .collect();
    MemberReport {
        member: format!("{:02x}", 0x11 * (at + 1)).repeat(32),
        name: name.into(),
        status: if killed {
            MemberStatus::Killed
        } else {
            MemberStatus::Finished
        },
        adapter_digest: Some(if killed { "77aa" } else { "5d0f" }.repeat(16)),
        ledger_head: Some(if killed { "33cc" } else { "91be" }.repeat(16)),
        rounds_contributed: last.into(),
        eval_loss_before: Some(2.412),
        eval_loss_after: (!killed).then_some(1.217),
        eval_loss_local: Some(1.58 + spread / 2.0),
        examples: 412 + 37 * u64::from(at),
        bytes_sent: 3_412_000 + 91_000 * u64::from(at),
        bytes_received: 13_220_000 + 55_000 * u64::from(at),
        epsilon: None,
        trains: (1..=last)
            .map(|round| point(round, 1.0 + 1.3 * 0.55_f64.powi(round.into())))
            .collect(),
        solo: (0..=6)
            .map(|round| point(round, 1.55 + spread + 0.75 * 0.5_f64.powi(round.into())))
            .collect(),
        traffic: (1..=last)
            .map(|round| RoundTraffic {
                round: round.into(),
                sent: 560_000 + 9_000 * u64::from(at),
                received: 2_190_000,
            })
            .collect(),
        evals,
    }
}

fn history(names: &[&str], round: u32) -> RoundReport {
    let present = |gone: u32| -> Vec<String> {
        names
            .iter()
            .filter(|name| **name != "Dunmore" || round < gone)
            .map(ToString::to_string)
            .collect()
    };
    RoundReport {
        round,
        height: u64::from(round) + 2,
        outcome: RoundOutcome::Opened,
        sharers: present(5),
        survivors: Some(present(3)),
        rebuilt: if (3..5).contains(&round) {
            vec!["Dunmore".into()]
        } else {
            Vec::new()
        },
        seconds: Some(11.2 + f64::from(round)),
    }
}

fn point(round: u8, loss: f64) -> CurvePoint {
    CurvePoint {
        round: round.into(),
        loss,
    }
}
