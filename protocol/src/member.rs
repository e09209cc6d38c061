//! One member of a federation as a value: it takes `(now, Input)` and yields [`Output`]s.
//!
//! It only routes. What is due is found by looking at what is held, each time anything happens (`member/advance.rs`);
//! each phase of a session stands in its own file under `session/`.

mod advance;
mod chain;
mod decision;
mod leave;
mod recall;
mod receive;
mod speak;
mod sync;
mod tell;
mod weigh;

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::fixed;
use conclave_crypto::sign::PublicKey;

use crate::decide::Decider;
use crate::desk::Desk;
use crate::envelope::Envelope;
use crate::floats::Floats;
use crate::input::{Input, Verdict};
use crate::journal::Journal;
use crate::ledger::{Ledger, Start};
use crate::letter::{Bytes, Letter};
use crate::message::Invite;
use crate::names::{Height, MemberId, SessId};
use crate::outbox;
use crate::output::{Output, Phase, Stored, Table};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::session::open::Outcome;
use crate::setup::{OpenError, Setup};
use crate::time::{Span, Time};

use self::leave::Leaving;

/// One member of a federation.
#[derive(Debug)]
pub struct Member {
    desk: Desk,
    /// Something came since the last look that may have made more due.
    stirred: bool,
    ledger: Ledger,
    journal: Journal,
    /// The open sessions: the height whose sum is being opened, the current one, the one being set up.
    sessions: BTreeMap<Height, Session>,
    /// The decision on the current height.
    decider: Option<Decider>,
    /// The consensus log of the current height.
    wal: Vec<Bytes>,
    /// The records that were proposed, and what came of them here.
    weighed: BTreeMap<Digest, weigh::Considered>,
    /// Adapters that are held, by digest.
    adapters: BTreeMap<Digest, Floats>,
    /// The adapter that the engine and the operator know as the newest.
    adopted: Option<Digest>,
    /// When a certified adapter may be pulled again.
    pull_at: Time,
    /// Messages of sessions that are not known yet, with who handed them over.
    early: Vec<(PublicKey, Letter)>,
    joins: BTreeMap<PublicKey, Envelope>,
    leaves: BTreeMap<MemberId, Envelope>,
    leaving: Option<Leaving>,
    invite: Option<Invite>,
    name: String,
    /// The head that our newest Join names.
    joined: Option<Height>,
    pulse: Pulse,
    meeting: Meeting,
    /// How long the last opened rounds took to submit.
    paces: Vec<Span>,
    phase: Option<(Height, Phase)>,
    waiting: Option<String>,
    /// When that was looked up last.
    told: Option<Time>,
    /// When the closing record was decided here.
    closed: Option<Time>,
    finished: bool,
}

/// The beat of what repeats.
#[derive(Debug, Default)]
struct Pulse {
    heartbeat: Time,
    beats: u64,
    sync: Time,
    /// When a new peer was asked last.
    greeted: Option<Time>,
    /// When each peer was last answered, and when one was last asked out of turn.
    answered: BTreeMap<(PublicKey, bool, Digest), Time>,
    asked: Option<Time>,
    /// The height that each member was last heard at.
    heights: BTreeMap<MemberId, Height>,
    /// R60. The question what others hold of us, as it was signed at this head.
    recall: Option<(Height, Letter)>,
    /// R60. The answer, where we hold nothing, as it was signed in this session.
    nothing: Option<(SessId, Letter)>,
    /// R50. The newest record that was handed on, as we signed it.
    handed: Option<(Height, Letter)>,
}

/// R9. The founders' first meeting: set-up is timed from it.
#[derive(Debug, Default)]
struct Meeting {
    quorum: Option<Time>,
    met: Option<Time>,
}

