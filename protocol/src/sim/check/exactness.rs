//! I-SUM: the opened sum is the plain integer sum of the survivors' encodings, bit for bit.
//!
//! Computed here from the deltas that the engines gave, with 64-bit integers and without the ring, the ladder or
//! any mask: only the formulas of the protocol's section on ring and weights.
#![expect(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "this checker computes the result a second time, as plainly as it can"
)]

use std::collections::BTreeMap;

use conclave_crypto::sign::PublicKey;

use super::Violation;
use crate::charter::Charter;
use crate::names::Height;
use crate::sim::watch::{Decision, Trained};
use crate::sim::{Terms, World};

const PROMISE: &str = "exactness";

/// Every adapter that was adopted is the old one plus the weighted mean of the survivors' deltas.
pub fn check(world: &World) -> Result<(), Violation> {
    let watch = world.watch();
    let mut decided: BTreeMap<Height, &Decision> = BTreeMap::new();
    for ((height, place), decisions) in &watch.decisions {
        if world.is_hostile(*place) {
            continue;
        }
        if let Some(decision) = decisions.first() {
            decided.insert(*height, decision);
        }
    }
    let charter = world.charter();
    let mut results: BTreeMap<Height, Vec<f32>> = BTreeMap::new();
    for ((height, place), adopted) in &watch.adopted {
        if world.is_hostile(*place) {
            continue;
        }
        // The adapter before training is adopted at no height of the chain.
        let Some(decision) = decided.get(height) else {
            continue;
        };
        if !results.contains_key(height) {
            results.insert(*height, result(world, charter, *height, decision)?);
        }
        let Some(expected) = results.get(height) else {
            continue;
        };
        for (_, adapter) in adopted {
            let same = adapter.len() == expected.len()
                && adapter
                    .iter()
                    .zip(expected)
                    .all(|(one, other)| one.to_bits() == other.to_bits());
            if !same {
                return Err(Violation::new(
                    PROMISE,
                    format!(
                        "place {place} adopted {adapter:?} at height {}, the plain sum gives {expected:?}",
                        height.0
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// The adapter that a height must give.
fn result(
    world: &World,
    charter: &Charter,
    height: Height,
    decision: &Decision,
) -> Result<Vec<f32>, Violation> {
    let broken = |what: String| Violation::new(PROMISE, format!("height {}: {what}", height.0));
    let survivors = decision
        .survivors
        .as_ref()
        .ok_or_else(|| broken("a null record was opened".to_owned()))?;
    let terms = &charter.aggregation;
    let (top, bottom) = (terms.clip.numerator(), terms.clip.denominator());
    // s = ⌊(2^31 − 1) / (n_max · w_max · c)⌋
    let spread = u64::from(terms.members_max)
        .saturating_mul(terms.weight_max.into())
        .saturating_mul(top);
    let steps = ((1_u64 << 31) - 1).saturating_mul(bottom) / spread;
    let bound = (steps.saturating_mul(top) / bottom) as f64;
    let mut common: Option<&Trained> = None;
    let mut sum: Vec<i64> = Vec::new();
    let mut total = 0_i64;
    for key in survivors {
        let place = world
            .place(key)
            .ok_or_else(|| broken("a survivor that is nobody".to_owned()))?;
        let committed = world.watch().committed.get(&(height, place));
        let mut bound_to = committed.into_iter().flat_map(BTreeMap::values);
        let trained = bound_to
            .next()
            .ok_or_else(|| broken(format!("place {place} survived without a vector")))?;
        if bound_to.next().is_some() {
            return Err(broken(format!("place {place} has two vectors")));
        }
        let first = *common.get_or_insert(trained);
        if first.from != trained.from || first.factor != trained.factor {
            return Err(broken(format!("place {place} trained on another adapter")));
        }
        let weight = weight(Terms::examples(place), terms.weight_unit, terms.weight_max);
        total = total.saturating_add(weight);
        let lie = lie(world, height, place);
        sum.resize(trained.delta.len(), 0);
        let mut delta = trained.delta.clone();
        if let Some((left_out_of, left_out)) = &trained.carried {
            fresh(world, *left_out_of, height, key).map_err(broken)?;
            for (value, left_out) in delta.iter_mut().zip(left_out) {
                *value += left_out;
            }
        }
        for (sum, value) in sum.iter_mut().zip(&delta) {
            let quantised = (f64::from(*value) * steps as f64).round();
            let quantised = quantised.clamp(-bound, bound) as i64;
            *sum = sum
                .saturating_add(weight.saturating_mul(quantised))
                .saturating_add(lie);
        }
    }
    let trained = common.ok_or_else(|| broken("nobody survived".to_owned()))?;
    let layout = Terms::layout();
    let divisor = steps as f64 * total as f64;
    let old = layout.gather(trained.factor, &trained.adapter);
    let new: Vec<f32> = old
        .iter()
        .zip(&sum)
        .map(|(old, sum)| (f64::from(*old) + *sum as f64 / divisor) as f32)
        .collect();
    let mut adapter = trained.adapter.to_vec();
    layout.scatter(trained.factor, &new, &mut adapter);
    Ok(adapter)
}

/// A carried delta was left out by the certificate of its own height, and not too many rounds ago.
fn fresh(world: &World, from: Height, to: Height, key: &PublicKey) -> Result<(), String> {
    let decided = |height: Height| {
        let decisions = world.watch().decisions.iter();
        let mut decisions = decisions.filter(|((at, _), _)| *at == height);
        decisions.find_map(|(_, decisions)| decisions.first())
    };
    let earlier = decided(from).ok_or("what was carried belongs to no decided height")?;
    let survivors = earlier.survivors.as_ref();
    if survivors.is_some_and(|survivors| survivors.contains(key)) {
        return Err(format!(
            "the delta of height {} counted there and was submitted again",
            from.0
        ));
    }
    let between = (from.0..to.0).map(Height).filter_map(decided);
    let rounds = between.filter(|decision| !decision.sharers.is_empty());
    if rounds.count() > 2 {
        return Err(format!("the delta of height {} is too old", from.0));
    }
    Ok(())
}

/// What a hostile survivor added to each coordinate of the vector that the record names.
fn lie(world: &World, height: Height, place: usize) -> i64 {
    let record = world.watch().diary.records.get(&height);
    let survivors = record.and_then(|record| record.survivors.as_ref());
    let id = world.id(place);
    let commits = survivors.map(|survivors| survivors.commits.as_slice());
    let mut commits = commits.unwrap_or_default().iter();
    let named = commits.find(|(member, _)| Some(*member) == id);
    named
        .and_then(|(_, commit)| world.lie(commit))
        .unwrap_or_default()
}

/// The largest power of two at most min(weight_max, max(1, examples / unit)).
fn weight(examples: u64, unit: u64, most: u32) -> i64 {
    let units = (examples / unit).max(1).min(most.into());
    let mut weight = 1_i64;
    while weight.saturating_mul(2) <= i64::try_from(units).unwrap_or(i64::MAX) {
        weight = weight.saturating_mul(2);
    }
    weight
}
