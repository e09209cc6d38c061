//! SwiGLU (Shazeer, arXiv 2002.05202).

use crate::learn::kernel::elementwise::{swiglu as forward, swiglu_back};
use crate::learn::tape::{Rows, Tape};

/// `silu(gate) · up`, element by element.
pub fn swiglu(tape: &mut Tape, gate: &Rows, up: &Rows) -> Rows {
    let mut y = vec![0.0; gate.len()];
    forward(gate, up, &mut y);
    let wanted = gate.place().is_some() || up.place().is_some();
    let (gate, up) = (gate.clone(), up.clone());
    tape.record(y, gate.width(), wanted, move |dy, gradients| {
        let mut d_gate = vec![0.0; gate.len()];
        let mut d_up = vec![0.0; up.len()];
        swiglu_back(&gate, &up, &dy, &mut d_gate, &mut d_up);
        gradients.add(gate.place(), d_gate);
        gradients.add(up.place(), d_up);
        Ok(())
    })
}
