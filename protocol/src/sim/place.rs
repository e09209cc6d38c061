//! One place of the world: a member with its disk and its engine, dead or alive.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::PublicKey;

use super::disk::{Disk, Records};
use super::engine::Training;
use super::faults::Loss;
use super::turn::{Start, Turn};
use super::{Chance, Terms, Watch};
use crate::charter::Charter;
use crate::envelope::{Envelope, Kind};
use crate::input::Input;
use crate::letter::{Bytes, Letter};
use crate::member::Member;
use crate::memo::Remembered;
use crate::message::{self, Commit, Invite, Reveal};
use crate::names::{Height, MemberId, Round};
use crate::outbox;
use crate::output::{Output, Phase, Table, Write};
use crate::setup::Setup;
use crate::time::{Span, Time};

/// A member, or what is left of it while it is dead.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: PublicKey,
    pub(super) life: Life,
    /// The running member: away while it is on its turn.
    pub(super) member: Option<Box<Member>>,
    pub(super) disk: Disk,
    /// The disk when the last dealing was acknowledged.
    pub(super) snapshot: Disk,
    /// Whether the member is told that its disk is whole.
    pub(super) intact: bool,
    /// Starts so far.
    pub(super) starts: u64,
    /// When the running member was started, on the world's clock.
    pub(super) since: Time,
    pub(super) training: Option<Training>,
    pub(super) attempts: u64,
    /// What the running member reported last.
    pub(super) phase: Phase,
    pub(super) height: Height,
    pub(super) dealt: Option<Height>,
    pub(super) submitted: Option<Height>,
    /// An adapter was stored, and nothing was said since.
    pub(super) opened: bool,
    /// The delta that was handed to the running member last.
    pub(super) handed: Option<(Height, super::watch::Trained)>,
    /// The deltas that were handed to the running member, by round: with their heights.
    pub(super) deltas: BTreeMap<Round, (Height, Vec<f32>)>,
    /// What was laid before it and not taken yet.
    pub(super) inbox: Vec<Input>,
    /// When it will be woken next.
    pub(super) awake: Option<Time>,
    /// Wakes in a row without time passing.
    pub(super) spins: u32,
}

/// Whether the member of a place runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It does not.
    Dead,
    /// It starts when the place is served next.
    Starting,
    /// It does.
    Up,
}

/// What all members of a world start from.
pub(super) struct Ground<'a> {
    pub(super) terms: &'a Terms,
    pub(super) charter: &'a Charter,
    pub(super) memo: &'a Remembered,
    /// Each looks at everything whenever it is served.
    pub(super) restless: bool,
}

/// Something that a member wants, with the letter in it.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) output: Output,
    /// What it says, or stores as its own word.
    pub(super) letter: Option<Letter>,
}

impl From<Output> for Wish {
    fn from(output: Output) -> Self {
        let letter = match &output {
            Output::Publish { bytes, .. } | Output::Send { bytes, .. } => Some(bytes.clone()),
            Output::Store(write) if write.table == Table::Outbox => {
                write.value.clone().map(Letter::from)
            }
            _ => None,
        };
        Self { output, letter }
    }
}

/// Each start has its own origin of time: this much later, so that nothing can rely on stored times.
const ORIGIN: u64 = 1_000_003;

impl Place {
    pub(super) fn new(key: PublicKey) -> Self {
        Self {
            key,
            life: Life::Dead,
            member: None,
            disk: Disk::default(),
            snapshot: Disk::default(),
            intact: true,
            starts: 0,
            since: Time(0),
            training: None,
            attempts: 0,
            phase: Phase::Advertise,
            height: Height(1),
            dealt: None,
            submitted: None,
            opened: false,
            handed: None,
            deltas: BTreeMap::new(),
            inbox: Vec::new(),
            awake: None,
            spins: 0,
        }
    }

