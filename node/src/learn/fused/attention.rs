//! Attention as one operation: rotary positions, grouped queries, softmax over what each token sees, values.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{Values, argument, kept, shaped_as};
use crate::learn::kernel::attention::Heads;

struct Attention {
    heads: Heads,
    spans: Arc<Vec<Range<usize>>>,
    logs: OnceLock<Vec<f32>>,
}

/// The attended values `(tokens, heads · dim)` of queries `(tokens, heads · dim)`, keys and values
/// `(tokens, kv_heads · dim)`, none of them turned yet; inside each of the spans.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: &Heads,
    spans: &Arc<Vec<Range<usize>>>,
) -> Result<Tensor> {
    let op = Attention {
        heads: heads.clone(),
        spans: spans.clone(),
        logs: OnceLock::new(),
    };
    q.apply_op3(k, v, op)
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
        let (out, logs) = self.heads.forward(&self.spans, [q, k, v]);
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
        let inputs: [&[f32]; 3] = [&qs, &ks, &vs];
        let gradients = self
            .heads
            .backward(&self.spans, inputs, &outs, logs, &d_outs);
        Ok((
            Some(shaped_as(gradients.q, q)?),
            Some(shaped_as(gradients.k, k)?),
            Some(shaped_as(gradients.v, v)?),
        ))
    }
}
