//! The nearest known word to an unknown one, so that a refusal can name what was meant.

/// The known word with the fewest edits from `word`, if it is near enough to be what was meant.
///
/// Edits are insertions, deletions, substitutions and swaps of neighbours; a third of the word (at least two) may
/// differ.
///
/// ```
/// use conclave_protocol::nearest::nearest;
/// assert_eq!(nearest("lora_rank", ["lora_r", "lora_alpha"]), Some("lora_r"));
/// assert_eq!(nearest("colour", ["lora_r", "lora_alpha"]), None);
/// ```
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|&(distance, candidate)| {
            distance <= allowed || candidate.starts_with(word) || word.starts_with(candidate)
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// `unknown key …` with the nearest known one, or with all of them when none is near.
pub fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("known are: {}", known.join(", ")),
    }
}

/// The restricted Damerau-Levenshtein distance, one row at a time.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    let mut left_before = None;
    for (i, a) in left.chars().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        let mut right_before = None;
        for (j, &b) in right.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX);
            let mut best = at(&last, j)
                .saturating_add(usize::from(a != b))
                .min(at(&last, j.saturating_add(1)).saturating_add(1))
                .min(at(&row, j).saturating_add(1));
            if left_before == Some(b) && right_before == Some(a) && j > 0 {
                best = best.min(at(&before, j.saturating_sub(1)).saturating_add(1));
            }
            row.push(best);
            right_before = Some(b);
        }
        left_before = Some(a);
        before = core::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_the_known_ones() {
        for (left, right, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("rounds", "ruonds", 1),
            ("rounds", "round", 1),
        ] {
            assert_eq!(edits(left, right), distance, "{left} {right}");
            assert_eq!(edits(right, left), distance, "{right} {left}");
        }
    }

    #[test]
    fn a_far_word_lists_all() {
        assert_eq!(
            suggestion("zebra", &["rounds", "clip"]),
            "known are: rounds, clip"
        );
        assert_eq!(
            suggestion("clipp", &["rounds", "clip"]),
            "did you mean `clip`?"
        );
    }
}
