//! Batches from a seed: shuffled passes over the examples, the same on every machine.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::examples::Examples;

/// An endless stream of rows, as numbers of examples.
#[derive(Debug)]
pub struct Draw<'a> {
    examples: &'a dyn Examples,
    order: Vec<u32>,
    rng: ChaCha20Rng,
    /// Where the generator stood before it shuffled `order`; `None` before the first pass.
    shuffled_at: Option<u128>,
    packed: Option<usize>,
    /// Rows of a soft prompt in front of each example.
    in_front: usize,
}

/// Where a stream stands: enough to go on from, given its seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Drawn {
    shuffled_at: Option<u128>,
    left: u64,
}

impl<'a> Draw<'a> {
    /// A stream over the examples; `packed` fills each row with examples up to this many tokens.
    ///
    /// # Panics
    /// If there are none, or four billion.
    pub fn new(examples: &'a dyn Examples, seed: [u8; 32], packed: Option<usize>) -> Self {
        let count = examples.count();
        assert!(
            count > 0 && u32::try_from(count).is_ok(),
            "examples to draw from, as many as u32 counts"
        );
        Self {
            examples,
            order: Vec::new(),
            rng: ChaCha20Rng::from_seed(seed),
            shuffled_at: None,
            packed,
            in_front: 0,
        }
    }

    /// The same where a soft prompt of so many rows stands in front of each example: they count in packs, but for the
    /// first one's.
    #[must_use]
    pub fn behind(self, in_front: usize) -> Self {
        Self { in_front, ..self }
    }

    /// The next row: one example, or a pack of them.
    pub fn row(&mut self) -> Vec<usize> {
        let first = self.pop();
        let mut row = vec![first];
        let Some(most) = self.packed else { return row };
        let mut length = self.examples.length(first);
        loop {
            length += self.in_front + self.examples.length(self.peek());
            if length > most {
                return row;
            }
            row.push(self.pop());
        }
    }

    /// Where it stands.
    pub fn drawn(&self) -> Drawn {
        Drawn {
            shuffled_at: self.shuffled_at,
            left: self.order.len() as u64,
        }
    }

    /// Goes on, as a new stream, from where another one of the same seed and examples stood; `false` if it cannot have
    /// stood there.
    pub fn resume(&mut self, from: &Drawn) -> bool {
        let count = self.examples.count();
        let Some(left) = usize::try_from(from.left)
            .ok()
            .filter(|left| *left <= count)
        else {
            return false;
        };
        if let Some(at) = from.shuffled_at {
            self.rng.set_word_pos(at);
            self.shuffle();
            self.order.truncate(left);
        }
        true
    }

    fn pop(&mut self) -> usize {
        let index = self.peek();
        self.order.pop();
        index
    }

    /// The next example; a new shuffled pass starts where the last one ends.
    fn peek(&mut self) -> usize {
        if self.order.is_empty() {
            self.shuffle();
        }
        self.order[self.order.len() - 1] as usize
    }

    fn shuffle(&mut self) {
        self.shuffled_at = Some(self.rng.get_word_pos());
        let count = self.examples.count();
        self.order.clear();
        self.order
            .extend(0..u32::try_from(count).expect("checked when made"));
        for last in (1..count).rev() {
            let other = self.below(last + 1);
            self.order.swap(last, other);
        }
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
    use crate::learn::data::Example;

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
            (0..n).map(|_| draw.row()[0]).collect::<Vec<_>>()
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
        for (in_front, fit) in [(2, 2), (3, 1)] {
            let packs = Draw::new(&examples, [0; 32], Some(10))
                .behind(in_front)
                .row();
            assert_eq!(packs.len(), fit, "4 + {in_front} + 4 into 10");
        }
        let single = Draw::new(&examples, [0; 32], Some(3)).row();
        assert_eq!(single.len(), 1, "a row longer than the pack stands alone");
    }

    #[test]
    fn a_stream_goes_on_from_wherever_it_stood() {
        let examples = examples(7);
        for packed in [None, Some(10)] {
            let mut whole = Draw::new(&examples, [5; 32], packed);
            let mut places = vec![whole.drawn()];
            let rows: Vec<_> = (0..30)
                .map(|_| {
                    let row = whole.row();
                    places.push(whole.drawn());
                    row
                })
                .collect();
            for (at, place) in places.iter().enumerate() {
                let mut later = Draw::new(&examples, [5; 32], packed);
                assert!(later.resume(place));
                let rest: Vec<_> = (at..30).map(|_| later.row()).collect();
                assert_eq!(rest, rows[at..], "{packed:?} from row {at}");
            }
        }
        let mut place = Draw::new(&examples, [5; 32], None).drawn();
        place.left = 8;
        assert!(!Draw::new(&examples, [5; 32], None).resume(&place));
    }
}
