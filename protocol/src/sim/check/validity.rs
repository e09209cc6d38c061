//! I-VALID: what was decided keeps the rules, by the chain and by what was said; and who voted for it held it.

use std::collections::BTreeSet;

use super::Violation;
use crate::ledger::{self, Ledger, Start};
use crate::message::{self, Acked, Decided};
use crate::names::{Height, MemberId};
use crate::params;
use crate::record::{Previous, Record};
use crate::sim::{Terms, World};

const PROMISE: &str = "decisions are valid";

/// Judges every record of the longest chain, and every precommit of an honest member.
pub fn check(world: &World) -> Result<(), Violation> {
    if let Some((place, height, member)) = world.watch().unheld.first() {
        let what = format!(
            "place {place} voted at height {} for the vector of member {}, which it does not hold",
            height.0, member.0
        );
        return Err(Violation::new(PROMISE, what));
    }
    let Some(chain) = world.longest() else {
        return Ok(());
    };
    verify(world, chain)?;
    for height in (1..=chain.head().0).map(Height) {
        let entry = chain.entry(height);
        let checked = entry.map(|entry| record(world, chain, &entry.record));
        checked
            .unwrap_or(Ok(()))
            .map_err(|what| Violation::new(PROMISE, format!("record {}: {what}", height.0)))?;
    }
    Ok(())
}

/// The chain verifies from genesis, signatures and all, without any other state.
fn verify(world: &World, chain: &Ledger) -> Result<(), Violation> {
    let layout = Terms::layout();
    let adapter = conclave_crypto::fixed::adapter_digest(&layout.shape, &Terms::initial());
    let rows: Vec<_> = (1..=chain.head().0)
        .filter_map(|height| chain.entry(Height(height)))
        .map(|entry| {
            message::encode(&Decided {
                record: entry.bytes.to_vec(),
                certificate: entry.certificate.clone(),
            })
        })
        .collect();
    let start = Some(Start { layout, adapter });
    let rows = rows.iter().map(Vec::as_slice);
    let verified = ledger::verify_chain(world.charter(), start, rows);
    let broken = |broken: ledger::Broken| Violation::new(PROMISE, broken.to_string());
    verified.map(drop).map_err(broken)
}

/// One record against what was said.
fn record(world: &World, chain: &Ledger, record: &Record) -> Result<(), String> {
    let watch = world.watch();
    let height = record.height;
    let members = |height| chain.roster(height).map_or(0, |roster| roster.len());
    let least = params::survivors_min(world.charter(), members(height));
    if let Some(survivors) = &record.survivors {
        let sharers: BTreeSet<MemberId> = chain.sharer_ids(height).into_iter().collect();
        let ids: BTreeSet<_> = survivors.commits.iter().map(|(id, _)| *id).collect();
        if !ids.is_subset(&sharers) || ids.len() < least {
            return Err(format!("its survivors {ids:?} are too few, or no sharers"));
        }
        for (member, commit) in &survivors.commits {
            let said = watch.commits.get(commit);
            if said != Some(&(*member, survivors.sid)) {
                return Err(format!(
                    "it counts a vector of member {} that nobody announced under its masks",
                    member.0
                ));
            }
        }
        if matches!(record.previous, Previous::Spent { .. }) {
            return Err("it has survivors on a spent result".to_owned());
        }
    }
    let next = Height(height.0 + 1);
    let (Some(roster), Some(sess)) = (chain.roster(next), chain.session_id(next)) else {
        return Err("its next height has no members".to_owned());
    };
    for sharer in &record.sharers_next {
        let acked = Acked::of(sharer.member, &sharer.key_ad, &sharer.deal);
        let ackers = sharer.ackers.iter().filter(|acker| {
            let said = watch.acks.get(&(sess, **acker));
            roster.contains(**acker) && said.is_some_and(|said| said.contains(&acked))
        });
        if ackers.count() < roster.quorum() || !sharer.ackers.contains(&sharer.member) {
            return Err(format!(
                "its sharer {} is acknowledged by too few",
                sharer.member.0
            ));
        }
    }
    if let Previous::Opened(digest) = &record.previous {
        let before = Height(height.0 - 1);
        let honest = watch.adopted.iter();
        let honest = honest.filter(|((at, place), _)| *at == before && !world.is_hostile(*place));
        let mut results = honest.flat_map(|(_, adopted)| adopted);
        if results.any(|(own, _)| own != digest) {
            return Err("an honest member opened another result".to_owned());
        }
    }
    Ok(())
}
