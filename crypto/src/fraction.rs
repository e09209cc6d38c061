//! Fractions as a charter writes them: decimal strings, parsed exactly. No float is involved.

use core::fmt;
use core::str::FromStr;

/// A non-negative decimal number: `numerator / denominator`, the denominator a power of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
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

impl Fraction {
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
        Ok(Self {
            numerator,
            denominator: 10_u64.pow(places),
        })
    }
}

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
