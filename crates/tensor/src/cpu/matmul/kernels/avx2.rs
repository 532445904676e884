//! The kernels with AVX2.

use super::bodies::{bodies, columns, rounds, rows};
use super::*;
use std::arch::x86_64::*;

/// The first lanes of a vector: their number, and all ones in each.
#[derive(Clone, Copy)]
struct Part {
    lanes: usize,
    mask: __m256i,
}

#[inline]
#[target_feature(enable = "avx2")]
fn part8(lanes: usize) -> Part {
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), lane);
    Part { lanes, mask }
}
#[inline]
#[target_feature(enable = "avx2")]
fn part4(lanes: usize) -> Part {
    let lane = _mm256_setr_epi64x(0, 1, 2, 3);
    let mask = _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes as i64), lane);
    Part { lanes, mask }
}

/// # Safety
/// The lanes of `part` must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_part_ps(part: Part, p: *const f32) -> __m256 {
    // SAFETY: passed on from the caller.
    unsafe { _mm256_maskload_ps(p, part.mask) }
}
/// # Safety
/// The lanes of `part` must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_part_pd(part: Part, p: *const f64) -> __m256d {
    // SAFETY: passed on from the caller.
    unsafe { _mm256_maskload_pd(p, part.mask) }
}

/// Stores in pieces: processors take many times as long for a masked store.
///
/// # Safety
/// The lanes of `part` must be writable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_part_ps(mut p: *mut f32, part: Part, x: __m256) {
    // SAFETY: passed on from the caller.
    unsafe {
        if part.lanes == 8 {
            return _mm256_storeu_ps(p, x);
        }
        let mut x4 = _mm256_castps256_ps128(x);
        if part.lanes & 4 != 0 {
            _mm_storeu_ps(p, x4);
            p = p.add(4);
            x4 = _mm256_extractf128_ps::<1>(x);
        }
        if part.lanes & 2 != 0 {
            _mm_storel_epi64(p.cast(), _mm_castps_si128(x4));
            p = p.add(2);
            x4 = _mm_movehl_ps(x4, x4);
        }
        if part.lanes & 1 != 0 {
            _mm_store_ss(p, x4);
        }
    }
}
/// As [`store_part_ps`].
///
/// # Safety
/// The lanes of `part` must be writable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_part_pd(mut p: *mut f64, part: Part, x: __m256d) {
    // SAFETY: passed on from the caller.
    unsafe {
        if part.lanes == 4 {
            return _mm256_storeu_pd(p, x);
        }
        let mut x2 = _mm256_castpd256_pd128(x);
        if part.lanes & 2 != 0 {
            _mm_storeu_pd(p, x2);
            p = p.add(2);
            x2 = _mm256_extractf128_pd::<1>(x);
        }
        if part.lanes & 1 != 0 {
            _mm_store_sd(p, x2);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_ps(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
}
#[inline]
#[target_feature(enable = "avx2")]
fn sum_pd(x: __m256d) -> f64 {
    let x = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd::<1>(x));
    _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)))
}

bodies! {
    single: f32, 8 lanes, "avx2,fma",
    zero _mm256_setzero_ps, splat _mm256_set1_ps, fma _mm256_fmadd_ps, add _mm256_add_ps,
    load _mm256_loadu_ps, store _mm256_storeu_ps, part part8, load_part load_part_ps,
    store_part store_part_ps, sum sum_ps
}
bodies! {
    double: f64, 4 lanes, "avx2,fma",
    zero _mm256_setzero_pd, splat _mm256_set1_pd, fma _mm256_fmadd_pd, add _mm256_add_pd,
    load _mm256_loadu_pd, store _mm256_storeu_pd, part part4, load_part load_part_pd,
    store_part store_part_pd, sum sum_pd
}

