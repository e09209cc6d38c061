//! What others said, as far as it goes into a sentence of ours: files and strangers may put anything into their words.

/// The first line.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The first `most` characters, on one line.
pub(crate) fn beginning(text: &str, most: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_said_stays_on_one_line() {
        assert_eq!(first_line("one\r\ntwo"), "one");
        assert_eq!(first_line(""), "");
        assert_eq!(beginning("a\nb\u{7}é", 9), "a b é");
        assert_eq!(beginning("éé\n", 2), "éé");
    }
}
