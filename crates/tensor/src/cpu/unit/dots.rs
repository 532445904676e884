//! The inner loops by AVX-512's dot products, 16 sums of pairs an instruction, of numbers that have one
//! part.
//!
//! Eight rows by two vectors of sums stay in registers. Their 16 instructions, none of which waits
//! for another, take eight cycles; the ten loads that they need take five.

#![allow(clippy::needless_range_loop)] // plain loops over registers

use super::{LINES, Product, Side, Sliding, TILE, Wide};
use std::arch::x86_64::*;

/// Rows of sums in registers: half a tile's.
const ROWS: usize = LINES / 2;
/// Pairs along a row of a tile.
const PAIRS: usize = 16;
/// Bytes of a pair, and of a row of pairs.
const PAIR: usize = 4;
const ROW: usize = PAIRS * PAIR;

/// Where an operand's tiles are.
trait Tiled: Copy {
    /// The tile of a step.
    unsafe fn at(&self, step: usize) -> *const u8;
    /// Bytes from one row of a tile to the next.
    fn row(&self) -> usize;
}

/// One behind the other.
#[derive(Clone, Copy)]
struct Packed(*const u8);

impl Tiled for Packed {
    #[inline(always)]
    unsafe fn at(&self, step: usize) -> *const u8 {
        self.0.wrapping_add(step * TILE)
    }
    #[inline(always)]
    fn row(&self) -> usize {
        ROW
    }
}

/// Where an operand lies.
#[derive(Clone, Copy)]
struct InPlace<'a> {
    of: &'a Sliding,
    block: usize,
}

impl Tiled for InPlace<'_> {
    #[inline(always)]
    unsafe fn at(&self, step: usize) -> *const u8 {
        let x = self.of;
        // SAFETY: the caller counts no further than there are steps.
        let offset = unsafe { *x.offsets.add(step) };
        x.sliding.wrapping_add(offset + self.block * x.block)
    }
    #[inline(always)]
    fn row(&self) -> usize {
        self.of.row
    }
}

/// 16 rows of sums of a tile's width: the first element, and elements from row to row.
type Target = (*mut f32, usize);

/// The sums of a block of the first operand with `V` of the second.
///
/// # Safety
/// All tiles must be readable, the targets writable, and the processor must have `avx512bf16`.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn sums<const V: usize>(
    steps: usize,
    a: impl Tiled,
    b: [impl Tiled; V],
    c: [Target; V],
    accumulate: bool,
) {
    for first in [0, ROWS] {
        // SAFETY: the caller's promises; each tile has `PAIRS` pairs by 16 lines.
        unsafe {
            let c = |i: usize, j: usize| c[j].0.add((first + i) * c[j].1);
            let mut acc = [[_mm512_setzero_ps(); V]; ROWS];
            if accumulate {
                for i in 0..ROWS {
                    for j in 0..V {
                        acc[i][j] = _mm512_loadu_ps(c(i, j));
                    }
                }
            }
            for step in 0..steps {
                let rows = a.at(step).add(first * a.row());
                let mut tiles = [std::ptr::null(); V];
                for j in 0..V {
                    tiles[j] = b[j].at(step);
                }
                for l in 0..PAIRS {
                    let mut vectors = [_mm512_setzero_si512(); V];
                    for j in 0..V {
                        vectors[j] = _mm512_loadu_si512(tiles[j].add(l * b[j].row()).cast());
                    }
                    for i in 0..ROWS {
                        let pair = rows.add(i * a.row() + l * PAIR).cast::<i32>();
                        let pair = pairs(_mm512_set1_epi32(pair.read_unaligned()));
                        for j in 0..V {
                            acc[i][j] = _mm512_dpbf16_ps(acc[i][j], pair, pairs(vectors[j]));
                        }
                    }
                }
            }
            for i in 0..ROWS {
                for j in 0..V {
                    _mm512_storeu_ps(c(i, j), acc[i][j]);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without meaning of their own.
    unsafe { std::mem::transmute(bits) }
}

/// [`super::multiply`] by dot products.
///
/// # Safety
/// As for [`super::multiply`].
pub unsafe fn multiply(m: usize, n: usize, p: &Product) {
    for i in 0..m {
        let c = |j: usize| (p.c.wrapping_add(i * LINES * p.c_row + j * LINES), p.c_row);
        let (a, b) = (Packed(p.a[i]), p.b.map(Packed));
        // SAFETY: passed on from the caller.
        unsafe {
            match n {
                1 => sums(p.steps, a, [b[0]], [c(0)], p.accumulate),
                _ => sums(p.steps, a, b, [c(0), c(1)], p.accumulate),
            }
        }
    }
}

/// [`super::multiply_wide`] by dot products.
///
/// # Safety
/// As for [`super::multiply_wide`].
pub unsafe fn multiply_wide(p: &Wide) {
    let c = |j: usize| (p.c.wrapping_add(j * LINES), p.c_row);
    for j in [0, 2] {
        let b = [Packed(p.b[j]), Packed(p.b[j + 1])];
        // SAFETY: passed on from the caller.
        unsafe { sums(p.steps, Packed(p.a), b, [c(j), c(j + 1)], p.accumulate) }
    }
}

/// [`super::slide`] by dot products.
///
/// # Safety
/// As for [`super::slide`].
pub unsafe fn slide(side: Side, p: usize, s: usize, x: &Sliding) {
    let packed = x.packed.map(Packed);
    let sliding = [0, 1].map(|block| InPlace { of: x, block });
    // The tile of sums of a packed and a sliding block.
    let c = |p: usize, s: usize| {
        let tile = (2 * p + s) * LINES * LINES;
        (x.sums.wrapping_add(tile), LINES)
    };
    let (steps, add) = (x.steps, x.accumulate);
    // SAFETY: passed on from the caller.
    unsafe {
        match side {
            Side::First => (0..s).for_each(|i| match p {
                1 => sums(steps, sliding[i], [packed[0]], [c(0, i)], add),
                _ => sums(steps, sliding[i], packed, [c(0, i), c(1, i)], add),
            }),
            Side::Second => (0..p).for_each(|i| match s {
                1 => sums(steps, packed[i], [sliding[0]], [c(i, 0)], add),
                _ => sums(steps, packed[i], sliding, [c(i, 0), c(i, 1)], add),
            }),
        }
    }
}
