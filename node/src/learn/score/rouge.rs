//! ROUGE-L (Lin 2004) of a text and a reference, as rouge-score computes it by default: words of lower-case letters
//! and digits without stemming, the F-measure of the longest common subsequence.

/// The score, 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "word counts are far below 2^53")]
pub fn rouge_l(text: &str, reference: &str) -> f64 {
    let (text, reference) = (words(text), words(reference));
    let common = common(&text, &reference) as f64;
    if common <= 0.0 {
        return 0.0;
    }
    let (precision, recall) = (common / text.len() as f64, common / reference.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let parts = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Length of the longest common subsequence, row by row.
fn common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if word == other {
                diagonal + 1
            } else {
                above.max(row[j])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::bleu::tests::PAIRS;
    use super::*;

    #[test]
    fn scores_are_those_of_rouge_score() {
        for (text, reference, _, expected) in PAIRS {
            let score = rouge_l(text, reference);
            assert!((score - expected).abs() < 1e-9, "{text}: {score}");
        }
    }
}
