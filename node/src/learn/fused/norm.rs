//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467).

use candle_core::{Result, Tensor};

use super::Values;
use crate::learn::kernel::elementwise::{rms_norm, rms_norm_back, rms_norm_weight_back};
use crate::learn::tape::{Rows, Tape};

/// `w · x / sqrt(mean(x²) + eps)` over as many neighbours in the rows `x` as the weight has elements; the weight gets a
/// gradient if it is a variable.
pub fn norm(tape: &mut Tape, x: &Rows, weight: &Tensor, eps: f32) -> Result<Rows> {
    let mut y = vec![0.0; x.len()];
    let mut inverse = vec![0.0; x.len() / weight.elem_count()];
    rms_norm(x, &Values::of(weight)?, eps, &mut y, &mut inverse);
    let wanted = x.place().is_some() || weight.is_variable();
    let (x, weight) = (x.clone(), weight.clone());
    Ok(tape.record(y, x.width(), wanted, move |dy, gradients| {
        let mut dx = vec![0.0; x.len()];
        rms_norm_back(&x, &Values::of(&weight)?, &inverse, &dy, &mut dx);
        gradients.add(x.place(), dx);
        if weight.is_variable() {
            let mut dw = vec![0.0; weight.elem_count()];
            rms_norm_weight_back(&x, &inverse, &dy, &mut dw);
            gradients.add_moving(&weight, dw)?;
        }
        Ok(())
    }))
}
