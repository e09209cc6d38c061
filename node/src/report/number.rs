//! How the report writes numbers: as many digits as a reader can use, and a dash where nothing was measured.

/// What stands where a number is unknown.
pub(super) const UNKNOWN: &str = "–";

/// A loss in nats a token.
pub(crate) fn loss(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value:.3}"),
        Some(_) => "not finite".into(),
        None => UNKNOWN.into(),
    }
}

/// Bytes in decimal units.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        // What would round to a thousand belongs to the next unit.
        if value < 999.5 {
            return if unit == "B" || value >= 99.95 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A whole number with thin groups of three: `12 345`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A span of time: `8.4 s`, `2 min 04 s`, `1 h 02 min`.
pub(crate) fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return UNKNOWN.into();
    }
    if value < 59.95 {
        return format!("{value:.1} s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and casts saturate"
    )]
    let whole = value.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// The first twelve characters of a digest or a key: enough to compare by eye.
pub(crate) fn short(hex: &str) -> &str {
    hex.char_indices().nth(12).map_or(hex, |(at, _)| &hex[..at])
}

/// `1 round`, `2 rounds`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    count_of(number, noun, &format!("{noun}s"))
}

/// `1 crash`, `2 crashes`.
pub(crate) fn count_of(number: usize, one: &str, many: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{number} {many}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_at_every_size() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1000), "1.0 kB");
        assert_eq!(bytes(999_600), "1.0 MB");
        assert_eq!(bytes(123_456_789), "123 MB");
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(123), "123");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(seconds(8.44), "8.4 s");
        assert_eq!(seconds(59.97), "1 min 00 s");
        assert_eq!(seconds(3720.0), "1 h 02 min");
        assert_eq!(seconds(f64::NAN), UNKNOWN);
        assert_eq!(loss(Some(1.23456)), "1.235");
        assert_eq!(loss(Some(f64::INFINITY)), "not finite");
        assert_eq!(loss(None), UNKNOWN);
    }

    #[test]
    fn a_short_digest_never_cuts_a_character() {
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
        assert_eq!(short("ä"), "ä");
    }
}
