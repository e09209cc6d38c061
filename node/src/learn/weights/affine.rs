//! A frozen linear map with its bias, in either of the layouts that Hugging Face stores.

use std::borrow::Cow;

use super::Weight;
use super::quantised::{Precision, Quantised};
use crate::learn::kernel::elementwise::add_to_rows;
use crate::learn::kernel::halves::{self, Halves};
use crate::learn::kernel::product::{Old, View, ViewMut, multiplied, product};

/// `y = x · Wᵀ + b` for `W` `(out, in)`.
#[derive(Debug, Clone)]
pub struct Affine {
    matrix: Matrix,
    bias: Option<Weight>,
    layout: Layout,
}

#[derive(Debug, Clone)]
enum Matrix {
    Whole(Weight),
    Rounded(Quantised),
}

/// How the matrix of a linear map is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `(out, in)`: torch's `Linear`.
    OutIn,
    /// `(in, out)`: GPT-2's `Conv1D`, PEFT's `fan_in_fan_out`.
    InOut,
}

impl Affine {
    /// From a matrix in the given layout, and a bias of `out` elements.
    pub fn new(weight: Weight, bias: Option<Weight>, layout: Layout) -> Self {
        Self {
            matrix: Matrix::Whole(weight),
            bias,
            layout,
        }
    }

    /// From a matrix that is held in fewer bits.
    pub fn held(matrix: Quantised, bias: Option<Weight>, layout: Layout) -> Self {
        Self {
            matrix: Matrix::Rounded(matrix),
            bias,
            layout,
        }
    }

    /// The same with its matrix held in fewer bits, as far as its shape allows.
    #[must_use]
    pub fn rounded(mut self, precision: Precision) -> Self {
        if let Matrix::Whole(weight) = &self.matrix {
            let (rows, cols) = weight.dims2();
            if let Some(rounded) = Quantised::new(weight.values(), [rows, cols], precision) {
                weight.release();
                self.matrix = Matrix::Rounded(rounded);
            }
        }
        self
    }

    /// The matrix as stored, widened.
    pub fn weight(&self) -> Weight {
        match &self.matrix {
            Matrix::Whole(weight) => weight.clone(),
            Matrix::Rounded(rounded) => Weight::owned(rounded.widened(), rounded.shape().to_vec()),
        }
    }

    /// The matrix as stored, if it is held in fewer bits.
    pub fn rounding(&self) -> Option<&Quantised> {
        match &self.matrix {
            Matrix::Whole(_) => None,
            Matrix::Rounded(rounded) => Some(rounded),
        }
    }

