//! Every parser is total, and what it takes has one encoding: over random bytes, and over what a run said, changed.
//!
//! Everything is drawn from the seed that a failure names.

use bincode::{Decode, Encode};
use conclave_protocol::charter::Charter;
use conclave_protocol::claim::Claim;
use conclave_protocol::decide::{Certificate, slot_of};
use conclave_protocol::envelope::Envelope;
use conclave_protocol::evidence::Evidence;
use conclave_protocol::input::{Input, Verdict};
use conclave_protocol::ledger::verify_chain;
use conclave_protocol::member::Member;
use conclave_protocol::message::{
    self, Ack, Commit, Deal, Decided, Have, Heartbeat, Join, KeyAd, Leave, Recall, Reveal, Seal,
    SumCommit, Tags, Want,
};
use conclave_protocol::output::Stored;
use conclave_protocol::record::Record;
use conclave_protocol::sim::{Chance, Crash, Faults, Point, Strike, Terms, World};
use conclave_protocol::time::Time;

fn total<T: Encode + Decode<()>>(bytes: &[u8], seed: u64) {
    if let Ok(value) = message::decode::<T>(bytes) {
        assert_eq!(
            message::encode(&value),
            bytes,
            "seed {seed}: two encodings of one {}",
            std::any::type_name::<T>()
        );
    }
}

/// All parsers of what comes from others.
fn all(bytes: &[u8], seed: u64) {
    total::<KeyAd>(bytes, seed);
    total::<Deal>(bytes, seed);
    total::<Seal>(bytes, seed);
    total::<Ack>(bytes, seed);
    total::<Commit>(bytes, seed);
    total::<Have>(bytes, seed);
    total::<Reveal>(bytes, seed);
    total::<Heartbeat>(bytes, seed);
    total::<Join>(bytes, seed);
    total::<Leave>(bytes, seed);
    total::<Recall>(bytes, seed);
    total::<SumCommit>(bytes, seed);
    total::<Tags>(bytes, seed);
    total::<Want>(bytes, seed);
    total::<Decided>(bytes, seed);
    total::<Record>(bytes, seed);
    total::<Certificate>(bytes, seed);
    total::<Claim>(bytes, seed);
    total::<Evidence>(bytes, seed);
    total::<Envelope>(bytes, seed);
    if let Ok(envelope) = Envelope::from_bytes(bytes) {
        let _slot = slot_of(&envelope);
    }
}

