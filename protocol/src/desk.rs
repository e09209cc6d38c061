//! What every phase works at: the terms, the identity, the tray of outputs and the one alarm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bincode::Encode;
use conclave_crypto::fixed::Scale;
use conclave_crypto::ladder::Carried;
use conclave_crypto::sign::{IdentityKey, PublicKey};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::charter::{Charter, Timers};
use crate::envelope::{Envelope, Kind};
use crate::evidence::Evidence;
use crate::gone::Gone;
use crate::layout::Layout;
use crate::letter::{Bytes, Letter};
use crate::memo::Remembered;
use crate::memory::{self, Memory};
use crate::message;
use crate::names::{Factor, Height, MemberId, Round, SessId};
use crate::outbox;
use crate::output::{Output, Report, Table, Topic, Write};
use crate::refusal::Refusals;
use crate::setup::Setup;
use crate::time::Time;

/// R63. Rounds after which a delta that was left out is forgotten.
pub(crate) const CARRY_ROUNDS: u32 = 2;

/// The common ground of all phases.
pub(crate) struct Desk {
    pub(crate) now: Time,
    pub(crate) charter: Charter,
    pub(crate) layout: Layout,
    pub(crate) scale: Scale,
    pub(crate) examples: u64,
    pub(crate) identity: IdentityKey,
    pub(crate) memo: Remembered,
    pub(crate) key: PublicKey,
    /// Our index in the members table, once we are in it.
    pub(crate) me: Option<MemberId>,
    /// Seeded anew at every start; secrets come from it.
    pub(crate) rng: ChaCha20Rng,
    pub(crate) tray: VecDeque<Output>,
    /// Who can be reached directly.
    pub(crate) peers: BTreeSet<PublicKey>,
    /// R75. Who could be reached and was lost, and who has not spoken since.
    pub(crate) gone: Gone,
    /// When each member was last heard.
    pub(crate) heard: BTreeMap<MemberId, Time>,
    /// When each member last said that it still works at a vector.
    pub(crate) working: BTreeMap<MemberId, Time>,
    pub(crate) refused: Refusals,
    pub(crate) warnings: u64,
    /// R64. The first contradiction that was seen of each member.
    pub(crate) evidence: BTreeMap<MemberId, Evidence>,
    /// R63. By factor: the delta that was left out, and its round.
    pub(crate) carried: BTreeMap<Factor, (Round, Carried)>,
    /// R79. Members that were seen to give false sums or tags: they hold no seats any more.
    pub(crate) unseated: BTreeSet<MemberId>,
    /// R60. What we may say after a start.
    pub(crate) memory: Memory,
    alarm: Option<Time>,
}

impl Desk {
    /// A desk for one run of the process.
    pub(crate) fn new(setup: Setup, now: Time, rng_seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(rng_seed);
        let mut question = [0; 16];
        rng.fill_bytes(&mut question);
        Self {
            now,
            scale: setup.charter.scale(),
            charter: setup.charter,
            layout: setup.layout,
            examples: setup.examples,
            key: setup.identity.public(),
            identity: setup.identity,
            memo: setup.memo,
            me: None,
            rng,
            tray: VecDeque::new(),
            peers: BTreeSet::new(),
            gone: Gone::default(),
            heard: BTreeMap::new(),
            working: BTreeMap::new(),
            refused: Refusals::default(),
            warnings: 0,
            evidence: BTreeMap::new(),
            carried: BTreeMap::new(),
            unseated: BTreeSet::new(),
            memory: Memory::new(setup.intact, question),
            alarm: None,
        }
    }

    /// The charter's timers.
    pub(crate) fn timers(&self) -> Timers {
        self.charter.round.timers
    }

    /// Whether this moment has come; if not, the member is woken then.
    pub(crate) fn due(&mut self, at: Time) -> bool {
        if at <= self.now {
            return true;
        }
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
        false
    }

    /// Forgets the alarm: every wait that still stands sets it again.
    pub(crate) fn reset_alarm(&mut self) {
        self.alarm = None;
    }

    /// Forgets the alarm for a while: what is set meanwhile is known apart, and the caller sets the old one again.
    pub(crate) fn set_alarm_aside(&mut self) -> Option<Time> {
        self.alarm.take()
    }

    /// The next moment at which something is due.
    pub(crate) fn alarm(&self) -> Option<Time> {
        self.alarm
    }

    /// Makes a value durable before any later output.
    pub(crate) fn store(&mut self, table: Table, key: Vec<u8>, value: impl Into<Bytes>) {
        let value = Some(value.into());
        self.tray
            .push_back(Output::Store(Write { table, key, value }));
    }

