//! Splitting `f32` into `bf16` parts, in the order in which tiles are loaded.
//!
//! A packed operand is a list of blocks of 16 lines; a block has one tile for each step of 32
//! elements and each part. In a tile of the first operand ([`Format::Rows`]) row `i` holds 32
//! elements of line `i`; in one of the second ([`Format::Pairs`]) row `r` holds elements `2 r` and
//! `2 r + 1` of each of the 16 lines. One is the other with rows and columns of 32 bits exchanged.

#![allow(clippy::needless_range_loop)] // plain loops over registers

use super::{LINES, STEP, TILE};
use crate::cpu::matmul::transpose_registers;
use crate::cpu::simd::prefetch;
use std::arch::x86_64::*;

/// For which side of the product tiles are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The first operand; its lines are rows.
    Rows,
    /// The second operand; its lines are columns.
    Pairs,
}

/// Up to two blocks of lines to be packed: element `l` of line `i` lies at `ptr + i * line + l * step`.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Element 0 of line 0.
    pub ptr: *const f32,
    /// From one line to the next, in elements.
    pub line: isize,
    /// From one element of a line to the next.
    pub step: isize,
    /// How many lines there are, at most 32.
    pub lines: usize,
    /// How many elements each has.
    pub len: usize,
}

impl Lines {
    /// Those of block `b`.
    fn block(self, b: usize) -> Lines {
        Lines {
            ptr: self.ptr.wrapping_offset((b * LINES) as isize * self.line),
            lines: LINES.min(self.lines - b * LINES),
            ..self
        }
    }
}

/// The sizes of an operand's numbers, by which it is known whether their parts give an exact product.
/// Both are magnitudes as the bits of an `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Of each line that is not zero throughout, the largest number; of these the least.
    pub least: u32,
    /// The largest number of all; infinity and NaN are larger than all others.
    pub most: u32,
}

impl Default for Extent {
    /// Of nothing at all.
    fn default() -> Self {
        Extent {
            least: u32::MAX,
            most: 0,
        }
    }
}

