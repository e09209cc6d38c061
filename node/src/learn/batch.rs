//! Examples packed into one row of tokens, without padding: attention stays inside each.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

use super::data::Example;
use super::fused::head::Targets;

/// Some examples behind one another.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Rows in front of each example that are no token: those of a soft prompt.
    pub virtual_tokens: usize,
    /// Where each example lies, with the rows in front of it; positions restart at each.
    pub spans: Arc<Vec<Range<usize>>>,
    /// Which rows predict which tokens.
    pub targets: Arc<Targets>,
}

impl Batch {
    /// Packs the examples in their order. Row `i` predicts token `i + 1` of the same example if that one is scored;
    /// what follows the last scored token is computed by nobody and left out.
    ///
    /// # Panics
    /// If the batch has four billion tokens.
    pub fn pack<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut ids = Vec::new();
        let mut spans = Vec::new();
        let mut targets = Targets::default();
        for example in examples {
            let last = example.scored.iter().rposition(|scored| *scored);
            let Some(last) = last.filter(|last| *last > 0) else {
                continue;
            };
            let start = ids.len();
            for position in 1..=last {
                if example.scored[position] {
                    let row = u32::try_from(start + position - 1).expect("a batch fits u32");
                    targets.rows.push(row);
                    targets.tokens.push(example.ids[position]);
                }
            }
            ids.extend_from_slice(&example.ids[..last]);
            spans.push(start..ids.len());
        }
        Self {
            ids,
            virtual_tokens: 0,
            spans: Arc::new(spans),
            targets: Arc::new(targets),
        }
    }

    /// One text of which nothing is scored.
    pub fn text(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            spans: Arc::new(std::iter::once(0..ids.len()).collect()),
            ..Self::default()
        }
    }

    /// The same examples, each behind so many rows more that are no token.
    ///
    /// # Panics
    /// If the batch has four billion rows.
    #[must_use]
    pub fn behind(&self, virtual_tokens: usize) -> Self {
        let mut targets = Targets::default();
        let mut spans = Vec::with_capacity(self.spans.len());
        let mut target = 0;
        for (number, span) in (1..).zip(self.spans.iter()) {
            let shift = number * virtual_tokens;
            spans.push(span.start + shift - virtual_tokens..span.end + shift);
            while let Some(row) = self.targets.rows.get(target).map(|row| *row as usize) {
                if row >= span.end {
                    break;
                }
                let row = u32::try_from(row + shift).expect("a batch fits u32");
                targets.rows.push(row);
                target += 1;
            }
        }
        targets.tokens.clone_from(&self.targets.tokens);
        Self {
            ids: self.ids.clone(),
            virtual_tokens: self.virtual_tokens + virtual_tokens,
            spans: Arc::new(spans),
            targets: Arc::new(targets),
        }
    }

    /// How many rows go through the model.
    pub fn rows(&self) -> usize {
        self.ids.len() + self.virtual_tokens * self.spans.len()
    }

    /// The rows of all tokens, with a prompt's rows in front of each example: `(rows, width)`.
    pub fn interleave(&self, prompt: &Tensor, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let mut parts = Vec::with_capacity(2 * self.spans.len());
        let mut from = 0;
        for span in self.spans.iter() {
            let length = span.len() - self.virtual_tokens;
            parts.extend([prompt.clone(), tokens.narrow(0, from, length)?]);
            from += length;
        }
        Tensor::cat(&parts, 0)
    }

    /// The position of each token in its example.
    ///
    /// # Panics
    /// If an example has four billion tokens.
    pub fn positions(&self) -> Vec<u32> {
        let positions = self.spans.iter().flat_map(|span| 0..span.len());
        let fitting = positions.map(|position| u32::try_from(position).expect("it fits u32"));
        fitting.collect()
    }

    /// The first row of each example.
    pub fn firsts(&self) -> candle_core::Result<Tensor> {
        let starts = self.spans.iter().map(|span| span.start as u64);
        let starts: Vec<i64> = starts.map(u64::cast_signed).collect();
        Tensor::new(&starts[..], &candle_core::Device::Cpu)
    }

    /// How many tokens are scored.
    pub fn scored(&self) -> usize {
        self.targets.rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_shifts_targets_inside_each_example_and_drops_the_tail() {
        let prompt = Example {
            ids: vec![1, 5, 6, 7, 2],
            scored: vec![false, false, true, true, false],
        };
        let text = Example {
            ids: vec![1, 8, 9],
            scored: vec![false, true, true],
        };
        let nothing = Example {
            ids: vec![1, 8],
            scored: vec![false, false],
        };
        let batch = Batch::pack([&prompt, &nothing, &text]);
        assert_eq!(batch.ids, [1, 5, 6, 1, 8]);
        assert_eq!(*batch.spans, [0..3, 3..5]);
        assert_eq!(batch.positions(), [0, 1, 2, 0, 1]);
        assert_eq!(batch.targets.rows, [1, 2, 3, 4]);
        assert_eq!(batch.targets.tokens, [6, 7, 8, 9]);
        assert_eq!(batch.scored(), 4);

        let behind = batch.behind(2);
        assert_eq!((&behind.ids, behind.rows()), (&batch.ids, 9));
        assert_eq!(*behind.spans, [0..5, 5..9]);
        assert_eq!(behind.positions(), [0, 1, 2, 3, 4, 0, 1, 2, 3]);
        assert_eq!(behind.targets.rows, [3, 4, 7, 8]);
        assert_eq!(behind.targets.tokens, batch.targets.tokens);
        let rows = |values: &[f32]| Tensor::new(values, &candle_core::Device::Cpu).unwrap();
        let prompt = rows(&[-1.0, -2.0]).unsqueeze(1).unwrap();
        let tokens = rows(&[1.0, 5.0, 6.0, 1.0, 8.0]).unsqueeze(1).unwrap();
        let all = behind.interleave(&prompt, &tokens).unwrap();
        let all = all.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(all, [-1.0, -2.0, 1.0, 5.0, 6.0, -1.0, -2.0, 1.0, 8.0]);
    }
}
