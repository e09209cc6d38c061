//! One decision a height: malachite's core consensus as a value that is fed and polled.
//!
//! The core is Tendermint with weight one a voter and a quorum of ⌊2n/3⌋ + 1, so that all must sign for n ≤ 3.
//! This module signs and verifies through [`Envelope`], keeps the write-ahead log's bytes, merges the core's
//! timers into one deadline, filters duplicates before the core sees them, and asks the host for values and
//! for their validity. The record travels whole inside the proposal; the core runs in its "proposal and parts"
//! mode so that the host, not the core, says what is valid.
//!
//! Outputs are ordered: an [`Effect::Wal`] is durable before anything behind it is performed. That, and the
//! replay of the log at a restart, is why a member never signs two different votes for one slot.
//!
//! The core's types do not leave this module.

mod certificate;
mod context;
mod door;
mod receive;
mod replay;
mod shell;
#[cfg(test)]
mod tests;
mod value;
mod verify;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arc_malachitebft_core_consensus::{
    Input as Fed, LocallyProposedValue, Params, ProposedValue, State, ThresholdParams, ValuePayload,
};
use arc_malachitebft_core_types::{Round, Validity, ValueOrigin};
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::IdentityKey;

pub use self::certificate::{Certificate, CertificateError};
use self::context::{Address, Ctx, Validators};
pub use self::door::{ConsensusTimers, Effect, Evidence, Feed, StartError, Voter};
pub(crate) use self::receive::check_form;
pub use self::receive::slot_of;
pub(crate) use self::replay::logged;
use self::shell::Shell;
use self::value::Value;
pub use self::wire::{LIVENESS_MAX, PROPOSAL_MAX, Step, VOTE_MAX};
use crate::envelope::Envelope;
use crate::input::Verdict;
use crate::letter::Bytes;
use crate::names::{Height, MemberId, SessId};
use crate::refusal::Refusal;
use crate::time::Time;

/// One height's decision.
pub struct Decider {
    height: Height,
    voters: Vec<Voter>,
    state: State<Ctx>,
    shell: Shell,
    /// What the host said about records.
    judged: BTreeMap<Digest, bool>,
    /// The records proposed so far: where first, by whom, and the bytes.
    proposed: BTreeMap<Digest, (u32, MemberId, Bytes)>,
    /// Those that the host was asked about.
    shown: BTreeSet<Digest>,
    /// What arrived before the start.
    early: Vec<Fed<Ctx>>,
    /// Bodies of liveness messages that were fed.
    certificates: BTreeSet<Digest>,
    /// The round for which the host was asked for a value.
    asked: Option<u32>,
    started: bool,
    done: bool,
}

/// `SHA-256("conclave/v1/record" ‖ the encoded record)`: what is voted on and what the next record names.
pub fn record_digest(record: &[u8]) -> Digest {
    Digest::of("conclave/v1/record", &[record])
}

/// `⌊2n/3⌋ + 1` of n voters: any two quorums share an honest voter while fewer than n/3 are not.
pub const fn quorum(voters: usize) -> usize {
    voters.saturating_mul(2).saturating_div(3).saturating_add(1)
}

/// `⌊n/3⌋ + 1` of n voters: one of them at least is honest.
const fn honest(voters: usize) -> usize {
    voters.saturating_div(3).saturating_add(1)
}