impl Member {
    /// Opens a member on what an earlier run stored (nothing, the first time).
    ///
    /// `rng_seed` comes from the operating system at every start: the session secrets follow from it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the driver hands its state over"
    )]
    pub fn open(
        setup: Setup,
        stored: Stored,
        now: Time,
        rng_seed: [u8; 32],
    ) -> Result<Self, OpenError> {
        let (len, initial) = (setup.layout.len, setup.initial.len());
        if !setup.layout.is_sound() || len != initial {
            return Err(OpenError::Layout { len, initial });
        }
        let adapter = fixed::adapter_digest(&setup.layout.shape, &setup.initial);
        let start = Start {
            layout: setup.layout.clone(),
            adapter,
        };
        let ledger = Ledger::restore(setup.charter.clone(), start, &stored)?;
        let damaged = |what| OpenError::Stored { what };
        let mut adapters = restore_adapters(&stored).ok_or_else(|| damaged("adapter"))?;
        adapters.insert(adapter, setup.initial.clone());
        let (invite, name) = (setup.invite.clone(), setup.name.clone());
        let mut member = Self {
            journal: Journal::restore(&stored).ok_or_else(|| damaged("journal"))?,
            desk: Desk::new(setup, now, rng_seed),
            stirred: true,
            sessions: BTreeMap::new(),
            decider: None,
            wal: Vec::new(),
            weighed: BTreeMap::new(),
            adapters,
            // The operator may have lost the newest one with the process: it is handed over again.
            adopted: Some(adapter),
            pull_at: Time::default(),
            early: Vec::new(),
            joins: BTreeMap::new(),
            leaves: BTreeMap::new(),
            leaving: None,
            invite,
            name,
            joined: None,
            pulse: Pulse::default(),
            meeting: Meeting::default(),
            paces: Vec::new(),
            phase: None,
            waiting: None,
            told: None,
            closed: ledger.over().then_some(now),
            finished: false,
            ledger,
        };
        member.take_up(&stored);
        member.look();
        Ok(member)
    }

    /// Takes one input. What follows from it is fetched with [`Member::poll`].
    pub fn handle(&mut self, now: Time, input: Input) -> Verdict {
        let verdict = self.hear(now, input);
        self.look();
        verdict
    }

    /// Takes one of several inputs that wait at this moment; [`Member::look`] follows behind the last of them.
    pub fn hear(&mut self, now: Time, input: Input) -> Verdict {
        self.desk.now = self.desk.now.max(now);
        let stirs = !matches!(input, Input::Received { .. } | Input::Wake);
        self.stirred |= stirs;
        let verdict = match input {
            Input::Received { from, bytes } => self.receive(from, &bytes),
            Input::Connected { peer } => {
                self.desk.peers.insert(peer);
                if let Some(member) = self.ledger.member(&peer) {
                    self.desk.gone.regain(member);
                }
                self.greet(peer);
                Verdict::Accepted
            }
            Input::Disconnected { peer } => {
                if self.desk.peers.remove(&peer)
                    && let Some(member) = self.ledger.member(&peer)
                {
                    self.desk.gone.lose(member, self.desk.now);
                }
                Verdict::Accepted
            }
            Input::Trained { height, delta } => {
                if let Some(session) = self.sessions.get_mut(&height) {
                    session.trained(&mut self.desk, delta);
                }
                Verdict::Accepted
            }
            Input::Progress { height, done, of } => {
                let work = self
                    .sessions
                    .get_mut(&height)
                    .and_then(|session| session.work.as_mut());
                if let Some(work) = work {
                    work.progress = (done, of);
                }
                Verdict::Accepted
            }
            Input::TrainFailed { height, reason } => {
                self.train_failed(height, &reason);
                Verdict::Accepted
            }
            Input::Pulled { name, bytes } => self.pulled(name, &bytes),
            Input::Stored { name, bytes } => {
                self.stored(name, &bytes);
                Verdict::Accepted
            }
            Input::PullFailed { name } => {
                for session in self.sessions.values_mut() {
                    session.shard_missed(&mut self.desk, name);
                    session.pull_failed(&self.desk, name);
                }
                Verdict::Accepted
            }
            Input::Leave => {
                self.want_to_leave();
                Verdict::Accepted
            }
            Input::Wake => Verdict::Accepted,
        };
        if let Verdict::Refused(refusal) = verdict {
            self.desk.refused.count(refusal);
        }
        // R64  A contradiction is its author's fault: whoever hands it on helps to prove it.
        if verdict == Verdict::Refused(Refusal::Equivocation) {
            return Verdict::Ignored;
        }
        verdict
    }

    /// Does what is due by now, after what was heard.
    pub fn look(&mut self) {
        let due = |at: Time| at <= self.desk.now;
        if self.stirred || self.desk.alarm().is_some_and(due) {
            self.stirred = self.advance();
        }
    }

    /// Looks at everything next time, whatever was heard: what a look is spared for may make nothing due.
    #[cfg(feature = "sim")]
    pub(crate) fn stir(&mut self) {
        self.stirred = true;
    }

    /// The next thing that the member wants from the world; outputs are performed in order.
    pub fn poll(&mut self) -> Option<Output> {
        self.desk.tray.pop_front()
    }

    /// When to hand in [`Input::Wake`], if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.desk.alarm()
    }

    /// The chain, for what an operator asks of it.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The newest adapter that is held here, opened or certified, with its digest.
    pub fn adapter(&self) -> Option<(Digest, Floats)> {
        let digest = self.newest_adapter()?;
        Some((digest, self.adapters.get(&digest)?.clone()))
    }

    fn newest_adapter(&self) -> Option<Digest> {
        let opened = self
            .sessions
            .get(&self.ledger.head())
            .and_then(|session| session.opening.result.as_ref());
        match opened {
            Some(Outcome::Opened { digest, .. }) => Some(*digest),
            Some(Outcome::OutOfRange | Outcome::Guilty(_)) | None => self.ledger.certified(),
        }
    }
}

fn restore_adapters(stored: &Stored) -> Option<BTreeMap<Digest, Floats>> {
    let parse = |(key, value): (&[u8], &Bytes)| {
        let digest = Digest(key.try_into().ok()?);
        Some((digest, Floats::from_bytes(value)?))
    };
    outbox::table(stored, Table::Adapters).map(parse).collect()
}

#[cfg(test)]
mod tests;
