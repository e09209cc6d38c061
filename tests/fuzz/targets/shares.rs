//! Any shares at any positions, as a secret; any bytes as a sealed box, a vector's shard and the sum of one.
#![no_main]

use std::collections::BTreeSet;

use conclave_crypto::agree::ExchangeKey;
use conclave_crypto::check::{self, SUM_BYTES};
use conclave_crypto::digest::Digest;
use conclave_crypto::{sealed, shamir};
use conclave_protocol::shard::tag::Challenge;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (rows, _) = bytes.as_chunks::<33>();
    let share = |row: &[u8; 33]| (row[0], std::array::from_fn(|at| row[at + 1]));
    let shares: Vec<(u8, [u8; 32])> = rows.iter().map(share).collect();
    let positions: BTreeSet<u8> = shares.iter().map(|(x, _)| *x).collect();
    let sound = !shares.is_empty() && positions.len() == shares.len() && !positions.contains(&0);
    assert_eq!(shamir::combine(&shares).is_ok(), sound);

    let ours = ExchangeKey::from_bytes(&[1; 32]);
    let theirs = ExchangeKey::from_bytes(&[2; 32]).public();
    let shared = ours.shared(&theirs).expect("sound keys agree");
    assert!(sealed::open(&shared, &Digest::ZERO, 1, 2, bytes).is_err());

    let challenge = Challenge(Digest::ZERO);
    let _tag = challenge.of_vector(0, bytes);
    let mut ring = vec![0; bytes.len() / SUM_BYTES];
    let _tag = challenge.of_sum(0, bytes, &mut ring);
    let mut alone = vec![0; ring.len()];
    check::ring_of_sum(bytes, &mut alone);
    assert_eq!(alone, ring, "the tag's elements are not those of the sum");
});
