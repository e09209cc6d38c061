//! Attention as one operation: rotary positions, grouped queries, softmax over what each token sees, values.

use std::ops::Range;
use std::sync::Arc;

use crate::learn::kernel::attention::Heads;
use crate::learn::tape::{Rows, Tape};

/// The attended values `(tokens, heads · dim)` of queries `(tokens, heads · dim)`, keys and values
/// `(tokens, kv_heads · dim)`, none of them turned yet; inside each of the spans.
pub fn attention(
    tape: &mut Tape,
    [q, k, v]: [Rows; 3],
    heads: &Heads,
    spans: &Arc<Vec<Range<usize>>>,
) -> Rows {
    let (out, logs) = heads.forward(spans, [&q, &k, &v]);
    let out = Arc::new(out);
    let wanted = [&q, &k, &v].iter().any(|x| x.place().is_some());
    let (heads, spans, seen) = (heads.clone(), spans.clone(), out.clone());
    tape.record(out, q.width(), wanted, move |d_out, gradients| {
        let found = heads.backward(&spans, [&q, &k, &v], &seen, &logs, &d_out);
        gradients.add(q.place(), found.q);
        gradients.add(k.place(), found.k);
        gradients.add(v.place(), found.v);
        Ok(())
    })
}
