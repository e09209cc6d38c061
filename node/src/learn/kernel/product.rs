//! Matrix products on strided views: the one door to the `gemm` crate.
//!
//! `gemm` takes raw pointers and strides. The views check at construction that their last element lies inside
//! their slice, and that the elements of an output do not overlap; everything else is safe code.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

/// A matrix to read: `rows × cols` elements of a slice, at any strides.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A matrix to write: rows of `cols` neighbouring elements, `row_stride` apart.
#[derive(Debug)]
pub struct ViewMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

/// What happens to the output's old values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Keep,
}

impl<'a> View<'a> {
    /// The dense row-major matrix in front of `values`.
    ///
    /// # Panics
    /// If `values` is shorter than `rows × cols`.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(values, rows, cols, cols)
    }

    /// A row-major matrix whose rows are `row_stride` elements apart (heads inside a wider row).
    ///
    /// # Panics
    /// If the last element lies outside `values`.
    pub fn strided(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check(values.len(), rows, cols, row_stride);
        Self {
            values,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// If it has fewer.
    fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let from = (rows.start * self.row_stride).min(self.values.len());
        Self {
            values: &self.values[from..],
            rows: rows.len(),
            ..self
        }
    }

    /// The transpose: the same elements, no copy.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> ViewMut<'a> {
    /// The dense row-major matrix in front of `values`.
    ///
    /// # Panics
    /// If `values` is shorter than `rows × cols`.
    pub fn new(values: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(values, rows, cols, cols)
    }

    /// A row-major matrix whose rows are `row_stride >= cols` elements apart.
    ///
    /// # Panics
    /// If the last element lies outside `values`, or rows would overlap.
    pub fn strided(values: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check(values.len(), rows, cols, row_stride);
        assert!(row_stride >= cols, "rows of an output must not overlap");
        Self {
            values,
            rows,
            cols,
            row_stride,
        }
    }
}

/// `out = scale · a · b` or, keeping the old values, `out += scale · a · b`.
///
/// # Panics
/// If the shapes do not fit: `a` is `out.rows × k`, `b` is `k × out.cols`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the output is lent for this one product"
)]
pub fn product(out: ViewMut<'_>, old: Old, scale: f32, a: View<'_>, b: View<'_>) {
    assert_eq!(a.rows, out.rows, "rows of the left factor");
    assert_eq!(b.cols, out.cols, "columns of the right factor");
    assert_eq!(a.cols, b.rows, "inner dimension");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    #[expect(
        unsafe_code,
        reason = "gemm takes pointers; the views have checked every index that it can reach"
    )]
    // SAFETY: the output's elements lie inside its slice by its constructor's check, are distinct (row_stride >= cols)
    // and initialised, and are borrowed exclusively.
    unsafe {
        multiply(out.values.as_mut_ptr(), out.row_stride, old, scale, a, b);
    }
}

/// `scale · a · b`, dense and row-major.
///
/// # Panics
/// If the inner dimensions differ.
pub fn multiplied(scale: f32, a: View<'_>, b: View<'_>) -> Vec<f32> {
    assert_eq!(a.cols, b.rows, "inner dimension");
    let len = a.rows * b.cols;
    if len == 0 || a.cols == 0 {
        return vec![0.0; len];
    }
    let mut out = Vec::with_capacity(len);
    #[expect(unsafe_code, reason = "zeros that are overwritten at once cost time")]
    // SAFETY: room for `rows · cols` elements is there, and each is written before it counts as one: the inner
    // dimension is not empty and the old values are replaced.
    unsafe {
        multiply(out.as_mut_ptr(), b.cols, Old::Replace, scale, a, b);
        out.set_len(len);
    }
    out
}

