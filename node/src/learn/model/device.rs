//! A model on a device that is not the processor: its frozen tensors there, and passes by the tensor library's own
//! operations.
//!
//! Products are computed in the precision that the matrix is held in (one in blocks of few bits is widened for each);
//! everything else, and what goes from one operation to the next, is f32. Rows of embeddings are looked up by the
//! processor and sent. Nothing here knows what kind of device it is: the tests run it on the processor.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor};

use super::Model;
use crate::learn::weights::Weight;
use crate::learn::weights::affine::{Affine, Layout};
use crate::learn::weights::quantised::Precision;

mod attention;
#[cfg(test)]
mod checks;
mod given;
mod head;
pub(super) mod pass;
pub(super) mod text;

/// The frozen tensors of a model on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    maps: BTreeMap<String, Map>,
    /// All others but the tables that rows are looked up in.
    tensors: BTreeMap<String, Tensor>,
}

/// A frozen linear map on a device.
#[derive(Debug, Clone)]
struct Map {
    matrix: Matrix,
    layout: Layout,
    bias: Option<Tensor>,
}

#[derive(Debug, Clone)]
enum Matrix {
    Whole(Tensor),
    Rounded(Arc<QTensor>),
}

impl OnDevice {
    /// Sends what a model computes with; the head at the precision of the maps if that is bf16, else whole.
    pub(super) fn send(model: &Model, device: &Device, precision: Precision) -> Result<Self> {
        let mut maps = BTreeMap::new();
        for (module, map) in &model.maps {
            let bias = map.bias().map(|bias| send(bias, device));
            let sent = Map {
                matrix: Matrix::send(map, device)?,
                layout: map.layout(),
                bias: bias.transpose()?,
            };
            maps.insert(module.clone(), sent);
        }
        let mut tensors = BTreeMap::new();
        for (name, weight) in &model.weights {
            let head = name == model.config.head();
            if weight.shape().len() == 2 && !head {
                continue;
            }
            let mut tensor = send(weight, device)?;
            if head && precision == Precision::Bf16 && !model.config.classifies() {
                tensor = tensor.to_dtype(DType::BF16)?;
            }
            tensors.insert(name.clone(), tensor);
        }
        let device = device.clone();
        Ok(Self {
            device,
            maps,
            tensors,
        })
    }

    /// Where it is.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }
}

impl Matrix {
    fn send(map: &Affine, device: &Device) -> Result<Self> {
        Ok(match map.rounding() {
            None => Self::Whole(send(&map.weight(), device)?),
            Some(rounded) if rounded.form() == GgmlDType::BF16 => {
                Self::Whole(send(&map.weight(), device)?.to_dtype(DType::BF16)?)
            }
            Some(rounded) => Self::Rounded(Arc::new(rounded.on(device)?)),
        })
    }
}

impl Map {
    /// The matrix `(out, in)`.
    fn matrix(&self) -> Result<Tensor> {
        let stored = match &self.matrix {
            Matrix::Whole(stored) => stored.clone(),
            Matrix::Rounded(blocks) => blocks.dequantize(&blocks.device())?,
        };
        match self.layout {
            Layout::OutIn => Ok(stored),
            Layout::InOut => stored.t(),
        }
    }

    /// The rows `(tokens, out)` of `x` `(tokens, in)`.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let y = product(x, &self.matrix()?.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// The gradient `(tokens, in)` by the input, of one by the output.
    fn apply_back(&self, dy: &Tensor) -> Result<Tensor> {
        product(dy, &self.matrix()?)
    }
}

fn send(weight: &Weight, device: &Device) -> Result<Tensor> {
    let sent = Tensor::from_slice(weight.values(), weight.shape(), device)?;
    weight.release();
    Ok(sent)
}

/// `x · w` in the precision of `w`, and f32 again.
fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.to_dtype(w.dtype())?.matmul(w)?.to_dtype(DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_computed_in_the_precision_of_the_matrix() {
        let device = Device::Cpu;
        let x = Tensor::new(&[[1.0f32, 1.0 / 3.0], [-2.0, 0.1]], &device).unwrap();
        let w = Tensor::new(&[[0.7f32, 3.0], [1.0 / 7.0, -0.3]], &device).unwrap();
        let exact = product(&x, &w).unwrap();
        assert_eq!(
            exact.to_vec2::<f32>().unwrap(),
            x.matmul(&w).unwrap().to_vec2::<f32>().unwrap()
        );
        let half = product(&x, &w.to_dtype(DType::F16).unwrap()).unwrap();
        assert_eq!(half.dtype(), DType::F32);
        let apart = (exact - half).unwrap().abs().unwrap().max_all().unwrap();
        let apart = apart.to_scalar::<f32>().unwrap();
        assert!(apart > 0.0 && apart < 3e-3, "{apart}");
    }
}
