//! The linear algebra behind I-PRIV.
//!
//! Each masked vector is `y = x + own mask ± pair masks`. A mask is known if its seed is: the own mask by the dealer's
//! self seed, a pair mask by either's pair key. What the adversary can derive are the combinations of the `y` in
//! which every unknown mask cancels. The smallest set of honest members whose `x` stand alone in one is looked for.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::Secret;
use conclave_crypto::digest::Digest;

use crate::names::{MemberId, SumId};

/// One session as the adversary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Shares that open a secret.
    pub threshold: usize,
    /// Members of the session that are the adversary's: it knows their secrets and holds their shares.
    pub corrupt: BTreeSet<MemberId>,
    /// The masked vectors of honest members.
    pub vectors: Vec<Vector>,
    /// Which honest holders showed a share of a dealer's secret.
    pub shown: BTreeMap<(MemberId, Secret), BTreeSet<MemberId>>,
    /// Secrets that came out whole.
    pub whole: BTreeSet<(MemberId, Secret)>,
    /// A sum of so many honest members may be derivable; none of fewer.
    pub least: usize,
}

/// A masked vector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vector {
    /// Whose.
    pub member: MemberId,
    /// Under which masking context.
    pub sid: SumId,
    /// The sharers of that context: with each other one it shares a mask.
    pub sharers: BTreeSet<MemberId>,
    /// Its name.
    pub root: Digest,
}

/// A mask: of one member, or of two in ascending order.
type Mask = (SumId, MemberId, Option<MemberId>);

/// Coefficients by unknown, none of them zero, modulo [`PRIME`].
type Row = BTreeMap<usize, u64>;

/// 2^61 − 1. A combination over the ring that isolates somebody would do so modulo this prime as well: all entries of
/// the system are 1 and −1, and it decomposes into chains.
const PRIME: u64 = (1 << 61) - 1;

/// So many sets of members are tried where sums overlap.
const TRIES: usize = 200_000;

/// Sums overlap, and no set of members that was tried stands alone; there are more sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("whether too few stand alone in a sum is open after {0} sets of members")]
pub struct Unsettled(pub usize);

impl View {
    /// Whether the adversary can rebuild a secret.
    fn knows(&self, member: MemberId, secret: Secret) -> bool {
        let shown = self.shown.get(&(member, secret)).map_or(0, BTreeSet::len);
        self.corrupt.contains(&member)
            || self.whole.contains(&(member, secret))
            || shown.saturating_add(self.corrupt.len()) >= self.threshold
    }

    /// The smallest derivable sum of fewer than `least` honest members; nobody can tell where sums overlap too often.
    pub fn lightest(&self) -> Result<Option<BTreeSet<MemberId>>, Unsettled> {
        self.lightest_within(TRIES)
    }

    fn lightest_within(&self, tries: usize) -> Result<Option<BTreeSet<MemberId>>, Unsettled> {
        let (basis, supports) = self.derivable();
        let mut seen = BTreeSet::new();
        let apart = supports.iter().flatten().all(|member| seen.insert(*member));
        let found = if apart {
            supports.into_iter().min_by_key(BTreeSet::len)
        } else {
            self.search(&basis, &seen, tries)?
        };
        Ok(found.filter(|members| members.len() < self.least))
    }

    /// A basis of all combinations without an unknown mask: coefficients of each vector by free unknown, and the
    /// members that each basis element touches.
    fn derivable(&self) -> (Vec<Row>, Vec<BTreeSet<MemberId>>) {
        let mut system = System::default();
        for row in self.unknown_masks().into_values() {
            system.require(row);
        }
        let values = system.resolve(self.vectors.len());
        let free: Vec<usize> = (0..self.vectors.len())
            .filter(|at| !system.pivots.contains_key(at))
            .collect();
        let support = |free: &usize| {
            let touched = self.vectors.iter().zip(&values);
            touched
                .filter(|(_, value)| value.contains_key(free))
                .map(|(vector, _)| vector.member)
                .collect()
        };
        (values.clone(), free.iter().map(support).collect())
    }