    /// Calls its member to a turn, if it starts or something was laid before it. It is away until that is over.
    pub(super) fn call(&mut self, ground: &Ground<'_>, place: usize, now: Time) -> Option<Turn> {
        let starts = self.life == Life::Starting;
        if self.life == Life::Dead || !starts && self.inbox.is_empty() {
            return None;
        }
        let start = starts.then(|| Box::new(self.begin(ground, place, now)));
        Some(Turn {
            start,
            member: self.member.take(),
            inbox: core::mem::take(&mut self.inbox),
            local: self.local(now),
            restless: ground.restless,
            outbox: Vec::new(),
            refused: Vec::new(),
            failed: None,
        })
    }

    /// What the member starts from: what the disk holds.
    fn begin(&mut self, ground: &Ground<'_>, place: usize, now: Time) -> Start {
        self.life = Life::Up;
        self.starts = self.starts.saturating_add(1);
        self.since = now;
        let mut setup = Self::setup(ground, place);
        setup.intact = self.intact;
        let purpose = format!("conclave/sim/start {place} {}", self.starts);
        let seed = Chance::new(ground.terms.seed, &purpose).bytes();
        let disk = self.disk.whole();
        Start { setup, disk, seed }
    }

    /// The disk loses something before the next start.
    pub(super) fn lose(&mut self, loss: Loss) {
        let words = [Table::Outbox, Table::Journal, Table::Wal, Table::Secrets];
        self.disk.retain(|table| match loss {
            Loss::Words => !words.contains(&table),
            Loss::Everything => false,
        });
        self.intact = loss == Loss::Everything;
    }

    /// What stays: the disk.
    pub(super) fn die(&mut self) {
        self.inbox.clear();
        self.life = Life::Dead;
        self.member = None;
        self.training = None;
        self.handed = None;
        self.deltas.clear();
        self.opened = false;
        self.awake = None;
        self.dealt = None;
        self.submitted = None;
        self.phase = Phase::Advertise;
    }

    /// The member's own clock.
    pub(super) fn local(&self, now: Time) -> Time {
        Time(self.starts.saturating_mul(ORIGIN)) + (now - self.since)
    }

    /// The world's clock at a moment of the member's.
    pub(super) fn global(&self, local: Time) -> Time {
        let origin = Time(self.starts.saturating_mul(ORIGIN));
        self.since + Span(local.0.saturating_sub(origin.0))
    }

    /// Applies a store to the disk.
    pub(super) fn store(&mut self, write: Write, records: &mut Records) {
        self.opened |= write.table == Table::Adapters && write.value.is_some();
        self.disk.store(write, records);
    }

    /// A blob that this place serves.
    pub(super) fn blob(&self, name: &[u8]) -> Option<&Bytes> {
        self.disk.blob(name)
    }

    /// R20, R73. Whether the disk holds this Commit of a member and its vector; a vector in shards is held too when
    /// for each of them somebody else has said that it holds it.
    pub(super) fn holds_vector(
        &self,
        watch: &Watch,
        height: Height,
        (member, commit): (MemberId, Digest),
    ) -> bool {
        let key = outbox::slot_key(height, Kind::Commit, member);
        let rows = [Table::Inbox, Table::Outbox].map(|table| (table, key.clone()));
        let rows = rows.iter().filter_map(|row| self.disk.rows.get(row));
        let mut named = rows.filter(|row| Envelope::digest_of(row) == commit);
        let found = named.next();
        let envelope = found.and_then(|row| Envelope::from_bytes(row).ok());
        let body = envelope.and_then(|envelope| message::decode::<Commit>(&envelope.body).ok());
        body.is_some_and(|body| {
            let shards = u32::try_from(body.shards.len()).unwrap_or(u32::MAX);
            let held = |held: &BTreeSet<u32>| held.range(..shards).count() == body.shards.len();
            let witnessed = shards > 0 && watch.witnessed.get(&commit).is_some_and(held);
            witnessed || body.inline.is_some() || self.blob(body.root.as_bytes()).is_some()
        })
    }

