//! Shamir's secret sharing (CACM 22(11), 1979) byte by byte over GF(2^8) with the polynomial 0x11B of AES.
//!
//! Branch-free and table-free: no timing depends on a secret. `x = 0` is the secret itself and never a holder.

use zeroize::Zeroizing;

/// Why shares do not combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShamirError {
    /// No share was given.
    #[error("no share was given")]
    Empty,
    /// A holder's position is 0 or stands twice.
    #[error("position {0} is zero or stands twice among the shares")]
    Position(u8),
}

/// The weights that open secrets from the shares of a set of positions: computed once, good for any number of secrets.
#[derive(Debug, Clone)]
pub struct Weights(Vec<u8>);

impl Weights {
    /// Lagrange's weights at 0: `w_i = Π_{j≠i} x_j / (x_j − x_i)`.
    pub fn at_zero(positions: &[u8]) -> Result<Self, ShamirError> {
        if positions.is_empty() {
            return Err(ShamirError::Empty);
        }
        let mut seen = [false; 256];
        let mut product = 1;
        for x in positions {
            let mark = seen
                .get_mut(usize::from(*x))
                .expect("a byte indexes 256 marks");
            if *x == 0 || *mark {
                return Err(ShamirError::Position(*x));
            }
            *mark = true;
            product = multiply(product, *x);
        }
        let weight = |x: &u8| {
            // x_i · Π_{j≠i} (x_j − x_i): the position itself takes the place of its zero difference.
            let difference = |other: &u8| if other == x { *x } else { other ^ x };
            let under = positions.iter().map(difference).fold(1, multiply);
            multiply(product, invert(under))
        };
        Ok(Self(positions.iter().map(weight).collect()))
    }

    /// `Σ_i w_i · y_i`, the shares in the order of the positions.
    ///
    /// With fewer than the dealing's threshold the result is unrelated to the secret: the caller counts.
    pub fn open<'a>(&self, shares: impl IntoIterator<Item = &'a [u8; 32]>) -> Zeroizing<[u8; 32]> {
        let mut secret = Zeroizing::new([0; 4]);
        for (share, weight) in shares.into_iter().zip(&self.0) {
            let part = Zeroizing::new(multiply_all(words(share), *weight));
            for (word, add) in secret.iter_mut().zip(part.iter()) {
                *word ^= add;
            }
        }
        Zeroizing::new(bytes(&secret))
    }
}

/// `f(x) = secret + Σ coefficients[k]·x^(k+1)`, for each of the 32 bytes. With `t − 1` coefficients any `t` open it.
///
/// # Panics
/// If `x` is 0: that share would be the secret.
pub fn share_at(secret: &[u8; 32], coefficients: &[Zeroizing<[u8; 32]>], x: u8) -> [u8; 32] {
    assert!(x != 0, "position 0 holds the secret itself");
    let mut value = Zeroizing::new([0; 4]);
    // Horner's rule, from the highest coefficient down.
    for coefficient in coefficients.iter().rev() {
        for (word, add) in value.iter_mut().zip(words(coefficient)) {
            *word ^= add;
        }
        *value = multiply_all(*value, x);
    }
    for (word, add) in value.iter_mut().zip(words(secret)) {
        *word ^= add;
    }
    bytes(&value)
}

/// Lagrange interpolation at 0: `Σ_i y_i · Π_{j≠i} x_j / (x_j − x_i)`.
///
/// With fewer than the dealing's threshold the result is unrelated to the secret: the caller counts.
pub fn combine(shares: &[(u8, [u8; 32])]) -> Result<Zeroizing<[u8; 32]>, ShamirError> {
    let positions: Vec<u8> = shares.iter().map(|(x, _)| *x).collect();
    let weights = Weights::at_zero(&positions)?;
    Ok(weights.open(shares.iter().map(|(_, share)| share)))
}

/// The 32 bytes as four words: all of them are multiplied at once.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn bytes(words: &[u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    bytes
}

