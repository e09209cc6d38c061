//! What must hold at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use conclave::store::{Store, read_ledger};
use conclave_crypto::digest::Digest;
use conclave_protocol::charter::Charter;
use conclave_protocol::ledger::{self, Ledger};
use conclave_protocol::letter::Bytes;
use conclave_protocol::message::{self, Decided};
use conclave_protocol::names::Height;
use conclave_protocol::output::Table;
use conclave_protocol::record::Previous;

use crate::faults::{Faults, quorum};
use crate::fleet::{Decided as Seen, Fleet};

/// Says what holds and what does not; gives the number of checks that failed.
pub(crate) fn judge(fleet: &mut Fleet, faults: &Faults) -> Result<u32> {
    let mut failures = 0;
    let mut check = |fleet: &mut Fleet, holds: bool, what: &str| {
        failures += u32::from(!holds);
        fleet.log.say(&format!(
            "{}: {what}",
            if holds { "PASSED" } else { "FAILED" }
        ));
    };
    let chains = chains(fleet)?;
    let longest = chains
        .iter()
        .max_by_key(|chain| chain.len())
        .cloned()
        .unwrap_or_default();
    let equal = chains.iter().all(|chain| longest.starts_with(chain));
    let shortest = chains.iter().map(Vec::len).min().unwrap_or(0);
    check(
        fleet,
        equal && shortest > 0,
        &format!(
            "{} ledgers verify and are one chain of {} records",
            chains.len(),
            longest.len()
        ),
    );
    let (adapter, wrong) = adapters(fleet)?;
    check(
        fleet,
        wrong.is_empty(),
        &format!(
            "all data folders hold the adapter {adapter}, whole and the same{}",
            listed(&wrong)
        ),
    );
    let outcomes = outcomes(fleet)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes.values() {
        *counts.entry(outcome).or_default() += 1;
    }
    let able = |round: &&Seen| round.well >= quorum(round.members);
    let count = fleet.decided.iter().filter(able).count();
    let lost: Vec<String> = fleet
        .decided
        .iter()
        .filter(able)
        .filter(|round| matches!(outcomes.get(&round.round), Some(&("null" | "spent"))))
        .map(|round| {
            format!(
                "{} ({} of {} were well)",
                round.round, round.well, round.members
            )
        })
        .collect();
    check(
        fleet,
        count > 0 && lost.is_empty(),
        &format!(
            "none of the {count} rounds was lost that had enough members{}",
            listed(&lost)
        ),
    );
    let judged: Vec<Memory> = fleet
        .nodes
        .iter()
        .enumerate()
        .flat_map(|(index, node)| {
            let lives = node.before.iter().chain([&node.memory]);
            lives.filter_map(move |life| Memory::of(index, life))
        })
        .collect();
    let growth: Vec<String> = judged.iter().filter_map(Memory::grown).collect();
    check(
        fleet,
        !judged.is_empty() && growth.is_empty(),
        &format!(
            "memory is flat in all {} processes that lived for {LIFE} s{}",
            judged.len(),
            listed(&growth)
        ),
    );
    let rounds = fleet.decided.len();
    check(
        fleet,
        rounds > 0,
        &format!("{rounds} rounds were seen decided; of all: {counts:?}"),
    );
    fleet.log.say(&format!(
        "faults: {} kills ({} of them lost what the node knew), {} pauses, {} partitions",
        faults.kills, faults.rollbacks, faults.pauses, faults.partitions
    ));
    Ok(failures)
}

/// The records of every node, verified from the charter on.
fn chains(fleet: &Fleet) -> Result<Vec<Vec<Vec<u8>>>> {
    let mut chains = Vec::new();
    for node in &fleet.nodes {
        let charter = charter(&node.dir)?;
        let rows = read_ledger(&node.dir)?.rows;
        ledger::verify_chain(&charter, None, rows.iter().map(Vec::as_slice))?;
        let record = |row: &Vec<u8>| message::decode::<Decided>(row).map(|decided| decided.record);
        chains.push(rows.iter().map(record).collect::<Result<_, _>>()?);
    }
    Ok(chains)
}