    /// Whether the disk holds the journal's row for this own Reveal.
    pub(super) fn has_journalled(&self, envelope: &Envelope) -> bool {
        let key = (Table::Journal, envelope.sess.0.as_bytes().to_vec());
        let row = self.disk.rows.get(&key).map(AsRef::as_ref);
        let reveal = message::decode::<Reveal>(&envelope.body);
        reveal.is_ok_and(|reveal| row == Some(reveal.record.as_bytes().as_slice()))
    }

    /// Binds a masked vector to the delta that was handed over last.
    pub(super) fn bind(&self, place: usize, root: Digest, watch: &mut Watch) {
        if let Some((height, trained)) = &self.handed {
            let bound = watch.committed.entry((*height, place)).or_default();
            bound.entry(root).or_insert_with(|| trained.clone());
        }
    }

    /// Notes an own masked vector that leaves, and whether the file with its mask's seeds still stands then.
    pub(super) fn announces(&mut self, now: Time, place: usize, root: Digest, watch: &mut Watch) {
        let mine = watch.committed.iter();
        let mine = mine.filter(|((_, who), roots)| *who == place && roots.contains_key(&root));
        for height in mine.map(|((height, _), _)| *height).collect::<Vec<_>>() {
            self.submitted = Some(height);
            watch.diary.announced(height, place, now);
            let file = outbox::mask_file(height);
            if self.disk.holds(Table::Secrets, file) {
                watch.late_masks.insert((height, place));
            }
        }
    }

