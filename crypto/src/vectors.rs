//! Known answers: every primitive against the document that it follows, and our own derivations against an
//! independent implementation (`tests/vectors/make.py`).

use aes::Aes256;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use ctr::Ctr128BE;
use hkdf::Hkdf;
use serde_json::Value;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::agree::{ExchangeKey, ExchangePublic};
use crate::dealing::{self, Dealing, Secret};
use crate::digest::Digest;
use crate::mask::{self, MaskSeed, Prg, Sign};
use crate::sign::{IdentityKey, PublicKey, Signature};
use crate::{fixed, merkle, sealed, shamir};

macro_rules! vectors {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../../tests/vectors/", $name)))
            .expect("a vector file is JSON")
    };
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hexadecimal digits")
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("the length of the field")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn small(value: &Value) -> u32 {
    u32::try_from(number(value)).expect("32 bits")
}

fn list(value: &Value) -> &[Value] {
    let list = value.as_array().expect("a list");
    assert!(!list.is_empty(), "a list of vectors has some");
    list
}

#[test]
fn x25519_is_rfc_7748() {
    for case in list(&vectors!("x25519.json")["cases"]) {
        let (mut k, mut u): ([u8; 32], [u8; 32]) = (array(&case["scalar"]), array(&case["u"]));
        for _ in 0..case["iterations"].as_u64().unwrap_or(1) {
            let out = ExchangeKey::from_bytes(&k)
                .shared(&ExchangePublic(u))
                .expect("contributory");
            u = k;
            k = *out.as_bytes();
        }
        assert_eq!(k, array(&case["out"]), "{}", case["name"]);
        let mut base = [0; 32];
        base[0] = 9;
        if array(&case["u"]) == base && case["iterations"].is_null() {
            let key = ExchangeKey::from_bytes(&array(&case["scalar"]));
            assert_eq!(key.public().0, k, "{}", case["name"]);
        }
    }
}

#[test]
fn ed25519_is_rfc_8032() {
    for case in list(&vectors!("ed25519.json")["cases"]) {
        let key = IdentityKey::from_bytes(&array(&case["secret"]));
        let public = PublicKey::from_bytes(&array(&case["public"])).expect("a key");
        let (message, signature) = (
            bytes(&case["message"]),
            Signature(array(&case["signature"])),
        );
        assert_eq!(key.public(), public, "{}", case["name"]);
        assert_eq!(key.sign(&message), signature, "{}", case["name"]);
        assert_eq!(public.verify(&message, &signature), Ok(()));
    }
}

#[test]
fn hkdf_is_rfc_5869() {
    for case in list(&vectors!("hkdf.json")["cases"]) {
        let (salt, ikm) = (bytes(&case["salt"]), bytes(&case["ikm"]));
        let (prk, derive) = Hkdf::<Sha256>::extract(Some(&salt), &ikm);
        assert_eq!(prk.as_slice(), bytes(&case["prk"]), "{}", case["name"]);
        let expected = bytes(&case["okm"]);
        let mut okm = vec![0; expected.len()];
        derive
            .expand(&bytes(&case["info"]), &mut okm)
            .expect("short");
        assert_eq!(okm, expected, "{}", case["name"]);
        // As the modules here use it: info in parts, and no salt at all for an empty one.
        let info = bytes(&case["info"]);
        let (one, other) = info.split_at(info.len() / 2);
        let salt = (!salt.is_empty()).then_some(salt.as_slice());
        Hkdf::<Sha256>::new(salt, &ikm)
            .expand_multi_info(&[one, other], &mut okm)
            .expect("short");
        assert_eq!(okm, expected, "{}", case["name"]);
    }
}

#[test]
fn chacha20_is_rfc_8439() {
    for case in list(&vectors!("chacha20.json")["cases"]) {
        let mut cipher = ChaCha20::new(
            &array::<32>(&case["key"]).into(),
            &array::<12>(&case["nonce"]).into(),
        );
        cipher.seek(number(&case["counter"]) * 64);
        let mut text = bytes(&case["plain"]);
        cipher.apply_keystream(&mut text);
        assert_eq!(text, bytes(&case["out"]), "{}", case["name"]);
    }
}

