//! SwiGLU (Shazeer, arXiv 2002.05202).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Values, argument, shaped_as};
use crate::learn::kernel::elementwise::{swiglu as forward, swiglu_back};

struct SwiGlu;

/// `silu(gate) · up`, element by element.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, SwiGlu)
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (argument(gate, gate_layout)?, argument(up, up_layout)?);
        let mut y = vec![0.0; gate.len()];
        forward(gate, up, &mut y);
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (gates, ups, dys) = (Values::of(gate)?, Values::of(up)?, Values::of(&dy)?);
        let mut d_gate = vec![0.0; gates.len()];
        let mut d_up = vec![0.0; ups.len()];
        swiglu_back(&gates, &ups, &dys, &mut d_gate, &mut d_up);
        Ok((Some(shaped_as(d_gate, gate)?), Some(shaped_as(d_up, up)?)))
    }
}
