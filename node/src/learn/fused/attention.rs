//! Attention as one operation: rotary positions, grouped queries, causal softmax, values.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{Values, argument, kept, shaped_as};
use crate::learn::kernel::attention::Heads;

struct Attention {
    heads: Heads,
    logs: OnceLock<Vec<f32>>,
}

/// The attended values `(tokens, heads · dim)` of queries `(tokens, heads · dim)`, keys and values
/// `(tokens, kv_heads · dim)`, none of them turned yet.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor> {
    let logs = OnceLock::new();
    q.apply_op3(k, v, Attention { heads, logs })
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let q = argument(q, q_layout)?;
        let (k, v) = (argument(k, k_layout)?, argument(v, v_layout)?);
        let (out, logs) = self.heads.forward(q, k, v);
        self.logs.get_or_init(|| logs);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        d_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d_out = d_out.contiguous()?;
        let (qs, ks, vs) = (Values::of(q)?, Values::of(k)?, Values::of(v)?);
        let (outs, d_outs) = (Values::of(out)?, Values::of(&d_out)?);
        let logs = kept(&self.logs)?;
        let gradients = self.heads.backward([&qs, &ks, &vs], &outs, logs, &d_outs);
        Ok((
            Some(shaped_as(gradients.q, q)?),
            Some(shaped_as(gradients.k, k)?),
            Some(shaped_as(gradients.v, v)?),
        ))
    }
}
