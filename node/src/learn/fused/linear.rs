//! Linear maps: frozen, with a LoRA side path, or free (all weights train).
//!
//! A frozen map is an [`Affine`], `y = x · Wᵀ + b`, inside the operation and without a gradient.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::{Values, argument, kept, shaped_as};
use crate::learn::kernel::product::{Old, View, ViewMut, multiplied, product};
use crate::learn::weights::affine::Affine;

struct Frozen {
    map: Affine,
}

struct Lora {
    map: Affine,
    scale: f32,
    /// Which of x, A, B want a gradient.
    wanted: [bool; 3],
    /// `h = x · Aᵀ`.
    hidden: OnceLock<Vec<f32>>,
}

struct Free;

/// `y = x · Wᵀ + b`.
pub fn frozen(x: &Tensor, map: &Affine) -> Result<Tensor> {
    let map = map.clone();
    x.apply_op1(Frozen { map })
}

/// `y = x · Wᵀ + b + scale · (x · Aᵀ) · Bᵀ` (Hu et al., LoRA, arXiv 2106.09685) for `A` `(r, in)` and `B` `(out, r)`.
/// Only inputs that are variables, or depend on one, get a gradient.
pub fn lora(x: &Tensor, map: &Affine, a: &Tensor, b: &Tensor, scale: f32) -> Result<Tensor> {
    let op = Lora {
        map: map.clone(),
        scale,
        wanted: [x.track_op(), a.track_op(), b.track_op()],
        hidden: OnceLock::new(),
    };
    x.apply_op3(a, b, op)
}

/// `y = x · Wᵀ` where the weight `(out, in)` is a variable.
pub fn free(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.apply_op2(weight, Free)
}

/// `x · Wᵀ` for `W` `(out, in)`.
fn apply(x: &[f32], weight: &[f32], out: usize, inside: usize) -> Vec<f32> {
    let x = View::new(x, x.len() / inside, inside);
    multiplied(1.0, x, View::new(weight, out, inside).t())
}

/// `sum over tokens of scale · left[t] ⊗ right[t]`, `(left_cols, right_cols)`.
fn outer(left: &[f32], left_cols: usize, right: &[f32], right_cols: usize, scale: f32) -> Vec<f32> {
    let tokens = left.len() / left_cols;
    let left = View::new(left, tokens, left_cols).t();
    multiplied(scale, left, View::new(right, tokens, right_cols))
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.map.apply(argument(x, layout)?);
        let out = self.map.dims().0;
        let shape = Shape::from((y.len() / out, out));
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let dx = self.map.apply_back(&Values::of(&dy)?);
        Ok(Some(shaped_as(dx, x)?))
    }
}

impl CustomOp2 for Free {
    fn name(&self) -> &'static str {
        "free-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, inside) = w_layout.shape().dims2()?;
        let y = apply(argument(x, x_layout)?, argument(w, w_layout)?, out, inside);
        let shape = Shape::from((y.len() / out, out));
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (out, inside) = w.dims2()?;
        let (xs, ws, dys) = (Values::of(x)?, Values::of(w)?, Values::of(&dy)?);
        let back = View::new(&dys, dys.len() / out, out);
        let dx = shaped_as(multiplied(1.0, back, View::new(&ws, out, inside)), x)?;
        let dw = shaped_as(outer(&dys, out, &xs, inside, 1.0), w)?;
        Ok((Some(dx), Some(dw)))
    }
}

impl CustomOp3 for Lora {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, inside) = self.map.dims();
        let rank = a_layout.shape().dims2()?.0;
        let x = argument(x, x_layout)?;
        let hidden = apply(x, argument(a, a_layout)?, rank, inside);
        let mut y = self.map.apply(x);
        let tokens = y.len() / out;
        product(
            ViewMut::new(&mut y, tokens, out),
            Old::Keep,
            self.scale,
            View::new(&hidden, tokens, rank),
            View::new(argument(b, b_layout)?, out, rank).t(),
        );
        if self.wanted[2] {
            self.hidden.get_or_init(|| hidden);
        }
        Ok((CpuStorage::F32(y), Shape::from((tokens, out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (out, inside) = self.map.dims();
        let rank = a.dim(0)?;
        let dys = Values::of(&dy)?;
        let tokens = dys.len() / out;
        let [x_wanted, a_wanted, b_wanted] = self.wanted;
        // dh = scale · dy · B
        let mut d_hidden = Vec::new();
        if x_wanted || a_wanted {
            let (dy, b) = (View::new(&dys, tokens, out), Values::of(b)?);
            d_hidden = multiplied(self.scale, dy, View::new(&b, out, rank));
        }
        let mut dx = None;
        if x_wanted {
            let mut sum = self.map.apply_back(&dys);
            product(
                ViewMut::new(&mut sum, tokens, inside),
                Old::Keep,
                1.0,
                View::new(&d_hidden, tokens, rank),
                View::new(&Values::of(a)?, rank, inside),
            );
            dx = Some(shaped_as(sum, x)?);
        }
        let mut da = None;
        if a_wanted {
            da = Some(shaped_as(
                outer(&d_hidden, rank, &Values::of(x)?, inside, 1.0),
                a,
            )?);
        }
        let mut db = None;
        if b_wanted {
            db = Some(shaped_as(
                outer(&dys, out, kept(&self.hidden)?, rank, self.scale),
                b,
            )?);
        }
        Ok((dx, da, db))
    }
}