/// The products of 32 bytes with one in GF(2^8): eight masked additions, no branch, no table.
fn multiply_all(mut a: [u64; 4], b: u8) -> [u64; 4] {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let mut product = [0; 4];
    for bit in 0..8 {
        let taken = u64::from(b.wrapping_shr(bit) & 1).wrapping_neg();
        for (product, a) in product.iter_mut().zip(&mut a) {
            *product ^= *a & taken;
            // Each byte times x: shifted by one, and reduced by 0x1b where a bit went over.
            let over = (*a >> 7) & LOW;
            let shifted = (*a << 1) & !LOW;
            *a = shifted ^ over ^ (over << 1) ^ (over << 3) ^ (over << 4);
        }
    }
    product
}

/// The product in GF(2^8): eight masked additions, no branch, no table.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product, mut bit) = (a, b, 0, 0);
    while bit < 8 {
        product ^= a & (b & 1).wrapping_neg();
        let carry = (a >> 7).wrapping_neg();
        a = (a << 1) ^ (carry & 0x1b);
        b >>= 1;
        bit = bit_after(bit);
    }
    product
}

const fn bit_after(bit: u32) -> u32 {
    bit.wrapping_add(1)
}

/// The inverse as `a^254` (0 maps to 0, which no caller passes).
const fn invert(a: u8) -> u8 {
    let mut power = a;
    let mut result = 1;
    let mut bit = 0;
    while bit < 7 {
        power = multiply(power, power);
        result = multiply(result, power);
        bit = bit_after(bit);
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, section 4.2: {57} · {83} = {c1}; {57} · {13} = {fe}.
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        for a in 1..=255 {
            assert_eq!(multiply(a, invert(a)), 1, "{a}");
        }
    }

    #[test]
    fn all_bytes_are_multiplied_as_one_is() {
        let mut a = [0; 32];
        for start in (0..=255).step_by(32) {
            for (byte, value) in a.iter_mut().zip(start..) {
                *byte = u8::try_from(value).expect("a byte");
            }
            for b in 0..=255 {
                let each = a.map(|byte| multiply(byte, b));
                assert_eq!(bytes(&multiply_all(words(&a), b)), each);
            }
        }
    }

    #[test]
    fn refuses_bad_positions() {
        assert_eq!(combine(&[]).err(), Some(ShamirError::Empty));
        assert_eq!(
            combine(&[(0, [1; 32])]).err(),
            Some(ShamirError::Position(0))
        );
        assert_eq!(
            combine(&[(3, [1; 32]), (3, [1; 32])]).err(),
            Some(ShamirError::Position(3))
        );
    }

    proptest! {
        #[test]
        fn any_threshold_opens_and_fewer_fit_every_secret(
            secret: [u8; 32],
            wanted: [u8; 32],
            rest in prop::collection::vec(any::<[u8; 32]>(), 1..12),
            order in Just((1..=20_u8).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let coefficients: Vec<_> = rest.into_iter().map(Zeroizing::new).collect();
            let threshold = coefficients.len() + 1;
            let shares: Vec<_> =
                order.iter().take(threshold).map(|x| (*x, share_at(&secret, &coefficients, *x))).collect();
            prop_assert_eq!(*combine(&shares).expect("good"), secret);
            // t − 1 shares fit every secret alike: some last share opens any other one.
            let (last, known) = shares.split_last().expect("at least one");
            let zeros: Vec<_> = known.iter().map(|(x, _)| (*x, [0; 32])).collect();
            let weight = combine(&[zeros, vec![(last.0, [1; 32])]].concat()).expect("good")[0];
            let mut forged = last.1;
            for ((byte, wanted), real) in forged.iter_mut().zip(wanted).zip(secret) {
                *byte ^= multiply(wanted ^ real, invert(weight));
            }
            let other = combine(&[known, &[(last.0, forged)]].concat()).expect("good");
            prop_assert_eq!(*other, wanted);
            // And more than t open it as well.
            let all: Vec<_> = order.iter().map(|x| (*x, share_at(&secret, &coefficients, *x))).collect();
            prop_assert_eq!(*combine(&all).expect("good"), secret);
        }
    }
}
