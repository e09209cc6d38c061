//! A set of places: which members of a height, by their position in its roster.

/// Bits in a word.
const BITS: usize = 64;

/// Words: room for 255 holders and more.
const WORDS: usize = 4;

/// A set of places below 256.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Places([u64; WORDS]);

impl Places {
    /// Adds a place; false if it is in already, or beyond what a height can have.
    pub(crate) fn insert(&mut self, place: usize) -> bool {
        let (word, bit) = position(place);
        match self.0.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes a place out.
    pub(crate) fn remove(&mut self, place: usize) {
        let (word, bit) = position(place);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Whether a place is in it.
    pub(crate) fn contains(&self, place: usize) -> bool {
        let (word, bit) = position(place);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many places are in it.
    pub(crate) fn count(&self) -> usize {
        let ones = self.0.iter().map(|word| word.count_ones());
        usize::try_from(ones.fold(0, u32::saturating_add)).unwrap_or(usize::MAX)
    }

    /// The places that are in both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, other) in both.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
        both
    }

    /// The places that are in this set and not in the other.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut rest = *self;
        for (word, other) in rest.0.iter_mut().zip(&other.0) {
            *word &= !other;
        }
        rest
    }

    /// Adds all places of the other set.
    pub(crate) fn join(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// Whether all of them are in the other set.
    pub(crate) fn within(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .all(|(own, other)| own & !other == 0)
    }
}

impl FromIterator<usize> for Places {
    fn from_iter<I: IntoIterator<Item = usize>>(places: I) -> Self {
        let mut set = Self::default();
        for place in places {
            set.insert(place);
        }
        set
    }
}

fn position(place: usize) -> (usize, u64) {
    let (word, bit) = (place.checked_div(BITS), place.checked_rem(BITS));
    let bit = bit.and_then(|bit| u32::try_from(bit).ok()).unwrap_or(0);
    (word.unwrap_or(usize::MAX), 1_u64.wrapping_shl(bit))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_sets(one: BTreeSet<u8>, other: BTreeSet<u8>, more in 256usize..400) {
            let places = |set: &BTreeSet<u8>| set.iter().map(|place| usize::from(*place)).collect::<Places>();
            let (mut a, b) = (places(&one), places(&other));
            prop_assert_eq!(a.count(), one.len());
            prop_assert_eq!(a.within(&b), one.is_subset(&other));
            let both: BTreeSet<u8> = one.intersection(&other).copied().collect();
            prop_assert_eq!(a.and(&b), places(&both));
            prop_assert_eq!(a.without(&b), places(&one.difference(&other).copied().collect()));
            let mut all = a;
            all.join(&b);
            prop_assert_eq!(all, places(&one.union(&other).copied().collect()));
            all.remove(300);
            for place in &other {
                all.remove(usize::from(*place));
            }
            prop_assert_eq!(all, a.without(&b));
            for place in 0..=255 {
                prop_assert_eq!(a.contains(usize::from(place)), one.contains(&place));
            }
            prop_assert!(!a.insert(more) && !a.contains(more));
            prop_assert_eq!(a.insert(200), !one.contains(&200));
        }
    }
}
