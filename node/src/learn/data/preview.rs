//! What the trainer is about to see, as text: one example with its scored part, and the lengths.

use std::fmt::Write as _;

use super::{Example, Tokens};
use crate::learn::examples::Examples;

const BINS: usize = 8;
const BAR: usize = 40;

/// The first example as text: what is given, then each scored part between `[` and `]`.
pub fn preview(tokens: &Tokens, example: &Example) -> String {
    let mut text = String::new();
    let mut start = 0;
    for end in 1..=example.ids.len() {
        if end < example.ids.len() && example.scored[end] == example.scored[start] {
            continue;
        }
        let ids = &example.ids[start..end];
        let part = match tokens.class(ids[0]).filter(|_| example.scored[start]) {
            Some(class) => class.to_owned(),
            None => tokens.decode(ids).unwrap_or_else(|_| "?".into()),
        };
        let part = part.escape_debug();
        let _ = if example.scored[start] {
            write!(text, "[{part}]")
        } else {
            write!(text, "{part}")
        };
        start = end;
    }
    let (len, scored) = (example.ids.len(), example.targets());
    format!("{text}\n{len} tokens, {scored} of them scored (between brackets)")
}

/// How many examples have which length, one line a bin, with a bar.
pub fn histogram(examples: &dyn Examples) -> String {
    let lengths = || (0..examples.count()).map(|index| examples.length(index));
    let longest = lengths().max().unwrap_or(0);
    let width = longest.div_ceil(BINS).max(1);
    let mut counts = [0_usize; BINS];
    for length in lengths() {
        counts[(length.saturating_sub(1) / width).min(BINS - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut text = String::new();
    for (bin, &count) in counts.iter().enumerate().take(longest.div_ceil(width)) {
        let (from, to) = (bin * width + 1, (bin + 1) * width);
        let bar = "#".repeat((count * BAR).div_ceil(most));
        let line = format!("{from:>5}-{to:<5} tokens {count:>7} {bar}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_counts_every_example_once() {
        let example = |len: usize| Example {
            ids: vec![0; len],
            scored: vec![true; len],
        };
        let text = histogram(&vec![example(1), example(8), example(9), example(64)]);
        assert_eq!(text.lines().count(), 8, "{text}");
        assert!(
            text.starts_with("    1-8     tokens       2 ####"),
            "{text}"
        );
        assert!(text.contains("   57-64    tokens       1 ####"), "{text}");
        assert_eq!(histogram(&Vec::new()), "");
    }
}
