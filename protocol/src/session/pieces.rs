//! The shares that came out for one record: by holder, in the order of the secrets that the record calls for.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_crypto::dealing::Secret;
use conclave_crypto::shamir::Weights;
use zeroize::Zeroizing;

use crate::names::MemberId;

/// A secret that a record calls for.
pub(crate) type Target = (MemberId, Secret);

/// The sound shares of one Reveal, one place for each target.
pub(crate) type Row = Vec<Option<[u8; 32]>>;

/// Seeds by dealer and kind.
pub(crate) type Seeds = BTreeMap<Target, Zeroizing<[u8; 32]>>;

/// Sound shares of all targets.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// By Shamir's x.
    rows: BTreeMap<u8, Arc<Row>>,
    /// How many shares there are of each target.
    counts: Vec<usize>,
}

impl Pieces {
    /// Adds the shares of the holder at x; what it showed before stays.
    pub(crate) fn add(&mut self, x: u8, row: &Arc<Row>) {
        if self.counts.len() < row.len() {
            self.counts.resize(row.len(), 0);
        }
        let before = self.rows.get(&x);
        for (at, (count, share)) in self.counts.iter_mut().zip(row.iter()).enumerate() {
            let known = before.is_some_and(|before| matches!(before.get(at), Some(Some(_))));
            if share.is_some() && !known {
                *count = count.saturating_add(1);
            }
        }
        let row = match before {
            None => Arc::clone(row),
            Some(before) => {
                let old = before.iter().copied().chain(core::iter::repeat(None));
                Arc::new(row.iter().zip(old).map(|(new, old)| old.or(*new)).collect())
            }
        };
        self.rows.insert(x, row);
    }

    /// Whether each of so many targets has so many shares.
    pub(crate) fn suffice(&self, targets: usize, threshold: usize) -> bool {
        self.counts.len() == targets && self.counts.iter().all(|count| *count >= threshold)
    }

    /// Whether the holder at x showed its share of the target at this place.
    pub(crate) fn shown(&self, x: u8, target: usize) -> bool {
        let row = self.rows.get(&x);
        row.is_some_and(|row| matches!(row.get(target), Some(Some(_))))
    }

    /// R32. Rebuilds all targets, each from the shares of the lowest t holders that showed one.
    pub(crate) fn rebuild(&self, targets: &[Target], threshold: usize) -> Option<Seeds> {
        // Nearly always the same holders showed everything: their weights serve for all targets.
        let mut weights: Option<(Vec<u8>, Weights)> = None;
        let rebuild = |(at, target): (usize, &Target)| {
            let shown = self.rows.iter();
            let shown = shown.filter_map(|(x, row)| Some((*x, row.get(at)?.as_ref()?)));
            let (holders, shares): (Vec<u8>, Vec<&[u8; 32]>) = shown.take(threshold).unzip();
            if weights.as_ref().is_none_or(|(known, _)| *known != holders) {
                let fresh = Weights::at_zero(&holders).ok()?;
                weights = Some((holders, fresh));
            }
            let (_, weights) = weights.as_ref()?;
            Some((*target, weights.open(shares)))
        };
        targets.iter().enumerate().map(rebuild).collect()
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::shamir;

    use super::*;

    #[test]
    fn any_holders_rebuild_and_what_was_shown_stays() {
        let coefficients = [Zeroizing::new([7; 32]), Zeroizing::new([9; 32])];
        let secrets = [[1; 32], [2; 32]];
        let share = |x: u8, which: usize| Some(shamir::share_at(&secrets[which], &coefficients, x));
        let targets = [
            (MemberId(4), Secret::SelfSeed),
            (MemberId(6), Secret::PairKey),
        ];
        let mut pieces = Pieces::default();
        pieces.add(2, &Arc::new(vec![share(2, 0), share(2, 1)]));
        pieces.add(3, &Arc::new(vec![share(3, 0), None]));
        pieces.add(5, &Arc::new(vec![share(5, 0), share(5, 1)]));
        pieces.add(5, &Arc::new(vec![None, Some([0; 32])]));
        assert!(!pieces.suffice(2, 3) && pieces.suffice(2, 2));
        assert!(pieces.shown(3, 0) && !pieces.shown(3, 1) && !pieces.shown(4, 0));
        pieces.add(9, &Arc::new(vec![None, share(9, 1)]));
        assert!(pieces.suffice(2, 3) && !pieces.suffice(3, 3));
        let seeds = pieces.rebuild(&targets, 3).expect("three of each");
        let rebuilt: Vec<[u8; 32]> = seeds.values().map(|seed| **seed).collect();
        assert_eq!(rebuilt, secrets);
    }
}
