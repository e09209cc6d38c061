//! The members of one height: voters, holders and candidates alike.

use std::sync::Arc;

use conclave_crypto::sign::PublicKey;

use crate::decide::Voter;
use crate::names::MemberId;
use crate::params;
use crate::places::Places;

/// W_r: fixed two records before its height.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster(Arc<Vec<(MemberId, PublicKey)>>);

impl Roster {
    /// The members, ascending by id.
    pub fn new(mut members: Vec<(MemberId, PublicKey)>) -> Self {
        members.sort_unstable();
        members.dedup_by_key(|(id, _)| *id);
        Self(Arc::new(members))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many must sign, and how many shares open a secret.
    pub fn quorum(&self) -> usize {
        params::quorum(self.len())
    }

    /// The place of a member: Shamir's x is the place + 1.
    pub fn place(&self, member: MemberId) -> Option<usize> {
        self.0.binary_search_by_key(&member, |(id, _)| *id).ok()
    }

    /// The places of members, given in ascending order; `None` if one is no member.
    pub(crate) fn places(&self, members: &[MemberId]) -> Option<Places> {
        let mut all = self.ids().enumerate();
        let place = |member: &MemberId| all.find(|(_, id)| id == member).map(|(place, _)| place);
        members.iter().map(place).collect()
    }

    /// Whether a member's place is among these.
    pub(crate) fn is_in(&self, places: &Places, member: MemberId) -> bool {
        self.place(member)
            .is_some_and(|place| places.contains(place))
    }

    /// Whether it is a member of the height.
    pub fn contains(&self, member: MemberId) -> bool {
        self.place(member).is_some()
    }

    /// The member's Shamir coordinate: its place among the members (not among the sharers) + 1.
    pub fn x(&self, member: MemberId) -> Option<u8> {
        self.place(member)
            .and_then(|place| u8::try_from(place.saturating_add(1)).ok())
    }

    /// The member's identity key.
    pub fn key(&self, member: MemberId) -> Option<&PublicKey> {
        self.place(member)
            .and_then(|place| self.0.get(place))
            .map(|(_, key)| key)
    }

    /// The member with this key.
    pub fn member(&self, key: &PublicKey) -> Option<MemberId> {
        self.0
            .iter()
            .find(|(_, known)| known == key)
            .map(|(id, _)| *id)
    }

    /// Their ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.0.iter().map(|(id, _)| *id)
    }

    /// Their keys, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.0.iter().map(|(_, key)| *key)
    }

    /// The keys of the others, from the one behind this member on, round to the one before it; from the first on for
    /// somebody else.
    pub(crate) fn behind(&self, key: &PublicKey) -> Vec<PublicKey> {
        let mut keys: Vec<_> = self.keys().collect();
        if let Some(place) = keys.iter().position(|known| known == key) {
            keys.rotate_left(place);
            keys.remove(0);
        }
        keys
    }

    /// As voters of the consensus engine.
    pub fn voters(&self) -> Vec<Voter> {
        self.0
            .iter()
            .map(|(member, key)| Voter {
                member: *member,
                key: *key,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::*;

    // R35
    #[test]
    fn everybody_begins_with_another_one() {
        let key = |byte| IdentityKey::from_bytes(&[byte; 32]).public();
        let member = |byte: u8| (MemberId(byte.into()), key(byte));
        let roster = Roster::new([2, 5, 7].map(member).to_vec());
        assert_eq!(roster.behind(&key(2)), [key(5), key(7)]);
        assert_eq!(roster.behind(&key(5)), [key(7), key(2)]);
        assert_eq!(roster.behind(&key(7)), [key(2), key(5)]);
        assert_eq!(roster.behind(&key(1)), [key(2), key(5), key(7)]);
    }
}