/// The bytes with something changed, cut, put in or doubled.
fn changed(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=chance.below(3) {
        let at = chance.index(bytes.len());
        match chance.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << chance.below(8),
            1 if !bytes.is_empty() => bytes[at] = u8::try_from(chance.below(256)).expect("a byte"),
            2 => bytes.truncate(at),
            3 => {
                let piece = chance.bytes();
                let length = chance.index(piece.len());
                bytes.splice(at..at, piece[..length].iter().copied());
            }
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

/// What was said and decided in a small run with a joiner, somebody who leaves, and one put back from a copy; and in
/// one that sums in shards.
fn samples() -> (World, Vec<Vec<u8>>) {
    let mut terms = Terms::new(40, 5);
    terms.joiners = 1;
    terms.rounds = 6;
    let snapshot = Crash {
        place: 1,
        strike: Strike::AfterSubmitted { height: 3 },
        point: Point::AfterSend,
        back_after: Some(50),
        rollback: true,
    };
    let faults = Faults {
        crashes: vec![snapshot],
        leaves: vec![(4, Time(9000))],
        ..Faults::default()
    };
    let mut world = World::new(terms, faults);
    world.keep_log();
    world.finish(Time(900_000)).expect("the run ends");
    let mut terms = Terms::new(41, 8);
    terms.inline_limit = 1;
    let mut sharded = World::new(terms, Faults::default());
    sharded.keep_log();
    sharded.finish(Time(900_000)).expect("the run ends");
    let mut kinds = std::collections::BTreeMap::new();
    let mut samples = Vec::new();
    let said = [&world, &sharded].map(|world| world.watch().said.iter().flatten());
    for letter in said.into_iter().flatten() {
        let envelope = letter.envelope().expect("what members say parses");
        let count: &mut u32 = kinds.entry(envelope.kind).or_default();
        *count += 1;
        if *count <= 6 {
            samples.push(letter.to_vec());
            samples.push(envelope.body.clone());
        }
    }
    assert!(kinds.len() >= 16, "only {kinds:?} were said");
    for record in [&world, &sharded].map(|world| world.watch().diary.records.values()) {
        samples.extend(record.map(Record::to_bytes));
    }
    (world, samples)
}

// R8: parsers take any bytes; a member that gets them refuses or ignores them and goes on.
#[test]
fn every_parser_is_total_and_canonical() {
    let (world, samples) = samples();
    let seed = 77;
    let mut chance = Chance::new(seed, "conclave/test/canon");
    let terms = world.terms();
    let setup = terms.setup(&terms.charter(), 0);
    let mut member = Member::open(setup, Stored::new(), Time(0), [1; 32]).expect("opens");
    let from = terms.identity(1).public();
    for sample in &samples {
        all(sample, seed);
        for _ in 0..60 {
            let bytes = changed(sample, &mut chance);
            all(&bytes, seed);
            let parses = Envelope::from_bytes(&bytes).is_ok();
            let verdict = member.handle(
                Time(1),
                Input::Received {
                    from,
                    bytes: bytes.into(),
                },
            );
            assert!(
                parses || matches!(verdict, Verdict::Refused(_)),
                "seed {seed}: no envelope, and {verdict:?}"
            );
            while member.poll().is_some() {}
        }
    }
    for _ in 0..4000 {
        let pieces = chance.below(12);
        let mut bytes: Vec<u8> = (0..pieces).flat_map(|_| chance.bytes()).collect();
        bytes.truncate(chance.index(bytes.len() + 1));
        all(&bytes, seed);
    }
}

// R41: a chain of which a byte was changed is refused, at whatever place.
#[test]
fn a_changed_ledger_is_refused() {
    let (world, _) = samples();
    let chain = world.longest().expect("somebody runs");
    let charter = world.terms().charter();
    let heights = 1..=chain.head().0;
    let entries =
        heights.filter_map(|height| chain.entry(conclave_protocol::names::Height(height)));
    let rows: Vec<Vec<u8>> = entries
        .map(|entry| {
            message::encode(&Decided {
                record: entry.bytes.to_vec(),
                certificate: entry.certificate.clone(),
            })
        })
        .collect();
    let verify = |rows: &[Vec<u8>]| {
        let rows = rows.iter().map(Vec::as_slice);
        verify_chain(&charter, None, rows).map(|verified| verified.head)
    };
    let head = verify(&rows).expect("the run's own chain");
    let seed = 78;
    let mut chance = Chance::new(seed, "conclave/test/ledger");
    for _ in 0..300 {
        let mut torn = rows.clone();
        let at = chance.index(torn.len());
        torn[at] = changed(&rows[at], &mut chance);
        let told = verify(&torn);
        assert!(
            torn == rows || told.is_err() || told == Ok(head) && same_records(&torn, &rows),
            "seed {seed}: a change in record {} is not seen",
            at + 1
        );
    }
}

/// Whether the chains differ in certificates at most: another quorum may have signed.
fn same_records(one: &[Vec<u8>], other: &[Vec<u8>]) -> bool {
    let record = |row: &Vec<u8>| message::decode::<Decided>(row).map(|decided| decided.record);
    one.iter().map(record).eq(other.iter().map(record))
}

// R8: a charter's text is data too.
#[test]
fn any_text_is_a_charter_or_none() {
    let text = Terms::new(41, 4).charter().to_toml();
    let seed = 79;
    let mut chance = Chance::new(seed, "conclave/test/charter");
    let mut taken = 0;
    for _ in 0..1500 {
        let bytes = changed(text.as_bytes(), &mut chance);
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        if let Ok(charter) = Charter::parse(&text) {
            taken += 1;
            let again = Charter::parse(&charter.to_toml()).expect("its own text is a charter");
            assert_eq!(again.digest(), charter.digest(), "seed {seed}");
        }
    }
    assert!(taken > 0, "nothing that was changed is a charter still");
}
