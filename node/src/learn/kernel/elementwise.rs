//! RMSNorm, SwiGLU and softmax on rows, compiled for the widest vectors that the machine has.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is compiled for the oldest machine"
)]

use rayon::prelude::*;

/// `y = w · x / sqrt(mean(x²) + eps)`, row by row; the reciprocal roots go to `inverse` for the backward pass.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], inverse: &mut [f32]) {
    let n = weight.len();
    y.par_chunks_mut(n * ROWS)
        .zip(x.par_chunks(n * ROWS))
        .zip(inverse.par_chunks_mut(ROWS))
        .for_each(|((y, x), inverse)| rms_norm_rows(x, weight, eps, y, inverse));
}

#[pulp::with_simd(rms_norm_rows = pulp::Arch::new())]
#[inline(always)]
fn rms_norm_rows_by<S: pulp::Simd>(
    _: S,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    y: &mut [f32],
    inverse: &mut [f32],
) {
    let n = weight.len();
    let rows = y.chunks_exact_mut(n).zip(x.chunks_exact(n));
    for ((y, x), inverse) in rows.zip(inverse) {
        let r = 1.0 / (dot(x, x) / width(n) + eps).sqrt();
        *inverse = r;
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * r * w;
        }
    }
}

/// The gradient of [`rms_norm`] by its input: with x̂ = x·r, `dx = r · (w·dy − x̂ · mean(w·dy·x̂))`.
pub fn rms_norm_back(x: &[f32], weight: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [f32]) {
    let n = weight.len();
    dx.par_chunks_mut(n * ROWS)
        .zip(x.par_chunks(n * ROWS))
        .zip(dy.par_chunks(n * ROWS))
        .zip(inverse.par_chunks(ROWS))
        .for_each(|(((dx, x), dy), inverse)| rms_norm_rows_back(x, weight, inverse, dy, dx));
}

#[pulp::with_simd(rms_norm_rows_back = pulp::Arch::new())]
#[inline(always)]
fn rms_norm_rows_back_by<S: pulp::Simd>(
    _: S,
    x: &[f32],
    weight: &[f32],
    inverse: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let n = weight.len();
    let rows = dx
        .chunks_exact_mut(n)
        .zip(x.chunks_exact(n))
        .zip(dy.chunks_exact(n));
    for (((dx, x), dy), &r) in rows.zip(inverse) {
        for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
            *dx = dy * w;
        }
        let mean = dot(dx, x) * r * r / width(n);
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = r * (*dx - x * mean);
        }
    }
}

/// The gradient of [`rms_norm`] by its weight: `dw = Σ_rows dy · x · r`.
pub fn rms_norm_weight_back(x: &[f32], inverse: &[f32], dy: &[f32], dw: &mut [f32]) {
    let n = dw.len();
    for ((x, dy), &r) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(inverse) {
        for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
            *dw += dy * x * r;
        }
    }
}

/// `y = silu(gate) · up`.
pub fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .for_each(|((y, gate), up)| {
            vectorised(|| {
                for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                    *y = g * sigmoid(g) * u;
                }
            });
        });
}

/// The gradients of [`swiglu`] by both inputs.
pub fn swiglu_back(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    d_gate
        .par_chunks_mut(CHUNK)
        .zip(d_up.par_chunks_mut(CHUNK))
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .zip(dy.par_chunks(CHUNK))
        .for_each(|((((d_gate, d_up), gate), up), dy)| {
            vectorised(|| {
                let inputs = gate.iter().zip(up).zip(dy);
                for ((d_gate, d_up), ((&g, &u), &dy)) in d_gate.iter_mut().zip(d_up).zip(inputs) {
                    let s = sigmoid(g);
                    *d_up = dy * g * s;
                    *d_gate = dy * u * s * (1.0 + g * (1.0 - s));
                }
            });
        });
}

/// Replaces a row of scores by `exp(score − max)` and returns `(max, Σ exp)`.
#[pulp::with_simd(exp_row = pulp::Arch::new())]
#[inline(always)]
pub fn exp_row_by<S: pulp::Simd>(_: S, row: &mut [f32]) -> (f32, f32) {
    let max = highest(row);
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
            *x = exp(*x - max);
            *lane += *x;
        }
    }
    for x in rest.iter_mut() {
        *x = exp(*x - max);
    }
    (max, lanes.iter().sum::<f32>() + rest.iter().sum::<f32>())
}

