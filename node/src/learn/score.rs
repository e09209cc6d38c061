//! What generated or chosen text is worth: BLEU and ROUGE-L of completions, right labels, right final answers.

pub mod bleu;
pub mod labels;
pub mod rouge;

/// The final answer of a worked solution in the form of GSM8K (Cobbe et al., arXiv 2110.14168): the number behind the
/// first `#### `, without the commas of thousands; `None` if there is none.
pub fn answer(solution: &str) -> Option<String> {
    let mut rest = solution;
    while let Some((_, behind)) = rest.split_once("#### ") {
        let sign = if behind.starts_with('-') { "-" } else { "" };
        let digits =
            behind[sign.len()..].split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ','));
        let digits: String = digits
            .take(1)
            .flat_map(str::chars)
            .filter(|c| *c != ',')
            .collect();
        let digits = digits.trim_end_matches('.');
        if !digits.is_empty() {
            return Some(format!("{sign}{digits}"));
        }
        rest = behind;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_stands_behind_four_hashes() {
        for (text, expected) in [
            ("She has 3 + 4 = <<3+4=7>>7.\n#### 7", Some("7")),
            ("#### 1,234,567", Some("1234567")),
            ("x\n#### -2.50 dollars", Some("-2.50")),
            ("so #### 18.", Some("18")),
            ("#### none\n#### 5", Some("5")),
            ("####7", None),
            ("the answer is 7", None),
        ] {
            assert_eq!(answer(text).as_deref(), expected, "{text}");
        }
    }
}
