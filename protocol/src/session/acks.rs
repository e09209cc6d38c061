//! Who acknowledged which dealing, by the places of the session's members. R12

use conclave_crypto::digest::Digest;

use crate::letter::Letter;
use crate::limits;
use crate::message::{Ack, Acked};
use crate::names::MemberId;
use crate::places::Places;
use crate::record::Sharer;
use crate::refusal::Refusal;
use crate::roster::Roster;
use crate::session::Session;

/// The acknowledgements of a session.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// By holder: the dealers that it has acknowledged.
    dealers: Vec<Places>,
    /// By dealer: each dealing that somebody acknowledged, by the pair that names it, and who.
    pairs: Vec<Vec<(Digest, Places)>>,
}

impl Acks {
    /// Takes a list that ascends by dealer; nothing if it names somebody that is no member.
    ///
    /// At most one Deal a dealer: what a holder acknowledged first stands.
    pub(crate) fn take(&mut self, roster: &Roster, holder: MemberId, ack: &Ack) -> Option<()> {
        let holder = roster.place(holder)?;
        self.dealers.resize(roster.len(), Places::default());
        self.pairs.resize_with(roster.len(), Vec::new);
        let mut members = roster.ids().enumerate();
        let mut placed = Vec::with_capacity(ack.dealings.len());
        for acked in &ack.dealings {
            let (dealer, _) = members.find(|(_, id)| *id == acked.dealer)?;
            placed.push((dealer, acked));
        }
        let dealers = self.dealers.get_mut(holder)?;
        for (dealer, acked) in placed {
            let pairs = self.pairs.get_mut(dealer)?;
            if !dealers.insert(dealer) {
                continue;
            }
            if let Some((_, holders)) = pairs.iter_mut().find(|(pair, _)| *pair == acked.pair) {
                holders.insert(holder);
            } else {
                pairs.push((acked.pair, Places::from_iter([holder])));
            }
        }
        Some(())
    }

    /// Whether a list names a dealer of whom its holder had acknowledged nothing yet.
    pub(crate) fn says_more(&self, roster: &Roster, holder: MemberId, ack: &Ack) -> bool {
        let Some(dealers) = roster.place(holder).map(|holder| self.dealers.get(holder)) else {
            return false;
        };
        let new = |acked: &Acked| {
            let place = roster.place(acked.dealer);
            place.is_some_and(|place| !dealers.is_some_and(|dealers| dealers.contains(place)))
        };
        ack.dealings.iter().any(new)
    }

    /// Who acknowledged this dealing, given with its dealer's place.
    pub(crate) fn holders(&self, dealer: usize, acked: &Acked) -> Places {
        let mut pairs = self.pairs.get(dealer).into_iter().flatten();
        let found = pairs.find(|(pair, _)| *pair == acked.pair);
        found.map_or_else(Places::default, |(_, holders)| *holders)
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
        let own = |(dealer, pairs): (MemberId, &Vec<(Digest, Places)>)| {
            let mut pairs = pairs.iter();
            let (pair, _) = pairs.find(|(_, holders)| holders.contains(holder))?;
            Some(Acked {
                dealer,
                pair: *pair,
            })
        };
        dealers.filter_map(own).collect()
    }
}

impl Ack {
    /// Whether another list has all that stands in this one.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let mut others = other.dealings.iter();
        self.dealings
            .iter()
            .all(|own| others.any(|other| other == own))
    }
}

impl Session {
    pub(crate) fn take_ack(&mut self, sender: MemberId, body: &Ack) -> Result<(), Refusal> {
        let ascending = body.dealings.is_sorted_by(|a, b| a.dealer < b.dealer);
        if !ascending || body.dealings.len() > limits::MEMBERS {
            return Err(Refusal::Rule);
        }
        let taken = self.dealings.acks.take(&self.roster, sender, body);
        taken.ok_or(Refusal::Rule)?;
        self.dealings.acked = self.dealings.acked.saturating_add(1);
        if let Some(place) = self.roster.place(sender) {
            self.post.doubted.remove(place);
        }
        Ok(())
    }

    /// R12. Whether acknowledgements bring anything, newer than those held or not: their sender may tell some less than
    /// others, and some other things.
    pub(super) fn says_more(&self, letter: &Letter, sender: MemberId) -> bool {
        let ack = letter.body::<Ack>();
        ack.is_ok_and(|ack| self.dealings.acks.says_more(&self.roster, sender, &ack))
    }

    /// Whether all these holders, given by their places, acknowledged that dealing.
    pub(crate) fn have_acked(&self, holders: &Places, sharer: &Sharer) -> bool {
        self.without_ack(holders, sharer) == Places::default()
    }

    /// Those of these holders that did not acknowledge that dealing, as far as is known here.
    fn without_ack(&self, holders: &Places, sharer: &Sharer) -> Places {
        let acks = &self.dealings.acks;
        let dealer = self.roster.place(sharer.member);
        let acked = Acked::of(sharer.member, &sharer.key_ad, &sharer.deal);
        let known = dealer.map(|dealer| acks.holders(dealer, &acked));
        holders.without(&known.unwrap_or_default())
    }

    /// R12. Notes whose acknowledgements a proposed record rests on and are not held: they are asked for, newer or not.
    pub(crate) fn doubt(&mut self, sharers: &[Sharer], ackers: &[Places]) {
        for (sharer, ackers) in sharers.iter().zip(ackers) {
            let lacking = self.without_ack(ackers, sharer);
            self.post.doubted.join(&lacking);
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::*;

    fn acked(dealer: u32, deal: u8) -> Acked {
        Acked::of(MemberId(dealer), &Digest([1; 32]), &Digest([deal; 32]))
    }

    #[test]
    fn what_a_holder_acknowledged_first_stands() {
        let key = IdentityKey::from_bytes(&[1; 32]).public();
        let roster = Roster::new([2, 5, 9].map(|id| (MemberId(id), key)).to_vec());
        let mut acks = Acks::default();
        let mut take = |holder, dealings| acks.take(&roster, MemberId(holder), &Ack { dealings });
        assert!(take(5, vec![acked(9, 7)]).is_some());
        assert!(take(5, vec![acked(2, 7), acked(9, 8)]).is_some());
        assert!(take(2, vec![acked(9, 8)]).is_some());
        assert_eq!(take(2, vec![acked(3, 7)]), None, "nobody's dealing");
        assert_eq!(take(4, vec![acked(2, 7)]), None, "nobody's word");
        let holders = |place, dealer, deal| acks.holders(place, &acked(dealer, deal));
        assert_eq!(holders(2, 9, 7), Places::from_iter([1]));
        assert_eq!(holders(2, 9, 8), Places::from_iter([0]));
        assert_eq!(holders(0, 2, 7), Places::from_iter([1]));
        assert_eq!(holders(0, 2, 8), Places::default());
        assert_eq!(acks.said(&roster, 1), [acked(2, 7), acked(9, 7)]);
        assert!(acks.has(0, 2) && !acks.has(0, 1) && !acks.has(2, 2));
        let says = |dealings| acks.says_more(&roster, MemberId(5), &Ack { dealings });
        assert!(says(vec![acked(5, 1)]) && !says(vec![acked(2, 9)]) && !says(vec![acked(3, 1)]));
    }
}
