//! GELU and other operations on each element.

use std::sync::Arc;

use crate::learn::kernel::elementwise::multiply;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::tape::{Rows, Tape};

/// GELU, element by element.
pub fn gelu(tape: &mut Tape, x: &Rows, form: Gelu) -> Rows {
    let mut y = vec![0.0; x.len()];
    form.forward(x, &mut y);
    let kept = x.clone();
    tape.record(y, x.width(), x.place().is_some(), move |dy, gradients| {
        let mut dx = Arc::unwrap_or_clone(dy);
        form.backward(&kept, &mut dx);
        gradients.add(kept.place(), dx);
        Ok(())
    })
}

/// Any function of each element, given with its slope.
pub fn each(tape: &mut Tape, x: &Rows, of: fn(f32) -> f32, slope: fn(f32) -> f32) -> Rows {
    let y: Vec<f32> = x.iter().map(|x| of(*x)).collect();
    let kept = x.clone();
    tape.record(y, x.width(), x.place().is_some(), move |dy, gradients| {
        let pairs = kept.iter().zip(dy.iter());
        let dx: Vec<f32> = pairs.map(|(x, dy)| dy * slope(*x)).collect();
        gradients.add(kept.place(), dx);
        Ok(())
    })
}

/// Each element by a factor of its own.
pub fn weighed(tape: &mut Tape, x: &Rows, factors: Vec<f32>) -> Rows {
    let mut y = x.to_vec();
    multiply(&mut y, &factors);
    let to = x.place();
    tape.record(y, x.width(), to.is_some(), move |dy, gradients| {
        let mut dx = Arc::unwrap_or_clone(dy);
        multiply(&mut dx, &factors);
        gradients.add(to, dx);
        Ok(())
    })
}