/// The product of two matrices whose inner dimensions agree, into rows of `b.cols` elements, `row_stride` apart.
///
/// # Safety
/// `out` must be valid for writing `a.rows` such rows, apart from each other and from `a` and `b`; with [`Old::Keep`]
/// they must be initialised.
#[expect(unsafe_code, reason = "gemm takes pointers")]
unsafe fn multiply(
    out: *mut f32,
    row_stride: usize,
    old: Old,
    scale: f32,
    a: View<'_>,
    b: View<'_>,
) {
    let out = Corner { out, row_stride };
    let threads = match a.rows * b.cols * a.cols {
        PARALLEL_FROM.. => rayon::current_num_threads(),
        _ => 1,
    };
    let Some(shares) = Shares::new(a.rows, b.cols, threads) else {
        // SAFETY: the caller vouches for it.
        unsafe { out.multiply(old, scale, a, b, threads) };
        return;
    };
    (0..threads).into_par_iter().for_each(|thread| {
        for [rows, cols] in shares.of(thread) {
            let (a, b) = (a.rows(rows.clone()), b.t().rows(cols.clone()).t());
            // SAFETY: the part lies inside the output and meets no other one.
            unsafe {
                let out = out.at(rows.start, cols.start);
                out.multiply(old, scale, a, b, 1);
            }
        }
    });
}

/// How an output is shared out to threads, each of which computes its parts by itself and waits for nobody: as many
/// whole [`PANEL`]s of columns for each, and of the columns that are left over some rows.
///
/// `gemm` sums small products in another order; so no part is as small as that, and the bits are those of one thread.
struct Shares {
    size: [usize; 2],
    /// Columns of each thread alone.
    each: usize,
    threads: usize,
}

impl Shares {
    /// `None` where the output is too small for it.
    fn new(rows: usize, cols: usize, threads: usize) -> Option<Self> {
        let mut each = cols / (PANEL * threads) * PANEL;
        if (1..FEWEST).contains(&(cols - each * threads)) {
            each = each.saturating_sub(PANEL);
        }
        (threads > 1 && rows / threads > PANEL && cols >= FEWEST).then_some(Self {
            size: [rows, cols],
            each,
            threads,
        })
    }

    /// The rows and columns of a thread's parts.
    fn of(&self, thread: usize) -> [[Range<usize>; 2]; 2] {
        let ([rows, cols], each) = (self.size, self.each);
        let row = |thread| thread * rows / self.threads;
        [
            [0..rows, thread * each..(thread + 1) * each],
            [row(thread)..row(thread + 1), self.threads * each..cols],
        ]
    }
}

/// The upper left corner of an output, or of a part of it.
#[derive(Clone, Copy)]
struct Corner {
    out: *mut f32,
    row_stride: usize,
}

#[expect(unsafe_code, reason = "threads write to parts that do not meet")]
// SAFETY: whoever writes through it vouches for where.
unsafe impl Send for Corner {}
#[expect(unsafe_code, reason = "threads write to parts that do not meet")]
// SAFETY: as above; it is only read itself.
unsafe impl Sync for Corner {}

impl Corner {
    /// The corner of a part.
    fn at(self, row: usize, col: usize) -> Self {
        let out = self.out.wrapping_add(row * self.row_stride + col);
        Self { out, ..self }
    }