impl Extent {
    /// Of two operands' lines taken together.
    pub fn and(self, other: Extent) -> Extent {
        Extent {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }

    /// Of all of them taken together.
    pub fn together(all: &[Extent]) -> Extent {
        all.iter().fold(Extent::default(), |a, b| a.and(*b))
    }

    /// Whether sums of `k` products of two operands' parts are as exact as products of `f32`: no
    /// part or product that counts is too small or too large for the unit, which has the exponents
    /// of `f32` but no subnormal numbers.
    pub fn suits(self, other: Extent, k: usize) -> bool {
        let exponent = |bits: u32| (bits >> 23) as i32 - 127;
        if self.most == 0 || other.most == 0 {
            // Nothing but zeros, unless the other side makes NaN of them.
            return exponent(self.most.max(other.most)) < 127;
        }
        let largest = exponent(self.most) + exponent(other.most) + 2 + k.ilog2() as i32 + 1;
        let (a, b) = (exponent(self.least), exponent(other.least));
        let finite = exponent(self.most).max(exponent(other.most)) < 127;
        // With the largest numbers of two lines above 2^-96 together, what vanishes (2^-126 and
        // less) is below 2^-24 of what counts.
        finite && largest < 127 && a.min(b) >= -100 && a + b >= -96
    }
}

/// Packs lines, one block's tiles behind the other's, splitting each number into `parts` (1 to 3) of
/// `bf16`; lines and elements that are missing from the last tiles become zero.
///
/// # Safety
/// The lines must be readable, `dst` must have room for the tiles, and the processor must have
/// AVX-512 with `bf16`.
pub unsafe fn pack(format: Format, parts: usize, x: Lines, dst: *mut u8) -> Extent {
    // SAFETY: passed on from the caller.
    unsafe {
        match parts {
            1 => pack_parts::<1>(format, x, dst),
            2 => pack_parts::<2>(format, x, dst),
            3 => pack_parts::<3>(format, x, dst),
            _ => unreachable!("{parts} parts"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_parts<const PARTS: usize>(format: Format, x: Lines, dst: *mut u8) -> Extent {
    debug_assert!((1..=2 * LINES).contains(&x.lines));
    let mut extent = Extent::default();
    let mut see = |most: u32| {
        if most > 0 {
            extent = extent.and(Extent { least: most, most });
        }
    };
    let bytes = x.len.div_ceil(STEP) * PARTS * TILE;
    let blocks = x.lines.div_ceil(LINES);
    // SAFETY: passed on from the caller; blocks have their own lines and tiles.
    unsafe {
        if x.line == 1 && x.step != 1 {
            // What lies side by side is read together: memory comes in pairs of 64 bytes.
            let mut most = [_mm512_setzero_si512(); 2];
            for at in (0..x.len).step_by(STEP) {
                for b in 0..blocks {
                    let (x, dst) = (x.block(b), dst.add(b * bytes + at / STEP * PARTS * TILE));
                    let from = x.ptr.wrapping_offset(at as isize * x.step);
                    let len = (x.len - at).min(STEP);
                    // Whole tiles by constants, which unrolls all loops.
                    if x.lines == LINES && len == STEP {
                        along::<PARTS>(from, x.step, LINES, STEP, &mut most[b], dst);
                    } else {
                        dst.write_bytes(0, PARTS * TILE);
                        along::<PARTS>(from, x.step, x.lines, len, &mut most[b], dst);
                    }
                    if format != Format::Pairs {
                        (0..PARTS).for_each(|p| turn(dst.add(p * TILE)));
                    }
                }
            }
            for most in most {
                let mut lanes = [0u32; LINES];
                _mm512_storeu_si512(lanes.as_mut_ptr().cast(), most);
                lanes.into_iter().for_each(&mut see);
            }
            return extent;
        }
        for b in 0..blocks {
            let (x, dst) = (x.block(b), dst.add(b * bytes));
            // The largest magnitudes of line `i` are in vector `i`.
            let mut most = [_mm512_setzero_si512(); LINES];
            for at in (0..x.len).step_by(STEP) {
                let dst = dst.add(at / STEP * PARTS * TILE);
                let mut from = x.ptr.wrapping_offset(at as isize * x.step);
                let mut line = x.line;
                let len = (x.len - at).min(STEP);
                let mut near;
                if x.step != 1 {
                    near = [0f32; LINES * STEP];
                    for i in 0..x.lines {
                        let from = from.wrapping_offset(i as isize * x.line);
                        collect(from, x.step, len, &mut near[i * STEP..]);
                    }
                    (from, line) = (near.as_ptr(), STEP as isize);
                }
                if x.lines == LINES && len == STEP {
                    across::<PARTS>(from, line, LINES, STEP, &mut most, dst);
                } else {
                    dst.write_bytes(0, PARTS * TILE);
                    across::<PARTS>(from, line, x.lines, len, &mut most, dst);
                }
                if format != Format::Rows {
                    (0..PARTS).for_each(|p| turn(dst.add(p * TILE)));
                }
            }
            most.iter().for_each(|v| see(_mm512_reduce_max_epu32(*v)));
        }
    }
    extent
}

/// Elements that lie `step` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn collect(from: *const f32, step: isize, len: usize, to: &mut [f32]) {
    if step.unsigned_abs() > i32::MAX as usize / 4 / LINES {
        // SAFETY: an element that exists.
        return (0..len).for_each(|l| to[l] = unsafe { *from.wrapping_offset(l as isize * step) });
    }
    let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(step as i32));
    for l in (0..len).step_by(LINES) {
        let mask = (0xFFFFu32 >> (LINES - LINES.min(len - l))) as __mmask16;
        let from = from.wrapping_offset(l as isize * step);
        // SAFETY: the elements that exist.
        unsafe {
            let x = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, index, from);
            _mm512_mask_storeu_ps(to[l..].as_mut_ptr(), mask, x);
        }
    }
}

/// Exchanges rows and columns of a tile, which makes the one format of the other.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn turn(tile: *mut u8) {
    let mut rows = [_mm512_setzero_ps(); LINES];
    // SAFETY: the rows of the tile.
    unsafe {
        for i in 0..LINES {
            rows[i] = _mm512_loadu_ps(tile.add(i * 64).cast());
        }
        let rows = transpose_registers(rows);
        for i in 0..LINES {
            _mm512_storeu_ps(tile.add(i * 64).cast(), rows[i]);
        }
    }
}

/// The bits without the sign.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn magnitude(x: __m512) -> __m512i {
    _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFF_FFFF))
}

