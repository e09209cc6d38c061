//! Any text as a number of a charter, a digest and a key: what is taken has one value.
#![no_main]

use conclave_crypto::digest::Digest;
use conclave_crypto::fraction::Fraction;
use conclave_crypto::sign::PublicKey;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(number) = text.parse::<Fraction>() {
        let again = Fraction::new(number.numerator(), number.denominator());
        assert_eq!(again, Some(number), "its own parts are no number");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        let again: PublicKey = key.to_string().parse().expect("its own text is a key");
        assert_eq!(again, key);
    }
});
