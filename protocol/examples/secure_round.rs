//! What one secure round costs a node: `secure_round [--members N] [--coordinates D] [--prg chacha20|aes256ctr]
//! [--rounds R]`.
//!
//! N production members in one process, on one thread; nothing is memoised or shared. From the first key to the opened
//! sum: set-up, masking, consensus, reveals, unmasking, the new adapter. CPU time is that of `Member::handle` only: not
//! of carrying bytes from one member to another, of making deltas, of disks. A round is measured from where the one
//! before was opened, the first from the founding on. Prints one JSON object: medians over the rounds and members.

#![allow(
    clippy::cast_precision_loss,
    reason = "byte and nanosecond counts far below 2^53"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;

use conclave_crypto::digest::Digest;
use conclave_crypto::ladder::Delta;
use conclave_crypto::mask::Prg;
use conclave_crypto::sign::{IdentityKey, PublicKey};
use conclave_protocol::charter::{
    Adapter, Admission, Aggregation, Charter, Federation, Founder, Method, Model, Rounds, Timers,
};
use conclave_protocol::input::{Input, Verdict};
use conclave_protocol::layout::Layout;
use conclave_protocol::letter::Bytes;
use conclave_protocol::member::Member;
use conclave_protocol::memo::Remembered;
use conclave_protocol::names::Height;
use conclave_protocol::output::{Order, Output, Report, Stored, Table};
use conclave_protocol::setup::Setup;
use conclave_protocol::time::Time;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Memory comes from where the node's does; `scripts/flower-table` sets what the node sets, to keep it for a minute.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

/// What is asked for.
struct Terms {
    members: usize,
    coordinates: usize,
    prg: Prg,
    rounds: u32,
}

/// One member with its disk and its account of the round.
struct Place {
    key: PublicKey,
    member: Member,
    vectors: BTreeMap<Digest, Bytes>,
    cpu: BTreeMap<Part, u64>,
    sent: Sent,
    opened: Option<Height>,
    adapter: Option<Digest>,
}

/// What CPU time goes into.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Keys, dealings, boxes, acknowledgements, votes, reveals.
    Control,
    /// The delta is clipped, encoded, masked, hashed and announced.
    Submit,
    /// The vectors of others are checked against their roots.
    Take,
    /// The secrets are rebuilt, the sum is unmasked and applied.
    Open,
}

/// Bytes that a member sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    /// Masked vectors, to all that pulled them.
    vectors: u64,
    /// Everything else; a message to all counts once for each receiver.
    control: u64,
}

struct Cost {
    cpu: BTreeMap<Part, u64>,
    sent: Sent,
}

struct Round {
    terms: Terms,
    places: Vec<Place>,
    queue: VecDeque<(usize, Input)>,
    deltas: Vec<Vec<f32>>,
    now: Time,
}

