//! Who acknowledged which dealing, by the places of the session's members. R12

use conclave_crypto::digest::Digest;

use crate::message::{Ack, Acked};
use crate::names::MemberId;
use crate::places::Places;
use crate::roster::Roster;

/// The acknowledgements of a session.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// By holder: the dealers that it has acknowledged.
    dealers: Vec<Places>,
    /// By dealer: each (KeyAd, Deal) that somebody acknowledged, and who.
    pairs: Vec<Vec<Pair>>,
}

#[derive(Debug)]
struct Pair {
    key_ad: Digest,
    deal: Digest,
    holders: Places,
}

impl Acks {
    /// Takes a list that ascends by dealer; false if it names somebody that is no member.
    ///
    /// At most one Deal a dealer: what a holder acknowledged first stands.
    pub(crate) fn take(&mut self, roster: &Roster, holder: MemberId, ack: &Ack) -> bool {
        let Some(holder) = roster.place(holder) else {
            return false;
        };
        self.dealers.resize(roster.len(), Places::default());
        self.pairs.resize_with(roster.len(), Vec::new);
        let mut members = roster.ids().enumerate();
        let mut placed = Vec::with_capacity(ack.dealings.len());
        for acked in &ack.dealings {
            let Some((dealer, _)) = members.find(|(_, id)| *id == acked.dealer) else {
                return false;
            };
            placed.push((dealer, acked));
        }
        let Some(dealers) = self.dealers.get_mut(holder) else {
            return false;
        };
        for (dealer, acked) in placed {
            if !dealers.insert(dealer) {
                continue;
            }
            let Some(pairs) = self.pairs.get_mut(dealer) else {
                continue;
            };
            let fits = |pair: &&mut Pair| pair.fits(&acked.key_ad, &acked.deal);
            if let Some(pair) = pairs.iter_mut().find(fits) {
                pair.holders.insert(holder);
            } else {
                pairs.push(Pair {
                    key_ad: acked.key_ad,
                    deal: acked.deal,
                    holders: Places::from_iter([holder]),
                });
            }
        }
        true
    }

    /// Who acknowledged this pair of this dealer.
    pub(crate) fn holders(&self, dealer: usize, key_ad: &Digest, deal: &Digest) -> Places {
        let pairs = self.pairs.get(dealer);
        let pair = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.fits(key_ad, deal)));
        pair.map_or_else(Places::default, |pair| pair.holders)
    }

    /// Whether a holder acknowledged any pair of this dealer.
    pub(crate) fn has(&self, holder: usize, dealer: usize) -> bool {
        self.dealers
            .get(holder)
            .is_some_and(|dealers| dealers.contains(dealer))
    }

    /// What a holder acknowledged so far, ascending by dealer.
    pub(crate) fn said(&self, roster: &Roster, holder: usize) -> Vec<Acked> {
        let dealers = roster.ids().zip(&self.pairs);
        let own = |(dealer, pairs): (MemberId, &Vec<Pair>)| {
            let pair = pairs.iter().find(|pair| pair.holders.contains(holder))?;
            Some(Acked {
                dealer,
                key_ad: pair.key_ad,
                deal: pair.deal,
            })
        };
        dealers.filter_map(own).collect()
    }
}

impl Pair {
    fn fits(&self, key_ad: &Digest, deal: &Digest) -> bool {
        self.key_ad == *key_ad && self.deal == *deal
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::*;

    fn acked(dealer: u32, deal: u8) -> Acked {
        Acked {
            dealer: MemberId(dealer),
            key_ad: Digest([1; 32]),
            deal: Digest([deal; 32]),
        }
    }

    #[test]
    fn what_a_holder_acknowledged_first_stands() {
        let key = IdentityKey::from_bytes(&[1; 32]).public();
        let roster = Roster::new([2, 5, 9].map(|id| (MemberId(id), key)).to_vec());
        let mut acks = Acks::default();
        let mut take = |holder, dealings| acks.take(&roster, MemberId(holder), &Ack { dealings });
        assert!(take(5, vec![acked(9, 7)]));
        assert!(take(5, vec![acked(2, 7), acked(9, 8)]));
        assert!(take(2, vec![acked(9, 8)]));
        assert!(!take(2, vec![acked(3, 7)]), "nobody's dealing");
        assert!(!take(4, vec![acked(2, 7)]), "nobody's word");
        let holders =
            |dealer, deal: u8| acks.holders(dealer, &Digest([1; 32]), &Digest([deal; 32]));
        assert_eq!(holders(2, 7), Places::from_iter([1]));
        assert_eq!(holders(2, 8), Places::from_iter([0]));
        assert_eq!(holders(0, 7), Places::from_iter([1]));
        assert_eq!(holders(0, 8), Places::default());
        assert_eq!(acks.said(&roster, 1), [acked(2, 7), acked(9, 7)]);
        assert!(acks.has(0, 2) && !acks.has(0, 1) && !acks.has(2, 2));
    }
}
