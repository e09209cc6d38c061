//! Products with a frozen matrix of bf16 on the processor's tiles: the left factor is rounded to bf16 too, the sums are
//! f32. Both factors are cut along the inner dimension so that what is packed of them stays in a near cache.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is compiled for the oldest machine"
)]

use std::mem::MaybeUninit;

use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use pulp::NullaryFnOnce;
use pulp::x86::V4;
use rayon::prelude::*;

use super::tiles::{SIDE, Start, Tiles};

/// A matrix of bf16, row-major, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Halves<'a> {
    values: &'a [bf16],
    rows: usize,
    cols: usize,
    transposed: bool,
}

/// A part of a left factor along the inner dimension, in bf16: rows padded with zeros to whole squares.
struct Left {
    values: Vec<u16>,
    stride: usize,
}

/// One step of a panel: twice 16 columns, each as 16 rows of pairs.
type Block = [[u32; 16]; SIDE];

impl<'a> Halves<'a> {
    /// The row-major matrix of these values.
    ///
    /// # Panics
    /// If they are not `rows × cols`.
    pub fn new(values: &'a [bf16], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values of a matrix");
        Self {
            values,
            rows,
            cols,
            transposed: false,
        }
    }

    /// The transpose: the same values.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    /// Rows and columns as a factor.
    fn dims(self) -> (usize, usize) {
        if self.transposed {
            (self.cols, self.rows)
        } else {
            (self.rows, self.cols)
        }
    }

    /// The rows from `inner` and the columns from `at` on, zeros where there are none.
    #[inline(always)]
    fn pack(self, simd: V4, inner: usize, at: usize, block: &mut Block) {
        if self.transposed {
            for (half, block) in block.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let mut rows = [[0; 16]; 16];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = pulp::cast(self.stored(at + half * 16 + i, inner));
                }
                transpose(simd, &rows, block);
            }
        } else {
            for pair in 0..16 {
                let row = inner + 2 * pair;
                let (low, high) = (self.stored(row, at), self.stored(row + 1, at));
                let [left, right] = zip(simd, low, high);
                block[pair] = left;
                block[16 + pair] = right;
            }
        }
    }

    /// 32 neighbours in a row as stored, zeros where there are none.
    #[inline(always)]
    fn stored(self, row: usize, col: usize) -> [u16; SIDE] {
        let mut values = [0; SIDE];
        if row < self.rows {
            let from = &self.values[row * self.cols + col..][..(self.cols - col).min(SIDE)];
            let from = from.reinterpret_cast();
            match <&[u16; SIDE]>::try_from(from) {
                Ok(whole) => return *whole,
                Err(_) => values[..from.len()].copy_from_slice(from),
            }
        }
        values
    }
}

/// Whether this machine has tiles.
pub fn there() -> bool {
    Tiles::there() && V4::try_new().is_some()
}

/// `out = a · b`, of `a` dense and row-major; `false`, and nothing is done, where there are no tiles.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(out: &mut [f32], a: &[f32], b: Halves<'_>) -> bool {
    #[expect(unsafe_code, reason = "numbers that are there may be overwritten")]
    // SAFETY: the same memory, into which numbers alone are written.
    let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
    write(out, a, b)
}

/// `a · b` for `a` dense and row-major; `None` where there are no tiles.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiplied(a: &[f32], b: Halves<'_>) -> Option<Vec<f32>> {
    let (inside, cols) = b.dims();
    let len = a.len() / inside.max(1) * cols;
    let mut out = Vec::with_capacity(len);
    if !write(&mut out.spare_capacity_mut()[..len], a, b) {
        return None;
    }
    #[expect(unsafe_code, reason = "zeros that are overwritten at once cost time")]
    // SAFETY: the product has been written to each of them.
    unsafe {
        out.set_len(len);
    }
    Some(out)
}

fn write(out: &mut [MaybeUninit<f32>], a: &[f32], b: Halves<'_>) -> bool {
    let Some(simd) = V4::try_new().filter(|_| there()) else {
        return false;
    };
    let (inside, cols) = b.dims();
    assert!(inside > 0 && cols > 0, "a matrix has elements");
    let rows = a.len() / inside;
    assert_eq!((rows * inside, rows * cols), (a.len(), out.len()), "shapes");
    let depth = inside
        .div_ceil(inside.div_ceil(DEPTH))
        .next_multiple_of(SIDE);
    let width = (PACKED / depth / SIDE).max(1) * SIDE;
    let group = rows.div_ceil(SIDE).div_ceil(rayon::current_num_threads()) * SIDE;
    let mut packed: Vec<Block> = Vec::new();
    for from in (0..inside).step_by(depth) {
        let left = Left::new(a, inside, from, depth);
        let steps = depth.min(inside - from).div_ceil(SIDE);
        let start = if from == 0 { Start::Zero } else { Start::Kept };
        for at in (0..cols).step_by(width) {
            let panels = width.min(cols - at).div_ceil(SIDE);
            packed.resize(panels * steps, [[0; 16]; SIDE]);
            let panels = packed.par_chunks_exact_mut(steps).enumerate();
            panels.for_each(|(panel, blocks)| {
                let at = at + panel * SIDE;
                simd.vectorize(Pack {
                    simd,
                    b,
                    from,
                    at,
                    blocks,
                });
            });
            let groups = out.par_chunks_mut(group * cols).enumerate();
            groups.for_each(|(number, out)| {
                let tiles = Tiles::ready().expect("they were there");
                for (panel, blocks) in packed.chunks_exact(steps).enumerate() {
                    let at = at + panel * SIDE;
                    for (i, out) in out.chunks_mut(SIDE * cols).enumerate() {
                        let a = left.rows(number * group + i * SIDE);
                        square(&tiles, steps, a, blocks, out, [cols, at], start);
                    }
                }
            });
        }
    }
    true
}

