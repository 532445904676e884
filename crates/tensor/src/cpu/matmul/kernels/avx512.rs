//! The kernels with AVX-512.

use super::bodies::{bodies, columns, rounds, rows};
use super::*;
use std::arch::x86_64::*;

#[inline(always)]
fn part16(lanes: usize) -> __mmask16 {
    (0xFFFFu32 >> (16 - lanes)) as __mmask16
}
#[inline(always)]
fn part8(lanes: usize) -> __mmask8 {
    (0xFFu32 >> (8 - lanes)) as __mmask8
}

bodies! {
    single: f32, 16 lanes, "avx512f",
    zero _mm512_setzero_ps, splat _mm512_set1_ps, fma _mm512_fmadd_ps, add _mm512_add_ps,
    load _mm512_loadu_ps, store _mm512_storeu_ps, part part16, load_part _mm512_maskz_loadu_ps,
    store_part _mm512_mask_storeu_ps, sum _mm512_reduce_add_ps
}
bodies! {
    double: f64, 8 lanes, "avx512f",
    zero _mm512_setzero_pd, splat _mm512_set1_pd, fma _mm512_fmadd_pd, add _mm512_add_pd,
    load _mm512_loadu_pd, store _mm512_storeu_pd, part part8, load_part _mm512_maskz_loadu_pd,
    store_part _mm512_mask_storeu_pd, sum _mm512_reduce_add_pd
}

/// What fits into 32 registers, for a module of [`bodies`].
macro_rules! set {
    ($m:ident, $lanes:literal lanes, transpose $transpose:ident) => {
        Kernels {
            lanes: $lanes,
            tile: [
                rows!($m::tile<[1 2 3 4 5 6 7 8 9 10 11 12 13 14], 1, false>),
                rows!($m::tile<[1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2, false>),
                rows!($m::tile<[1 2 3 4 5 6 7 8 9], 3, false>),
            ],
            tile_by_row: [
                rows!($m::tile<[1 2 3 4 5 6 7 8], 1, true>),
                rows!($m::tile<[1 2 3 4 5 6 7 8], 2, true>),
                rows!($m::tile<[1 2 3 4 5 6 7 8], 3, true>),
            ],
            dots: [
                rows!($m::dots<[1 2 3 4], 1>),
                rows!($m::dots<[1 2 3 4], 2>),
                rows!($m::dots<[1 2 3 4], 3>),
                rows!($m::dots<[1 2 3 4], 4>),
            ],
            image: [
                [
                    rows!($m::image<[1 2 3 4 5 6 7 8 9 10 11 12 13 14], 1, 1>),
                    rows!($m::image<[1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2, 1>),
                ],
                [
                    rows!($m::image<[1 2 3 4 5 6 7 8 9 10 11 12 13 14], 1, 2>),
                    rows!($m::image<[1 2 3 4 5 6 7 8 9 10 11 12 13 14], 2, 2>),
                ],
            ],
            plane: &[
                columns!($m::plane<1, [1 2 3 4 5 6 7 8]>),
                columns!($m::plane<2, [1 2 3 4 5 6 7 8]>),
                columns!($m::plane<3, [1 2 3 4 5 6 7 8]>),
                columns!($m::plane<4, [1 2 3]>),
                columns!($m::plane<5, [1 2 3]>),
                columns!($m::plane<6, [1 2 3]>),
                columns!($m::plane<7, [1 2 3]>),
                columns!($m::plane<8, [1 2 3]>),
            ],
            weight: [
                rows!($m::weight<[1 2 3 4 5 6 7 8], 1>),
                rows!($m::weight<[1 2 3 4 5 6 7 8], 2>),
            ],
            transpose: $transpose,
        }
    };
}
pub static SINGLE: Kernels<f32> = set!(single, 16 lanes, transpose transpose_single);
pub static DOUBLE: Kernels<f64> = set!(double, 8 lanes, transpose transpose_plain);

/// # Safety
/// As for [`Transpose`].
#[target_feature(enable = "avx512f")]
unsafe fn transpose_single(
    src: *const f32,
    src_step: isize,
    lines: usize,
    len: usize,
    dst: *mut f32,
    dst_step: isize,
) {
    let store = part16(lines);
    let mut l = 0;
    while l < len {
        let cols = (len - l).min(16);
        let load = part16(cols);
        let mut r = [_mm512_setzero_ps(); 16];
        for (i, r) in r.iter_mut().enumerate() {
            if i < lines {
                let from = src.wrapping_offset(i as isize * src_step + l as isize);
                // SAFETY: `cols` elements of line `i`.
                *r = unsafe { _mm512_maskz_loadu_ps(load, from) };
            }
        }
        let out = transpose_registers(r);
        for (c, &out) in out.iter().enumerate() {
            if c < cols {
                let to = dst.wrapping_offset((l + c) as isize * dst_step);
                // SAFETY: `lines` elements of the caller's destination.
                unsafe { _mm512_mask_storeu_ps(to, store, out) };
            }
        }
        l += 16;
    }
}

/// Exchanges rows and columns of 16 vectors of 16.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn transpose_registers(r: [__m512; 16]) -> [__m512; 16] {
    let mut u = [_mm512_setzero_ps(); 16];
    for g in 0..4 {
        let r = &r[4 * g..4 * g + 4];
        let low = |a, b| _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let high = |a, b| _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let (t0, t1) = (low(r[0], r[1]), high(r[0], r[1]));
        let (t2, t3) = (low(r[2], r[3]), high(r[2], r[3]));
        // The 128-bit lane `q` of `u[4 g + c]` holds column `4 q + c` of rows `4 g..4 g + 4`.
        u[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(t0, t2));
        u[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(t0, t2));
        u[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(t1, t3));
        u[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(t1, t3));
    }
    let mut out = [_mm512_setzero_ps(); 16];
    for c in 0..4 {
        let even01 = _mm512_shuffle_f32x4::<0x88>(u[c], u[4 + c]);
        let odd01 = _mm512_shuffle_f32x4::<0xDD>(u[c], u[4 + c]);
        let even23 = _mm512_shuffle_f32x4::<0x88>(u[8 + c], u[12 + c]);
        let odd23 = _mm512_shuffle_f32x4::<0xDD>(u[8 + c], u[12 + c]);
        out[c] = _mm512_shuffle_f32x4::<0x88>(even01, even23);
        out[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd01, odd23);
        out[8 + c] = _mm512_shuffle_f32x4::<0xDD>(even01, even23);
        out[12 + c] = _mm512_shuffle_f32x4::<0xDD>(odd01, odd23);
    }
    out
}
