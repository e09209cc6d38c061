//! Hostile members: an unmodified `Member` behind a script that rewrites what it says, with its own identity key.
//!
//! ```text
//!   Member ── what it would say ──> Hostile (a script, its key, its disk) ── what is said ──> the network
//! ```
//! Give a world its hostile places in [`super::Faults::hostile`]: by hand, or drawn from a seed with [`assign`]. The
//! checkers judge the honest places only, and hold the hostile ones to be one adversary that sees everything.

mod fork;
mod junk;
mod once;
mod proposal;
mod script;
mod shares;
mod stage;
mod sums;
mod talk;
mod unlatched;
mod vector;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::dealing::Share;
use conclave_crypto::digest::Digest;
use conclave_crypto::sign::IdentityKey;

use self::once::Once;
pub use self::script::{SCRIPTS, SHARD_SCRIPTS, Script};
pub(in crate::sim) use self::talk::{Ballot, Motion};
use self::words::Word;
use super::{Chance, Faults, Terms};
use crate::envelope::{Envelope, Kind};
use crate::letter::{Bytes, Letter};
use crate::message::{self, KeyAd};
use crate::names::{Height, MemberId, SessId};
use crate::outbox;
use crate::output::{Stored, Table};
use crate::time::Time;

/// `⌊members · permille / 1000⌋` of the founders, drawn from the seed, each with a script; one at most goes
/// out of range.
pub fn assign(terms: &Terms, permille: u64) -> Vec<(usize, Script)> {
    let members = terms.founders;
    let all = u64::try_from(members).unwrap_or(u64::MAX);
    let count = all.saturating_mul(permille) / 1000;
    pick(terms, usize::try_from(count).unwrap_or(members))
}

/// So many of the founders, drawn from the seed, each with a script; one at most goes out of range.
pub fn pick(terms: &Terms, count: usize) -> Vec<(usize, Script)> {
    let members = terms.founders;
    let mut chance = Chance::new(terms.seed, "conclave/sim/hostile");
    let mut places: Vec<usize> = (0..members).collect();
    let mut scripts = SCRIPTS.to_vec();
    if terms.sharded() {
        scripts.extend(SHARD_SCRIPTS);
    }
    let mut assigned = Vec::new();
    for _ in 0..count.min(members) {
        let place = places.swap_remove(chance.index(places.len()));
        let script = scripts.get(chance.index(scripts.len())).copied();
        let script = script.unwrap_or(Script::Replay);
        scripts.retain(|other| *other != Script::OutOfRange || script != Script::OutOfRange);
        assigned.push((place, script));
    }
    assigned.sort_unstable();
    assigned
}

/// A hostile place's script and what it remembers.
#[derive(Debug)]
pub(super) struct Hostile {
    pub(super) script: Script,
    key: IdentityKey,
    chance: Chance,
    /// The first height at which it does what can spend a round.
    from: Height,
    /// The session in which it did.
    struck: Option<SessId>,
    /// Who is told the forged half of a fork, or is told it first.
    sides: [u8; 32],
    /// Whether everybody is told both halves.
    meshed: bool,
    /// Whether anything else was said so far than its member would have said.
    acted: bool,
    /// The forged bytes for genuine ones: the same each time.
    forged: BTreeMap<Digest, Letter>,
    /// Records that it replaces by others.
    records: BTreeMap<Digest, Digest>,
    /// The shares of its false dealing.
    shares: BTreeMap<SessId, Vec<(Share, Share)>>,
    /// The session keys that it heard.
    keys: BTreeMap<(SessId, MemberId), KeyAd>,
    /// What it may say again.
    kept: Vec<Letter>,
    /// Commits that it forged: by their digest, what was added to each coordinate.
    lies: BTreeMap<Digest, i64>,
    once: Once,
    /// What it says and takes back.
    word: Option<Word>,
    /// Null records that were proposed.
    nulls: BTreeSet<Digest>,
}

/// Something said: to one place, or to all.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) to: Option<usize>,
    pub(super) bytes: Letter,
}

