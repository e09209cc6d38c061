//! A negative control: a decider that signs once and starts again.
//!
//! It signs the first record that it sees in an attempt; a quorum of signatures decides; after a while without a
//! decision it gives the attempt up and signs the record of the next proposer. Nothing ties one attempt to the next.
//! The votes of the real engine are kept back, and those of this one are kept from it: it learns of decisions only.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::{IdentityKey, Signature};

use super::talk::{Ballot, Motion};
use super::{Said, Scene};
use crate::decide::{Certificate, Step};
use crate::envelope::{Envelope, Kind};
use crate::letter::Letter;
use crate::message::{self, Decided};
use crate::names::{MemberId, SessId};
use crate::params;
use crate::record::Record;
use crate::time::{Span, Time};

/// How long an attempt lasts.
const ATTEMPT: Span = Span::seconds(2);

/// The attempts of one place, by session.
#[derive(Debug, Default)]
pub(super) struct Once {
    place: usize,
    sessions: BTreeMap<SessId, Attempt>,
    /// The own id and the number of members, as the last own message had them.
    me: Option<(MemberId, usize)>,
}

/// The attempt that a session is at.
#[derive(Debug)]
struct Attempt {
    since: Time,
    signed: bool,
    /// The first record that was proposed in it.
    motion: Motion,
    /// Signatures of this attempt, by record.
    votes: BTreeMap<Digest, BTreeMap<MemberId, Signature>>,
}

impl Attempt {
    fn new(since: Time, motion: Motion) -> Self {
        Self {
            since,
            signed: false,
            motion,
            votes: BTreeMap::new(),
        }
    }
}

impl Once {
    pub(super) fn new(place: usize) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    /// The member speaks: its engine's proposal is the first attempt's.
    pub(super) fn speak(&mut self, key: &IdentityKey, now: Time, scene: Scene<'_>) -> Vec<Said> {
        self.me = Some((scene.id, scene.roster.len()));
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

    /// Somebody proposes or signs.
    pub(super) fn hear(&mut self, key: &IdentityKey, now: Time, envelope: &Envelope) -> Vec<Said> {
        match envelope.kind {
            Kind::Proposal => self.sign(key, now, envelope).unwrap_or_default(),
            Kind::Vote => self.count(key, envelope).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// The first record of the attempt is signed.
    fn sign(&mut self, key: &IdentityKey, now: Time, envelope: &Envelope) -> Option<Vec<Said>> {
        let ((me, _), motion) = (self.me?, Motion::of(envelope)?);
        let attempt = self.sessions.entry(envelope.sess);
        let attempt = attempt.or_insert_with(|| Attempt::new(now, motion.clone()));
        if motion.round > attempt.motion.round {
            *attempt = Attempt::new(now, motion.clone());
        }
        if motion.round < attempt.motion.round || attempt.signed {
            return None;
        }
        attempt.signed = true;
        attempt.motion = motion.clone();
        let ballot = Ballot {
            height: motion.height,
            round: motion.round,
            step: Step::Precommit,
            record: Some(Record::digest_of(&motion.record)),
        };
        let body = message::encode(&ballot);
        let vote = Envelope::sign(key, Kind::Vote, envelope.sess, me, 0, body);
        let mut said = vec![Said {
            to: None,
            bytes: Letter::of(vote.clone()),
        }];
        said.extend(self.count(key, &vote).unwrap_or_default());
        Some(said)
    }

    /// A signature of this attempt; with a quorum of them the height is decided.
    fn count(&mut self, key: &IdentityKey, vote: &Envelope) -> Option<Vec<Said>> {
        let ((me, members), ballot) = (self.me?, Ballot::of(vote)?);
        let attempt = self.sessions.get_mut(&vote.sess)?;
        let (record, motion) = (ballot.record?, &attempt.motion);
        if ballot.round != motion.round || ballot.step != Step::Precommit {
            return None;
        }
        let votes = attempt.votes.entry(record).or_default();
        votes.insert(vote.sender, vote.signature);
        let proposed = Record::digest_of(&motion.record) == record;
        if !proposed || votes.len() < params::quorum(members) {
            return None;
        }
        let certificate = Certificate {
            height: ballot.height,
            round: ballot.round,
            record,
            signatures: votes
                .iter()
                .map(|(id, signature)| (*id, *signature))
                .collect(),
        };
        let record = motion.record.clone();
        let body = message::encode(&Decided {
            record,
            certificate,
        });
        let bytes = Letter::sign(key, Kind::Decided, vote.sess, me, 0, body);
        let own = Said {
            to: Some(self.place),
            bytes: bytes.clone(),
        };
        Some(vec![own, Said { to: None, bytes }])
    }

    /// The attempt has lasted long enough: whose turn it is proposes a record of its own.
    fn give_up(&mut self, key: &IdentityKey, now: Time, scene: &Scene<'_>) -> Vec<Said> {
        let sess = scene.own.sess;
        let Some(attempt) = self.sessions.get_mut(&sess) else {
            return Vec::new();
        };
        if attempt.since + ATTEMPT > now || scene.height < scene.next {
            return Vec::new();
        }
        let mut motion = attempt.motion.clone();
        motion.round += 1;
        *attempt = Attempt::new(now, motion.clone());
        let turn = scene.height.0 + u64::from(motion.round);
        let turn = usize::try_from(turn).unwrap_or(0) % scene.roster.len().max(1);
        if scene.roster.get(turn) != Some(&scene.id) {
            return Vec::new();
        }
        // It holds other vectors than the one before it did.
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