    fn values(&self) -> Cow<'_, [f32]> {
        match &self.matrix {
            Matrix::Whole(weight) => weight.values().into(),
            Matrix::Rounded(rounded) => rounded.widened().into(),
        }
    }

    /// Rows and columns as stored.
    fn stored(&self) -> (usize, usize) {
        match &self.matrix {
            Matrix::Whole(weight) => weight.dims2(),
            Matrix::Rounded(rounded) => rounded.shape().into(),
        }
    }

    /// The bias.
    pub fn bias(&self) -> Option<&Weight> {
        self.bias.as_ref()
    }

    /// How the matrix is stored.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// `(out, in)`.
    pub fn dims(&self) -> (usize, usize) {
        let (rows, cols) = self.stored();
        match self.layout {
            Layout::OutIn => (rows, cols),
            Layout::InOut => (cols, rows),
        }
    }

    /// The rows `(tokens, out)` of `x` `(tokens, in)`.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let inside = self.dims().1;
        let tokens = x.len() / inside;
        let on_tiles = self.halves().and_then(|w| halves::multiplied(x, w.t()));
        let mut y = on_tiles.unwrap_or_else(|| {
            let x = View::new(x, tokens, inside);
            multiplied(1.0, x, self.view(&self.values()).t())
        });
        if let Some(bias) = &self.bias {
            add_to_rows(&mut y, bias.values());
        }
        y
    }

    /// The same into memory that is there.
    ///
    /// # Panics
    /// If `y` is not as long as the rows.
    pub fn apply_into(&self, x: &[f32], y: &mut [f32]) {
        let (out, inside) = self.dims();
        let tokens = x.len() / inside;
        let on_tiles = self.halves().map(|w| halves::product(y, x, w.t()));
        if on_tiles != Some(true) {
            let x = View::new(x, tokens, inside);
            let y = ViewMut::new(y, tokens, out);
            product(y, Old::Replace, 1.0, x, self.view(&self.values()).t());
        }
        if let Some(bias) = &self.bias {
            add_to_rows(y, bias.values());
        }
    }

    /// The gradient `(tokens, in)` by the input, of a gradient `dy` `(tokens, out)` by the output.
    pub fn apply_back(&self, dy: &[f32]) -> Vec<f32> {
        let out = self.dims().0;
        let tokens = dy.len() / out;
        let on_tiles = self.halves().and_then(|w| halves::multiplied(dy, w));
        on_tiles.unwrap_or_else(|| {
            let dy = View::new(dy, tokens, out);
            multiplied(1.0, dy, self.view(&self.values()))
        })
    }

    /// The same into memory that is there.
    ///
    /// # Panics
    /// If `dx` is not as long as the gradient.
    pub fn apply_back_into(&self, dy: &[f32], dx: &mut [f32]) {
        let (out, inside) = self.dims();
        let tokens = dy.len() / out;
        let on_tiles = self.halves().map(|w| halves::product(dx, dy, w));
        if on_tiles != Some(true) {
            let dy = View::new(dy, tokens, out);
            let dx = ViewMut::new(dx, tokens, inside);
            product(dx, Old::Replace, 1.0, dy, self.view(&self.values()));
        }
    }

    /// The matrix `(out, in)` where it is held in bf16.
    fn halves(&self) -> Option<Halves<'_>> {
        let halves = self.rounding()?.halves()?;
        Some(match self.layout {
            Layout::OutIn => halves,
            Layout::InOut => halves.t(),
        })
    }

    /// The matrix with `scale · B · A` added, in the same layout; for `A` `(r, in)` and `B` `(out, r)`.
    pub fn merged(&self, a: &[f32], b: &[f32], scale: f32) -> Weight {
        let (out, inside) = self.dims();
        let rank = a.len() / inside;
        let (a, b) = (View::new(a, rank, inside), View::new(b, out, rank));
        let mut sum = self.values().into_owned();
        match self.layout {
            Layout::OutIn => {
                let whole = ViewMut::new(&mut sum, out, inside);
                product(whole, Old::Keep, scale, b, a);
            }
            Layout::InOut => {
                let whole = ViewMut::new(&mut sum, inside, out);
                product(whole, Old::Keep, scale, a.t(), b.t());
            }
        }
        let (rows, cols) = self.stored();
        Weight::owned(sum, vec![rows, cols])
    }

    /// The matrix as `(out, in)`, of its values as stored.
    fn view<'a>(&self, values: &'a [f32]) -> View<'a> {
        let (rows, cols) = self.stored();
        let stored = View::new(values, rows, cols);
        match self.layout {
            Layout::OutIn => stored,
            Layout::InOut => stored.t(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_give_the_same_rows_gradients_and_merged_maps() {
        let (out, inside) = (3, 4);
        let stored: Vec<f32> = (0..12).map(|i| (i * i % 7) as f32 - 2.5).collect();
        let mut turned = vec![0.0; 12];
        for o in 0..out {
            for i in 0..inside {
                turned[i * out + o] = stored[o * inside + i];
            }
        }
        let bias = Weight::owned(vec![1.0, -2.0, 0.5], vec![out]);
        let plain = Weight::owned(stored.clone(), vec![out, inside]);
        let plain = Affine::new(plain, Some(bias.clone()), Layout::OutIn);
        let across = Weight::owned(turned, vec![inside, out]);
        let across = Affine::new(across, Some(bias), Layout::InOut);
        assert_eq!(across.dims(), (out, inside));
        let x: Vec<f32> = (0..8).map(|i| (i % 5) as f32 - 1.0).collect();
        let y = plain.apply(&x);
        assert_eq!(across.apply(&x), y);
        let by_hand: f32 = (0..4).map(|i| x[4 + i] * stored[4 + i]).sum();
        assert!((y[4] - (by_hand - 2.0)).abs() < 1e-6, "{}", y[4]);
        let dy = [1.0, 2.0, -1.0, 0.5, 0.0, 3.0];
        assert_eq!(across.apply_back(&dy), plain.apply_back(&dy));
        let (a, b) = ([1.0, 0.0, 2.0, -1.0], [0.5, 1.0, -2.0]);
        let (plain, across) = (plain.merged(&a, &b, 2.0), across.merged(&a, &b, 2.0));
        for o in 0..out {
            for i in 0..inside {
                let want = stored[o * inside + i] + 2.0 * b[o] * a[i];
                assert!((plain.values()[o * inside + i] - want).abs() < 1e-6);
                assert!((across.values()[i * out + o] - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn a_rounded_map_computes_with_the_values_that_it_stands_for() {
        let values: Vec<f32> = (0..3 * 64)
            .map(|i| (i * 29 % 53) as f32 / 50.0 - 0.5)
            .collect();
        let exact = Affine::new(Weight::owned(values, vec![3, 64]), None, Layout::OutIn);
        let rounded = exact.clone().rounded(Precision::Q8);
        assert_eq!(rounded.dims(), exact.dims());
        assert_ne!(rounded.weight().values(), exact.weight().values());
        let meant = Affine::new(rounded.weight(), None, Layout::OutIn);
        let x: Vec<f32> = (0..128).map(|i| (i % 7) as f32 - 3.0).collect();
        assert_eq!(rounded.apply(&x), meant.apply(&x));
        let dy = [1.0, -2.0, 0.5, 0.25, 3.0, -1.0];
        assert_eq!(rounded.apply_back(&dy), meant.apply_back(&dy));
        let (a, b) = ([0.5; 64], [1.0, 0.0, -1.0]);
        let merged = |map: &Affine| map.merged(&a, &b, 2.0).values().to_vec();
        assert_eq!(merged(&rounded), merged(&meant));
        assert_eq!(
            exact.clone().rounded(Precision::F32).apply(&x),
            exact.apply(&x)
        );
    }
}
