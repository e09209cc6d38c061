//! Rotary positions (Su et al., RoFormer, arXiv 2104.09864) in the half-split order of Hugging Face's Llama.

use std::ops::Range;

use crate::learn::model::rope::Rope;

/// Cosines and sines for each position and frequency.
#[derive(Debug)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// By the position's angle.
    Forward,
    /// Back: the transpose, for gradients.
    Back,
}

impl RopeTable {
    /// The table for positions `0..positions`: angle = position · frequency, rounded to f32 as Hugging Face does.
    pub fn new(rope: &Rope, positions: usize) -> Self {
        let half = rope.frequencies.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for &frequency in &rope.frequencies {
                #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^24")]
                let angle = f64::from(position as f32 * frequency);
                #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
                {
                    cos.push(angle.cos() as f32 * rope.scale);
                    sin.push(angle.sin() as f32 * rope.scale);
                }
            }
        }
        Self { half, cos, sin }
    }

    /// Turns one head of one position in place.
    ///
    /// # Panics
    /// If the position is beyond the table or `head` is not `head_dim` long.
    pub fn turn(&self, head: &mut [f32], position: usize, turn: Turn) {
        assert_eq!(head.len(), 2 * self.half, "a head has the table's length");
        let at = position * self.half;
        let cos = &self.cos[at..at + self.half];
        let sin = &self.sin[at..at + self.half];
        let sign = match turn {
            Turn::Forward => 1.0,
            Turn::Back => -1.0,
        };
        let (low, high) = head.split_at_mut(self.half);
        for (((x, y), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            let (a, b, s) = (*x, *y, sign * s);
            *x = a * c - b * s;
            *y = b * c + a * s;
        }
    }

    /// The cosines and the sines of some positions, each position's one after the other.
    ///
    /// # Panics
    /// If the table ends before them.
    pub fn angles(&self, positions: Range<usize>) -> [&[f32]; 2] {
        let at = positions.start * self.half..positions.end * self.half;
        [&self.cos[at.clone()], &self.sin[at]]
    }

    /// How many positions the table holds.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_undoes_forward_and_position_zero_changes_nothing() {
        let rope = Rope {
            frequencies: (0..4).map(|j| 0.1f32.powi(j)).collect(),
            scale: 1.0,
        };
        let table = RopeTable::new(&rope, 16);
        let start: Vec<f32> = (0..8).map(|i| i as f32 - 3.5).collect();
        let mut head = start.clone();
        table.turn(&mut head, 0, Turn::Forward);
        assert_eq!(head, start);
        table.turn(&mut head, 11, Turn::Forward);
        assert_ne!(head, start);
        table.turn(&mut head, 11, Turn::Back);
        for (a, b) in head.iter().zip(&start) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