    /// Each mask that the adversary cannot know, with its sign in every vector that it enters.
    fn unknown_masks(&self) -> BTreeMap<Mask, Row> {
        let mut members: BTreeSet<MemberId> = BTreeSet::new();
        for vector in &self.vectors {
            members.insert(vector.member);
            members.extend(&vector.sharers);
        }
        let keys: BTreeSet<_> = members
            .iter()
            .filter(|member| self.knows(**member, Secret::PairKey))
            .collect();
        let mut masks: BTreeMap<Mask, Row> = BTreeMap::new();
        for (at, vector) in self.vectors.iter().enumerate() {
            let me = vector.member;
            if !self.knows(me, Secret::SelfSeed) {
                masks
                    .entry((vector.sid, me, None))
                    .or_default()
                    .insert(at, 1);
            }
            if keys.contains(&me) {
                continue;
            }
            for other in vector.sharers.iter().filter(|other| **other != me) {
                if keys.contains(other) {
                    continue;
                }
                let mask = (vector.sid, me.min(*other), Some(me.max(*other)));
                let sign = if me < *other { 1 } else { PRIME - 1 };
                masks.entry(mask).or_default().insert(at, sign);
            }
        }
        masks
    }

    /// Tries sets of members, the smallest first: is there a combination that touches nobody else?
    fn search(
        &self,
        values: &[Row],
        members: &BTreeSet<MemberId>,
        most: usize,
    ) -> Result<Option<BTreeSet<MemberId>>, Unsettled> {
        let members: Vec<_> = members.iter().copied().collect();
        let mut tries = 0;
        for size in 1..self.least {
            let mut at: Vec<usize> = (0..size).collect();
            while at.last().is_some_and(|last| *last < members.len()) {
                if tries >= most {
                    return Err(Unsettled(tries));
                }
                tries += 1;
                let chosen: BTreeSet<_> = at.iter().filter_map(|at| members.get(*at)).collect();
                if self.isolates(values, &chosen) {
                    return Ok(Some(chosen.into_iter().copied().collect()));
                }
                advance(&mut at, members.len());
            }
        }
        Ok(None)
    }

    /// Whether some derivable combination is zero outside of the chosen members, and not zero.
    fn isolates(&self, values: &[Row], chosen: &BTreeSet<&MemberId>) -> bool {
        let free: BTreeSet<usize> = values.iter().flat_map(|row| row.keys().copied()).collect();
        let mut system = System::default();
        for (vector, row) in self.vectors.iter().zip(values) {
            if !chosen.contains(&vector.member) {
                system.require(row.clone());
            }
        }
        system.pivots.len() < free.len()
    }
}

/// The next set of indices below `n` of the same size, in lexicographic order; past the end the last is `n`.
fn advance(at: &mut [usize], n: usize) {
    let size = at.len();
    let turn = (0..size)
        .rev()
        .find(|i| at.get(*i).is_some_and(|v| v + size < n + i));
    let Some(turn) = turn else {
        if let Some(last) = at.last_mut() {
            *last = n;
        }
        return;
    };
    let from = at.get(turn).map_or(0, |value| value + 1);
    for (step, value) in at.iter_mut().skip(turn).enumerate() {
        *value = from + step;
    }
}

/// Homogeneous equations: the value of each pivot by unknowns of lower number.
#[derive(Debug, Default)]
struct System {
    pivots: BTreeMap<usize, Row>,
}

impl System {
    /// Adds the equation `row = 0`.
    fn require(&mut self, mut row: Row) {
        let mut above = usize::MAX;
        while let Some((at, factor)) = row.range(..above).next_back().map(|(a, f)| (*a, *f)) {
            let Some(value) = self.pivots.get(&at) else {
                above = at;
                continue;
            };
            row.remove(&at);
            add(&mut row, value, factor);
            above = at;
        }
        // pivot = − Σ rest / factor
        if let Some((pivot, factor)) = row.pop_last() {
            let by = times(PRIME - 1, inverse(factor));
            let mut value = Row::new();
            add(&mut value, &row, by);
            self.pivots.insert(pivot, value);
        }
    }

    /// The value of every unknown by the free ones.
    fn resolve(&self, unknowns: usize) -> Vec<Row> {
        let mut values: Vec<Row> = Vec::with_capacity(unknowns);
        for at in 0..unknowns {
            let value = match self.pivots.get(&at) {
                None => Row::from([(at, 1)]),
                Some(row) => {
                    let mut value = Row::new();
                    for (lower, factor) in row {
                        if let Some(lower) = values.get(*lower) {
                            add(&mut value, lower, *factor);
                        }
                    }
                    value
                }
            };
            values.push(value);
        }
        values
    }
}

/// `to += factor · row`.
fn add(to: &mut Row, row: &Row, factor: u64) {
    for (at, value) in row {
        let entry = to.entry(*at).or_default();
        let sum = u128::from(*entry) + u128::from(times(*value, factor));
        *entry = reduce(sum);
        if *entry == 0 {
            to.remove(at);
        }
    }
}