#[test]
fn chacha20_poly1305_is_rfc_8439() {
    for case in list(&vectors!("chacha20poly1305.json")["cases"]) {
        let cipher = ChaCha20Poly1305::new(&array::<32>(&case["key"]).into());
        let nonce = array::<12>(&case["nonce"]).into();
        let (aad, plain, boxed) = (
            bytes(&case["aad"]),
            bytes(&case["plain"]),
            bytes(&case["boxed"]),
        );
        let payload = |msg| Payload { msg, aad: &aad };
        assert_eq!(
            cipher.encrypt(&nonce, payload(&plain)),
            Ok(boxed.clone()),
            "{}",
            case["name"]
        );
        assert_eq!(cipher.decrypt(&nonce, payload(&boxed)), Ok(plain));
    }
}

#[test]
fn aes_256_ctr_is_sp_800_38a() {
    for case in list(&vectors!("aes256ctr.json")["cases"]) {
        let mut cipher = Ctr128BE::<Aes256>::new(
            &array::<32>(&case["key"]).into(),
            &array::<16>(&case["counter"]).into(),
        );
        let mut text = bytes(&case["plain"]);
        cipher.apply_keystream(&mut text);
        assert_eq!(text, bytes(&case["out"]), "{}", case["name"]);
    }
}

/// The expected shares were made by logarithm tables and sums of powers, not by this code.
#[test]
fn shamir_agrees_with_another_implementation() {
    for case in list(&vectors!("shamir.json")["cases"]) {
        let coefficients: Vec<_> = case["coefficients"]
            .as_array()
            .expect("a list, empty for threshold 1")
            .iter()
            .map(|value| Zeroizing::new(array(value)))
            .collect();
        let secret = array(&case["secret"]);
        let mut shares = Vec::new();
        for share in list(&case["shares"]) {
            let x = u8::try_from(number(&share["x"])).expect("a position");
            assert_eq!(
                shamir::share_at(&secret, &coefficients, x),
                array(&share["share"]),
                "{}, position {x}",
                case["name"]
            );
            shares.push((x, array(&share["share"])));
        }
        for first in 0..shares.len() - coefficients.len() {
            let some = &shares[first..=first + coefficients.len()];
            assert_eq!(*shamir::combine(some).expect("good"), secret);
        }
    }
}

#[test]
fn a_dealing_is_derived_as_specified() {
    let golden = vectors!("conclave.json");
    let (sess, deal) = (Digest(array(&golden["sess"])), &golden["dealing"]);
    for (name, seed, which) in [
        ("self", &deal["seed_b"], Secret::SelfSeed),
        ("pair", &deal["seed_m"], Secret::PairKey),
    ] {
        let parts = list(&deal[name]);
        let threshold = u8::try_from(number(&deal["threshold"])).expect("small");
        let holders = u8::try_from(parts.len()).expect("few");
        let dealer = small(&deal["dealer"]);
        let dealing = Dealing::derive(&array(seed), &sess, dealer, which, threshold, holders);
        for (part, leaf) in parts.iter().zip(dealing.leaves()) {
            let share = dealing.share(u8::try_from(number(&part["x"])).expect("a position"));
            assert_eq!(share.share, array(&part["share"]));
            assert_eq!(share.salt, array(&part["salt"]));
            assert_eq!(leaf.0, array(&part["leaf"]));
        }
        assert_eq!(dealing.leaves().len(), parts.len());
    }
    let key = dealing::mask_key(&array(&deal["seed_m"]), &sess);
    assert_eq!(key.public().0, array(&deal["pk_m"]));
}

#[test]
fn a_share_is_sealed_as_specified() {
    let golden = vectors!("conclave.json");
    let (sess, case) = (Digest(array(&golden["sess"])), &golden["sealed"]);
    let dealer = ExchangeKey::from_bytes(&array(&case["sk_e"]));
    let holder = ExchangeKey::from_bytes(&array(&case["sk_c"]));
    let (from, to) = (small(&case["from"]), small(&case["to"]));
    let (plain, boxed) = (bytes(&case["plain"]), bytes(&case["boxed"]));
    let out = dealer.shared(&holder.public()).expect("good");
    assert_eq!(sealed::seal(&out, &sess, from, to, &plain), boxed);
    let back = holder.shared(&dealer.public()).expect("good");
    let opened = sealed::open(&back, &sess, from, to, &boxed).expect("opens");
    assert_eq!(*opened, plain);
}

