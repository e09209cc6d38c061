//! A negative control: a voter that does not stand by what it once judged valid.
//!
//! "Time is up and no sum is in sight" holds for a while only. This voter asks itself again in every consensus round,
//! and votes for nothing where it would have to vote again for a null record while enough vectors have come meanwhile.

use super::talk::{Ballot, Motion};
use super::{Hostile, Said, Scene};
use crate::envelope::Envelope;
use crate::message;
use crate::record::Record;

impl Hostile {
    /// Notes which records are null.
    pub(super) fn note_null(&mut self, proposal: &Envelope) {
        if let Some(motion) = Motion::of(proposal)
            && let Ok(record) = Record::from_bytes(&motion.record)
            && record.survivors.is_none()
        {
            self.nulls.insert(Record::digest_of(&motion.record));
        }
    }

    /// A vote, judged anew.
    pub(super) fn vote_anew(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let Some(mut ballot) = Ballot::of(&scene.own) else {
            return vec![scene.said];
        };
        let null = ballot
            .record
            .is_some_and(|record| self.nulls.contains(&record));
        let again = null && ballot.round > 0;
        if !again || scene.commits().len() < scene.least {
            return vec![scene.said];
        }
        ballot.record = None;
        let forged = self.forge(&scene, |_| Some(message::encode(&ballot)));
        Self::replace(scene, forged)
    }
}
