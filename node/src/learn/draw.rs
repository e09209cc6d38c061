//! Batches from a seed: shuffled passes over the examples, the same on every machine.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::data::Example;

/// An endless stream of rows.
#[derive(Debug)]
pub struct Draw<'a> {
    examples: &'a [Example],
    order: Vec<usize>,
    rng: ChaCha20Rng,
    packed: Option<usize>,
}

impl<'a> Draw<'a> {
    /// A stream over the examples; `packed` fills each row with examples up to this many tokens.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(examples: &'a [Example], seed: [u8; 32], packed: Option<usize>) -> Self {
        assert!(!examples.is_empty(), "examples to draw from");
        Self {
            examples,
            order: Vec::new(),
            rng: ChaCha20Rng::from_seed(seed),
            packed,
        }
    }

    /// The next row: one example, or a pack of them.
    pub fn row(&mut self) -> Vec<&'a Example> {
        let first = self.pop();
        let mut row = vec![first];
        let Some(most) = self.packed else { return row };
        let mut length = first.ids.len();
        loop {
            let next = &self.examples[self.peek()];
            length += next.ids.len();
            if length > most {
                return row;
            }
            row.push(self.pop());
        }
    }

    fn pop(&mut self) -> &'a Example {
        let index = self.peek();
        self.order.pop();
        &self.examples[index]
    }

    /// The index of the next example; a new shuffled pass starts where the last one ends.
    fn peek(&mut self) -> usize {
        if let Some(&index) = self.order.last() {
            return index;
        }
        let count = self.examples.len();
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = self.below(last + 1);
            order.swap(last, other);
        }
        let index = *order.last().expect("there are examples");
        self.order = order;
        index
    }

    /// A number below `n` (multiply and take the high half: the bias is below n / 2^64).
    fn below(&mut self, n: usize) -> usize {
        let wide = u128::from(self.rng.next_u64()) * n as u128;
        usize::try_from(wide >> 64).expect("below n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(count: u32) -> Vec<Example> {
        let one = |id| Example {
            ids: vec![id; 4],
            scored: vec![true; 4],
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn each_pass_sees_each_example_once_and_the_seed_decides() {
        let examples = examples(10);
        let ids = |seed: u8, n: usize| {
            let mut draw = Draw::new(&examples, [seed; 32], None);
            (0..n).map(|_| draw.row()[0].ids[0]).collect::<Vec<_>>()
        };
        let drawn = ids(1, 20);
        for pass in drawn.chunks(10) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(drawn[..10], drawn[10..]);
        assert_eq!(drawn, ids(1, 20));
        assert_ne!(drawn, ids(2, 20));
    }

    #[test]
    fn packs_stay_within_the_length() {
        let examples = examples(7);
        let mut draw = Draw::new(&examples, [0; 32], Some(10));
        let rows: Vec<_> = (0..7).map(|_| draw.row()).collect();
        assert!(
            rows.iter().all(|row| row.len() == 2),
            "4 + 4 fit into 10, 12 do not"
        );
        let single = Draw::new(&examples, [0; 32], Some(3)).row();
        assert_eq!(single.len(), 1, "a row longer than the pack stands alone");
    }
}