impl Decider {
    /// The engine of one height, not started. `me` is `None` for one who follows without a vote.
    ///
    /// # Panics
    /// If `voters` is empty.
    pub fn new(
        height: Height,
        sess: SessId,
        me: Option<MemberId>,
        voters: Vec<Voter>,
        timers: ConsensusTimers,
    ) -> Self {
        assert!(
            !voters.is_empty(),
            "a height without voters cannot be decided"
        );
        let set = Validators::new(&voters);
        let me = me.filter(|me| set.key(*me).is_some());
        let params = Params {
            address: Address(me.unwrap_or(MemberId::NEWCOMER)),
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: me.is_some(),
        };
        let state = State::new(Ctx, height.into(), set.clone(), params, 1, 1);
        let shell = Shell {
            sess,
            me,
            voters: set,
            timing: timers,
            now: Time::default(),
            outbox: VecDeque::new(),
            heard: BTreeMap::new(),
            alarms: BTreeMap::new(),
            wanted: None,
            decided: None,
            replayed: BTreeSet::new(),
            forged: false,
        };
        Self {
            height,
            voters,
            state,
            shell,
            judged: BTreeMap::new(),
            proposed: BTreeMap::new(),
            shown: BTreeSet::new(),
            early: Vec::new(),
            certificates: BTreeSet::new(),
            asked: None,
            started: false,
            done: false,
        }
    }

    /// Takes one input. The verdict is about envelopes and certificates; of the rest it is `Accepted`.
    pub fn handle(&mut self, now: Time, feed: Feed<'_>, key: &IdentityKey) -> Verdict {
        self.shell.now = now;
        if self.done {
            return Verdict::Ignored;
        }
        match feed {
            Feed::Letter(letter) => return self.receive(letter, key),
            Feed::Certificate {
                record,
                certificate,
            } => return self.accept(record, certificate),
            Feed::Value(record) => self.propose(record, key),
            Feed::Judged { record, valid } => self.judge(record, valid, key),
            Feed::Wake => {
                while let Some(timeout) = self.shell.due(now) {
                    self.feed(Fed::TimeoutElapsed(timeout), key);
                }
            }
        }
        Verdict::Accepted
    }

    /// The next effect, to be performed before the one after it.
    pub fn poll(&mut self) -> Option<Effect> {
        self.shell.outbox.pop_front()
    }

    /// When to feed [`Feed::Wake`].
    pub fn deadline(&self) -> Option<Time> {
        let alarms = self.shell.alarms.values();
        alarms.map(|(at, _)| *at).min().filter(|_| !self.done)
    }

    /// Whether it has been started.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Whether the height is decided.
    pub fn decided(&self) -> bool {
        self.done
    }

    /// The consensus round it is in, or would start with.
    pub fn round(&self) -> u32 {
        self.state.round().as_u32().unwrap_or_default()
    }

    /// The consensus round for which the host's value is awaited.
    pub fn wanted(&self) -> Option<u32> {
        self.shell.wanted.filter(|_| self.started && !self.done)
    }

    /// Whose turn it is to propose in a round.
    ///
    /// # Panics
    /// Never: `new` refuses an empty set of voters.
    pub fn proposer(&self, round: u32) -> MemberId {
        self.shell
            .voters
            .proposer(self.height.0, round)
            .expect("Decider::new refuses an empty set of voters")
            .member()
    }

    /// Whether others are at it: a proposal, or votes of f + 1 voters. A reason to start at once.
    pub fn urged(&self) -> bool {
        let now = self.round();
        let mut heard = self.shell.heard.keys();
        let proposal = heard.any(|(round, _, step)| step.is_none() && *round <= now);
        let voters: BTreeSet<_> = self
            .shell
            .heard
            .keys()
            .map(|(_, member, _)| *member)
            .collect();
        proposal || voters.len() >= honest(self.shell.count())
    }

    /// Whether a quorum prevoted this record in some round: then lasting conditions alone judge it.
    pub fn polka(&self, record: &Digest) -> bool {
        (0..=self.round()).any(|round| {
            self.state
                .polka_certificate(Round::new(round), record)
                .is_some()
        })
    }

    /// Whether f + 1 voters voted for this record in some round: an honest one among them.
    pub fn is_backed(&self, record: &Digest) -> bool {
        let votes = self.envelopes().filter_map(wire::voted);
        let backers: BTreeSet<_> = votes
            .filter(|(_, voted)| voted == record)
            .map(|(voter, _)| voter)
            .collect();
        backers.len() >= honest(self.shell.count())
    }

    /// What the host said about a record, if it did.
    pub fn judged(&self, record: &Digest) -> Option<bool> {
        self.judged.get(record).copied()
    }