/// Packs a panel of 32 columns. (A closure this large would not be inlined, and be compiled for the oldest machine.)
struct Pack<'a> {
    simd: V4,
    b: Halves<'a>,
    from: usize,
    at: usize,
    blocks: &'a mut [Block],
}

impl NullaryFnOnce for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (step, block) in self.blocks.iter_mut().enumerate() {
            self.b
                .pack(self.simd, self.from + step * SIDE, self.at, block);
        }
    }
}

/// One square of the product, into the columns from `at` on of up to 32 rows of `cols`.
fn square(
    tiles: &Tiles,
    steps: usize,
    a: (&[u16], usize),
    blocks: &[Block],
    out: &mut [MaybeUninit<f32>],
    [cols, at]: [usize; 2],
    start: Start,
) {
    let b: &[u16] = bytemuck::cast_slice(blocks.as_flattened().as_flattened());
    if out.len() == SIDE * cols && at + SIDE <= cols {
        tiles.square(steps, a, b, (&mut out[at..], cols), start);
        return;
    }
    let within = at..cols.min(at + SIDE);
    let mut edge = [MaybeUninit::new(0.0); SIDE * SIDE];
    let rows = out.len() / cols;
    if start == Start::Kept {
        for row in 0..rows {
            let old = &out[row * cols..][within.clone()];
            edge[row * SIDE..][..old.len()].copy_from_slice(old);
        }
    }
    tiles.square(steps, a, b, (&mut edge, SIDE), start);
    for row in 0..rows {
        let new = &mut out[row * cols..][within.clone()];
        let len = new.len();
        new.copy_from_slice(&edge[row * SIDE..][..len]);
    }
}

impl Left {
    /// The columns of `a` from `from` on, `depth` of them at most.
    fn new(a: &[f32], inside: usize, from: usize, depth: usize) -> Self {
        let count = depth.min(inside - from);
        // Rows a whole number of pages apart would share their place in the cache.
        let stride = count.next_multiple_of(SIDE) + SIDE;
        let rows = a.len() / inside;
        let mut values = vec![0; rows.next_multiple_of(SIDE) * stride];
        let pairs = values
            .par_chunks_exact_mut(stride)
            .zip(a.par_chunks_exact(inside));
        pairs.for_each(|(to, a)| round(&a[from..from + count], to));
        Self { values, stride }
    }

    /// From a row on, and how far rows are apart.
    fn rows(&self, row: usize) -> (&[u16], usize) {
        (&self.values[row * self.stride..], self.stride)
    }
}

/// The nearest bf16, of two equally near ones the even one.
#[pulp::with_simd(round = pulp::Arch::new())]
#[inline(always)]
fn round_by<S: pulp::Simd>(_: S, from: &[f32], to: &mut [u16]) {
    for (to, from) in to.iter_mut().zip(from) {
        let bits = if from.is_nan() { NAN } else { from.to_bits() };
        *to = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
    }
}

/// Two rows, their neighbours paired: the pairs of the first 16 and of the last 16 columns.
#[inline(always)]
fn zip(simd: V4, low: [u16; SIDE], high: [u16; SIDE]) -> [[u32; 16]; 2] {
    const LEFT: [u16; SIDE] = pairs_from(0);
    const RIGHT: [u16; SIDE] = pairs_from(16);
    let (low, high) = (pulp::cast(low), pulp::cast(high));
    let f = simd.avx512bw;
    [
        pulp::cast(f._mm512_permutex2var_epi16(low, pulp::cast(LEFT), high)),
        pulp::cast(f._mm512_permutex2var_epi16(low, pulp::cast(RIGHT), high)),
    ]
}

/// Which of two rows' numbers stand where when 16 columns from one on are paired; the second row's count from 32.
const fn pairs_from(column: u16) -> [u16; SIDE] {
    let mut index = [0; SIDE];
    let mut pair = 0;
    while pair < 16 {
        index[2 * pair as usize] = column + pair;
        index[2 * pair as usize + 1] = 32 + column + pair;
        pair += 1;
    }
    index
}

