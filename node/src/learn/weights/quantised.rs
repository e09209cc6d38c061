//! Frozen matrices in blocks of few bits, as GGUF has them: QLoRA's base (Dettmers et al., arXiv 2305.14314).
//!
//! They are widened to f32 whole when they are multiplied with, one at a time; gradients go through the widened values.

use std::sync::Arc;

use candle_core::quantized::k_quants::{BlockQ4K, BlockQ8_0};
use candle_core::quantized::{GgmlDType, GgmlType, QStorage, QTensor, QuantizedType};
use candle_core::{Device, Result};
use half::bf16;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::mapped;
use crate::learn::kernel::halves::Halves;

/// How the frozen linear maps are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Precision {
    /// As they are, 32 bits a weight.
    #[default]
    #[serde(rename = "f32")]
    #[value(name = "f32")]
    F32,
    /// Rounded to bf16, 16 bits a weight; so is what is multiplied with them, on a GPU or a processor with AMX tiles.
    #[serde(rename = "bf16")]
    #[value(name = "bf16")]
    Bf16,
    /// Blocks of 32 with one scale: 8.5 bits a weight. What cannot be cut so stays f32.
    #[serde(rename = "q8_0")]
    #[value(name = "q8_0")]
    Q8,
    /// Blocks of 256 with scales and minima of 32: 4.5 bits a weight. What cannot be cut so is held as `q8_0`.
    #[serde(rename = "q4_k")]
    #[value(name = "q4_k")]
    Q4,
}

/// A matrix in blocks along its rows.
#[derive(Clone)]
pub struct Quantised {
    blocks: Blocks,
    shape: [usize; 2],
}

#[derive(Clone)]
enum Blocks {
    Half(Arc<Vec<bf16>>),
    Q8(Arc<Vec<BlockQ8_0>>),
    Q4(Arc<Vec<BlockQ4K>>),
}

impl Quantised {
    /// Rounds a matrix of rows of `cols` elements; `None` if it is to stay as it is.
    pub fn new(values: &[f32], [rows, cols]: [usize; 2], precision: Precision) -> Option<Self> {
        let shape = [rows, cols];
        let fits = |block: usize| cols > 0 && cols.is_multiple_of(block);
        let blocks = match precision {
            Precision::Bf16 => Blocks::Half(Arc::new(round(values))),
            Precision::Q4 if fits(BlockQ4K::BLCK_SIZE) => Blocks::Q4(Arc::new(round(values))),
            Precision::Q8 | Precision::Q4 if fits(BlockQ8_0::BLCK_SIZE) => {
                Blocks::Q8(Arc::new(round(values)))
            }
            Precision::F32 | Precision::Q8 | Precision::Q4 => return None,
        };
        Some(Self { blocks, shape })
    }

    /// A matrix in the blocks in which a GGUF file has it, bit for bit; `None` if they are not what the precision asks
    /// for. `order` names for each row the row of the file that it is.
    pub fn stored(
        tensor: &QTensor,
        [rows, cols]: [usize; 2],
        precision: Precision,
        order: Option<&[usize]>,
    ) -> Result<Option<Self>> {
        let data = tensor.data()?;
        let blocks = match (precision, tensor.dtype()) {
            (Precision::Q8, GgmlDType::Q8_0) => taken(&data, rows, order).map(Blocks::Q8),
            (Precision::Q4, GgmlDType::Q4K) => taken(&data, rows, order).map(Blocks::Q4),
            _ => None,
        };
        let shape = [rows, cols];
        Ok(blocks.map(|blocks| Self { blocks, shape }))
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The matrix as a factor of products in bf16, if it is held so.
    pub fn halves(&self) -> Option<Halves<'_>> {
        let [rows, cols] = self.shape;
        match &self.blocks {
            Blocks::Half(values) => Some(Halves::new(values, rows, cols)),
            Blocks::Q8(_) | Blocks::Q4(_) => None,
        }
    }