/// What a script sees when its member speaks for itself.
struct Scene<'a> {
    /// The own id.
    id: MemberId,
    /// The places of the world.
    places: usize,
    /// The height that the member is to decide.
    next: Height,
    /// The height of the session.
    height: Height,
    /// Its members.
    roster: Vec<MemberId>,
    /// The least survivors at that height.
    least: usize,
    /// Who of the members are hostile.
    accomplices: Vec<MemberId>,
    disk: &'a mut Stored,
    /// What the member would say.
    own: Envelope,
    said: Said,
}

impl Scene<'_> {
    /// The Commits of the height that stand on the disk.
    fn commits(&self) -> Vec<Bytes> {
        let mut key = outbox::slot_key(self.height, Kind::Commit, self.id);
        key.truncate(key.len().saturating_sub(4));
        let rows = |table| outbox::under(self.disk, table, &key);
        let rows = [Table::Inbox, Table::Outbox].into_iter().flat_map(rows);
        rows.map(|(_, row)| row.clone()).collect()
    }
}

/// So many messages are kept to be said again.
const KEPT: usize = 128;

impl Hostile {
    /// Those of a world, by place.
    pub(super) fn all(terms: &Terms, faults: &Faults) -> BTreeMap<usize, Self> {
        let scripts = faults.hostile.iter().chain(&faults.controls);
        let hostile = scripts
            .map(|(place, script)| (*place, Self::new(terms, faults.meshed, *place, *script)));
        hostile.collect()
    }

    fn new(terms: &Terms, meshed: bool, place: usize, script: Script) -> Self {
        let mut chance = Chance::new(terms.seed, &format!("conclave/sim/hostile {place}"));
        let sides = chance.bytes();
        Self {
            script,
            key: terms.identity(place),
            from: Height(chance.within(2, u64::from(terms.rounds).max(1) + 1)),
            struck: None,
            sides,
            meshed,
            acted: false,
            chance,
            forged: BTreeMap::new(),
            records: BTreeMap::new(),
            shares: BTreeMap::new(),
            keys: BTreeMap::new(),
            kept: Vec::new(),
            lies: BTreeMap::new(),
            once: Once::new(place),
            word: None,
            nulls: BTreeSet::new(),
        }
    }

    /// What is said in place of what the member would say.
    fn twist(&mut self, now: Time, scene: Scene<'_>) -> Vec<Said> {
        let kind = scene.own.kind;
        match (self.script, kind) {
            (Script::ForkedAdvert, Kind::KeyAd) => self.fork_advert(&scene),
            (Script::ForkedDeal, Kind::Deal) => self.fork_deal(&scene),
            (Script::ForkedAck, Kind::Ack) => self.fork_ack(scene),
            (Script::ForkedCommit, Kind::Commit) => self.fork_commit(scene),
            (Script::ForkedVote, Kind::Vote) => self.fork_vote(&scene),
            (Script::ForkedProposal, Kind::Proposal) => self.fork_proposal(&scene),
            (Script::ForkedProposal, Kind::Vote) => self.vote_for_both(&scene),
            (Script::LeaveOut | Script::Isolate, Kind::Proposal) => self.propose_other(scene),
            (Script::LeaveOut | Script::Isolate, Kind::Vote) => self.vote_for_other(scene),
            (Script::FalseDealing, Kind::Deal | Kind::Seal | Kind::Ack) => self.deal_falsely(scene),
            (Script::FalseBoxes, Kind::Seal | Kind::Reveal) => self.seal_falsely(scene),
            (Script::Withhold, Kind::Reveal) if self.strikes(&scene) => Vec::new(),
            (Script::OutOfRange, Kind::Commit) => self.leave_range(scene),
            (Script::FalseSums, Kind::SumCommit) => self.sum_falsely(scene),
            (Script::FalseTags, Kind::Tags) => self.tag_falsely(scene),
            (Script::Unserved, Kind::Commit) => self.keep_to_itself(scene, usize::MAX),
            (Script::Gap, Kind::Commit) => self.keep_to_itself(scene, 1),
            (Script::Claims, Kind::Have) => self.claim(scene),
            (Script::TakesBack, Kind::Have) => self.give_word(scene),
            (Script::Replay, _) => self.replay(scene),
            (Script::Oversized, _) => self.oversize(scene),
            (Script::Malformed, _) => self.malform(scene),
            (Script::Unlatched, Kind::Vote) => self.vote_anew(scene),
            (Script::Unlatched, Kind::Proposal) => {
                self.note_null(&scene.own);
                vec![scene.said]
            }
            (Script::SignOnce, _) => self.once.speak(&self.key, now, scene),
            _ => vec![scene.said],
        }
    }

