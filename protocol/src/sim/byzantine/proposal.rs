//! Proposals that are not what the member would propose: who is left out, who is isolated, and two at once.

use conclave_crypto::digest::Digest;

use super::talk::{Ballot, Motion};
use super::{Hostile, Said, Scene, Script};
use crate::letter::Letter;
use crate::message;
use crate::names::MemberId;
use crate::record::Record;

impl Hostile {
    /// Two records: the rest is told one that leaves somebody out.
    pub(super) fn fork_proposal(&mut self, scene: &Scene<'_>) -> Vec<Said> {
        let forged = self.forge(scene, |hostile| hostile.other_record(scene));
        self.divide(scene, forged)
    }

    /// Votes for each of the two before those who were told of it.
    pub(super) fn vote_for_both(&mut self, scene: &Scene<'_>) -> Vec<Said> {
        let forged = self.other_vote(scene);
        self.divide(scene, forged)
    }

    /// One other record, to everybody.
    pub(super) fn propose_other(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let forged = self.forge(&scene, |hostile| hostile.other_record(&scene));
        Self::replace(scene, forged)
    }

    /// Votes for it.
    pub(super) fn vote_for_other(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let forged = self.other_vote(&scene);
        Self::replace(scene, forged)
    }

    fn other_vote(&mut self, scene: &Scene<'_>) -> Option<Letter> {
        let mut ballot = Ballot::of(&scene.own)?;
        let other = *self.records.get(&ballot.record?)?;
        ballot.record = Some(other);
        self.forge(scene, |_| Some(message::encode(&ballot)))
    }

    /// The member's record with other survivors; `None` where it has none to choose from.
    fn other_record(&mut self, scene: &Scene<'_>) -> Option<Vec<u8>> {
        let mut motion = Motion::of(&scene.own)?;
        let mut record = Record::from_bytes(&motion.record).ok()?;
        let genuine = Record::digest_of(&motion.record);
        let survivors = record.survivors.as_mut()?;
        let commits = &mut survivors.commits;
        let honest = |(id, _): &&(MemberId, Digest)| !scene.accomplices.contains(id);
        let victims: Vec<_> = commits.iter().filter(honest).map(|(id, _)| *id).collect();
        let victim = *victims.get(self.chance.index(victims.len()))?;
        if self.script == Script::Isolate {
            // The victim beside as few others as the rules allow; every other time, beside fewer.
            let room = scene
                .least
                .saturating_sub(usize::from(self.chance.percent(50)));
            let mut order: Vec<_> = commits.iter().map(|(id, _)| *id).collect();
            order.sort_by_key(|id| (*id != victim, !scene.accomplices.contains(id)));
            order.truncate(room);
            commits.retain(|(id, _)| order.contains(id));
        } else if commits.len() > scene.least {
            commits.retain(|(id, _)| *id != victim);
        } else {
            return None;
        }
        motion.record = record.to_bytes();
        self.records
            .insert(genuine, Record::digest_of(&motion.record));
        Some(message::encode(&motion))
    }
}
