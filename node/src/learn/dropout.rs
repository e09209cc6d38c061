//! Dropout before the factors of an adapter (Srivastava et al. 2014, inverted): what is dropped follows from a seed.

use candle_core::{Result, Tensor};
use conclave_crypto::digest::Digest;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// What one pass through a model drops.
#[derive(Debug, Clone)]
pub struct Dropout {
    share: f64,
    seed: [u8; 32],
}

impl Dropout {
    /// Drops this share of all numbers, below 1.
    pub fn new(share: f64, seed: [u8; 32]) -> Self {
        Self { share, seed }
    }

    /// The same as a tensor of the shape of `x`, where that is.
    pub fn mask(&self, x: &Tensor, place: &str) -> Result<Tensor> {
        let factors = self.factors(x.elem_count(), place);
        Tensor::from_vec(factors, x.shape(), x.device())
    }

    /// What each of so many numbers is multiplied with: 0 for the share, for the rest what makes up for it; each
    /// `place` drops its own.
    pub fn factors(&self, count: usize, place: &str) -> Vec<f32> {
        let seed = Digest::of("conclave/v1/dropout-place", &[&self.seed, place.as_bytes()]);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share below 1 of 2^32, and a factor in the precision of the graph"
        )]
        let (below, kept) = (
            (self.share * f64::from(u32::MAX)) as u32,
            (1.0 / (1.0 - self.share)) as f32,
        );
        let mut factors = vec![kept; count];
        let chunks = factors.par_chunks_mut(CHUNK).enumerate();
        chunks.for_each(|(chunk, factors)| {
            let mut rng = ChaCha8Rng::from_seed(*seed.as_bytes());
            rng.set_stream(chunk as u64);
            for factor in factors {
                if rng.next_u32() < below {
                    *factor = 0.0;
                }
            }
        });
        factors
    }
}

/// Numbers that are drawn from one stream.
const CHUNK: usize = 4096;

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::learn::batch::Batch;
    use crate::learn::data::Example;
    use crate::learn::fixture::{adapter, tiny};
    use crate::learn::model::adapted::{MethodTensors, Moving};
    use crate::learn::peft::uniform;

    #[test]
    fn the_share_is_dropped_the_mean_kept_and_the_seed_decides() {
        let x = Tensor::ones((100, 100), candle_core::DType::F32, &Device::Cpu).unwrap();
        let dropped = |seed: u8, place| {
            let y = Dropout::new(0.25, [seed; 32]).mask(&x, place).unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let y = dropped(1, "a");
        let zeros = y.iter().filter(|y| y.abs() < f32::EPSILON).count();
        assert!(
            (2300..2700).contains(&zeros),
            "{zeros} of 10000, expected 2500"
        );
        let mean = y.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.04, "{mean}");
        assert_eq!(y, dropped(1, "a"));
        assert_ne!(y, dropped(1, "b"));
        assert_ne!(y, dropped(2, "a"));
        assert_ne!(y[..2000], y[CHUNK..CHUNK + 2000]);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let again = pool.build().unwrap().install(|| dropped(1, "a"));
            assert!(again == y, "{threads} threads");
        }
    }

    #[test]
    fn with_nothing_dropped_loss_and_gradients_are_those_of_the_fused_operation() {
        let model = tiny(true);
        let adapter = adapter(2, &model);
        let flat = adapter.flat();
        let mut values = adapter.initial(&model);
        uniform([9; 32], 0.3, &mut values);
        let batch = Batch::pack([&Example {
            ids: vec![0, 5, 9, 2, 30, 1],
            scored: vec![false, false, true, true, true, true],
        }]);
        let pass = |dropout: Option<Dropout>| {
            let tensors = flat.tensors(&values, |_| true).unwrap();
            let mut bound = adapter.bind(&tensors);
            let MethodTensors::Lora(lora) = &mut bound.method else {
                panic!("LoRA is what drops");
            };
            lora.dropout = dropout;
            let moving = Moving::Adapter(bound);
            let (gradient, score) = model.gradient(&batch, &moving, 1.0, false).unwrap();
            let mut sum = vec![0.0; flat.len()];
            let missing = flat.add_gradients(&tensors, &gradient, &mut sum).unwrap();
            assert_eq!(missing, None);
            (score.nats, sum)
        };
        let (fused, plain) = (pass(None), pass(Some(Dropout::new(0.0, [1; 32]))));
        assert!(
            (fused.0 - plain.0).abs() < 1e-5,
            "{} and {}",
            fused.0,
            plain.0
        );
        for (fused, plain) in fused.1.iter().zip(&plain.1) {
            assert!((fused - plain).abs() < 1e-5, "{fused} and {plain}");
        }
        let dropped = pass(Some(Dropout::new(0.5, [1; 32])));
        assert!((dropped.0 - fused.0).abs() > 1e-4, "something is dropped");
    }
}
