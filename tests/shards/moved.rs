//! Members in one process, everything delivered at once: how many bytes of vectors and sums each of them moves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

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
                    len: coordinates,
                    a: Vec::new(),
                    b: Vec::new(),
                },
                initial: vec![0.0; coordinates],
                invite: None,
                intact: true,
                memo: Remembered::default(),
            };
            let seed = Digest::of("moved", &[&index.to_le_bytes()]).0;
            let member = Member::open(setup, Stored::new(), Time(0), seed);
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
        let verdict = self.places[to].member.handle(self.now, input);
        if let Verdict::Refused(refusal) = verdict {
            return Err(format!("member {to} refused an input: {refusal:?}"));
        }
        self.perform(to)
    }

    /// Carries a member's outputs to the others.
    fn perform(&mut self, index: usize) -> Result<(), String> {
        let from = self.places[index].key;
        while let Some(output) = self.places[index].member.poll() {
            let place = &mut self.places[index];
            match output {
                Output::Store(write) if matches!(write.table, Table::Vectors | Table::Shards) => {
                    let name = Digest(write.key.try_into().map_err(|_| "no digest")?);
                    match write.value {
                        Some(bytes) => drop(place.blobs.insert(name, bytes)),
                        None => drop(place.blobs.remove(&name)),
                    }
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
                    let delta = Delta::new(vec![sign; self.coordinates]);
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
            let bytes = Arc::clone(bytes);
            self.queue.push_back((index, Input::Pulled { name, bytes }));
            return Ok(());
        }
        let holds = |key: &PublicKey| {
            let holder = self.places.iter_mut().find(|place| place.key == *key)?;
            let bytes = Arc::clone(holder.blobs.get(&name)?);
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
