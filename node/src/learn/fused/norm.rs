//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467).

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Values, argument, kept, shaped_as};
use crate::learn::kernel::elementwise::{rms_norm, rms_norm_back, rms_norm_weight_back};

struct Norm {
    eps: f32,
    weight_moves: bool,
    inverse: OnceLock<Vec<f32>>,
}

/// `w · x / sqrt(mean(x²) + eps)` over the rows of `x` `(tokens, hidden)`; the weight gets a gradient if it is a
/// variable.
pub fn norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let op = Norm {
        eps,
        weight_moves: weight.track_op(),
        inverse: OnceLock::new(),
    };
    x.apply_op2(weight, op)
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (argument(x, x_layout)?, argument(w, w_layout)?);
        let mut y = vec![0.0; x.len()];
        let mut inverse = vec![0.0; x.len() / w.len()];
        rms_norm(x, w, self.eps, &mut y, &mut inverse);
        self.inverse.get_or_init(|| inverse);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xs, ws, dys) = (Values::of(x)?, Values::of(w)?, Values::of(&dy)?);
        let inverse = kept(&self.inverse)?;
        let mut dx = vec![0.0; xs.len()];
        rms_norm_back(&xs, &ws, inverse, &dys, &mut dx);
        let dw = self.weight_moves.then(|| {
            let mut dw = vec![0.0; ws.len()];
            rms_norm_weight_back(&xs, inverse, &dys, &mut dw);
            dw
        });
        let dw = dw.map(|dw| shaped_as(dw, w)).transpose()?;
        Ok((Some(shaped_as(dx, x)?), dw))
    }
}
