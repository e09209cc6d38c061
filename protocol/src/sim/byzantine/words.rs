//! Words that are taken back: a member that says by turns that it holds vectors and that it holds none.

use super::{Hostile, Said, Scene};
use crate::envelope::Kind;
use crate::letter::Letter;
use crate::message::{self, Have};
use crate::names::{MemberId, SessId};

/// The newest that a member says that it holds.
#[derive(Debug)]
pub(super) struct Word {
    sess: SessId,
    id: MemberId,
    have: Have,
    /// The number of the newest message that says it, or takes it back.
    seq: u64,
    back: bool,
}

impl Hostile {
    /// What its member holds, as its newest word.
    pub(super) fn give_word(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let Ok(have) = message::decode::<Have>(&scene.own.body) else {
            return vec![scene.said];
        };
        let (sess, id, own) = (scene.own.sess, scene.id, scene.own.seq);
        let known = self.word.take().filter(|word| word.sess == sess);
        // Handed on again.
        let seq = match known {
            Some(word) if word.have == have => word.seq,
            Some(word) => word.seq.saturating_add(1),
            None => own,
        };
        let word = Word {
            sess,
            id,
            have,
            seq,
            back: false,
        };
        let bytes = word.sign(self);
        self.word = Some(word);
        let to = scene.said.to;
        vec![Said { to, bytes }]
    }

    /// Takes its word back, or gives it again, whenever somebody else gives one in this session.
    pub(super) fn turn_round(&mut self, sess: SessId) -> Vec<Said> {
        let Some(mut word) = self.word.take().filter(|word| word.sess == sess) else {
            return Vec::new();
        };
        word.back = !word.back;
        word.seq = word.seq.saturating_add(1);
        let bytes = word.sign(self);
        self.acted = true;
        self.word = Some(word);
        vec![Said { to: None, bytes }]
    }
}

impl Word {
    fn sign(&self, hostile: &Hostile) -> Letter {
        let mut have = self.have.clone();
        if self.back {
            have.commits.clear();
        }
        let body = message::encode(&have);
        Letter::sign(&hostile.key, Kind::Have, self.sess, self.id, self.seq, body)
    }
}
