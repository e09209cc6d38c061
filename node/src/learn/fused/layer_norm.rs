//! LayerNorm as one operation.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{Values, argument, kept, shaped_as};
use crate::learn::kernel::layer_norm::{
    Moments, layer_norm as forward, layer_norm_back, layer_norm_weight_back,
};

struct LayerNorm {
    eps: f32,
    weight_moves: bool,
    moments: OnceLock<Vec<Moments>>,
}

/// `w · (x − mean) / sqrt(variance + eps) + b` over the rows of `x` `(tokens, hidden)`; weight and bias get gradients
/// if the weight is a variable.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let op = LayerNorm {
        eps,
        weight_moves: weight.track_op(),
        moments: OnceLock::new(),
    };
    x.apply_op3(weight, bias, op)
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, x_layout)?;
        let parameters = [argument(w, w_layout)?, argument(b, b_layout)?];
        let mut y = vec![0.0; x.len()];
        let moments = forward(x, parameters, self.eps, &mut y);
        self.moments.get_or_init(|| moments);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xs, ws, dys) = (Values::of(x)?, Values::of(w)?, Values::of(&dy)?);
        let moments = kept(&self.moments)?;
        let mut dx = vec![0.0; xs.len()];
        layer_norm_back(&xs, &ws, moments, &dys, &mut dx);
        let dx = Some(shaped_as(dx, x)?);
        if !self.weight_moves {
            return Ok((dx, None, None));
        }
        let (mut dw, mut db) = (vec![0.0; ws.len()], vec![0.0; ws.len()]);
        layer_norm_weight_back(&xs, moments, &dys, [&mut dw, &mut db]);
        Ok((dx, Some(shaped_as(dw, w)?), Some(shaped_as(db, b)?)))
    }
}
