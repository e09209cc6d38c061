//! Fractions as a charter writes them: decimal strings, parsed exactly. No float is involved.

use core::fmt;
use core::str::FromStr;

use bincode::de::Decoder;
use bincode::error::DecodeError;

/// A non-negative decimal number: `numerator / denominator`, the denominator a power of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode)]
pub struct Fraction {
    numerator: u64,
    denominator: u64,
}

/// Why a text is no fraction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no decimal number such as \"0.2\" or \"1\" with at most nine digits on each side of the point"
)]
pub struct NotAFraction(String);

const DIGITS_MAX: usize = 9;

/// Ten to the power of [`DIGITS_MAX`].
const LIMIT: u64 = 1_000_000_000;

impl Fraction {
    /// The fraction of two parts in their one form: the denominator a power of ten up to 10^9, the numerator no
    /// multiple of ten over a denominator above one, the value below 10^9.
    pub fn new(numerator: u64, denominator: u64) -> Option<Self> {
        let is_power = denominator.checked_ilog10().is_some_and(|places| {
            denominator <= LIMIT && denominator == 10_u64.saturating_pow(places)
        });
        let is_small = denominator
            .checked_mul(LIMIT)
            .is_some_and(|limit| numerator < limit);
        let is_reduced = denominator == 1 || !numerator.is_multiple_of(10);
        (is_power && is_small && is_reduced).then_some(Self {
            numerator,
            denominator,
        })
    }

    /// The number above the line.
    pub const fn numerator(&self) -> u64 {
        self.numerator
    }

    /// The number below the line: a power of ten, at most 10^9.
    pub const fn denominator(&self) -> u64 {
        self.denominator
    }

    /// Whether it is zero.
    pub const fn is_zero(&self) -> bool {
        self.numerator == 0
    }

    /// `⌊self · whole⌋`.
    pub fn floor_of(&self, whole: u64) -> u64 {
        let product = u128::from(self.numerator).saturating_mul(whole.into());
        let floor = product
            .checked_div(self.denominator.into())
            .expect("a denominator is at least one");
        u64::try_from(floor).unwrap_or(u64::MAX)
    }

    /// Whether `self < over / under`.
    pub fn is_below(&self, over: u64, under: u64) -> bool {
        u128::from(self.numerator).saturating_mul(under.into())
            < u128::from(over).saturating_mul(self.denominator.into())
    }

    /// The nearest `f64`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "both parts have at most 18 digits; the quotient is rounded anyway"
    )]
    pub fn to_f64(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

impl FromStr for Fraction {
    type Err = NotAFraction;

    fn from_str(text: &str) -> Result<Self, NotAFraction> {
        let refused = || NotAFraction(text.to_owned());
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits =
            |text: &str| text.len() <= DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || text.ends_with('.') {
            return Err(refused());
        }
        let part = part.trim_end_matches('0');
        let numerator = format!("{whole}{part}").parse().map_err(|_| refused())?;
        let places = u32::try_from(part.len()).map_err(|_| refused())?;
        Self::new(numerator, 10_u64.saturating_pow(places)).ok_or_else(refused)
    }
}

impl<Context> bincode::Decode<Context> for Fraction {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let (numerator, denominator) = bincode::Decode::decode(decoder)?;
        Self::new(numerator, denominator).ok_or(DecodeError::Other("no decimal fraction"))
    }
}
bincode::impl_borrow_decode!(Fraction);

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = usize::try_from(self.denominator.ilog10()).expect("at most nine");
        let (whole, part) = (
            self.numerator.checked_div(self.denominator),
            self.numerator.checked_rem(self.denominator),
        );
        let (whole, part) = (whole.expect("not zero"), part.expect("not zero"));
        if places == 0 {
            return write!(f, "{whole}.0");
        }
        write!(f, "{whole}.{part:0places$}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_exactly() {
        let fraction: Fraction = "0.20".parse().expect("good");
        assert_eq!((fraction.numerator(), fraction.denominator()), (2, 10));
        assert_eq!(fraction.to_string(), "0.2");
        assert_eq!("3".parse::<Fraction>().expect("good").to_string(), "3.0");
        assert_eq!(
            "12.0050".parse::<Fraction>().expect("good").to_string(),
            "12.005"
        );
        assert_eq!(fraction.floor_of(7), 1);
        assert!(fraction.is_below(1, 3));
        assert!(!"0.34".parse::<Fraction>().expect("good").is_below(1, 3));
    }

    proptest! {
        #[test]
        fn there_is_one_form_and_it_round_trips(whole in 0..LIMIT, part in 0..LIMIT) {
            let fraction: Fraction = format!("{whole}.{part:09}").parse().expect("good");
            prop_assert_eq!(fraction.to_string().parse::<Fraction>().expect("its own text"), fraction);
            let config = bincode::config::standard().with_fixed_int_encoding();
            let bytes = bincode::encode_to_vec(fraction, config).expect("encodes");
            let (decoded, used): (Fraction, usize) =
                bincode::decode_from_slice(&bytes, config).expect("decodes");
            prop_assert_eq!((decoded, used), (fraction, 16));
            let exact = u128::from(whole) * u128::from(LIMIT) + u128::from(part);
            prop_assert_eq!(
                exact * u128::from(fraction.denominator()),
                u128::from(fraction.numerator()) * u128::from(LIMIT)
            );
        }

        #[test]
        fn foreign_bytes_never_panic(numerator: u64, denominator: u64, digits in 0..30_u32) {
            let config = bincode::config::standard().with_fixed_int_encoding();
            for denominator in [denominator, 0, 10_u64.saturating_pow(digits)] {
                let bytes = bincode::encode_to_vec((numerator, denominator), config).expect("encodes");
                if let Ok((fraction, _)) = bincode::decode_from_slice::<Fraction, _>(&bytes, config) {
                    prop_assert_eq!(fraction.to_string().parse::<Fraction>().expect("its own text"), fraction);
                }
            }
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            ".5",
            "1.",
            "-1",
            "1e3",
            "0.1.2",
            "½",
            "1234567890",
            "0.1234567890",
            " 1",
        ] {
            assert!(text.parse::<Fraction>().is_err(), "{text}");
        }
    }
}