/// The transpose of 16 × 16.
#[inline(always)]
fn transpose(simd: V4, from: &[[u32; 16]; 16], to: &mut [[u32; 16]; 16]) {
    let f = simd.avx512f;
    let mut rows: [std::arch::x86_64::__m512i; 16] = [pulp::cast([0u32; 16]); 16];
    for (row, from) in rows.iter_mut().zip(from) {
        *row = pulp::cast(*from);
    }
    let (mut pairs, mut fours) = (rows, rows);
    for i in 0..8 {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i] = f._mm512_unpacklo_epi32(a, b);
        pairs[2 * i + 1] = f._mm512_unpackhi_epi32(a, b);
    }
    for i in 0..4 {
        let (a, b, c, d) = (
            pairs[4 * i],
            pairs[4 * i + 1],
            pairs[4 * i + 2],
            pairs[4 * i + 3],
        );
        fours[4 * i] = f._mm512_unpacklo_epi64(a, c);
        fours[4 * i + 1] = f._mm512_unpackhi_epi64(a, c);
        fours[4 * i + 2] = f._mm512_unpacklo_epi64(b, d);
        fours[4 * i + 3] = f._mm512_unpackhi_epi64(b, d);
    }
    // Lane l of fours[4 i + c] holds column 4 l + c of rows 4 i to 4 i + 3.
    for c in 0..4 {
        let (a, b, d, e) = (fours[c], fours[4 + c], fours[8 + c], fours[12 + c]);
        let even = [
            f._mm512_shuffle_i32x4::<0x88>(a, b),
            f._mm512_shuffle_i32x4::<0x88>(d, e),
        ];
        let odd = [
            f._mm512_shuffle_i32x4::<0xDD>(a, b),
            f._mm512_shuffle_i32x4::<0xDD>(d, e),
        ];
        to[c] = pulp::cast(f._mm512_shuffle_i32x4::<0x88>(even[0], even[1]));
        to[c + 4] = pulp::cast(f._mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]));
        to[c + 8] = pulp::cast(f._mm512_shuffle_i32x4::<0xDD>(even[0], even[1]));
        to[c + 12] = pulp::cast(f._mm512_shuffle_i32x4::<0xDD>(odd[0], odd[1]));
    }
}

/// One that stays none when it is rounded.
const NAN: u32 = 0x7FC0_0000;
/// How much of the inner dimension is packed at a time.
const DEPTH: usize = 640;
/// How many numbers of the right factor are packed at a time: half a MiB of them.
const PACKED: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::kernel::product::{View, multiplied as whole};
    use crate::learn::peft::uniform;

    #[test]
    fn products_of_any_shape_are_those_of_the_rounded_factors() {
        if !there() {
            crate::cli::note("SKIPPED: this processor has no tiles");
            return;
        }
        let rounded = |x: &[f32]| -> Vec<bf16> { x.iter().map(|x| bf16::from_f32(*x)).collect() };
        let widened = |x: &[bf16]| -> Vec<f32> { x.iter().map(|x| x.to_f32()).collect() };
        for (rows, inside, cols) in [
            (1, 1, 1),
            (32, 32, 32),
            (33, 31, 65),
            (7, 1300, 40),
            (70, 96, 9000),
            (40, 641, 1),
        ] {
            let mut a = vec![0.0; rows * inside];
            let mut b = vec![0.0; inside * cols];
            uniform([1; 32], 1.0, &mut a);
            uniform([2; 32], 1.0, &mut b);
            let (left, right) = (widened(&rounded(&a)), rounded(&b));
            let wide = widened(&right);
            for transposed in [false, true] {
                let (stored, matrix) = if transposed {
                    let stored = Halves::new(&right, cols, inside).t();
                    (stored, View::new(&wide, cols, inside).t())
                } else {
                    let stored = Halves::new(&right, inside, cols);
                    (stored, View::new(&wide, inside, cols))
                };
                let want = whole(1.0, View::new(&left, rows, inside), matrix);
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    let pool = pool.build().unwrap();
                    let found = pool.install(|| multiplied(&a, stored)).unwrap();
                    let mut again = vec![f32::NAN; rows * cols];
                    assert!(pool.install(|| product(&mut again, &a, stored)));
                    assert_eq!(found, again);
                    for (want, found) in want.iter().zip(&found) {
                        let apart = (want - found).abs();
                        assert!(
                            apart < 1e-5 * (inside as f32).sqrt().max(4.0),
                            "{rows} × {inside} × {cols}: {want}, {found}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn rounding_is_that_of_bf16() {
        let mut values = vec![0.0; 1000];
        uniform([3; 32], 10.0, &mut values);
        values.extend([
            0.0,
            -0.0,
            1.0,
            f32::INFINITY,
            f32::MAX,
            1.003_906_2,
            1.011_718_8,
        ]);
        let mut rounded = vec![0; values.len()];
        round(&values, &mut rounded);
        for (value, rounded) in values.iter().zip(&rounded) {
            assert_eq!(bf16::from_f32(*value).to_bits(), *rounded, "{value}");
        }
        for bits in [
            0x7FC0_0000,
            0xFFC0_0000,
            0x7F80_0001,
            0x7FFF_FFFF,
            0xFFFF_8000,
        ] {
            round(&[f32::from_bits(bits)], &mut rounded[..1]);
            assert!(bf16::from_bits(rounded[0]).is_nan(), "{bits:x}");
        }
    }
}