    /// What its blocks are.
    pub fn form(&self) -> GgmlDType {
        match &self.blocks {
            Blocks::Half(_) => GgmlDType::BF16,
            Blocks::Q8(_) => GgmlDType::Q8_0,
            Blocks::Q4(_) => GgmlDType::Q4K,
        }
    }

    /// The same blocks on a device.
    pub fn on(&self, device: &Device) -> Result<QTensor> {
        let here: Box<dyn QuantizedType> = match &self.blocks {
            Blocks::Half(values) => Box::new(values.to_vec()),
            Blocks::Q8(blocks) => Box::new(blocks.to_vec()),
            Blocks::Q4(blocks) => Box::new(blocks.to_vec()),
        };
        let here = QTensor::new(QStorage::Cpu(here), self.shape.as_slice())?;
        if device.is_cpu() {
            return Ok(here);
        }
        let there = QStorage::from_data(here.data()?, device, self.form())?;
        QTensor::new(there, self.shape.as_slice())
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match &self.blocks {
            Blocks::Half(values) => size_of_val(values.as_slice()),
            Blocks::Q8(blocks) => size_of_val(blocks.as_slice()),
            Blocks::Q4(blocks) => size_of_val(blocks.as_slice()),
        }
    }

    /// The values that the blocks stand for, row-major.
    pub fn widened(&self) -> Vec<f32> {
        match &self.blocks {
            Blocks::Half(values) => widen(values),
            Blocks::Q8(blocks) => widen(blocks),
            Blocks::Q4(blocks) => widen(blocks),
        }
    }
}

impl std::fmt::Debug for Quantised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quantised({:?}, {} bytes)", self.shape, self.bytes())
    }
}

/// The blocks of so many rows, in their order.
fn taken<T: GgmlType>(data: &[u8], rows: usize, order: Option<&[usize]>) -> Option<Arc<Vec<T>>> {
    let blocks = mapped::blocks(data)?;
    let blocks = match order {
        Some(order) => reordered(blocks, rows, order),
        None => blocks.to_vec(),
    };
    Some(Arc::new(blocks))
}

/// So many rows of equal width, each the row of `values` that `order` names.
pub fn reordered<T: Clone>(values: &[T], rows: usize, order: &[usize]) -> Vec<T> {
    let width = values.len() / rows;
    let row = |&row: &usize| &values[row * width..(row + 1) * width];
    order.iter().flat_map(row).cloned().collect()
}

fn round<T: GgmlType>(values: &[f32]) -> Vec<T> {
    let mut blocks = vec![T::zeros(); values.len() / T::BLCK_SIZE];
    blocks
        .par_chunks_mut(BLOCKS)
        .zip(values.par_chunks(BLOCKS * T::BLCK_SIZE))
        .for_each(|(blocks, values)| T::from_float(values, blocks));
    blocks
}

fn widen<T: GgmlType>(blocks: &[T]) -> Vec<f32> {
    let mut values = vec![0.0; blocks.len() * T::BLCK_SIZE];
    blocks
        .par_chunks(BLOCKS)
        .zip(values.par_chunks_mut(BLOCKS * T::BLCK_SIZE))
        .for_each(|(blocks, values)| T::to_float(blocks, values));
    values
}

