//! GELU (Hendrycks and Gimpel, arXiv 1606.08415), exact or by tanh, and its slope.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is compiled for the oldest machine"
)]

use rayon::prelude::*;

use super::elementwise::{CHUNK, exp, sigmoid, vectorised};

/// Which of its two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x · Φ(x)`: `gelu`.
    Exact,
    /// `x · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))) / 2`: `gelu_new`, `gelu_pytorch_tanh`.
    Tanh,
}

impl Gelu {
    /// The form that a `config.json` names.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Exact),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Self::Tanh),
            _ => None,
        }
    }

    /// Element by element.
    pub fn forward(self, x: &[f32], y: &mut [f32]) {
        match self {
            Self::Exact => map(x, y, |x| x * exact(x).0),
            Self::Tanh => map(x, y, |x| x * by_tanh(x).0),
        }
    }

    /// The gradient by the input: `dy · (p + x · p')` for the form `x · p(x)`. `dx` holds `dy` before.
    pub fn backward(self, x: &[f32], dx: &mut [f32]) {
        match self {
            Self::Exact => scale(x, dx, |x| {
                let (p, slope) = exact(x);
                p + x * slope
            }),
            Self::Tanh => scale(x, dx, |x| {
                let (p, slope) = by_tanh(x);
                p + x * slope
            }),
        }
    }
}

fn map(x: &[f32], y: &mut [f32], of: impl Fn(f32) -> f32 + Copy + Sync) {
    let chunks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(y, x)| {
        vectorised(|| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = of(*x);
            }
        });
    });
}

fn scale(x: &[f32], dx: &mut [f32], of: impl Fn(f32) -> f32 + Copy + Sync) {
    let chunks = dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(dx, x)| {
        vectorised(|| {
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx *= of(*x);
            }
        });
    });
}

/// The normal distribution's `(Φ(x), φ(x))`, Φ to about 2e-7 (Abramowitz and Stegun, formula 7.1.26).
#[inline(always)]
fn exact(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = exp(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * bell;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, bell * 0.398_942_3)
}

/// `(1 + tanh(u)) / 2`, which is the logistic function of 2u, and its slope.
#[inline(always)]
fn by_tanh(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6; // sqrt(2/π)
    const CUBE: f32 = 0.044_715;
    let s = sigmoid(2.0 * ROOT * (x + CUBE * x * x * x));
    (s, s * (1.0 - s) * 2.0 * ROOT * (1.0 + 3.0 * CUBE * x * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_known_values_and_the_slopes_of_finite_differences() {
        // torch.nn.functional.gelu of -3, -1, -0.1, 0, 0.5, 2 in f64, approximate = "none" and "tanh".
        let x = [-3.0f32, -1.0, -0.1, 0.0, 0.5, 2.0];
        let exact = [
            -0.004_049_694,
            -0.158_655_25,
            -0.046_017_216,
            0.0,
            0.345_731_23,
            1.954_499_7,
        ];
        let tanh = [
            -0.003_637_392,
            -0.158_808_01,
            -0.046_017_25,
            0.0,
            0.345_714,
            1.954_597_7,
        ];
        for (form, want) in [(Gelu::Exact, exact), (Gelu::Tanh, tanh)] {
            let mut y = [0.0; 6];
            form.forward(&x, &mut y);
            for (y, want) in y.iter().zip(want) {
                assert!((y - want).abs() < 5e-7, "{form:?}: {y}, want {want}");
            }
            let mut slopes = [1.0; 6];
            form.backward(&x, &mut slopes);
            for (x, slope) in x.iter().zip(slopes) {
                let (near, mut at) = ([x - 1e-2, x + 1e-2], [0.0; 2]);
                form.forward(&near, &mut at);
                let want = (at[1] - at[0]) / 2e-2;
                assert!(
                    (slope - want).abs() < 1e-4,
                    "{form:?} at {x}: {slope} {want}"
                );
            }
        }
    }
}
