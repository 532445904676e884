//! Copying operands into the order in which the micro-kernels read them.

use std::arch::x86_64::*;

/// An element type that can be packed.
pub trait Pack: Copy + 'static {
    /// Copies `lines` lines of `len` elements, the latter contiguous, so that element `l` of line
    /// `i` lands at `dst + l * dst_step + i`. At most 16 lines.
    ///
    /// # Safety
    /// `src + i * src_step + l` must be readable, `dst` writable where named, and the processor
    /// must have AVX-512F.
    unsafe fn transpose(
        src: *const Self,
        src_step: isize,
        lines: usize,
        len: usize,
        dst: *mut Self,
        dst_step: isize,
    );
}

/// Packs a panel: element `(i, l)`, at `src + i * line + l * step`, goes to `dst[l * width + i]`,
/// for `i` in `0..lines` and `l` in `0..len`; the rest of each group of `width` becomes zero.
///
/// # Safety
/// The source must be readable at these indices, `dst` writable for `len * width` elements, and
/// the processor must have AVX-512F.
pub unsafe fn panel<T: Pack>(
    src: *const T,
    line: isize,
    step: isize,
    lines: usize,
    len: usize,
    dst: *mut T,
    width: usize,
) {
    // SAFETY: all indices stay within `lines x len` of the source and `len x width` of the panel;
    // the all-zero pattern is the number zero in both float types.
    unsafe {
        if lines < width {
            for l in 0..len {
                dst.add(l * width + lines).write_bytes(0, width - lines);
            }
        }
        if line == 1 {
            for l in 0..len {
                let from = src.wrapping_offset(l as isize * step);
                std::ptr::copy_nonoverlapping(from, dst.add(l * width), lines);
            }
        } else if step == 1 {
            for i in (0..lines).step_by(16) {
                let from = src.wrapping_offset(i as isize * line);
                let some = (lines - i).min(16);
                T::transpose(from, line, some, len, dst.add(i), width as isize);
            }
        } else {
            for l in 0..len {
                for i in 0..lines {
                    let from = i as isize * line + l as isize * step;
                    *dst.add(l * width + i) = *src.wrapping_offset(from);
                }
            }
        }
    }
}

impl Pack for f64 {
    unsafe fn transpose(
        src: *const f64,
        src_step: isize,
        lines: usize,
        len: usize,
        dst: *mut f64,
        dst_step: isize,
    ) {
        for l in 0..len {
            for i in 0..lines {
                // SAFETY: the caller vouches for these indices.
                unsafe {
                    *dst.wrapping_offset(l as isize * dst_step + i as isize) =
                        *src.wrapping_offset(i as isize * src_step + l as isize);
                }
            }
        }
    }
}

impl Pack for f32 {
    unsafe fn transpose(
        src: *const f32,
        src_step: isize,
        lines: usize,
        len: usize,
        dst: *mut f32,
        dst_step: isize,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { transpose16(src, src_step, lines, len, dst, dst_step) }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn transpose16(
    src: *const f32,
    src_step: isize,
    lines: usize,
    len: usize,
    dst: *mut f32,
    dst_step: isize,
) {
    let store = (0xFFFFu32 >> (16 - lines)) as __mmask16;
    let mut l = 0;
    while l < len {
        let cols = (len - l).min(16);
        let load = (0xFFFFu32 >> (16 - cols)) as __mmask16;
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