/// What fits into 16 registers, for a module of [`bodies`].
macro_rules! set {
    ($m:ident, $lanes:literal lanes, transpose $transpose:ident) => {
        Kernels {
            lanes: $lanes,
            tile: [
                rows!($m::tile<[1 2 3 4 5 6 7 8 9 10 11], 1, false>),
                rows!($m::tile<[1 2 3 4 5 6], 2, false>),
                rows!($m::tile<[1 2 3], 3, false>),
            ],
            tile_by_row: [
                rows!($m::tile<[1 2 3 4 5 6 7 8], 1, true>),
                rows!($m::tile<[1 2 3 4 5 6], 2, true>),
                rows!($m::tile<[1 2 3], 3, true>),
            ],
            dots: [
                rows!($m::dots<[1 2 3 4], 1>),
                rows!($m::dots<[1 2 3 4], 2>),
                rows!($m::dots<[1 2 3], 3>),
                rows!($m::dots<[1 2], 4>),
            ],
            image: [
                [
                    rows!($m::image<[1 2 3 4 5 6], 1, 1>),
                    rows!($m::image<[1 2 3 4 5 6], 2, 1>),
                ],
                [
                    rows!($m::image<[1 2 3 4 5 6], 1, 2>),
                    rows!($m::image<[1 2 3 4 5 6], 2, 2>),
                ],
            ],
            plane: &[
                columns!($m::plane<1, [1 2 3 4 5 6 7 8]>),
                columns!($m::plane<2, [1 2 3 4]>),
                columns!($m::plane<3, [1 2 3]>),
                columns!($m::plane<4, [1 2]>),
                columns!($m::plane<5, [1 2]>),
                columns!($m::plane<6, [1 2]>),
            ],
            weight: [
                rows!($m::weight<[1 2 3 4 5 6], 1>),
                rows!($m::weight<[1 2 3 4 5 6], 2>),
            ],
            transpose: $transpose,
        }
    };
}
pub static SINGLE: Kernels<f32> = set!(single, 8 lanes, transpose transpose_single);
pub static DOUBLE: Kernels<f64> = set!(double, 4 lanes, transpose transpose_plain);

/// # Safety
/// As for [`Transpose`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_single(
    src: *const f32,
    src_step: isize,
    lines: usize,
    len: usize,
    dst: *mut f32,
    dst_step: isize,
) {
    for i in (0..lines).step_by(8) {
        let (src, dst) = (
            src.wrapping_offset(i as isize * src_step),
            dst.wrapping_add(i),
        );
        macro_rules! choose {
            ($($n:literal)*) => {
                match (lines - i).min(8) {
                    // SAFETY: passed on from the caller.
                    $($n => unsafe { transpose_lines::<$n>(src, src_step, len, dst, dst_step) },)*
                    n => unreachable!("{n} lines"),
                }
            };
        }
        choose!(1 2 3 4 5 6 7 8);
    }
}

/// [`transpose_single`] of a known number of lines.
///
/// # Safety
/// As for [`Transpose`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_lines<const LINES: usize>(
    src: *const f32,
    src_step: isize,
    len: usize,
    dst: *mut f32,
    dst_step: isize,
) {
    let lines = part8(LINES);
    for l in (0..len).step_by(8) {
        let cols = (len - l).min(8);
        let mut r = [_mm256_setzero_ps(); 8];
        for (j, r) in r.iter_mut().enumerate().take(LINES) {
            let from = src.wrapping_offset(j as isize * src_step + l as isize);
            // SAFETY: `cols` elements of line `j`.
            *r = unsafe {
                match cols {
                    8 => _mm256_loadu_ps(from),
                    _ => load_part_ps(part8(cols), from),
                }
            };
        }
        for (c, &out) in transpose_registers(r).iter().enumerate() {
            if c < cols {
                let to = dst.wrapping_offset((l + c) as isize * dst_step);
                // SAFETY: the lines of the caller's destination.
                unsafe { store_part_ps(to, lines, out) };
            }
        }
    }
}

/// Exchanges rows and columns of 8 vectors of 8.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_registers(r: [__m256; 8]) -> [__m256; 8] {
    let mut u = [_mm256_setzero_ps(); 8];
    for g in 0..2 {
        let r = &r[4 * g..4 * g + 4];
        let low = |a, b| _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
        let high = |a, b| _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
        let (t0, t1) = (low(r[0], r[1]), high(r[0], r[1]));
        let (t2, t3) = (low(r[2], r[3]), high(r[2], r[3]));
        // The 128-bit lane `q` of `u[4 g + c]` holds column `4 q + c` of rows `4 g..4 g + 4`.
        u[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(t0, t2));
        u[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(t0, t2));
        u[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(t1, t3));
        u[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(t1, t3));
    }
    let mut out = [_mm256_setzero_ps(); 8];
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(u[c], u[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(u[c], u[4 + c]);
    }
    out
}
