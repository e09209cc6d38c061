//! The processor's AMX tiles: sums of products of bf16, in f32, in squares of 32 × 32.
//!
//! Intel Architecture Instruction Set Extensions, chapter 3. A tile has 16 rows of 64 bytes. The sums of a square lie
//! in four of the eight tiles, the factors pass through the others. Subnormal numbers count as zeros.

use std::arch::asm;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Rows and columns of a square, and how far one step goes along the inner dimension.
pub(super) const SIDE: usize = 32;

/// What the sums of a square start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Zero.
    Zero,
    /// What is there.
    Kept,
}

/// The tiles of this thread, ready until dropped: they stay on it.
#[derive(Debug)]
pub(super) struct Tiles(PhantomData<*const ()>);

/// The shapes of the tiles, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles of the only palette, each as large as it can be.
static WHOLE: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Tiles {
    /// Whether this process may use them.
    pub(super) fn there() -> bool {
        static THERE: OnceLock<bool> = OnceLock::new();
        *THERE.get_or_init(asked_for)
    }

    /// Makes them ready on this thread.
    pub(super) fn ready() -> Option<Self> {
        if !Self::there() {
            return None;
        }
        #[expect(unsafe_code, reason = "no stable intrinsic has tiles")]
        // SAFETY: the processor has tiles and the system lets this process use them.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, readonly));
        }
        Some(Self(PhantomData))
    }

    /// `c = a · b` or `c += a · b`: `a` has 32 rows of `32 · steps` bf16, `a_stride` apart; `b` has for each step twice
    /// 16 columns, each as 16 rows of neighbouring pairs along the inner dimension; `c` has 32 rows, `c_stride` apart,
    /// of which all 32 columns are written.
    ///
    /// # Panics
    /// If one of them is too short.
    #[expect(
        clippy::unused_self,
        reason = "who has it has made the tiles of this thread ready"
    )]
    pub(super) fn square(
        &self,
        steps: usize,
        (a, a_stride): (&[u16], usize),
        b: &[u16],
        (c, c_stride): (&mut [MaybeUninit<f32>], usize),
        start: Start,
    ) {
        let inside = steps * SIDE;
        assert!(steps > 0 && a_stride >= inside && c_stride >= SIDE);
        assert!(a.len() >= (SIDE - 1) * a_stride + inside, "the left factor");
        assert!(b.len() >= inside * SIDE, "the right factor");
        assert!(c.len() >= (SIDE - 1) * c_stride + SIDE, "the sums");
        let lower_a = a[SIDE / 2 * a_stride..].as_ptr();
        let (upper, lower) = c.split_at_mut(SIDE / 2 * c_stride);
        let (upper, lower) = (upper.as_mut_ptr(), lower.as_mut_ptr());
        let c_bytes = c_stride * size_of::<f32>();
        macro_rules! sums {
            ($($first:literal),*) => {
                asm!(
                    $($first,)*
                    "2:",
                    "tileloadd tmm4, [{a} + {a_bytes}]",
                    "tileloadd tmm6, [{b} + {b_bytes}]",
                    "tileloadd tmm7, [{b} + {b_bytes} + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{lower_a} + {a_bytes}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a}, 64",
                    "add {lower_a}, 64",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{upper} + {c}], tmm0",
                    "tilestored [{upper} + {c} + 64], tmm1",
                    "tilestored [{lower} + {c}], tmm2",
                    "tilestored [{lower} + {c} + 64], tmm3",
                    a = inout(reg) a.as_ptr() => _,
                    lower_a = inout(reg) lower_a => _,
                    b = inout(reg) b.as_ptr() => _,
                    steps = inout(reg) steps => _,
                    a_bytes = in(reg) a_stride * size_of::<u16>(),
                    b_bytes = in(reg) 64_usize,
                    upper = in(reg) upper, lower = in(reg) lower, c = in(reg) c_bytes,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            };
        }
        #[expect(unsafe_code, reason = "no stable intrinsic has tiles")]
        // SAFETY: the tiles of this thread are ready; by the checks above all that is read and written lies in the
        // slices. With `Start::Kept` the caller has had the sums written before; they are bits that count as numbers.
        unsafe {
            match start {
                Start::Zero => {
                    sums!(
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3"
                    );
                }
                Start::Kept => sums!(
                    "tileloadd tmm0, [{upper} + {c}]",
                    "tileloadd tmm1, [{upper} + {c} + 64]",
                    "tileloadd tmm2, [{lower} + {c}]",
                    "tileloadd tmm3, [{lower} + {c} + 64]"
                ),
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "no stable intrinsic has tiles")]
        // SAFETY: whoever has made them ready has them.
        unsafe {
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}

/// Asks the system for them, where the processor has them: their registers are large, so Linux wants to be asked.
fn asked_for() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    const REQUEST: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    if features & (BF16 | TILES) != BF16 | TILES {
        return false;
    }
    #[expect(unsafe_code, reason = "a system call")]
    // SAFETY: arch_prctl with ARCH_REQ_XCOMP_PERM touches no memory of this process; an old system refuses it.
    let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) };
    answer == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_the_sum_of_its_products_on_top_of_what_was_there() {
        let Some(tiles) = Tiles::ready() else {
            crate::cli::note("SKIPPED: this processor has no tiles");
            return;
        };
        // Small whole numbers: exact in bf16 and f32.
        let (steps, a_stride, c_stride) = (3, 3 * SIDE + 5, SIDE + 3);
        let number = |i: usize| half::bf16::from_f32((i * 7 % 11) as f32 - 5.0).to_bits();
        let value = |bits: u16| half::bf16::from_bits(bits).to_f32();
        let a: Vec<u16> = (0..SIDE * a_stride).map(number).collect();
        let b: Vec<u16> = (0..steps * SIDE * SIDE).map(|i| number(i + 3)).collect();
        let mut c = vec![MaybeUninit::new(1.0f32); SIDE * c_stride];
        for (start, before, times) in [(Start::Zero, 0.0, 1.0), (Start::Kept, 0.0, 2.0)] {
            tiles.square(steps, (&a, a_stride), &b, (&mut c, c_stride), start);
            for row in 0..SIDE {
                for column in 0..SIDE {
                    let sum: f32 = (0..steps * SIDE)
                        .map(|k| {
                            let (step, k_in) = (k / SIDE, k % SIDE);
                            let at = step * SIDE * SIDE
                                + column / 16 * 512
                                + k_in / 2 * 32
                                + column % 16 * 2
                                + k_in % 2;
                            value(a[row * a_stride + k]) * value(b[at])
                        })
                        .sum();
                    #[expect(unsafe_code, reason = "all were written at the start")]
                    // SAFETY: as said.
                    let found = unsafe { c[row * c_stride + column].assume_init() };
                    assert!(
                        (found - before - times * sum).abs() < 1e-3,
                        "{row}, {column}"
                    );
                }
            }
        }
    }
}