    /// The product, from this corner on.
    ///
    /// # Safety
    /// As of [`multiply`].
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    unsafe fn multiply(self, old: Old, scale: f32, a: View<'_>, b: View<'_>, threads: usize) {
        let parallelism = match threads {
            1 => Parallelism::None,
            _ => Parallelism::Rayon(threads),
        };
        // SAFETY: `View` is built only by constructors that check (rows - 1) * row_stride + (cols - 1) * col_stride <
        // values.len(), so each element read lies inside its slice; the caller vouches for the output. An empty inner
        // dimension reads nothing. All strides fit isize, being smaller than a slice's length.
        unsafe {
            gemm::gemm(
                a.rows,
                b.cols,
                a.cols,
                self.out,
                1,
                self.row_stride.cast_signed(),
                old == Old::Keep,
                a.values.as_ptr(),
                a.col_stride.cast_signed(),
                a.row_stride.cast_signed(),
                b.values.as_ptr(),
                b.col_stride.cast_signed(),
                b.row_stride.cast_signed(),
                1.0,
                scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// Multiplications below which threads cost more than they bring.
const PARALLEL_FROM: usize = 1 << 22;
/// Columns that `gemm` computes at once with the widest vectors there are.
const PANEL: usize = 64;
/// Fewer columns, of no more rows than a panel is wide, are a small product.
const FEWEST: usize = 4;

fn check(len: usize, rows: usize, cols: usize, row_stride: usize) {
    if rows == 0 || cols == 0 {
        return;
    }
    let end = (rows - 1)
        .checked_mul(row_stride)
        .and_then(|start| start.checked_add(cols))
        .expect("a matrix in memory has fewer elements than usize can count");
    assert!(
        end <= len,
        "a {rows} × {cols} matrix of row stride {row_stride} needs {end} elements, the slice has {len}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                out[i * n + j] = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_definition_dense_transposed_and_strided() {
        let (m, k, n) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| (i % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 7) as f32 - 3.0).collect();
        let want = naive(&a, &b, m, k, n);
        let mut out = vec![1.0; m * n];
        product(
            ViewMut::new(&mut out, m, n),
            Old::Replace,
            1.0,
            View::new(&a, m, k),
            View::new(&b, k, n),
        );
        assert_eq!(out, want);
        // b given as its transpose
        let mut bt = vec![0.0; n * k];
        for p in 0..k {
            for j in 0..n {
                bt[j * k + p] = b[p * n + j];
            }
        }
        product(
            ViewMut::new(&mut out, m, n),
            Old::Keep,
            2.0,
            View::new(&a, m, k),
            View::new(&bt, n, k).t(),
        );
        let tripled: Vec<f32> = want.iter().map(|x| 3.0 * x).collect();
        assert_eq!(out, tripled);
        // rows two apart: the gaps stay
        let mut wide = vec![9.0; m * (n + 2)];
        product(
            ViewMut::strided(&mut wide, m, n, n + 2),
            Old::Replace,
            1.0,
            View::new(&a, m, k),
            View::new(&b, k, n),
        );
        for i in 0..m {
            assert_eq!(
                &wide[i * (n + 2)..i * (n + 2) + n],
                &want[i * n..(i + 1) * n]
            );
            assert_eq!(&wide[i * (n + 2) + n..(i + 1) * (n + 2)], &[9.0, 9.0]);
        }
    }

    #[test]
    fn shared_out_to_threads_a_product_has_the_bits_of_one() {
        for [rows, inside, cols] in [
            [300, 140, 192],
            [70, 600, 200],
            [300, 70, 257],
            [271, 129, 131],
            [520, 64, 33],
            [999, 1030, 5],
            [4000, 600, 2],
            [3, 1100, 2000],
        ] {
            let numbers = |from: usize, len: usize| -> Vec<f32> {
                let number = |i: usize| ((i * 7919 + from) % 1013) as f32 / 500.0 - 1.0;
                (0..len).map(number).collect()
            };
            let (a, b) = (numbers(1, rows * inside), numbers(2, cols * inside));
            let old = numbers(3, rows * (cols + 1));
            let by = |threads: usize, transposed: bool| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap().install(|| {
                    let mut out = old.clone();
                    let b = if transposed {
                        View::new(&b, cols, inside).t()
                    } else {
                        View::new(&b, inside, cols)
                    };
                    product(
                        ViewMut::strided(&mut out, rows, cols, cols + 1),
                        Old::Keep,
                        0.5,
                        View::new(&a, rows, inside),
                        b,
                    );
                    out.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
                })
            };
            for transposed in [false, true] {
                let alone = by(1, transposed);
                for threads in [2, 3, 4] {
                    let same = by(threads, transposed) == alone;
                    assert!(same, "{rows} × {inside} × {cols} by {threads} threads");
                }
            }
        }
    }

    #[test]
    fn a_view_outside_its_slice_is_refused() {
        let short = [0.0; 5];
        let outcome = std::panic::catch_unwind(|| View::new(&short, 2, 3));
        assert!(outcome.is_err());
        let mut overlapping = [0.0; 9];
        let outcome = std::panic::catch_unwind(move || {
            let view = ViewMut::strided(&mut overlapping, 3, 3, 2);
            view.rows
        });
        assert!(outcome.is_err());
    }
}
