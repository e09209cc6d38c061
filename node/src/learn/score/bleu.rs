//! BLEU (Papineni et al. 2002) of a corpus with one reference a segment, as sacrebleu 2 computes it by default: its
//! `13a` tokenizer, n-grams up to four, exponential smoothing.

use std::collections::BTreeMap;

const ORDER: usize = 4;

/// Counts of a corpus, to which segments are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bleu {
    matched: [u64; ORDER],
    total: [u64; ORDER],
    length: u64,
    reference_length: u64,
}

impl Bleu {
    /// Adds a segment.
    pub fn add(&mut self, text: &str, reference: &str) {
        let (text, reference) = (tokens(text), tokens(reference));
        self.length += text.len() as u64;
        self.reference_length += reference.len() as u64;
        for n in 1..=ORDER {
            let (have, allowed) = (grams(&text, n), grams(&reference, n));
            for (gram, count) in have {
                self.total[n - 1] += count;
                self.matched[n - 1] += count.min(allowed.get(gram).copied().unwrap_or(0));
            }
        }
    }

    /// The score, 0 to 100.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub fn score(&self) -> f64 {
        if self.matched.iter().all(|count| *count == 0) || self.total.contains(&0) {
            return 0.0;
        }
        let mut smooth = 1.0;
        let mut logs = 0.0;
        for (&matched, &total) in self.matched.iter().zip(&self.total) {
            let precision = if matched == 0 {
                smooth *= 2.0;
                1.0 / (smooth * total as f64)
            } else {
                matched as f64 / total as f64
            };
            logs += precision.ln() / ORDER as f64;
        }
        let brevity = if self.length < self.reference_length {
            1.0 - self.reference_length as f64 / self.length as f64
        } else {
            0.0
        };
        100.0 * (brevity + logs).exp()
    }
}

fn grams(tokens: &[String], n: usize) -> BTreeMap<&[String], u64> {
    let mut counts = BTreeMap::new();
    for gram in tokens.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The tokenizer of the mteval-v13a script: marks stand alone, but for those inside numbers.
fn tokens(text: &str) -> Vec<String> {
    let text = text
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    let text = text
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let mut marked = String::from(" ");
    for c in text.chars() {
        if matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/') {
            marked.extend([' ', c, ' ']);
        } else {
            marked.push(c);
        }
    }
    marked.push(' ');
    let stop = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    let text = pairs(&marked, |a, b| {
        (!digit(a) && stop(b)).then_some([a, ' ', b, ' '])
    });
    let text = pairs(&text, |a, b| {
        (stop(a) && !digit(b)).then_some([' ', a, ' ', b])
    });
    let text = pairs(&text, |a, b| {
        (digit(a) && b == '-').then_some([a, ' ', b, ' '])
    });
    text.split_whitespace().map(str::to_owned).collect()
}

/// Replaces pairs of letters from left to right; what was replaced is not looked at again.
fn pairs(text: &str, replace: impl Fn(char, char) -> Option<[char; 4]>) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut rest = text.chars();
    while let Some(a) = rest.next() {
        let mut after = rest.clone();
        match after.next().and_then(|b| replace(a, b)) {
            Some(instead) => {
                out.extend(instead);
                rest = after;
            }
            None => out.push(a),
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Text, reference, and what sacrebleu 2 and rouge-score 0.1 give for them.
    pub(in super::super) const PAIRS: [(&str, &str, f64, f64); 6] = [
        (
            "The cat sat on the mat.",
            "The cat is sitting on the mat.",
            42.383_656_282_787_78,
            0.769_230_769_230_769_2,
        ),
        (
            "There is a place in the city centre, Alimentum, that is not family-friendly.",
            "Alimentum is a non family-friendly place, located in the city centre.",
            21.186_050_864_016_675,
            0.538_461_538_461_538_4,
        ),
        (
            "Prices start at £30 -- \"cheap\" & cheerful; costs 1,234.56 or 3-4 dollars (approx.)",
            "Prices start at £30 & are \"cheap\", 1,234.56 to 3-4 dollars (approx)!",
            39.968_063_846_798_25,
            0.827_586_206_896_551_8,
        ),
        ("", "Nothing was said.", 0.0, 0.0),
        (
            "Café Adriatic near The Vaults... rates 5/5",
            "The Vaults near Café Adriatic... rates 5/5, it's good",
            49.379_601_016_019_32,
            0.526_315_789_473_684_2,
        ),
        ("a b c", "x y z", 0.0, 0.0),
    ];

    #[test]
    fn scores_are_those_of_sacrebleu() {
        let mut all = Bleu::default();
        for (text, reference, expected, _) in PAIRS {
            let mut one = Bleu::default();
            one.add(text, reference);
            assert!(
                (one.score() - expected).abs() < 1e-9,
                "{text}: {}",
                one.score()
            );
            all.add(text, reference);
        }
        assert!(
            (all.score() - 37.904_225_099_819_33).abs() < 1e-9,
            "{}",
            all.score()
        );
        let mut same = Bleu::default();
        same.add("one two three four five", "one two three four five");
        assert!((same.score() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn tokens_are_those_of_13a() {
        for (text, expected) in [
            (
                PAIRS[2].0,
                "Prices start at £30 -- \" cheap \" & cheerful ; costs 1,234.56 or 3 - 4 dollars ( approx . )",
            ),
            (
                "U.S. 1.5 .5 a,b,,c -5 x-y 3-4-\nfoo &quot;q&quot; &amp;lt; {a}[b]^_`~@#$%*+=<>?/\\|",
                "U . S . 1.5 . 5 a , b , , c -5 x-y 3 - 4foo \" q \" < { a } [ b ] ^ _ ` ~ @ # $ % * + = < > ? / \\ |",
            ),
            ("it's 10,000. Don't...end", "it's 10,000 . Don't . . . end"),
        ] {
            assert_eq!(tokens(text).join(" "), expected);
        }
    }
}