/// The adapter that the nodes named last, and what is wrong with those that lie in their folders: each must hold that
/// one and the one that its own ledger certifies, byte for byte as the others hold them.
fn adapters(fleet: &Fleet) -> Result<(Digest, Vec<String>)> {
    let mut named = fleet.views().into_iter().flatten();
    let named = named.find_map(|view| view.adapter_digest);
    let named: Digest = named.context("no node named an adapter")?.parse()?;
    let mut held: BTreeMap<Digest, Bytes> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (index, node) in fleet.nodes.iter().enumerate() {
        let charter = charter(&node.dir)?;
        let rows = read_ledger(&node.dir)?.rows;
        let rows = rows.iter().map(Vec::as_slice);
        let certified = ledger::verify_chain(&charter, None, rows)?.adapter;
        let certified = certified.context("no adapter is certified")?;
        let blobs = Store::open(&node.dir, &charter.digest())?.blobs();
        for digest in BTreeSet::from([named, certified]) {
            match blobs.get(Table::Adapters, &digest) {
                None => wrong.push(format!("node {} lacks {digest}", index + 1)),
                Some(bytes) if *held.entry(digest).or_insert_with(|| bytes.clone()) != bytes => {
                    wrong.push(format!("node {} holds another {digest}", index + 1));
                }
                Some(_) => {}
            }
        }
    }
    Ok((named, wrong))
}

fn charter(dir: &Path) -> Result<Charter> {
    Ok(Charter::parse(&std::fs::read_to_string(
        dir.join("charter.toml"),
    )?)?)
}

/// How each round ended, by the longest ledger.
fn outcomes(fleet: &Fleet) -> Result<BTreeMap<u32, &'static str>> {
    let mut longest = BTreeMap::new();
    for node in &fleet.nodes {
        let mut chain = Ledger::new(charter(&node.dir)?, None);
        for row in read_ledger(&node.dir)?.rows {
            let entry = chain.parse(&row)?;
            chain.append(entry)?;
        }
        let heights = (1..=chain.head().0).map(Height);
        let outcome = |height| {
            let called = chain.entry(height)?.record.survivors.is_some();
            let word = match (called, chain.outcome(height)) {
                (false, _) => "null",
                (true, Some(Previous::Spent { .. })) => "spent",
                (true, Some(Previous::Opened(_))) => "opened",
                (true, Some(Previous::None) | None) => "decided",
            };
            Some((chain.round(height)?.0, word))
        };
        let found: BTreeMap<u32, &'static str> = heights.filter_map(outcome).collect();
        if found.len() > longest.len() {
            longest = found;
        }
    }
    Ok(longest)
}

/// The memory of one process: the middle of the first third of its life, and of the last one, both after a warm-up.
struct Memory {
    node: usize,
    early: u64,
    late: u64,
}

impl Memory {
    /// Of a process of this node, if it lived long enough to be judged.
    fn of(node: usize, life: &[(Instant, u64)]) -> Option<Self> {
        let (first, last) = (life.first()?.0, life.last()?.0);
        if (last - first).as_secs() < LIFE {
            return None;
        }
        let settled: Vec<u64> = life
            .iter()
            .filter(|(at, _)| (*at - first).as_secs() >= WARM_UP)
            .map(|(_, bytes)| *bytes)
            .collect();
        let third = settled.len() / 3;
        Some(Self {
            node,
            early: middle(&settled[..third])?,
            late: middle(&settled[settled.len() - third..])?,
        })
    }

    /// What it grew by, if that is too much.
    fn grown(&self) -> Option<String> {
        let (number, early, late) = (self.node + 1, self.early, self.late);
        (late > early + early / 4 + SLACK)
            .then(|| format!("node {number} from {} to {} MiB", early >> 20, late >> 20))
    }
}

fn middle(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn listed(words: &[String]) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(": {}", words.join(", "))
    }
}

/// Seconds that a process must have lived to be judged.
const LIFE: u64 = 90;
/// Seconds that are not counted after its start.
const WARM_UP: u64 = 30;
/// Bytes that count as nothing.
const SLACK: u64 = 24 << 20;