#[test]
fn masks_grow_as_specified() {
    let golden = vectors!("conclave.json");
    let (sess, sid) = (
        Digest(array(&golden["sess"])),
        Digest(array(&golden["sid"])),
    );
    let (deal, case) = (&golden["dealing"], &golden["mask"]);
    let key = dealing::mask_key(&array(&deal["seed_m"]), &sess);
    let other = dealing::mask_key(&array(&case["other_seed_m"]), &sess);
    assert_eq!(other.public().0, array(&case["other_pk_m"]));
    let (lower, higher) = (small(&case["lower"]), small(&case["higher"]));
    let pair = |key: &ExchangeKey, other: &ExchangeKey| {
        let shared = key.shared(&other.public()).expect("good");
        let (one, two) = (key.public(), other.public());
        MaskSeed::pair(&shared, &sid, &one, &two, lower, higher)
    };
    let first = |prg, seed: MaskSeed, at: usize| {
        let mut vector = vec![0; mask::CHUNK_ELEMENTS + 16];
        mask::grow_into(&[(seed, Sign::Plus)], prg, &mut vector);
        let words = &vector[at..at + 16];
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<_>>()
    };
    for (prg, name) in [(Prg::ChaCha20, "chacha20"), (Prg::Aes256Ctr, "aes256ctr")] {
        assert_eq!(serde_json::to_value(prg).expect("a name"), name);
        let [zero, one] = list(&case[name]) else {
            panic!("two chunks");
        };
        // Both sides of a pair grow the same stream.
        for (one_key, other_key) in [(&key, &other), (&other, &key)] {
            let seed = || pair(one_key, other_key);
            assert_eq!(first(prg, seed(), 0), bytes(zero), "{name}, chunk 0");
            let at = mask::CHUNK_ELEMENTS;
            assert_eq!(first(prg, seed(), at), bytes(one), "{name}, chunk 1");
        }
        let last = first(prg, pair(&key, &other), mask::CHUNK_ELEMENTS - 16);
        assert_eq!(
            last,
            bytes(&case[format!("{name}_end")]),
            "{name}, the end of chunk 0"
        );
    }
    let own = MaskSeed::own(&dealing::self_secret(&array(&deal["seed_b"]), &sess), &sid);
    assert_eq!(first(Prg::ChaCha20, own, 0), bytes(&case["own_chacha20"]));
}

#[test]
fn merkle_roots_are_blake3() {
    let golden = vectors!("blake3.json");
    let context = golden["context"].as_str().expect("a string");
    for case in list(&golden["cases"]) {
        let mut tree = merkle::Tree::under(context);
        tree.add(&counted(number(&case["length"])));
        assert_eq!(tree.root().0, array(&case["out"]), "{}", case["name"]);
    }
}

/// A string of that length whose byte i is i mod 251.
fn counted(length: u64) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at % 251).expect("below 251"))
        .collect()
}

#[test]
fn digests_and_roots_are_as_specified() {
    let golden = vectors!("conclave.json");
    let case = &golden["digest"];
    let parts: Vec<_> = list(&case["parts"]).iter().map(bytes).collect();
    let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
    let digest = Digest::of(case["domain"].as_str().expect("a string"), &parts);
    assert_eq!(digest.0, array(&case["digest"]));
    assert_eq!(Ok(digest), digest.to_string().parse());

    let case = &golden["merkle"];
    let string = counted(number(&case["length"]));
    assert_eq!(merkle::root(&string).0, array(&case["root"]));
    assert_eq!(merkle::root(&[]).0, array(&case["empty"]));

    let case = &golden["adapter"];
    let adapter: Vec<f32> = list(&case["values"])
        .iter()
        .map(|value| f32::from_le_bytes(array(value)))
        .collect();
    let digest = fixed::adapter_digest(&Digest(array(&case["shape"])), &adapter);
    assert_eq!(digest.0, array(&case["digest"]));

    let case = &golden["signature"];
    let signature =
        IdentityKey::from_bytes(&array(&case["identity"])).sign(&bytes(&case["preimage"]));
    assert_eq!(signature.0, array(&case["signature"]));
}
