//! GELU as one operation.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{Values, argument, shaped_as};
use crate::learn::kernel::gelu::Gelu;

struct Activation(Gelu);

/// GELU, element by element.
pub fn gelu(x: &Tensor, form: Gelu) -> Result<Tensor> {
    x.apply_op1(Activation(form))
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(x, layout)?;
        let mut y = vec![0.0; x.len()];
        self.0.forward(x, &mut y);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = dy.flatten_all()?.to_vec1::<f32>()?;
        self.0.backward(&Values::of(x)?, &mut dx);
        Ok(Some(shaped_as(dx, x)?))
    }
}