    /// The records proposed so far that the host has not judged: digest and bytes.
    pub fn pending(&self) -> impl Iterator<Item = (Digest, Bytes)> {
        let open = self.proposed.iter();
        let open = open.filter(|(digest, _)| !self.judged.contains_key(digest));
        open.map(|(digest, (_, _, record))| (*digest, record.clone()))
    }

    /// All verified votes and proposals of this height, own ones too: what anti-entropy serves.
    pub fn envelopes(&self) -> impl Iterator<Item = &Envelope> {
        self.shell.heard.values().flatten()
    }

    /// A height ends with any verified certificate, whatever the own engine thinks.
    fn accept(&mut self, record: Vec<u8>, certificate: Certificate) -> Verdict {
        let ours =
            certificate.height == self.height && certificate.record == record_digest(&record);
        if !ours {
            return Verdict::Refused(Refusal::Rule);
        }
        if certificate.verify(self.shell.sess, &self.voters).is_err() {
            return Verdict::Refused(Refusal::Signature);
        }
        self.finish(record.into(), certificate);
        Verdict::Accepted
    }

    /// Proposes the host's record, if the core still waits for one.
    fn propose(&mut self, record: Vec<u8>, key: &IdentityKey) {
        let Some(round) = self.shell.wanted.take() else {
            return;
        };
        let value = Value::new(record);
        self.judged.insert(value.digest(), true);
        let proposal = LocallyProposedValue {
            height: self.height.into(),
            round: Round::new(round),
            value,
        };
        self.feed(Fed::Propose(proposal), key);
    }

    /// Hands the host's judgement to the core. Valid stays valid; invalid may still turn valid.
    fn judge(&mut self, record: Digest, valid: bool, key: &IdentityKey) {
        let known = self.judged.get(&record);
        if known == Some(&true) || known == Some(&valid) {
            return;
        }
        let Some((round, proposer, bytes)) = self.proposed.get(&record) else {
            return;
        };
        let value = ProposedValue {
            height: self.height.into(),
            round: Round::new(*round),
            valid_round: Round::Nil,
            proposer: Address(*proposer),
            value: Value::known(record, bytes),
            validity: Validity::from_bool(valid),
        };
        self.judged.insert(record, valid);
        self.feed(Fed::ProposedValue(value, ValueOrigin::Consensus), key);
    }

    /// Feeds the core, then passes on what it wants and what it decided.
    fn feed(&mut self, input: Fed<Ctx>, key: &IdentityKey) {
        if self.done {
            return;
        }
        if let Err(error) = shell::feed(&mut self.state, &mut self.shell, key, input) {
            self.shell
                .outbox
                .push_back(Effect::Fault(error.to_string()));
        }
        self.settle();
    }

    fn settle(&mut self) {
        if let Some(certificate) = self.shell.decided.take()
            && let Some((_, value)) = self.state.decided_value()
        {
            self.finish(value.record().clone(), certificate);
            return;
        }
        let round = self.state.round();
        let said = |round: u32| {
            let slot = self.shell.me.map(|me| (round, me, None));
            slot.is_some_and(|slot| self.shell.heard.contains_key(&slot))
        };
        self.shell.wanted = self
            .shell
            .wanted
            .filter(|wanted| Round::new(*wanted) == round && !said(*wanted));
        if self.shell.wanted != self.asked {
            self.asked = self.shell.wanted;
            if let Some(round) = self.asked {
                self.shell.outbox.push_back(Effect::NeedValue { round });
            }
        }
    }

    fn finish(&mut self, record: Bytes, certificate: Certificate) {
        self.done = true;
        self.shell.alarms.clear();
        self.early.clear();
        let decided = Effect::Decided {
            record,
            certificate,
        };
        self.shell.outbox.push_back(decided);
    }
}

impl core::fmt::Debug for Decider {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Decider")
            .field("height", &self.height)
            .field("round", &self.state.round())
            .field("started", &self.started)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}