/// Replaces each score by `exp(score − shift)`.
pub fn exp_shifted(row: &mut [f32], shift: f32) {
    vectorised(|| {
        for x in row.iter_mut() {
            *x = exp(*x - shift);
        }
    });
}

/// `x += y`, element by element.
pub fn add(x: &mut [f32], y: &[f32]) {
    let chunks = x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK));
    chunks.for_each(|(x, y)| {
        vectorised(|| {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        });
    });
}

/// `x *= y`, element by element.
pub fn multiply(x: &mut [f32], y: &[f32]) {
    let chunks = x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK));
    chunks.for_each(|(x, y)| {
        vectorised(|| {
            for (x, y) in x.iter_mut().zip(y) {
                *x *= y;
            }
        });
    });
}

/// Adds `values` to each row of the same length.
pub fn add_to_rows(rows: &mut [f32], values: &[f32]) {
    let n = values.len();
    rows.par_chunks_mut(n * ROWS).for_each(|rows| {
        vectorised(|| {
            for row in rows.chunks_exact_mut(n) {
                for (x, value) in row.iter_mut().zip(values) {
                    *x += value;
                }
            }
        });
    });
}

/// `row *= factor`.
pub fn scale(row: &mut [f32], factor: f32) {
    vectorised(|| {
        for x in row.iter_mut() {
            *x *= factor;
        }
    });
}

/// The dot product of two rows, summed in sixteen lanes: the same order on every machine.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
pub(super) fn total(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for i in 0..LANES {
            lanes[i] += a[i];
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

#[inline(always)]
fn highest(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for i in 0..LANES {
            lanes[i] = if a[i] > lanes[i] { a[i] } else { lanes[i] };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` to about two units in the last place: Cody and Waite's reduction and the Cephes polynomial, without
/// branches, so that it is computed for a whole vector at a time. Below −87 it gives about 1e-38; a NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to the nearest integer
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = clamped - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = p * (r * r) + r + 1.0;
    value * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// Runs the closure compiled for the machine's vector instructions, if it is short: one too large to be inlined is
/// compiled for the oldest machine, so that longer work is a function with [`pulp::with_simd`].
#[inline(always)]
pub fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

pub(super) fn width(n: usize) -> f32 {
    f32::from(u16::try_from(n).expect("a model is narrower than 65,536"))
}

const LANES: usize = 16;
pub(super) const ROWS: usize = 32;
pub(super) const CHUNK: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_library_and_keeps_nan() {
        for i in -8_700..8_800 {
            let x = i as f32 / 100.0;
            let (got, want) = (exp(x), x.exp());
            assert!(
                (got - want).abs() <= 4e-7 * want,
                "exp({x}) = {got}, want {want}"
            );
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn swiglu_and_norm_agree_with_finite_differences() {
        let x = [0.5f32, -1.25, 2.0, 0.1, -0.3, 0.9];
        let w = [1.0f32, 0.5, 2.0];
        let (mut y, mut r) = ([0.0; 6], [0.0; 2]);
        let f = |x: &[f32; 6]| {
            let (mut y, mut r) = ([0.0; 6], [0.0; 2]);
            rms_norm(x, &w, 1e-5, &mut y, &mut r);
            y.iter()
                .enumerate()
                .map(|(i, y)| y * (i as f32 + 1.0))
                .sum::<f32>()
        };
        rms_norm(&x, &w, 1e-5, &mut y, &mut r);
        let dy = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut dx = [0.0; 6];
        rms_norm_back(&x, &w, &r, &dy, &mut dx);
        for i in 0..6 {
            let (mut up, mut down) = (x, x);
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (f(&up) - f(&down)) / 2e-2;
            assert!(
                (slope - dx[i]).abs() < 1e-2 * slope.abs().max(1.0),
                "{slope} {}",
                dx[i]
            );
        }
        let gate = [0.3f32, -2.0, 4.0];
        let up = [1.5f32, 0.5, -1.0];
        let (mut dg, mut du) = ([0.0; 3], [0.0; 3]);
        swiglu_back(&gate, &up, &[1.0; 3], &mut dg, &mut du);
        for i in 0..3 {
            let silu = |g: f32| g / (1.0 + (-g).exp());
            let slope = (silu(gate[i] + 1e-2) - silu(gate[i] - 1e-2)) / 2e-2 * up[i];
            assert!((slope - dg[i]).abs() < 1e-3, "{slope} {}", dg[i]);
            assert!((silu(gate[i]) - du[i]).abs() < 1e-5);
        }
    }
}
