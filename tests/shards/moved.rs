//! Members in one process, everything delivered at once: how many bytes of vectors and sums each of them moves.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::iter::once;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use conclave_crypto::digest::Digest;
use conclave_crypto::ladder::Delta;
use conclave_crypto::sign::{IdentityKey, PublicKey};
use conclave_protocol::input::{Input, Verdict};
use conclave_protocol::layout::Layout;
use conclave_protocol::letter::Bytes;
use conclave_protocol::member::Member;
use conclave_protocol::memo::Remembered;
use conclave_protocol::output::{Order, Output, Report, Stored, Table};
use conclave_protocol::setup::Setup;
use conclave_protocol::sim::Terms;
use conclave_protocol::time::Time;
use memmap2::Mmap;

/// Blobs of so many bytes stand in files.
const MAPPED: usize = 1 << 20;

/// Whether the first member is at work: what is allocated now is its own.
pub(crate) static AT_WORK: AtomicBool = AtomicBool::new(false);

/// What one member moved until the first sum was open everywhere.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    /// Bytes of blobs that others pulled from it.
    pub(crate) sent: u64,
    /// Bytes of blobs that it pulled from others.
    pub(crate) received: u64,
    /// The most bytes of one blob.
    pub(crate) longest: u64,
}

struct Place {
    key: PublicKey,
    member: Member,
    blobs: BTreeMap<Digest, Bytes>,
    moved: Moved,
    opened: Option<Digest>,
}

struct Federation {
    places: Vec<Place>,
    queue: VecDeque<(usize, Input)>,
    now: Time,
    coordinates: usize,
}

/// Lets so many members sum vectors of so many coordinates once.
pub(crate) fn moved(members: usize, coordinates: usize) -> Result<Vec<Moved>, String> {
    let mut federation = Federation::found(members, coordinates)?;
    while federation.places.iter().any(|place| place.opened.is_none()) {
        let (to, input) = match federation.queue.pop_front() {
            Some(next) => next,
            None => (federation.sleep()?, Input::Wake),
        };
        federation.hand(to, input)?;
    }
    let results: Vec<_> = federation.places.iter().map(|place| place.opened).collect();
    if results.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(format!("the results differ: {results:?}"));
    }
    Ok(federation.places.iter().map(|place| place.moved).collect())
}

impl Federation {
    fn found(members: usize, coordinates: usize) -> Result<Self, String> {
        let terms = Terms::new(7, members);
        let charter = terms.charter();
        let place = |index: usize| -> Result<Place, String> {
            let identity: IdentityKey = terms.identity(index);
            let key = identity.public();
            let setup = Setup {
                charter: charter.clone(),
                identity,
                name: format!("member {index}"),
                examples: 64,
                layout: Layout {
                    shape: Digest::ZERO,
                    len: 2 * coordinates,
                    a: once(0..coordinates).collect(),
                    b: once(coordinates..2 * coordinates).collect(),
                },
                initial: vec![0.0; 2 * coordinates].into(),
                invite: None,
                intact: true,
                memo: Remembered::default(),
            };
            let seed = Digest::of("moved", &[&index.to_le_bytes()]).0;
            let open = || Member::open(setup, Stored::new(), Time(0), seed);
            let member = at_work(index, open);
            Ok(Place {
                key,
                member: member.map_err(|error| error.to_string())?,
                blobs: BTreeMap::new(),
                moved: Moved::default(),
                opened: None,
            })
        };
        let mut federation = Self {
            places: (0..members).map(place).collect::<Result<_, _>>()?,
            queue: VecDeque::new(),
            now: Time(0),
            coordinates,
        };
        for to in 0..members {
            federation.perform(to)?;
            for from in (0..members).filter(|from| *from != to) {
                let peer = federation.places[from].key;
                federation.queue.push_back((to, Input::Connected { peer }));
            }
        }
        Ok(federation)
    }

    /// Nothing is on its way: time goes on to the next deadline.
    fn sleep(&mut self) -> Result<usize, String> {
        let deadlines = self.places.iter().enumerate();
        let deadlines =
            deadlines.filter_map(|(index, place)| Some((place.member.deadline()?, index)));
        let (at, index) = deadlines.min().ok_or("nothing is due")?;
        self.now = self.now.max(at);
        Ok(index)
    }