/// Lines whose elements lie one behind the other: a row of the tile is 32 of a line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn across<const PARTS: usize>(
    from: *const f32,
    line: isize,
    lines: usize,
    len: usize,
    most: &mut [__m512i; LINES],
    dst: *mut u8,
) {
    let mask = |n: usize| (0xFFFFu32 >> (16 - n)) as __mmask16;
    let (first, second) = (mask(len.min(16)), mask(len.saturating_sub(16)));
    // The upper halves of two vectors' elements.
    let high = _mm512_add_epi16(
        _mm512_set1_epi16(1),
        _mm512_cvtepi8_epi16(_mm256_setr_epi8(
            0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42, 44,
            46, 48, 50, 52, 54, 56, 58, 60, 62,
        )),
    );
    for i in 0..lines {
        let from = from.wrapping_offset(i as isize * line);
        // SAFETY: the elements that exist.
        let (mut a, mut b) = unsafe {
            (
                _mm512_maskz_loadu_ps(first, from),
                _mm512_maskz_loadu_ps(second, from.wrapping_add(16)),
            )
        };
        if PARTS > 1 {
            let both = _mm512_max_epu32(magnitude(a), magnitude(b));
            most[i] = _mm512_max_epu32(most[i], both);
        }
        for p in 0..PARTS {
            let (x, y) = (rounded::<PARTS>(a), rounded::<PARTS>(b));
            let both = match PARTS {
                // SAFETY: both are 64 bytes without meaning of their own.
                1 => unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a)) },
                _ => {
                    _mm512_permutex2var_epi16(_mm512_castps_si512(x), high, _mm512_castps_si512(y))
                }
            };
            // SAFETY: row `i` of the part's tile.
            unsafe { _mm512_storeu_si512(dst.add(p * TILE + i * 64).cast(), both) };
            if p + 1 < PARTS {
                (a, b) = (_mm512_sub_ps(a, x), _mm512_sub_ps(b, y));
            }
        }
    }
}

/// Elements of the sums, ahead of those that are packed, that are asked for where each is in a place of its
/// own: of 8, 16 and 32 what took least time, 0.87 to 0.93 of that without.
const AHEAD: usize = 16;

/// Lines that lie side by side: a row of the tile is two elements of every line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn along<const PARTS: usize>(
    from: *const f32,
    step: isize,
    lines: usize,
    len: usize,
    most: &mut __m512i,
    dst: *mut u8,
) {
    let mask = (0xFFFFu32 >> (16 - lines)) as __mmask16;
    for r in 0..len.div_ceil(2) {
        let element = |l: usize| match l < len {
            // SAFETY: element `l` of the lines that exist.
            true => unsafe { _mm512_maskz_loadu_ps(mask, from.wrapping_offset(l as isize * step)) },
            false => _mm512_setzero_ps(),
        };
        for l in [2 * r + AHEAD, 2 * r + AHEAD + 1] {
            prefetch(from.wrapping_offset(l as isize * step).cast());
        }
        let (mut a, mut b) = (element(2 * r), element(2 * r + 1));
        if PARTS > 1 {
            *most = _mm512_max_epu32(*most, _mm512_max_epu32(magnitude(a), magnitude(b)));
        }
        for p in 0..PARTS {
            let (x, y) = (rounded::<PARTS>(a), rounded::<PARTS>(b));
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(x));
            let both = _mm512_or_si512(low, _mm512_castps_si512(y));
            // SAFETY: row `r` of the part's tile.
            unsafe { _mm512_storeu_si512(dst.add(p * TILE + r * 64).cast(), both) };
            if p + 1 < PARTS {
                (a, b) = (_mm512_sub_ps(a, x), _mm512_sub_ps(b, y));
            }
        }
    }
}

/// `f32` numbers rounded to what `bf16` has. Where there is one part alone nothing else is looked at,
/// so that it must be right for every number; where there are more, only for finite ones, ties may
/// go anywhere, and two additions beat the conversion.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn rounded<const PARTS: usize>(x: __m512) -> __m512 {
    let bits = match PARTS {
        1 => {
            // SAFETY: both are 32 bytes without meaning of their own.
            let half = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) };
            _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))
        }
        _ => {
            let up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
            _mm512_and_si512(up, _mm512_set1_epi32(0xFFFF_0000u32 as i32))
        }
    };
    _mm512_castsi512_ps(bits)
}
