//! Where hostile places meet the world: who they are, what they say instead, what they overhear.

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use super::{Said, Scene};
use crate::letter::Letter;
use crate::names::MemberId;
use crate::sim::World;

impl World {
    /// Whether a place is hostile. (One that runs a control is judged like an honest one.)
    pub fn is_hostile(&self, place: usize) -> bool {
        let mut hostile = self.faults.hostile.iter();
        hostile.any(|(hostile, _)| *hostile == place)
    }

    /// Whether a place with a script has said anything else so far than its member would have said.
    pub fn acted(&self, place: usize) -> bool {
        let hostile = self.hostile.get(&place);
        hostile.is_some_and(|hostile| hostile.acted)
    }

    /// The ids of the hostile members.
    pub fn hostile_ids(&self) -> Vec<MemberId> {
        let places = self.faults.hostile.iter().map(|(place, _)| *place);
        places.filter_map(|place| self.id(place)).collect()
    }

    /// The member id of a place, by the longest chain that stands here; a founder's is its place.
    pub fn id(&self, place: usize) -> Option<MemberId> {
        let key = self.key(place)?;
        if place < self.terms.founders {
            return u32::try_from(place).ok().map(MemberId);
        }
        let members = self.places.iter().filter_map(|place| place.member.as_ref());
        let longest = members.max_by_key(|member| member.ledger().head())?;
        longest.ledger().member(&key)
    }

    /// The identity of a member.
    pub fn key_of(&self, member: MemberId) -> Option<PublicKey> {
        let index = usize::try_from(member.0).ok()?;
        if index < self.terms.founders {
            return self.key(index);
        }
        let place = (0..self.places.len()).find(|place| self.id(*place) == Some(member))?;
        self.key(place)
    }

    /// What hostile members added to each coordinate of a vector, by the digest of its Commit.
    pub fn lie(&self, commit: &Digest) -> Option<i64> {
        let mut lies = self.hostile.values().map(|hostile| &hostile.lies);
        lies.find_map(|lies| lies.get(commit).copied())
    }

    /// What a hostile place says instead; `None` if the place is honest.
    pub(in crate::sim) fn twist(
        &mut self,
        place: usize,
        to: Option<usize>,
        bytes: &Letter,
    ) -> Option<Vec<Said>> {
        if !self.hostile.contains_key(&place) {
            return None;
        }
        let now = self.now;
        let said = Said {
            to,
            bytes: bytes.clone(),
        };
        let (accomplices, places) = (self.accomplices.clone(), self.places.len());
        let hostile = self.hostile.get_mut(&place)?;
        let found = self.places.get_mut(place)?;
        let ledger = found.member.as_ref()?.ledger();
        let own = said.bytes.envelope().ok().cloned();
        let own = own.filter(|own| ledger.member(&found.key) == Some(own.sender));
        let height = own
            .as_ref()
            .and_then(|own| ledger.session_height(&own.sess));
        let roster = height.and_then(|height| ledger.roster(height));
        let (Some(own), Some(height), Some(roster)) = (own, height, roster) else {
            return Some(vec![said]);
        };
        let scene = Scene {
            id: own.sender,
            places,
            height,
            next: ledger.next(),
            least: crate::params::survivors_min(ledger.charter(), roster.len()),
            roster: roster.ids().collect(),
            accomplices,
            disk: &mut found.disk.rows,
            own,
            said,
        };
        let genuine = (scene.said.to, scene.said.bytes.digest());
        let says = hostile.twist(now, scene);
        let same = matches!(says.as_slice(), [only] if (only.to, only.bytes.digest()) == genuine);
        hostile.acted |= !same;
        Some(says)
    }

    /// A hostile place listens. False: its member is not to know.
    pub(in crate::sim) fn overhear(&mut self, place: usize, bytes: &Letter) -> bool {
        let now = self.now;
        let Some(hostile) = self.hostile.get_mut(&place) else {
            return true;
        };
        let kept = hostile.keeps_back(bytes);
        for said in hostile.hear(now, bytes) {
            self.deliver(place, said.to, &said.bytes);
        }
        !kept
    }
}
