//! A negative control: a decider that signs once and starts again.
//!
//! It signs the first record that it sees in an attempt; a quorum of signatures decides; after a while without a
//! decision it gives the attempt up and signs the record of the next proposer. Nothing ties one attempt to the next.

use std::collections::BTreeMap;

use conclave_crypto::sign::IdentityKey;

use super::talk::{Ballot, Motion};
use super::{Said, Scene};
use crate::decide::Step;
use crate::envelope::{Envelope, Kind};
use crate::letter::Letter;
use crate::message;
use crate::names::{MemberId, SessId};
use crate::record::Record;
use crate::time::{Span, Time};

/// How long an attempt lasts.
const ATTEMPT: Span = Span::seconds(2);

/// The attempts of one place, by session.
#[derive(Debug, Default)]
pub(super) struct Once {
    place: usize,
    sessions: BTreeMap<SessId, Attempt>,
    /// The own id and the members, as the last own message had them.
    me: Option<MemberId>,
}

/// The attempt that a session is at.
#[derive(Debug)]
struct Attempt {
    number: u32,
    since: Time,
    signed: bool,
    /// The first record that was proposed.
    motion: Motion,
}

impl Once {
    pub(super) fn new(place: usize) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    /// The member speaks: votes of the real engine are kept back, its proposal is the first attempt's.
    pub(super) fn speak(&mut self, key: &IdentityKey, now: Time, scene: Scene<'_>) -> Vec<Said> {
        self.me = Some(scene.id);
        let mut said = match scene.own.kind {
            Kind::Proposal => self.hear(key, now, &scene.own),
            _ => Vec::new(),
        };
        said.extend(self.give_up(key, now, &scene));
        if !matches!(scene.own.kind, Kind::Vote | Kind::Liveness) {
            said.push(scene.said);
        }
        said
    }

    /// Somebody proposes: the first record of the attempt is signed.
    pub(super) fn hear(&mut self, key: &IdentityKey, now: Time, envelope: &Envelope) -> Vec<Said> {
        let (Some(me), Some(motion)) = (self.me, Motion::of(envelope)) else {
            return Vec::new();
        };
        if envelope.kind != Kind::Proposal {
            return Vec::new();
        }
        let attempt = self.sessions.entry(envelope.sess);
        let attempt = attempt.or_insert_with(|| Attempt {
            number: motion.round,
            since: now,
            signed: false,
            motion: motion.clone(),
        });
        if motion.round > attempt.number {
            *attempt = Attempt {
                number: motion.round,
                since: now,
                signed: false,
                motion: motion.clone(),
            };
        }
        if motion.round < attempt.number || attempt.signed {
            return Vec::new();
        }
        attempt.signed = true;
        let ballot = Ballot {
            height: motion.height,
            round: motion.round,
            step: Step::Precommit,
            record: Some(Record::digest_of(&motion.record)),
        };
        let body = message::encode(&ballot);
        let bytes = Letter::sign(key, Kind::Vote, envelope.sess, me, 0, body);
        // The own engine counts it as well.
        let own = Said {
            to: Some(self.place),
            bytes: bytes.clone(),
        };
        vec![Said { to: None, bytes }, own]
    }

    /// The attempt has lasted long enough: whose turn it is proposes a record of its own.
    fn give_up(&mut self, key: &IdentityKey, now: Time, scene: &Scene<'_>) -> Vec<Said> {
        let sess = scene.own.sess;
        let Some(attempt) = self.sessions.get_mut(&sess) else {
            return Vec::new();
        };
        if attempt.since + ATTEMPT > now {
            return Vec::new();
        }
        attempt.number += 1;
        attempt.since = now;
        attempt.signed = false;
        let turn = scene.height.0 + u64::from(attempt.number);
        let turn = usize::try_from(turn).unwrap_or(0) % scene.roster.len().max(1);
        if scene.roster.get(turn) != Some(&scene.id) {
            return Vec::new();
        }
        // It holds other vectors than the one before it did.
        let mut motion = attempt.motion.clone();
        motion.round = attempt.number;
        if let Ok(mut record) = Record::from_bytes(&motion.record)
            && let Some(survivors) = &mut record.survivors
            && survivors.commits.len() > scene.least
        {
            survivors.commits.pop();
            motion.record = record.to_bytes();
        }
        let body = message::encode(&motion);
        let proposal = Envelope::sign(key, Kind::Proposal, sess, scene.id, 0, body);
        let mut said = self.hear(key, now, &proposal);
        let bytes = Letter::of(proposal);
        said.insert(0, Said { to: None, bytes });
        said
    }
}