/// Blocks that one thread takes at a time.
const BLOCKS: usize = 256;

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use conclave_protocol::names::Factor;

    use super::*;
    use crate::learn::data::Example;
    use crate::learn::export::write_model;
    use crate::learn::fixture::{adapter, random};
    use crate::learn::model::Model;
    use crate::learn::steps::Run;
    use crate::learn::trainer::{Subject, Trainer};
    use crate::learn::training::Training;

    fn values(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0)
            .collect()
    }

    /// The error's length beside the values' length.
    fn error(exact: &[f32], rounded: &[f32]) -> f32 {
        let length = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let apart = length(&mut exact.iter().zip(rounded).map(|(a, b)| a - b));
        (apart / length(&mut exact.iter().copied())).sqrt()
    }

    #[test]
    fn eight_and_four_bits_are_as_near_and_as_small_as_they_promise() {
        let exact = values(6 * 512);
        let held = |precision| Quantised::new(&exact, [6, 512], precision).unwrap();
        let (eight, four) = (held(Precision::Q8), held(Precision::Q4));
        assert_eq!(eight.bytes(), exact.len() / 32 * 34);
        assert_eq!(four.bytes(), exact.len() / 256 * 144);
        let (near, far) = (
            error(&exact, &eight.widened()),
            error(&exact, &four.widened()),
        );
        assert!(near < 6e-3, "{near}");
        assert!(near < far && far < 8e-2, "{far}");
        // What is on the grid stays there.
        let again = Quantised::new(&eight.widened(), [6, 512], Precision::Q8).unwrap();
        assert!(error(&eight.widened(), &again.widened()) < 1e-3);
    }

    #[test]
    fn what_cannot_be_cut_into_blocks_is_held_wider() {
        let bytes = |cols: usize, precision| {
            Quantised::new(&values(4 * cols), [4, cols], precision).map(|held| held.bytes())
        };
        assert_eq!(bytes(288, Precision::Q4), Some(4 * 9 * 34));
        assert_eq!(bytes(48, Precision::Q4), None);
        assert_eq!(bytes(48, Precision::Q8), None);
        assert_eq!(bytes(512, Precision::F32), None);
    }

    // Widths of 256 and 32: with four bits one map is held in blocks of 256, the others in blocks of 32.
    const WIDE: &str = r#"{"hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 64,
        "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1}"#;

    fn examples() -> Vec<Example> {
        let make = |i: u32| Example {
            ids: (0..12).map(|j| 2 + (i + j) % 3).collect(),
            scored: (0..12).map(|j| j > 0).collect(),
        };
        (0..16).map(make).collect()
    }

    #[test]
    fn an_adapter_learns_on_a_base_of_few_bits() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), &random(WIDE)).unwrap();
        let examples = examples();
        let mut first = Vec::new();
        for (precision, elsewhere) in [
            (Precision::F32, false),
            (Precision::Q8, false),
            (Precision::Q4, false),
            (Precision::Bf16, false),
            (Precision::Q8, true),
            (Precision::Q4, true),
        ] {
            let mut model = Model::open_at(folder.path(), precision).unwrap();
            if elsewhere {
                model = model.elsewhere(precision);
            }
            let adapter = adapter(4, &model);
            let trainer = Trainer::new(
                model,
                Subject::Adapter(adapter),
                Training::default(),
                2,
                &Device::Cpu,
            );
            let trainer = trainer.unwrap();
            let values = trainer.initial();
            let run = Run {
                examples: &examples,
                factor: Factor::All,
                steps: 0..30,
                total: 30,
                seed: [3; 32],
            };
            let mut losses = Vec::new();
            let watch = |step: crate::learn::steps::Step| {
                losses.push(step.loss);
                ControlFlow::Continue(())
            };
            trainer.run(&values, &run, watch).unwrap();
            assert!(losses[29] < losses[0] * 0.7, "{precision:?}: {losses:?}");
            first.push(losses[0]);
        }
        // The bases compute the same, but for what was rounded away.
        let apart = |at: usize| (first[at] - first[0]).abs() / first[0];
        assert!(apart(1) > 0.0 && apart(1) < 0.01, "{first:?}");
        assert!(apart(2) > 0.0 && apart(2) < 0.1, "{first:?}");
        assert!(apart(3) > 0.0 && apart(3) < 0.01, "{first:?}");
        for (here, there) in [(1, 4), (2, 5)] {
            let apart = (first[here] - first[there]).abs() / first[0];
            assert!(apart < 1e-5, "{first:?}");
        }
    }
}
