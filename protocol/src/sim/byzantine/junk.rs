//! What is no message of the protocol, or was one before: replays, excess, nonsense.

use super::{Hostile, Said, Scene};
use crate::envelope::{Envelope, Kind};
use crate::letter::Letter;
use crate::limits;

/// Kinds whose longest body is short.
const SHORT: [Kind; 6] = [
    Kind::KeyAd,
    Kind::Seal,
    Kind::Vote,
    Kind::Heartbeat,
    Kind::Join,
    Kind::Ack,
];

/// All kinds that are routed to a session.
const KINDS: [Kind; 14] = [
    Kind::KeyAd,
    Kind::Deal,
    Kind::Seal,
    Kind::Ack,
    Kind::Commit,
    Kind::Have,
    Kind::Proposal,
    Kind::Vote,
    Kind::Liveness,
    Kind::Reveal,
    Kind::Heartbeat,
    Kind::Join,
    Kind::Want,
    Kind::Decided,
];

impl Hostile {
    /// Beside what the member says: something said before, by whomever; and its body under the own name.
    pub(super) fn replay(&mut self, scene: Scene<'_>) -> Vec<Said> {
        self.keep(&scene.said.bytes);
        let mut said = vec![scene.said];
        for _ in 0..2 {
            let at = self.chance.index(self.kept.len());
            let old = self.kept.get(at).cloned();
            let to = Some(self.chance.index(scene.places));
            let Some(old) = old else { continue };
            if self.chance.percent(30)
                && let Ok(Envelope {
                    kind, seq, body, ..
                }) = old.envelope().cloned()
            {
                let (sess, id) = (scene.own.sess, scene.id);
                let bytes = Letter::sign(&self.key, kind, sess, id, seq + 1, body);
                said.push(Said { to, bytes });
            }
            said.push(Said { to, bytes: old });
        }
        said
    }

    /// Beside what the member says: a signed body that is longer than its kind allows.
    pub(super) fn oversize(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let kind = SHORT.get(self.chance.index(SHORT.len())).copied();
        let kind = kind.unwrap_or(Kind::KeyAd);
        let body = vec![7; limits::body(kind) + 1];
        let excess = Said {
            to: Some(self.chance.index(scene.places)),
            bytes: Letter::sign(&self.key, kind, scene.own.sess, scene.id, 0, body),
        };
        vec![scene.said, excess]
    }

    /// Beside what the member says: the same bytes cut or flipped, bytes drawn at random, a signed body of those.
    pub(super) fn malform(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let mut bytes = scene.said.bytes.to_vec();
        match self.chance.below(4) {
            0 => {
                let at = self.chance.index(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.chance.below(8);
                }
            }
            1 => bytes.truncate(self.chance.index(bytes.len())),
            2 => bytes = self.random(),
            _ => {
                let kind = KINDS.get(self.chance.index(KINDS.len())).copied();
                let kind = kind.unwrap_or(Kind::KeyAd);
                let (body, seq) = (self.random(), self.chance.below(2));
                let sess = scene.own.sess;
                bytes = Envelope::sign(&self.key, kind, sess, scene.id, seq, body).to_bytes();
            }
        }
        let nonsense = Said {
            to: Some(self.chance.index(scene.places)),
            bytes: Letter::from(bytes),
        };
        vec![scene.said, nonsense]
    }

    fn random(&mut self) -> Vec<u8> {
        let pieces = self.chance.below(8);
        let mut bytes: Vec<u8> = (0..pieces).flat_map(|_| self.chance.bytes()).collect();
        bytes.truncate(self.chance.index(bytes.len() + 1));
        bytes
    }
}
