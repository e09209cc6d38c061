//! Which base an adapter was trained on, told by a digest that costs no second reading of the weights.

use sha2::{Digest as _, Sha256};

use super::Weight;
use conclave_crypto::digest::Digest;

/// The identity of a frozen base in the making: of each tensor its name, its shape and up to 4096 of its values,
/// spread over the whole of it.
///
/// The values count, not how they are stored: a base in f16 and the same numbers in f32 or GGUF are one base; rounded
/// to fewer bits they are another. Another training run of the same shape is noticed, for it moves all values, and so
/// is a change of any tensor of up to 4096 values. A change of a few rows of a large tensor may be missed: the
/// charter's digest of a model, which reads every byte, is there for federations.
#[derive(Debug)]
pub struct Identity(Sha256);

impl Identity {
    /// Of no tensor yet.
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    /// Takes in a tensor; the order counts.
    pub fn add(&mut self, name: &str, weight: &Weight) {
        let number = |n: usize| (n as u64).to_le_bytes();
        self.0.update(number(name.len()));
        self.0.update(name);
        self.0.update(number(weight.shape().len()));
        for &size in weight.shape() {
            self.0.update(number(size));
        }
        let values = weight.values();
        if values.len() <= SAMPLES {
            for x in values {
                self.0.update(x.to_le_bytes());
            }
            return;
        }
        let mut at = 0_u64;
        for _ in 0..SAMPLES {
            at = at.wrapping_add(STRIDE);
            let index = (u128::from(at) * values.len() as u128) >> 64;
            let index = usize::try_from(index).expect("below the number of values");
            self.0.update(values[index].to_le_bytes());
        }
    }

    /// The digest of what was taken in.
    pub fn finish(self) -> Digest {
        let all: [u8; 32] = self.0.finalize().into();
        Digest::of("conclave/v1/base", &[&all])
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

/// Values of a tensor that are looked at.
const SAMPLES: usize = 4096;

/// 2^64 over the golden ratio: its multiples spread evenly, and not along columns (Weyl's sequence).
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, values: Vec<f32>, shape: [usize; 2]) -> Digest {
        let mut identity = Identity::new();
        identity.add(name, &Weight::owned(values, shape.to_vec()));
        identity.finish()
    }

    #[test]
    fn another_name_shape_or_value_is_another_base() {
        let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let base = of("a", values.clone(), [8, 8]);
        assert_eq!(of("a", values.clone(), [8, 8]), base);
        assert_ne!(of("b", values.clone(), [8, 8]), base);
        assert_ne!(of("a", values.clone(), [4, 16]), base);
        for at in 0..64 {
            let mut other = values.clone();
            other[at] += 1e-3;
            assert_ne!(of("a", other, [8, 8]), base);
        }
    }

    #[test]
    fn every_stripe_of_a_large_tensor_is_looked_at() {
        let (rows, cols) = (512, 256);
        let values = vec![0.5; rows * cols];
        let base = of("a", values.clone(), [rows, cols]);
        for stripe in 0..64 {
            let mut by_rows = values.clone();
            let first = stripe * rows / 64 * cols;
            by_rows[first..first + rows / 64 * cols].fill(0.25);
            assert_ne!(of("a", by_rows, [rows, cols]), base);
            let mut by_columns = values.clone();
            for row in by_columns.chunks_exact_mut(cols) {
                row[stripe * 4..stripe * 4 + 4].fill(0.25);
            }
            assert_ne!(of("a", by_columns, [rows, cols]), base);
        }
    }
}