    fn hand(&mut self, to: usize, input: Input) -> Result<(), String> {
        let now = self.now;
        let verdict = at_work(to, || self.places[to].member.handle(now, input));
        if let Verdict::Refused(refusal) = verdict {
            return Err(format!("member {to} refused an input: {refusal:?}"));
        }
        self.perform(to)
    }

    /// Carries a member's outputs to the others.
    fn perform(&mut self, index: usize) -> Result<(), String> {
        let from = self.places[index].key;
        while let Some(output) = at_work(index, || self.places[index].member.poll()) {
            let place = &mut self.places[index];
            match output {
                Output::Store(write) if is_blob(write.table) => {
                    let name = Digest(write.key.try_into().map_err(|_| "no digest")?);
                    let Some(bytes) = write.value else {
                        place.blobs.remove(&name);
                        continue;
                    };
                    let bytes = match place.blobs.get(&name) {
                        Some(stored) => stored.clone(),
                        None => on_disk(&bytes)?,
                    };
                    place.blobs.insert(name, bytes.clone());
                    let input = Input::Stored { name, bytes };
                    at_work(index, || place.member.hear(self.now, input));
                }
                Output::Publish { bytes, .. } => {
                    for to in (0..self.places.len()).filter(|to| *to != index) {
                        let bytes = bytes.to_vec().into();
                        self.queue.push_back((to, Input::Received { from, bytes }));
                    }
                }
                Output::Send { to, bytes } => {
                    let to = self.places.iter().position(|place| place.key == to);
                    let input = Input::Received {
                        from,
                        bytes: bytes.to_vec().into(),
                    };
                    self.queue
                        .push_back((to.ok_or("a stranger is spoken to")?, input));
                }
                Output::Pull { name, from, .. } => self.pull(index, name, &from)?,
                Output::Order(Order::Train { height, .. }) => {
                    let sign = if index.is_multiple_of(2) { 0.01 } else { -0.02 };
                    let delta = at_work(index, || Delta::new(vec![sign; self.coordinates]));
                    let delta = delta.map_err(|error| error.to_string())?;
                    self.queue
                        .push_back((index, Input::Trained { height, delta }));
                }
                Output::Report(Report::Opened { adapter, .. }) => {
                    place.opened.get_or_insert(adapter);
                }
                Output::Report(Report::Warning { reason }) => return Err(reason),
                Output::Store(_) | Output::Order(_) | Output::Report(_) => {}
            }
        }
        Ok(())
    }

    fn pull(&mut self, index: usize, name: Digest, from: &[PublicKey]) -> Result<(), String> {
        if let Some(bytes) = self.places[index].blobs.get(&name) {
            let bytes = bytes.clone();
            self.queue.push_back((index, Input::Pulled { name, bytes }));
            return Ok(());
        }
        let holds = |key: &PublicKey| {
            let holder = self.places.iter_mut().find(|place| place.key == *key)?;
            let bytes = holder.blobs.get(&name)?.clone();
            holder.moved.sent += bytes.len() as u64;
            Some(bytes)
        };
        let bytes = from.iter().find_map(holds).ok_or("nobody has a blob")?;
        let length = bytes.len() as u64;
        let moved = &mut self.places[index].moved;
        moved.received += length;
        moved.longest = moved.longest.max(length);
        self.queue.push_back((index, Input::Pulled { name, bytes }));
        Ok(())
    }
}

/// A copy is what a disk has. A large one is mapped from a file, as a node maps it.
#[expect(unsafe_code, reason = "a file is mapped")]
fn on_disk(bytes: &Bytes) -> Result<Bytes, String> {
    if bytes.len() < MAPPED {
        return Ok(bytes.to_vec().into());
    }
    let map = || -> std::io::Result<Mmap> {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        // SAFETY: the file has no name, so nobody else changes it.
        unsafe { Mmap::map(&file) }
    };
    let map = map().map_err(|error| format!("a file of {} bytes: {error}", bytes.len()))?;
    Ok(Bytes::from_owner(map))
}

const fn is_blob(table: Table) -> bool {
    matches!(table, Table::Vectors | Table::Shards | Table::Adapters)
}

/// Does what a member does, so that its allocations are known for its own if it is the first.
fn at_work<T>(member: usize, work: impl FnOnce() -> T) -> T {
    AT_WORK.store(member == 0, SeqCst);
    let done = work();
    AT_WORK.store(false, SeqCst);
    done
}
