//! The rounds of a ledger, as `GET /v1/rounds` shows them: who was in, who was out, and why.

use std::collections::BTreeMap;

use conclave_crypto::sign::PublicKey;
use conclave_protocol::evidence::Evidence;
use conclave_protocol::ledger::Ledger;
use conclave_protocol::names::{Height, MemberId};
use conclave_protocol::record::{Cause, Previous};
use conclave_protocol::roster::Roster;
use serde_json::{Value, json};

/// How this node saw those that a round left out, at the moment when it was decided.
#[derive(Debug, Default)]
pub struct Sights(BTreeMap<(Height, PublicKey), String>);

impl Sights {
    /// Notes how a member that was left out looked from here. The oldest are forgotten.
    pub(super) fn note(&mut self, height: Height, member: PublicKey, sight: String) {
        self.0.insert((height, member), sight);
        while self.0.len() > SIGHTS {
            self.0.pop_first();
        }
    }
}

/// The members of a height that its record leaves out.
pub(super) fn left_out(ledger: &Ledger, height: Height) -> Vec<MemberId> {
    let survivors = ledger
        .entry(height)
        .map(|entry| entry.record.survivor_ids())
        .unwrap_or_default();
    let roster = ledger.roster(height);
    let ids = roster.iter().flat_map(Roster::ids);
    ids.filter(|id| !survivors.contains(id)).collect()
}

/// The object of `GET /v1/rounds`.
pub(super) fn show(ledger: &Ledger, sights: &Sights) -> Value {
    let heights = (1..=ledger.head().0).map(Height);
    json!({ "rounds": heights.filter_map(|height| round(ledger, sights, height)).collect::<Vec<_>>() })
}

fn round(ledger: &Ledger, sights: &Sights, height: Height) -> Option<Value> {
    let number = ledger.round(height)?;
    let record = &ledger.entry(height)?.record;
    let (sharers, survivors) = (ledger.sharer_ids(height), record.survivor_ids());
    let called = record.survivors.is_some();
    let out = left_out(ledger, height).into_iter().map(|id| {
        let mut row = person(ledger, id);
        let why = match (sharers.contains(&id), called) {
            (false, _) => "too few members acknowledged its shares in time: it did not take part",
            (true, true) => {
                "its vector was not held by a quorum in time; its pair keys were rebuilt"
            }
            (true, false) => "the round ended without a sum",
        };
        row["why"] = json!(why);
        let key = ledger.person(id).map(|person| person.key);
        row["seen_here"] = json!(key.and_then(|key| sights.0.get(&(height, key))));
        row
    });
    let previous = ledger.outcome(height);
    let (outcome, adapter) = match (called, previous) {
        (false, _) => ("null", None),
        (true, Some(Previous::Opened(digest))) => ("opened", Some(digest.to_string())),
        (true, Some(Previous::Spent { .. })) => ("spent", None),
        (true, Some(Previous::None) | None) => ("decided", None),
    };
    let (cause, culprits, silent) = match previous {
        Some(Previous::Spent {
            cause,
            culprits,
            silent,
        }) => (Some(why_spent(*cause)), culprits.clone(), silent.clone()),
        _ => (None, Vec::new(), Vec::new()),
    };
    let contradicted: Vec<_> = record.evidence.iter().map(Evidence::against).collect();
    let people = |ids: &[MemberId]| ids.iter().map(|id| person(ledger, *id)).collect::<Vec<_>>();
    Some(json!({
        "round": number.0,
        "height": height.0,
        "outcome": outcome,
        "members": ledger.roster(height).map_or(0, |roster| roster.len()),
        "sharers": sharers.len(),
        "in": people(&survivors),
        "out": out.collect::<Vec<_>>(),
        "cause": cause,
        "culprits": people(&culprits),
        "silent": people(&silent),
        "contradicted": people(&contradicted),
        "adapter_digest": adapter,
    }))
}

const fn why_spent(cause: Cause) -> &'static str {
    match cause {
        Cause::Dealing => "dealings were proved false",
        Cause::Range => "a coordinate of the sum was out of range",
        Cause::Withheld => "too few shares were revealed in time",
    }
}

fn person(ledger: &Ledger, id: MemberId) -> Value {
    let person = ledger.person(id);
    json!({
        "id": id.0,
        "name": person.map(|person| person.name.clone()),
        "member": person.map(|person| person.key.to_string()),
    })
}

/// Sights that are remembered.
const SIGHTS: usize = 4096;