    fn setup(ground: &Ground<'_>, place: usize) -> Setup {
        let Ground {
            terms,
            charter,
            memo,
            ..
        } = *ground;
        let mut setup = terms.setup(charter, place);
        setup.invite = (place >= terms.founders).then(|| {
            let nonce = Chance::new(terms.seed, "conclave/sim/invite").bytes();
            let nonce = nonce.first_chunk().copied().unwrap_or_default();
            let sponsor = terms.identity(0);
            let invitee = Some(setup.identity.public());
            Invite::sign(
                &sponsor,
                charter.digest(),
                MemberId(0),
                nonce,
                invitee,
                1,
                0,
            )
        });
        setup.memo = memo.clone();
        setup
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::*;
    use crate::letter::Letter;
    use crate::message::Have;
    use crate::names::{Factor, SessId, SumId};
    use crate::sim::watch::Trained;

    const SESS: SessId = SessId(Digest([5; 32]));
    const HEIGHT: Height = Height(3);
    const ROOT: Digest = Digest([9; 32]);

    fn place(index: usize) -> (Place, IdentityKey) {
        let key = Terms::new(1, 4).identity(index);
        (Place::new(key.public()), key)
    }

    fn said<T: bincode::Encode>(kind: Kind, sender: usize, body: &T) -> Envelope {
        let (_, key) = place(sender);
        let id = MemberId(u32::try_from(sender).expect("small"));
        Envelope::sign(&key, kind, SESS, id, 0, message::encode(body))
    }

    fn put(place: &mut Place, table: Table, key: Vec<u8>, value: &[u8]) {
        place.disk.rows.insert((table, key), value.to_vec().into());
    }

    // R30
    #[test]
    fn a_reveal_is_journalled_when_the_row_names_its_record() {
        let (mut place, _) = place(0);
        let reveal = Reveal {
            record: Digest([7; 32]),
            shares: Vec::new(),
            sums: Vec::new(),
        };
        let reveal = said(Kind::Reveal, 0, &reveal);
        assert!(!place.has_journalled(&reveal));
        let other = [8; 32];
        put(&mut place, Table::Journal, other.to_vec(), &[7; 32]);
        assert!(!place.has_journalled(&reveal), "of another session");
        let own = SESS.0.as_bytes().to_vec();
        put(&mut place, Table::Journal, own.clone(), &other);
        assert!(!place.has_journalled(&reveal), "of another record");
        put(&mut place, Table::Journal, own, &[7; 32]);
        assert!(place.has_journalled(&reveal));
    }

    // R17
    #[test]
    fn a_mask_is_late_that_stands_when_its_vector_is_announced() {
        let trained = Trained {
            factor: Factor::A,
            from: Digest::ZERO,
            adapter: Vec::new().into(),
            delta: Vec::new(),
            carried: None,
        };
        let mut watch = Watch::default();
        let (mut place, _) = place(2);
        place.handed = Some((HEIGHT, trained));
        place.bind(2, ROOT, &mut watch);
        let others = outbox::mask_file(Height(4));
        put(&mut place, Table::Secrets, others, &[0; 96]);
        place.announces(Time(1), 2, ROOT, &mut watch);
        assert_eq!(watch.late_masks, BTreeSet::new());
        assert_eq!(place.submitted, Some(HEIGHT));
        let own = outbox::mask_file(HEIGHT);
        put(&mut place, Table::Secrets, own, &[0; 96]);
        place.announces(Time(2), 2, ROOT, &mut watch);
        assert_eq!(watch.late_masks, BTreeSet::from([(HEIGHT, 2)]));
    }

    fn commit(shards: Vec<Digest>, inline: Option<Vec<u8>>) -> Envelope {
        let commit = Commit {
            sid: SumId(Digest([1; 32])),
            root: ROOT,
            length: 4,
            inline,
            shards,
        };
        said(Kind::Commit, 1, &commit)
    }

    /// What place 0 has of a Commit of member 1.
    fn has(place: &Place, watch: &Watch, commit: &Envelope) -> bool {
        let digest = Envelope::digest_of(&commit.to_bytes());
        place.holds_vector(watch, HEIGHT, (MemberId(1), digest))
    }

    fn take(place: &mut Place, commit: &Envelope) {
        let key = outbox::slot_key(HEIGHT, Kind::Commit, MemberId(1));
        put(place, Table::Inbox, key, &commit.to_bytes());
    }

    // R20
    #[test]
    fn a_vector_is_held_with_its_commit_and_its_bytes() {
        let watch = Watch::default();
        let (mut place, _) = place(0);
        let pulled = commit(Vec::new(), None);
        put(&mut place, Table::Vectors, ROOT.0.to_vec(), &[1; 4]);
        assert!(!has(&place, &watch, &pulled), "nobody announced it here");
        take(&mut place, &pulled);
        assert!(has(&place, &watch, &pulled));
        let inline = commit(Vec::new(), Some(vec![1; 4]));
        assert!(!has(&place, &watch, &inline), "another Commit");
        let vector = (Table::Vectors, ROOT.0.to_vec());
        place.disk.rows.remove(&vector);
        assert!(!has(&place, &watch, &pulled), "the vector is gone");
        take(&mut place, &inline);
        assert!(has(&place, &watch, &inline));
    }

    // R73
    #[test]
    fn a_vector_in_shards_is_held_when_others_say_so_of_each() {
        let mut watch = Watch::default();
        let (mut place, _) = place(0);
        let sharded = commit(vec![Digest([2; 32]), Digest([3; 32])], None);
        take(&mut place, &sharded);
        let digest = Envelope::digest_of(&sharded.to_bytes());
        let tell = |watch: &mut Watch, who: usize, shards: &[u32]| {
            let (commits, shards) = (vec![digest], shards.to_vec());
            let have = said(Kind::Have, who, &Have { commits, shards });
            watch.testimony(&Letter::of(have));
        };
        watch.testimony(&Letter::of(sharded.clone()));
        assert!(!has(&place, &watch, &sharded), "nobody says so");
        tell(&mut watch, 1, &[0, 1]);
        assert!(!has(&place, &watch, &sharded), "its author's word");
        tell(&mut watch, 2, &[0, 2]);
        assert!(!has(&place, &watch, &sharded), "of one, and of none of it");
        tell(&mut watch, 3, &[1]);
        assert!(has(&place, &watch, &sharded));
    }
}