    /// Deletes a value.
    pub(crate) fn erase(&mut self, table: Table, key: Vec<u8>) {
        let value = None;
        self.tray
            .push_back(Output::Store(Write { table, key, value }));
    }

    /// Signs a body as ourselves.
    ///
    /// Only members of a session sign in it: callers hold a session whose members we are among.
    pub(crate) fn sign<T: Encode>(&self, kind: Kind, sess: SessId, seq: u64, body: &T) -> Letter {
        let me = self.me.unwrap_or(MemberId::NEWCOMER);
        Letter::sign(&self.identity, kind, sess, me, seq, message::encode(body))
    }

    /// Says something to all.
    pub(crate) fn publish(&mut self, bytes: Letter) {
        let talk = bytes
            .envelope()
            .is_ok_and(|envelope| envelope.kind.is_consensus());
        let topic = if talk { Topic::Vote } else { Topic::Control };
        self.tray.push_back(Output::Publish { topic, bytes });
    }

    /// Says something to one peer.
    pub(crate) fn send(&mut self, to: PublicKey, bytes: impl Into<Letter>) {
        let bytes = bytes.into();
        self.tray.push_back(Output::Send { to, bytes });
    }

    /// Tells the operator.
    pub(crate) fn report(&mut self, report: Report) {
        self.tray.push_back(Output::Report(report));
    }

    /// Tells the operator that something went wrong and we go on.
    pub(crate) fn warn(&mut self, reason: String) {
        self.warnings = self.warnings.saturating_add(1);
        self.report(Report::Warning { reason });
    }

    /// R63. What was left out of an earlier round of this factor, if that is not too long ago: it is used once.
    pub(crate) fn take_carried(
        &mut self,
        factor: Factor,
        round: Round,
    ) -> Option<(Round, Carried)> {
        let carried = self.carried.remove(&factor)?;
        let age = round.0.saturating_sub(carried.0.0);
        (age <= CARRY_ROUNDS).then_some(carried)
    }

    /// R64. Remembers a contradiction.
    pub(crate) fn accuse(&mut self, one: &Envelope, other: &Envelope) {
        let Some(evidence) = Evidence::of(one, other) else {
            return;
        };
        let who = evidence.against();
        if self.me != Some(who) && !self.evidence.contains_key(&who) {
            self.evidence.insert(who, evidence);
            self.warn(format!(
                "member {} signed two messages where there is room for one: it is named to the others and \
                 shares no more",
                who.0
            ));
        }
    }

    /// R60. The store is known to be damaged: what it lacks may have been said in any session up to this height's.
    pub(crate) fn damaged(&mut self, newest: Height) {
        self.fall_silent(newest, "rows that tell what this node said are lost");
    }

    /// R61. Something that we signed in this height's session is not known here.
    pub(crate) fn forgotten(&mut self, height: Height) {
        self.fall_silent(
            height,
            "others hold messages of ours that are not stored here (was this folder put back from a copy, or does a \
             second node run with its key?)",
        );
    }

    /// R61. Nothing more is said up to two heights later, restarts included.
    fn fall_silent(&mut self, height: Height, why: &str) {
        if !self.memory.silence(height) {
            return;
        }
        let Some(until) = self.memory.silent() else {
            return;
        };
        let row = until.0.to_be_bytes().to_vec();
        self.store(Table::Facts, memory::FACT.to_vec(), row);
        self.warn(format!(
            "{why}: nothing is said before height {}, so that nothing is said twice",
            until.0.saturating_add(1)
        ));
    }

    /// R79. A member gave a false sum or tag: it holds no seats any more, also after a restart.
    pub(crate) fn unseat(&mut self, member: MemberId, what: &str) {
        if self.unseated.insert(member) {
            self.store(Table::Facts, outbox::unseated_fact(member), Vec::new());
            self.warn(format!(
                "member {} {what}: it sums no more shards here",
                member.0
            ));
        }
    }

    /// R75. A member spoke for itself just now, to us or by way of others.
    pub(crate) fn hear(&mut self, member: MemberId) {
        self.heard.insert(member, self.now);
        self.gone.hear(member, self.now, self.timers().sync);
    }

    /// When a member last said that it still works, or since when it could have said so.
    pub(crate) fn working_since(&self, member: MemberId, since: Time) -> Time {
        self.working
            .get(&member)
            .copied()
            .unwrap_or(since)
            .max(since)
    }
}

impl core::fmt::Debug for Desk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Desk")
            .field("now", &self.now)
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}
