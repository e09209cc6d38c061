//! From what was seen to the report.

use super::folders::Folders;
use super::plan::{Plan, Rows};
use super::solo::Solo;
use super::view::{Loss, Past, View};
use super::watch::Seen;
use crate::report::{
    CurvePoint, CurveRows, MemberReport, MemberStatus, RoundOutcome, RoundReport, RunReport,
};

/// The report of a run.
pub fn account(
    plan: &Plan,
    folders: &Folders,
    seen: &Seen,
    solos: &[Option<Solo>],
    wall_seconds: f64,
) -> RunReport {
    let members: Vec<MemberReport> = (0..folders.nodes.len())
        .map(|node| member(plan, folders, seen, solos, node))
        .collect();
    let living: Vec<&View> = (0..members.len())
        .filter(|&node| members[node].status.is_living())
        .filter_map(|node| seen.views[node].as_ref())
        .collect();
    let common = common(&living, plan.rounds);
    let alive = || members.iter().filter(|member| member.status.is_living());
    let accuracy = |of: fn(&View) -> Option<&Loss>| {
        let views = living.iter().filter(|_| folders.classifies);
        mean(views.map(|view| of(view).and_then(|eval| eval.accuracy)))
    };
    let longest = living.iter().max_by_key(|view| view.history.len());
    RunReport {
        about: folders.about.clone(),
        command: plan.command.clone(),
        seed: plan.seed,
        nodes: plan.nodes,
        rounds: plan.rounds,
        scenario: match &plan.rows {
            Rows::Scenario(scenario) => Some(scenario.name().to_owned()),
            Rows::Given { .. } => None,
        },
        data_generated: matches!(plan.rows, Rows::Scenario(_)),
        model: folders.model.clone(),
        agreed: common.is_some(),
        adapter_digest: common.map(|(adapter, _)| adapter.to_owned()),
        ledger_head: common.map(|(_, head)| head.to_owned()),
        eval_loss_before: mean(alive().map(|member| member.eval_loss_before)),
        eval_loss_after: mean(alive().map(|member| member.eval_loss_after)),
        eval_loss_local: mean(alive().map(|member| member.eval_loss_local)),
        accuracy_before: accuracy(View::eval_before),
        accuracy_after: accuracy(View::eval_after),
        rounds_opened: longest.map_or(0, |view| view.rounds_opened),
        rounds_null: longest.map_or(0, |view| view.rounds_null),
        curve_rows: CurveRows::All,
        history: longest.map_or_else(Vec::new, |view| history(folders, seen, &view.history)),
        members,
        notes: seen.notes.clone(),
        wall_seconds,
    }
}

/// The adapter and head that all living nodes hold after all rounds.
fn common<'a>(living: &[&'a View], rounds: u32) -> Option<(&'a str, &'a str)> {
    let (first, others) = living.split_first()?;
    let adapter = first.adapter_digest.as_deref()?;
    let same = |view: &&View| {
        view.adapter_digest == first.adapter_digest && view.ledger_head == first.ledger_head
    };
    let done = living.iter().all(|view| view.rounds_over() == rounds);
    (done && others.iter().all(same)).then_some((adapter, &first.ledger_head))
}

fn member(
    plan: &Plan,
    folders: &Folders,
    seen: &Seen,
    solos: &[Option<Solo>],
    node: usize,
) -> MemberReport {
    let start = &folders.nodes[node];
    let solo = solos[node].as_ref();
    let point = |round: u32, loss: Option<f64>| loss.map(|loss| CurvePoint { round, loss });
    let mut report = MemberReport {
        member: start.key.clone(),
        name: start.name.clone(),
        status: match (seen.killed[node], seen.late[node], start.joins_in) {
            (Some(_), _, _) => MemberStatus::Killed,
            (None, true, _) => MemberStatus::Late,
            (None, false, Some(_)) => MemberStatus::Joined,
            (None, false, None) => MemberStatus::Finished,
        },
        eval_loss_local: solo.and_then(|solo| solo.eval_loss_after),
        solo: solo.map_or_else(Vec::new, |solo| {
            let ends = [
                point(0, solo.eval_loss_before),
                point(plan.rounds, solo.eval_loss_after),
            ];
            ends.into_iter().flatten().collect()
        }),
        traffic: seen.traffic[node].clone(),
        ..MemberReport::default()
    };
    if let Some(view) = &seen.views[node] {
        report.adapter_digest.clone_from(&view.adapter_digest);
        report.ledger_head = Some(view.ledger_head.clone());
        report.rounds_contributed = view.rounds_contributed;
        report.eval_loss_before = view.eval_before().and_then(|eval| eval.loss);
        report.eval_loss_after = view.eval_after().and_then(|eval| eval.loss);
        report.examples = view.examples;
        report.bytes_sent = view.bytes_sent;
        report.bytes_received = view.bytes_received;
        report.evals = curve(&view.eval_losses);
        report.trains = curve(&view.train_losses);
    }
    report
}

fn curve(losses: &[Loss]) -> Vec<CurvePoint> {
    let point = |loss: &Loss| {
        Some(CurvePoint {
            round: loss.round,
            loss: loss.loss?,
        })
    };
    losses.iter().filter_map(point).collect()
}

fn history(folders: &Folders, seen: &Seen, past: &[Past]) -> Vec<RoundReport> {
    let named = |keys: &[String]| {
        let name = |key: &String| {
            let known = folders.nodes.iter().find(|node| node.key == *key);
            known.map_or_else(|| key.clone(), |node| node.name.clone())
        };
        keys.iter().map(name).collect::<Vec<_>>()
    };
    let seconds = |round: u32| {
        let begun = match round {
            1 => 0.0,
            later => *seen.over_at.get(&(later - 1))?,
        };
        Some(seen.over_at.get(&round)? - begun)
    };
    let round = |past: &Past| RoundReport {
        round: past.round,
        height: past.height,
        outcome: match past.outcome.as_str() {
            "null" => RoundOutcome::Null,
            "spent" => RoundOutcome::Spent,
            _ => RoundOutcome::Opened,
        },
        sharers: named(&past.sharers),
        survivors: past.survivors.as_deref().map(named),
        rebuilt: named(&past.rebuilt),
        seconds: seconds(past.round),
    };
    past.iter().map(round).collect()
}

/// The mean, if every one was measured.
fn mean(losses: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for loss in losses {
        sum += loss?;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}