    /// Whether it does what can spend a round in this session: in one session, from a height on.
    fn strikes(&mut self, scene: &Scene<'_>) -> bool {
        let sess = scene.own.sess;
        if self.struck.is_none() && scene.height >= self.from {
            self.struck = Some(sess);
        }
        self.struck == Some(sess)
    }

    /// Whether a place is told the forged half.
    fn deceived(&self, place: usize) -> bool {
        let byte = self.sides.get(place / 8 % 32).copied().unwrap_or(0);
        byte >> (place % 8) & 1 == 1
    }

    /// The forged bytes for what the member would say: made once.
    fn forge(
        &mut self,
        scene: &Scene<'_>,
        make: impl FnOnce(&mut Self) -> Option<Vec<u8>>,
    ) -> Option<Letter> {
        let name = scene.said.bytes.digest();
        if !self.forged.contains_key(&name) {
            let (kind, sess, seq) = (scene.own.kind, scene.own.sess, scene.own.seq);
            let body = make(self)?;
            let letter = Letter::sign(&self.key, kind, sess, scene.id, seq, body);
            self.forged.insert(name, letter);
        }
        self.forged.get(&name).cloned()
    }

    /// The genuine bytes to some, the forged ones to the rest; in a mesh each gets the other's as well, behind its own.
    fn divide(&self, scene: &Scene<'_>, forged: Option<Letter>) -> Vec<Said> {
        let Some(forged) = forged else {
            return vec![scene.said.clone()];
        };
        let told = |place: usize| {
            let mut halves = vec![scene.said.bytes.clone(), forged.clone()];
            if self.deceived(place) {
                halves.reverse();
            }
            halves.truncate(if self.meshed { 2 } else { 1 });
            let to = Some(place);
            halves.into_iter().map(move |bytes| Said { to, bytes })
        };
        match scene.said.to {
            Some(to) => told(to).collect(),
            None => (0..scene.places).flat_map(told).collect(),
        }
    }

    /// The forged bytes to everybody.
    fn replace(scene: Scene<'_>, forged: Option<Letter>) -> Vec<Said> {
        let Said { to, bytes } = scene.said;
        vec![Said {
            to,
            bytes: forged.unwrap_or(bytes),
        }]
    }

    /// Whether what comes is kept from the member: it knows no votes where another decider is tried.
    fn keeps_back(&self, bytes: &Letter) -> bool {
        let talk = |envelope: &Envelope| matches!(envelope.kind, Kind::Vote | Kind::Liveness);
        self.script == Script::SignOnce && bytes.envelope().is_ok_and(talk)
    }

    /// Listens to what others say, and may answer.
    fn hear(&mut self, now: Time, bytes: &Letter) -> Vec<Said> {
        if self.script == Script::Replay {
            self.keep(bytes);
        }
        if self.script == Script::FalseDealing
            && let Ok(envelope) = bytes.envelope()
            && envelope.kind == Kind::KeyAd
            && let Ok(advert) = message::decode::<KeyAd>(&envelope.body)
        {
            self.keys.insert((envelope.sess, envelope.sender), advert);
        }
        if self.script == Script::Unlatched
            && let Ok(envelope) = bytes.envelope()
            && envelope.kind == Kind::Proposal
        {
            self.note_null(envelope);
        }
        if self.script == Script::TakesBack
            && let Ok(envelope) = bytes.envelope()
            && envelope.kind == Kind::Have
        {
            return self.turn_round(envelope.sess);
        }
        if self.script == Script::SignOnce
            && let Ok(envelope) = bytes.envelope()
        {
            return self.once.hear(&self.key, now, envelope);
        }
        Vec::new()
    }

    fn keep(&mut self, bytes: &Letter) {
        if self.kept.len() < KEPT {
            self.kept.push(bytes.clone());
        } else {
            let at = self.chance.index(KEPT);
            if let Some(old) = self.kept.get_mut(at) {
                *old = bytes.clone();
            }
        }
    }
}