fn times(one: u64, other: u64) -> u64 {
    reduce(u128::from(one) * u128::from(other))
}

fn reduce(value: u128) -> u64 {
    u64::try_from(value % u128::from(PRIME)).unwrap_or(0)
}

/// `value^(p − 2)`.
fn inverse(value: u64) -> u64 {
    let (mut power, mut result, mut left) = (value, 1, PRIME - 2);
    while left > 0 {
        if left & 1 == 1 {
            result = times(result, power);
        }
        power = times(power, power);
        left >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(n: u32, threshold: usize, least: usize) -> View {
        let sharers: BTreeSet<_> = (0..n).map(MemberId).collect();
        let vector = |member| Vector {
            member,
            sid: SumId(Digest([1; 32])),
            sharers: sharers.clone(),
            root: Digest([u8::try_from(member.0).unwrap(); 32]),
        };
        View {
            threshold,
            corrupt: BTreeSet::new(),
            vectors: sharers.iter().copied().map(vector).collect(),
            shown: BTreeMap::new(),
            whole: BTreeSet::new(),
            least,
        }
    }

    fn reveal(view: &mut View, survivors: &[u32], dropouts: &[u32]) {
        let own = survivors.iter().map(|id| (MemberId(*id), Secret::SelfSeed));
        let pair = dropouts.iter().map(|id| (MemberId(*id), Secret::PairKey));
        view.whole.extend(own.chain(pair));
    }

    #[test]
    fn without_a_reveal_nothing_is_derivable() {
        assert_eq!(view(5, 4, 6).lightest(), Ok(None));
    }

    #[test]
    fn one_opening_gives_the_sum_of_its_survivors_and_no_less() {
        let mut view = view(5, 4, 6);
        reveal(&mut view, &[0, 1, 2], &[3, 4]);
        let sum: BTreeSet<_> = (0..3).map(MemberId).collect();
        assert_eq!(view.lightest(), Ok(Some(sum)));
        view.least = 3;
        assert_eq!(view.lightest(), Ok(None));
    }

    #[test]
    fn both_secrets_of_a_member_give_its_vector() {
        let mut view = view(5, 4, 3);
        reveal(&mut view, &[0, 1, 2, 3], &[4]);
        assert_eq!(view.lightest(), Ok(None));
        reveal(&mut view, &[], &[3]);
        assert_eq!(view.lightest(), Ok(Some([MemberId(3)].into())));
    }

    #[test]
    fn a_member_whose_peers_are_all_known_stands_alone() {
        // Its own mask and the pair keys of all its peers: no key of its own is needed.
        let mut view = view(4, 3, 3);
        reveal(&mut view, &[0], &[1, 2, 3]);
        assert_eq!(view.lightest(), Ok(Some([MemberId(0)].into())));
    }

    #[test]
    fn a_mask_used_twice_gives_the_difference() {
        let mut view = view(4, 3, 3);
        let again = Vector {
            root: Digest([9; 32]),
            ..view.vectors[1].clone()
        };
        view.vectors.push(again);
        assert_eq!(view.lightest(), Ok(Some([MemberId(1)].into())));
        // In the open sum as well, where no single basis need show it.
        reveal(&mut view, &[0, 1, 2, 3], &[]);
        assert_eq!(view.lightest(), Ok(Some([MemberId(1)].into())));
    }

    #[test]
    fn to_give_up_is_said() {
        // Five members are summed twice, under two masking contexts: there are five ones and ten pairs to look at.
        let mut view = view(5, 4, 3);
        reveal(&mut view, &[0, 1, 2, 3, 4], &[]);
        for mut vector in view.vectors.clone() {
            vector.sid = SumId(Digest([2; 32]));
            view.vectors.push(vector);
        }
        assert_eq!(view.lightest_within(15), Ok(None));
        assert_eq!(view.lightest_within(14), Err(Unsettled(14)));
    }

    #[test]
    fn corrupt_holders_count_towards_the_threshold() {
        let mut view = view(4, 3, 2);
        view.corrupt.insert(MemberId(3));
        view.vectors.pop();
        let two: BTreeSet<_> = [0, 1].map(MemberId).into();
        for survivor in [0, 1, 2] {
            let shown = (MemberId(survivor), Secret::SelfSeed);
            view.shown.insert(shown, two.clone());
        }
        assert_eq!(view.lightest(), Ok(None));
        view.shown.insert((MemberId(1), Secret::PairKey), two);
        assert_eq!(view.lightest(), Ok(Some([MemberId(1)].into())));
    }
}
