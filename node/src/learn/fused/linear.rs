//! Linear maps: frozen, with a LoRA side path, or free (all weights train).
//!
//! A frozen map is an [`Affine`], `y = x · Wᵀ + b`, inside the operation and without a gradient.

use candle_core::{Result, Tensor};

use super::Values;
use crate::learn::kernel::elementwise::add_to_rows;
use crate::learn::kernel::product::{Old, View, ViewMut, multiplied, product};
use crate::learn::tape::{Rows, Tape};
use crate::learn::weights::affine::{Affine, Layout};

/// A map whose weight may be a variable.
#[derive(Debug, Clone)]
pub struct Free<'a> {
    /// The matrix.
    pub weight: &'a Tensor,
    /// How it is stored.
    pub layout: Layout,
    /// What is added to each row.
    pub bias: Option<&'a Tensor>,
    /// What the product is multiplied with.
    pub scale: f32,
}

/// `y = x · Wᵀ + b`.
pub fn frozen(tape: &mut Tape, x: &Rows, map: &Affine) -> Rows {
    let y = map.apply(x);
    let (map, to) = (map.clone(), x.place());
    tape.record(y, map.dims().0, to.is_some(), move |dy, gradients| {
        gradients.add(to, map.apply_back(&dy));
        Ok(())
    })
}

/// `y = x · Wᵀ + b + scale · (x · Aᵀ) · Bᵀ` (Hu et al., LoRA, arXiv 2106.09685) for `A` `(r, in)` and `B` `(out, r)`.
/// Only inputs that are variables, or depend on one, get a gradient.
pub fn lora(
    tape: &mut Tape,
    x: &Rows,
    map: &Affine,
    [a, b]: [&Tensor; 2],
    scale: f32,
) -> Result<Rows> {
    let (out, inside) = map.dims();
    let (rank, tokens) = (a.dim(0)?, x.len() / inside);
    // h = x · Aᵀ
    let rows = View::new(x, tokens, inside);
    let hidden = multiplied(1.0, rows, View::new(&Values::of(a)?, rank, inside).t());
    let mut y = map.apply(x);
    product(
        ViewMut::new(&mut y, tokens, out),
        Old::Keep,
        scale,
        View::new(&hidden, tokens, rank),
        View::new(&Values::of(b)?, out, rank).t(),
    );
    let (x, map, a, b) = (x.clone(), map.clone(), a.clone(), b.clone());
    let (by_x, by_a) = (x.place().is_some(), a.is_variable());
    let wanted = by_x || by_a || b.is_variable();
    Ok(tape.record(y, out, wanted, move |dy, gradients| {
        let dys = View::new(&dy, tokens, out);
        if by_x || by_a {
            // dh = scale · dy · B
            let d_hidden = multiplied(scale, dys, View::new(&Values::of(&b)?, out, rank));
            let d_hidden = View::new(&d_hidden, tokens, rank);
            if by_x {
                let mut dx = map.apply_back(&dy);
                let values = Values::of(&a)?;
                let (a, sum) = (
                    View::new(&values, rank, inside),
                    ViewMut::new(&mut dx, tokens, inside),
                );
                product(sum, Old::Keep, 1.0, d_hidden, a);
                gradients.add(x.place(), dx);
            }
            if by_a {
                let da = multiplied(1.0, d_hidden.t(), View::new(&x, tokens, inside));
                gradients.add_moving(&a, da)?;
            }
        }
        if b.is_variable() {
            let db = multiplied(scale, dys.t(), View::new(&hidden, tokens, rank));
            gradients.add_moving(&b, db)?;
        }
        Ok(())
    }))
}

/// `y = scale · x · Wᵀ + b`; variables get a gradient.
pub fn free(tape: &mut Tape, x: &Rows, map: &Free<'_>) -> Result<Rows> {
    let (layout, scale) = (map.layout, map.scale);
    let [rows, cols]: [usize; 2] = map.weight.dims2()?.into();
    let (out, inside) = match layout {
        Layout::OutIn => (rows, cols),
        Layout::InOut => (cols, rows),
    };
    let tokens = x.len() / inside;
    let values = Values::of(map.weight)?;
    let matrix = view(&values, [rows, cols], layout).t();
    let mut y = multiplied(scale, View::new(x, tokens, inside), matrix);
    if let Some(bias) = map.bias {
        add_to_rows(&mut y, &Values::of(bias)?);
    }
    let (x, weight, bias) = (x.clone(), map.weight.clone(), map.bias.cloned());
    let bias = bias.filter(Tensor::is_variable);
    let wanted = x.place().is_some() || weight.is_variable() || bias.is_some();
    Ok(tape.record(y, out, wanted, move |dy, gradients| {
        let dys = View::new(&dy, tokens, out);
        if x.place().is_some() {
            let values = Values::of(&weight)?;
            let dx = multiplied(scale, dys, view(&values, [rows, cols], layout));
            gradients.add(x.place(), dx);
        }
        if weight.is_variable() {
            let xs = View::new(&x, tokens, inside);
            let dw = match layout {
                Layout::OutIn => multiplied(scale, dys.t(), xs),
                Layout::InOut => multiplied(scale, xs.t(), dys),
            };
            gradients.add_moving(&weight, dw)?;
        }
        if let Some(bias) = bias {
            let mut db = vec![0.0; out];
            for dy in dy.chunks_exact(out) {
                db.iter_mut().zip(dy).for_each(|(db, dy)| *db += dy);
            }
            gradients.add_moving(&bias, db)?;
        }
        Ok(())
    }))
}

/// A matrix as `(out, in)`, of its values as stored.
fn view(values: &[f32], [rows, cols]: [usize; 2], layout: Layout) -> View<'_> {
    let stored = View::new(values, rows, cols);
    match layout {
        Layout::OutIn => stored,
        Layout::InOut => stored.t(),
    }
}