fn main() -> Result<(), Failure> {
    // One thread, the one whose time is taken.
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global()?;
    let terms = terms()?;
    let (members, coordinates, prg) = (terms.members, terms.coordinates, terms.prg);
    let mut federation = Round::found(terms)?;
    let mut costs = Vec::new();
    for _ in 0..federation.terms.rounds {
        costs.extend(federation.round()?);
    }
    let median = |of: &dyn Fn(&Cost) -> u64| {
        let mut all: Vec<_> = costs.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let part =
        |part| median(&|cost: &Cost| cost.cpu.get(&part).copied().unwrap_or_default()) as f64 / 1e9;
    let line = serde_json::json!({
        "members": members,
        "coordinates": coordinates,
        "prg": serde_json::to_value(prg)?,
        "rounds": federation.terms.rounds,
        "cpu_seconds": median(&|cost| cost.cpu.values().sum()) as f64 / 1e9,
        "cpu_seconds_control": part(Part::Control),
        "cpu_seconds_submit": part(Part::Submit),
        "cpu_seconds_take": part(Part::Take),
        "cpu_seconds_open": part(Part::Open),
        "vector_bytes": coordinates * 4,
        "vector_bytes_sent": median(&|cost| cost.sent.vectors),
        "control_bytes_sent": median(&|cost| cost.sent.control),
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn terms() -> Result<Terms, Failure> {
    let mut terms = Terms {
        members: 5,
        coordinates: 100_000,
        prg: Prg::ChaCha20,
        rounds: 3,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--members" => terms.members = value.parse()?,
            "--coordinates" => terms.coordinates = value.parse()?,
            "--rounds" => terms.rounds = value.parse()?,
            "--prg" => terms.prg = serde_json::from_value(value.into())?,
            _ => {
                let known = "--members, --coordinates, --prg, --rounds";
                return Err(format!("unknown flag {flag}: use {known}").into());
            }
        }
    }
    if terms.rounds == 0 || terms.coordinates == 0 {
        return Err("--rounds and --coordinates must be at least 1".into());
    }
    Ok(terms)
}

impl Round {
    fn found(terms: Terms) -> Result<Self, Failure> {
        let charter = charter(&terms)?;
        let mut places = Vec::new();
        for index in 0..terms.members {
            let identity = identity(index);
            let key = identity.public();
            let setup = Setup {
                charter: charter.clone(),
                identity,
                name: format!("member {index}"),
                examples: 64,
                layout: Layout {
                    shape: Digest::ZERO,
                    len: terms.coordinates,
                    a: Vec::new(),
                    b: Vec::new(),
                },
                initial: vec![0.0; terms.coordinates].into(),
                invite: None,
                intact: true,
                memo: Remembered::default(),
            };
            let seed = Digest::of("secure round", &[&index.to_le_bytes()]).0;
            places.push(Place {
                key,
                member: Member::open(setup, Stored::new(), Time(0), seed)?,
                vectors: BTreeMap::new(),
                cpu: BTreeMap::new(),
                sent: Sent::default(),
                opened: None,
                adapter: None,
            });
        }
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let small = |word: u32| (word as f32 / u32::MAX as f32 - 0.5) * 0.04;
        let draw = |_| {
            (0..terms.coordinates)
                .map(|_| small(rng.next_u32()))
                .collect()
        };
        let mut federation = Self {
            deltas: (0..terms.members).map(draw).collect(),
            places,
            queue: VecDeque::new(),
            now: Time(0),
            terms,
        };
        for to in 0..federation.places.len() {
            federation.perform(to)?;
            for from in (0..federation.places.len()).filter(|from| *from != to) {
                let peer = federation.key(from)?;
                federation.queue.push_back((to, Input::Connected { peer }));
            }
        }
        Ok(federation)
    }

    /// Runs until every member has opened one more sum, and gives what that cost each.
    fn round(&mut self) -> Result<Vec<Cost>, Failure> {
        for place in &mut self.places {
            place.opened = None;
        }
        while self.places.iter().any(|place| place.opened.is_none()) {
            let (to, input) = match self.queue.pop_front() {
                Some(next) => next,
                None => (self.sleep()?, Input::Wake),
            };
            self.hand(to, input)?;
        }
        let first = self.places.first().and_then(|place| place.adapter);
        if self.places.iter().any(|place| place.adapter != first) {
            return Err("the members do not hold the same adapter".into());
        }
        let take = |place: &mut Place| Cost {
            cpu: core::mem::take(&mut place.cpu),
            sent: core::mem::take(&mut place.sent),
        };
        Ok(self.places.iter_mut().map(take).collect())
    }

    /// Nothing is on its way: time goes on to the next deadline.
    fn sleep(&mut self) -> Result<usize, Failure> {
        let deadlines = self.places.iter().enumerate();
        let deadlines =
            deadlines.filter_map(|(index, place)| Some((place.member.deadline()?, index)));
        let (at, index) = deadlines.min().ok_or("nothing is due")?;
        self.now = self.now.max(at);
        Ok(index)
    }

    /// Gives a member one input, takes its time, and performs what it wants.
    fn hand(&mut self, to: usize, input: Input) -> Result<(), Failure> {
        let part = match &input {
            Input::Trained { .. } => Part::Submit,
            Input::Pulled { .. } => Part::Take,
            _ => Part::Control,
        };
        let now = self.now;
        let place = self.places.get_mut(to).ok_or("no such place")?;
        let begin = cpu_nanos()?;
        let verdict = place.member.handle(now, input);
        let spent = cpu_nanos()? - begin;
        if let Verdict::Refused(refusal) = verdict {
            return Err(format!("member {to} refused an input: {refusal:?}").into());
        }
        let opened = self.perform(to)?;
        let place = self.places.get_mut(to).ok_or("no such place")?;
        let part = if opened { Part::Open } else { part };
        *place.cpu.entry(part).or_default() += spent;
        Ok(())
    }

    /// Carries a member's outputs to the others; true if it has opened a sum.
    fn perform(&mut self, index: usize) -> Result<bool, Failure> {
        let from = self.key(index)?;
        let others = self.places.len() - 1;
        let mut opened = false;
        loop {
            let place = self.places.get_mut(index).ok_or("no such place")?;
            let Some(output) = place.member.poll() else {
                return Ok(opened);
            };
            match output {
                Output::Store(write) => {
                    let name = <[u8; 32]>::try_from(write.key.as_slice()).map(Digest);
                    if let (Table::Vectors | Table::Shards, Ok(name)) = (write.table, name) {
                        match write.value {
                            Some(bytes) => drop(place.vectors.insert(name, bytes)),
                            None => drop(place.vectors.remove(&name)),
                        }
                    }
                }
                Output::Publish { bytes, .. } => {
                    place.sent.control += (bytes.len() * others) as u64;
                    for to in (0..self.places.len()).filter(|to| *to != index) {
                        let bytes = bytes.to_vec().into();
                        self.queue.push_back((to, Input::Received { from, bytes }));
                    }
                }
                Output::Send { to, bytes } => {
                    place.sent.control += bytes.len() as u64;
                    let to = self.places.iter().position(|place| place.key == to);
                    let to = to.ok_or("a stranger is spoken to")?;
                    let bytes = bytes.to_vec().into();
                    self.queue.push_back((to, Input::Received { from, bytes }));
                }
                Output::Pull {
                    name,
                    from: holders,
                    ..
                } => {
                    let mut asked = core::iter::once(from).chain(holders);
                    let bytes = asked.find_map(|key| self.blob(from, key, &name));
                    let bytes = bytes.ok_or("nobody has a blob")?;
                    self.queue.push_back((index, Input::Pulled { name, bytes }));
                }
                Output::Order(Order::Train { height, .. }) => {
                    let delta = self.deltas.get(index).ok_or("no such place")?.clone();
                    let delta = Delta::new(delta)?;
                    self.queue
                        .push_back((index, Input::Trained { height, delta }));
                }
                Output::Report(Report::Opened {
                    height, adapter, ..
                }) => {
                    place.opened = Some(height);
                    place.adapter = Some(adapter);
                    opened = true;
                }
                Output::Report(Report::Warning { reason }) => return Err(reason.into()),
                Output::Report(_) | Output::Order(_) => {}
            }
        }
    }

    /// A blob of this holder; at home it costs nothing.
    fn blob(&mut self, to: PublicKey, from: PublicKey, name: &Digest) -> Option<Bytes> {
        let holder = self.places.iter_mut().find(|place| place.key == from)?;
        let bytes = holder.vectors.get(name)?.clone();
        holder.sent.vectors += u64::from(from != to) * bytes.len() as u64;
        Some(bytes)
    }

    fn key(&self, index: usize) -> Result<PublicKey, Failure> {
        Ok(self.places.get(index).ok_or("no such place")?.key)
    }
}

fn identity(index: usize) -> IdentityKey {
    IdentityKey::from_bytes(&Digest::of("secure round identity", &[&index.to_le_bytes()]).0)
}

fn charter(terms: &Terms) -> Result<Charter, Failure> {
    let founder = |index| Founder {
        name: format!("member {index}"),
        key: identity(index).public(),
    };
    let charter = Charter {
        federation: Federation {
            name: "secure round".to_owned(),
            protocol: 1,
            nonce: [0; 32],
        },
        model: Model {
            digest: Digest::ZERO,
            architecture: "llama".to_owned(),
        },
        adapter: Adapter {
            method: Method::default(),
            seed: 0,
        },
        round: Rounds {
            rounds: terms.rounds,
            local_steps: 1,
            timers: Timers::testnet(),
        },
        aggregation: Aggregation {
            members_max: Charter::default_members_max(terms.members),
            prg: terms.prg,
            ..Aggregation::default()
        },
        admission: Admission::Closed,
        members: (0..terms.members).map(founder).collect(),
    };
    Ok(charter.checked()?)
}

/// CPU time of this thread in nanoseconds. Yielding brings the kernel's account up to date.
fn cpu_nanos() -> Result<u64, Failure> {
    std::thread::yield_now();
    let account = std::fs::read_to_string("/proc/thread-self/schedstat")
        .map_err(|error| format!("the CPU time of a thread is read from Linux's /proc: {error}"))?;
    let nanos = account.split_whitespace().next();
    Ok(nanos.ok_or("an empty account of CPU time")?.parse()?)
}
