//! What a round costs in cryptography: masks against the bare cipher, dealings, shares, signatures, roots.
//!
//! `cargo bench -p conclave-crypto`; with `RAYON_NUM_THREADS=1` for the figures of one thread.

use aes::Aes256;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher};
use conclave_crypto::agree::ExchangeKey;
use conclave_crypto::dealing::{self, Dealing, Secret};
use conclave_crypto::digest::Digest;
use conclave_crypto::mask::{self, MaskSeed, Prg, Sign};
use conclave_crypto::sign::IdentityKey;
use conclave_crypto::{merkle, shamir};
use ctr::Ctr128BE;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use rayon::prelude::*;

fn main() {
    divan::main();
}

/// Ring elements of a vector of 16 MiB.
const ELEMENTS: usize = 4 << 20;

fn seed() -> MaskSeed {
    MaskSeed::own(
        &dealing::self_secret(&[7; 32], &Digest([8; 32])),
        &Digest([9; 32]),
    )
}

/// One mask grown and added in one pass.
#[divan::bench(args = [Prg::ChaCha20, Prg::Aes256Ctr], sample_count = 20)]
fn mask_fused(bencher: Bencher<'_, '_>, prg: Prg) {
    let (masks, mut vector) = ([(seed(), Sign::Plus)], vec![0_u32; ELEMENTS]);
    bencher
        .counter(BytesCount::of_slice(&vector))
        .bench_local(|| mask::grow_into(&masks, prg, black_box(&mut vector)));
}

/// Ten masks grown and added in one pass: a net mask among ten members. Bytes count once for each mask.
#[divan::bench(args = [Prg::ChaCha20, Prg::Aes256Ctr], sample_count = 10)]
fn ten_masks_fused(bencher: Bencher<'_, '_>, prg: Prg) {
    let masks: [_; 10] = core::array::from_fn(|_| (seed(), Sign::Minus));
    let mut vector = vec![0_u32; ELEMENTS];
    bencher
        .counter(BytesCount::new(ELEMENTS * 4 * masks.len()))
        .bench_local(|| mask::grow_into(&masks, prg, black_box(&mut vector)));
}

/// The least that is possible: the key stream alone, in buffers that stay in the first-level cache.
#[divan::bench(args = [Prg::ChaCha20, Prg::Aes256Ctr], sample_count = 20)]
fn key_stream_alone(bencher: Bencher<'_, '_>, prg: Prg) {
    bencher
        .counter(BytesCount::new(ELEMENTS * 4))
        .bench_local(|| {
            (0..ELEMENTS / mask::CHUNK_ELEMENTS)
                .into_par_iter()
                .for_each(|_| match prg {
                    Prg::ChaCha20 => write(ChaCha20::new(&[7; 32].into(), &[8; 12].into())),
                    Prg::Aes256Ctr => {
                        write(Ctr128BE::<Aes256>::new(&[7; 32].into(), &[8; 16].into()));
                    }
                });
        });
}

/// One chunk of key stream.
fn write(mut cipher: impl StreamCipher) {
    let mut buffer = [0_u8; 8192];
    for _ in 0..mask::CHUNK_ELEMENTS * 4 / buffer.len() {
        cipher.write_keystream(black_box(&mut buffer));
    }
}

/// One secret's dealing among n holders with t = ⌊2n/3⌋ + 1: shares, salts, leaves.
#[divan::bench(args = [5, 50, 200])]
fn deal(bencher: Bencher<'_, '_>, holders: u8) {
    let threshold = u8::try_from(u16::from(holders) * 2 / 3 + 1).expect("below 256");
    bencher.bench_local(|| {
        Dealing::derive(
            black_box(&[7; 32]),
            &Digest([8; 32]),
            3,
            Secret::PairKey,
            threshold,
            holders,
        )
    });
}

/// One secret opened from t shares.
#[divan::bench(args = [4, 34, 134])]
fn combine(bencher: Bencher<'_, '_>, threshold: u8) {
    let holders = threshold.saturating_add(threshold / 2);
    let dealing = Dealing::derive(
        &[7; 32],
        &Digest([8; 32]),
        3,
        Secret::SelfSeed,
        threshold,
        holders,
    );
    let shares: Vec<_> = (1..=threshold)
        .map(|x| (x, dealing.share(x).share))
        .collect();
    bencher.bench_local(|| shamir::combine(black_box(&shares)));
}

#[divan::bench]
fn agree_and_derive_a_pair_seed(bencher: Bencher<'_, '_>) {
    let (one, other) = (
        ExchangeKey::from_bytes(&[1; 32]),
        ExchangeKey::from_bytes(&[2; 32]).public(),
    );
    let public = one.public();
    bencher.bench_local(|| {
        let shared = one.shared(black_box(&other)).expect("contributory");
        MaskSeed::pair(&shared, &Digest([3; 32]), &public, &other, 1, 2)
    });
}

#[divan::bench]
fn sign(bencher: Bencher<'_, '_>) {
    let key = IdentityKey::from_bytes(&[1; 32]);
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| key.sign(black_box(&[2; 150])));
}

#[divan::bench]
fn verify(bencher: Bencher<'_, '_>) {
    let key = IdentityKey::from_bytes(&[1; 32]);
    let (public, signature) = (key.public(), key.sign(&[2; 150]));
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| public.verify(black_box(&[2; 150]), &signature));
}

#[divan::bench(sample_count = 20)]
fn merkle_root(bencher: Bencher<'_, '_>) {
    let vector = vec![5_u8; ELEMENTS * 4];
    bencher
        .counter(BytesCount::of_slice(&vector))
        .bench_local(|| merkle::root(black_box(&vector)));
}
