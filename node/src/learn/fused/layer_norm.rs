//! LayerNorm as one operation.

use candle_core::{Result, Tensor};

use super::Values;
use crate::learn::kernel::layer_norm::{
    layer_norm as forward, layer_norm_back, layer_norm_weight_back,
};
use crate::learn::tape::{Rows, Tape};

/// `w · (x − mean) / sqrt(variance + eps) + b` over the rows `x`; weight and bias get gradients if the weight is a
/// variable.
pub fn layer_norm(
    tape: &mut Tape,
    x: &Rows,
    [weight, bias]: [&Tensor; 2],
    eps: f32,
) -> Result<Rows> {
    let mut y = vec![0.0; x.len()];
    let parameters: [&[f32]; 2] = [&Values::of(weight)?, &Values::of(bias)?];
    let moments = forward(x, parameters, eps, &mut y);
    let wanted = x.place().is_some() || weight.is_variable();
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    Ok(tape.record(y, x.width(), wanted, move |dy, gradients| {
        let mut dx = vec![0.0; x.len()];
        layer_norm_back(&x, &Values::of(&weight)?, &moments, &dy, &mut dx);
        gradients.add(x.place(), dx);
        if weight.is_variable() {
            let mut dw = vec![0.0; weight.elem_count()];
            let mut db = dw.clone();
            layer_norm_weight_back(&x, &moments, &dy, [&mut dw, &mut db]);
            gradients.add_moving(&weight, dw)?;
            gradients.add_moving(&bias, db)?;
        }
        Ok(())
    }))
}
