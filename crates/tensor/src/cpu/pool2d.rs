//! Maximum and mean over windows of the last two axes, and their gradients.
//!
//! The planes (images times channels) are shared out among the threads; within a plane every
//! element is computed, and every sum added up, in one fixed order.

use super::After;
use super::pool;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};
use super::storage::Storage;
use crate::DType;
use crate::fast::Window;
use crate::simd_dispatch;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::ops::Range;

/// Which pooling to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Operand `x`. The maximum; NaN wins, and windows that see nothing give minus infinity.
    Max,
    /// Operands `x`, `dy`. The gradient goes to the first maximum (or first NaN) of each window.
    MaxGrad,
    /// Operand `x`. The mean.
    Avg,
    /// Operand `dy`.
    AvgGrad,
}

impl Pooling {
    /// Whether the operands begin with the input, and whether `dy` is one.
    fn reads(self) -> (bool, bool) {
        match self {
            Pooling::Max | Pooling::Avg => (true, false),
            Pooling::MaxGrad => (true, true),
            Pooling::AvgGrad => (false, true),
        }
    }
}

/// Runs a pooling over `planes` planes whose inputs have the sizes `input`.
///
/// `x` is `[planes, h, w]`, `dy` `[planes, oh, ow]`, both contiguous; one that the pooling does not
/// read may be null. The result (output or input gradient) goes to `out`; `after` is called for
/// disjoint ranges that cover it. Half-precision is computed in `f32` and rounded once.
///
/// # Safety
/// The operands must be readable, `out` writable for its size, of floating-point `dtype`, aligned,
/// and `out` must overlap no operand.
#[allow(clippy::too_many_arguments)]
pub unsafe fn pool2d_dyn(
    dtype: DType,
    what: Pooling,
    w: &Window,
    planes: usize,
    input: [usize; 2],
    x: *const u8,
    dy: *const u8,
    out: *mut u8,
    after: After<'_>,
) {
    macro_rules! go {
        ($t:ty) => {
            // SAFETY: passed on from the caller.
            unsafe {
                run::<$t>(
                    what,
                    w,
                    planes,
                    input,
                    x.cast(),
                    dy.cast(),
                    out.cast(),
                    after,
                )
            }
        };
    }
    match dtype {
        DType::F16 => go!(f16),
        DType::BF16 => go!(bf16),
        DType::F32 => go!(f32),
        DType::F64 => go!(f64),
        other => panic!("pooling: not defined for {other}"),
    }
}

/// A float that planes are computed in.
trait Real:
    Copy
    + PartialOrd
    + Send
    + Sync
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + 'static
{
    const ZERO: Self;
    const LOWEST: Self;
    fn count(n: usize) -> Self;
    /// The maximum over 2x2 windows side by side.
    fn max_halves(g: Geometry, x: &[Self], y: &mut [Self]) {
        max_halves(g, x, y);
    }
    /// Its gradient.
    fn max_grad_halves(g: Geometry, x: &[Self], dy: &[Self], dx: &mut [Self]) {
        max_grad_halves(g, x, dy, dx);
    }
}
macro_rules! reals {
    ($($t:ty => {$($own:tt)*})*) => {$(
        impl Real for $t {
            $($own)*
            const ZERO: Self = 0.0;
            const LOWEST: Self = Self::NEG_INFINITY;
            #[inline(always)]
            fn count(n: usize) -> Self {
                n as $t
            }
        }
    )*};
}
reals! {
    f32 => {
        fn max_halves(g: Geometry, x: &[f32], y: &mut [f32]) {
            #[cfg(target_arch = "x86_64")]
            if level() >= Level::Avx512 {
                // SAFETY: the features are there.
                return unsafe { avx512::max_halves(g, x, y) };
            }
            max_halves(g, x, y);
        }
        fn max_grad_halves(g: Geometry, x: &[f32], dy: &[f32], dx: &mut [f32]) {
            #[cfg(target_arch = "x86_64")]
            if level() >= Level::Avx512 {
                // SAFETY: the features are there.
                return unsafe { avx512::max_grad_halves(g, x, dy, dx) };
            }
            max_grad_halves(g, x, dy, dx);
        }
    }
    f64 => {}
}

/// 2x2 windows with explicit AVX-512: masks keep narrow planes, too, in vectors.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Geometry;
    use std::arch::x86_64::*;

    /// The four elements of 16 windows of two rows, each in its own vector.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn windows(top: &[f32], bottom: &[f32]) -> [__m512; 4] {
        let count = top.len().min(32);
        let even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        let mask = u32::MAX >> (32 - count);
        let split = |row: &[f32]| {
            // SAFETY: the mask lets through no more than `count` elements.
            let (low, high) = unsafe {
                (
                    _mm512_maskz_loadu_ps(mask as __mmask16, row.as_ptr()),
                    _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, row.as_ptr().wrapping_add(16)),
                )
            };
            (
                _mm512_permutex2var_ps(low, even, high),
                _mm512_permutex2var_ps(low, odd, high),
            )
        };
        let ((a, b), (c, d)) = (split(top), split(bottom));
        [a, b, c, d]
    }

    /// Where `new` replaces `old`: it is larger, or NaN and `old` is not.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn beats(new: __m512, old: __m512) -> __mmask16 {
        let larger = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(new, old);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(new, new);
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(old, old);
        larger | (nan & number)
    }

    #[target_feature(enable = "avx512f")]
    pub fn max_halves(g: Geometry, x: &[f32], y: &mut [f32]) {
        let [w, ow] = [g.input[1], g.output[1]];
        for (rows, y) in x.chunks_exact(2 * w).zip(y.chunks_exact_mut(ow)) {
            let (top, bottom) = rows.split_at(w);
            for o in (0..ow).step_by(16) {
                let cols = 2 * o..(2 * ow).min(2 * o + 32);
                let [mut best, b, c, d] = windows(&top[cols.clone()], &bottom[cols]);
                for v in [b, c, d] {
                    best = _mm512_mask_mov_ps(best, beats(v, best), v);
                }
                let y = &mut y[o..ow.min(o + 16)];
                let mask = (0xFFFFu32 >> (16 - y.len())) as __mmask16;
                // SAFETY: the mask lets through the elements of `y` alone.
                unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, best) };
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub fn max_grad_halves(g: Geometry, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let [w, ow] = [g.input[1], g.output[1]];
        if dy.is_empty() {
            return dx.fill(0.0);
        }
        let whole = g.output[0] * 2 * w;
        dx[whole..].fill(0.0);
        let low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        let rows = x.chunks_exact(2 * w).zip(dy.chunks_exact(ow));
        for ((x, dy), dx) in rows.zip(dx[..whole].chunks_exact_mut(2 * w)) {
            let (top, bottom) = x.split_at(w);
            let (to_top, to_bottom) = dx.split_at_mut(w);
            to_top[2 * ow..].fill(0.0);
            to_bottom[2 * ow..].fill(0.0);
            for o in (0..ow).step_by(16) {
                let cols = 2 * o..(2 * ow).min(2 * o + 32);
                let [a, b, c, d] = windows(&top[cols.clone()], &bottom[cols.clone()]);
                let second = beats(b, a);
                let best = _mm512_mask_mov_ps(a, second, b);
                let third = beats(c, best);
                let best = _mm512_mask_mov_ps(best, third, c);
                let fourth = beats(d, best);
                let third = third & !fourth;
                let second = second & !third & !fourth;
                let first = !(second | third | fourth);
                let dy = &dy[o..ow.min(o + 16)];
                let mask = (0xFFFFu32 >> (16 - dy.len())) as __mmask16;
                // SAFETY: the mask lets through the elements of `dy` alone.
                let dy = unsafe { _mm512_maskz_loadu_ps(mask, dy.as_ptr()) };
                let join = |row: &mut [f32], even: __mmask16, odd: __mmask16| {
                    let row = &mut row[cols.clone()];
                    let mask = u32::MAX >> (32 - row.len());
                    let (even, odd) = (_mm512_maskz_mov_ps(even, dy), _mm512_maskz_mov_ps(odd, dy));
                    // SAFETY: the masks let through the elements of `row` alone.
                    unsafe {
                        let to = row.as_mut_ptr();
                        let v = _mm512_permutex2var_ps(even, low, odd);
                        _mm512_mask_storeu_ps(to, mask as __mmask16, v);
                        let v = _mm512_permutex2var_ps(even, high, odd);
                        _mm512_mask_storeu_ps(to.wrapping_add(16), (mask >> 16) as __mmask16, v);
                    }
                };
                join(to_top, first, second);
                join(to_bottom, third, fourth);
            }
        }
    }
}

/// A stored float: lends a plane of itself in the type that it is computed in.
trait Stored: Copy + 'static {
    type As: Real;
    /// Calls `f` with `src` as numbers to compute with.
    fn read(src: &[Self], f: &mut dyn FnMut(&[Self::As]));
    /// Calls `f` with numbers to fill, and stores them in `dst`.
    fn write(dst: &mut [Self], f: &mut dyn FnMut(&mut [Self::As]));
}
macro_rules! stored {
    ($($t:ty)*; $($h:ty)*) => {$(
        impl Stored for $t {
            type As = $t;
            fn read(src: &[Self], f: &mut dyn FnMut(&[$t])) {
                f(src);
            }
            fn write(dst: &mut [Self], f: &mut dyn FnMut(&mut [$t])) {
                f(dst);
            }
        }
    )*$(
        impl Stored for $h {
            type As = f32;
            fn read(src: &[Self], f: &mut dyn FnMut(&[f32])) {
                let copy = Storage::scratch(src.len() * 4);
                let at = copy.as_ptr().cast::<f32>();
                // SAFETY: a new block of that length.
                let copy = unsafe { std::slice::from_raw_parts_mut(at, src.len()) };
                src.convert_to_f32_slice(copy);
                f(copy);
            }
            fn write(dst: &mut [Self], f: &mut dyn FnMut(&mut [f32])) {
                let copy = Storage::zeroed(dst.len() * 4);
                let at = copy.as_ptr().cast::<f32>();
                // SAFETY: a new block of that length.
                let copy = unsafe { std::slice::from_raw_parts_mut(at, dst.len()) };
                f(copy);
                dst.convert_from_f32_slice(copy);
            }
        }
    )*};
}
stored! { f32 f64; f16 bf16 }

struct Ptr<T>(*mut T);
// SAFETY: tasks write disjoint parts of what it points to.
unsafe impl<T> Sync for Ptr<T> {}

/// # Safety
/// As for [`pool2d_dyn`].
#[allow(clippy::too_many_arguments)]
unsafe fn run<T: Stored>(
    what: Pooling,
    w: &Window,
    planes: usize,
    input: [usize; 2],
    x: *const T,
    dy: *const T,
    out: *mut T,
    after: After<'_>,
) {
    let geometry = Geometry {
        kernel: w.kernel,
        stride: w.stride,
        padding: w.padding,
        count_padding: w.count_include_pad,
        input,
        output: [w.out_size(0, input[0]), w.out_size(1, input[1])],
    };
    let (ins, outs) = (input[0] * input[1], geometry.output[0] * geometry.output[1]);
    let size = match what {
        Pooling::Max | Pooling::Avg => outs,
        Pooling::MaxGrad | Pooling::AvgGrad => ins,
    };
    if planes * size == 0 {
        return;
    }
    let (x, dy, out) = (Ptr(x.cast_mut()), Ptr(dy.cast_mut()), Ptr(out));
    let (reads_x, reads_dy) = what.reads();
    let together = (1usize << 14).div_ceil(ins.max(outs));
    pool::run_chunks(planes, together, |r| {
        let (x, dy, out) = (&x, &dy, &out);
        for plane in r.clone() {
            // SAFETY: one plane of what the caller vouches for; an operand that is not read is
            // taken as empty.
            let (x, dy, out) = unsafe {
                let slice = |p: *mut T, len: usize, used: bool| match used && len > 0 {
                    true => std::slice::from_raw_parts(p.add(plane * len).cast_const(), len),
                    false => &[],
                };
                (
                    slice(x.0, ins, reads_x),
                    slice(dy.0, outs, reads_dy),
                    std::slice::from_raw_parts_mut(out.0.add(plane * size), size),
                )
            };
            T::read(x, &mut |x| {
                T::read(dy, &mut |dy| {
                    T::write(out, &mut |out| match what {
                        Pooling::Max if geometry.is_halving() => Real::max_halves(geometry, x, out),
                        Pooling::Max => max_plane(geometry, x, out),
                        Pooling::MaxGrad if geometry.is_halving() => {
                            Real::max_grad_halves(geometry, x, dy, out);
                        }
                        Pooling::MaxGrad => max_grad_plane(geometry, x, dy, out),
                        Pooling::Avg => avg_plane(geometry, x, out),
                        Pooling::AvgGrad => avg_grad_plane(geometry, dy, out),
                    });
                });
            });
        }
        after((r.start * size..r.end * size).into());
    });
}

#[derive(Clone, Copy)]
struct Geometry {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    count_padding: bool,
    input: [usize; 2],
    output: [usize; 2],
}

impl Geometry {
    /// 2x2 windows side by side, the usual case.
    fn is_halving(&self) -> bool {
        self.kernel == [2, 2] && self.stride == [2, 2] && self.padding == [0, 0]
    }

    /// The outputs along axis `d` for which kernel element `k` falls into the input, and the input
    /// index of the first of them.
    #[inline(always)]
    fn inside(&self, d: usize, k: usize) -> (Range<usize>, usize) {
        let (s, p) = (self.stride[d], self.padding[d]);
        let begin = p.saturating_sub(k).div_ceil(s);
        let end = (self.input[d] + p).saturating_sub(k).div_ceil(s);
        let end = end.min(self.output[d]);
        match begin < end {
            true => (begin..end, begin * s + k - p),
            false => (0..0, 0),
        }
    }

    /// The input row that kernel row `k` meets at output row `y`.
    #[inline(always)]
    fn row(&self, y: usize, k: usize) -> Option<usize> {
        let at = (y * self.stride[0] + k).checked_sub(self.padding[0])?;
        (at < self.input[0]).then_some(at)
    }

    /// By how much the sum of window (`y`, `x`) is divided.
    #[inline(always)]
    fn divisor(&self, y: usize, x: usize) -> usize {
        if self.count_padding {
            return self.kernel[0] * self.kernel[1];
        }
        let along = |d: usize, o: usize| {
            let begin = o * self.stride[d];
            let end = (begin + self.kernel[d]).min(self.input[d] + self.padding[d]);
            end.saturating_sub(begin.max(self.padding[d]))
        };
        along(0, y) * along(1, x)
    }
}

/// Whether `new` replaces `old` as the maximum: the first wins a tie, and NaN wins all.
#[inline(always)]
#[allow(clippy::eq_op)]
fn beats<T: Real>(new: T, old: T) -> bool {
    (new > old) | ((new != new) & (old == old))
}

#[inline(always)]
fn larger<T: Real>(old: T, new: T) -> T {
    if beats(new, old) { new } else { old }
}

simd_dispatch! {
    fn max_halves<T: Real>(g: Geometry, x: &[T], y: &mut [T]) {
        let [w, ow] = [g.input[1], g.output[1]];
        for (rows, y) in x.chunks_exact(2 * w).zip(y.chunks_exact_mut(ow)) {
            let (top, bottom) = rows.split_at(w);
            for ((y, a), b) in y.iter_mut().zip(top.chunks_exact(2)).zip(bottom.chunks_exact(2)) {
                *y = larger(larger(larger(a[0], a[1]), b[0]), b[1]);
            }
        }
    }

    fn max_grad_halves<T: Real>(g: Geometry, x: &[T], dy: &[T], dx: &mut [T]) {
        let [w, ow] = [g.input[1], g.output[1]];
        if dy.is_empty() {
            return dx.fill(T::ZERO);
        }
        let whole = g.output[0] * 2 * w;
        dx[whole..].fill(T::ZERO);
        let rows = x.chunks_exact(2 * w).zip(dy.chunks_exact(ow));
        for ((x, dy), dx) in rows.zip(dx[..whole].chunks_exact_mut(2 * w)) {
            let (x0, x1) = x.split_at(w);
            let (d0, d1) = dx.split_at_mut(w);
            d0[2 * ow..].fill(T::ZERO);
            d1[2 * ow..].fill(T::ZERO);
            let operands = dy.iter().zip(x0.chunks_exact(2)).zip(x1.chunks_exact(2));
            let results = d0.chunks_exact_mut(2).zip(d1.chunks_exact_mut(2));
            for (((&dy, a), b), (d0, d1)) in operands.zip(results) {
                let second = beats(a[1], a[0]);
                let best = if second { a[1] } else { a[0] };
                let third = beats(b[0], best);
                let best = if third { b[0] } else { best };
                let fourth = beats(b[1], best);
                let third = third & !fourth;
                let second = second & !third & !fourth;
                let first = !(second | third | fourth);
                let pick = |this: bool| if this { dy } else { T::ZERO };
                (d0[0], d0[1]) = (pick(first), pick(second));
                (d1[0], d1[1]) = (pick(third), pick(fourth));
            }
        }
    }

    fn max_plane<T: Real>(g: Geometry, x: &[T], y: &mut [T]) {
        let (w, s) = (g.input[1], g.stride[1]);
        for (oy, y) in y.chunks_exact_mut(g.output[1]).enumerate() {
            y.fill(T::LOWEST);
            for ky in 0..g.kernel[0] {
                let Some(row) = g.row(oy, ky) else { continue };
                for kx in 0..g.kernel[1] {
                    let (range, from) = g.inside(1, kx);
                    let x = x[row * w..][..w][from..].iter().step_by(s);
                    for (y, &x) in y[range].iter_mut().zip(x) {
                        *y = larger(*y, x);
                    }
                }
            }
        }
    }

    fn max_grad_plane<T: Real>(g: Geometry, x: &[T], dy: &[T], dx: &mut [T]) {
        let (w, s, ow) = (g.input[1], g.stride[1], g.output[1]);
        dx.fill(T::ZERO);
        if dy.is_empty() {
            return;
        }
        // The best so far, and where it was found, for one row of windows.
        let mut best = vec![T::LOWEST; ow];
        let mut place = vec![usize::MAX; ow];
        for (oy, dy) in dy.chunks_exact(ow).enumerate() {
            best.fill(T::LOWEST);
            place.fill(usize::MAX);
            for ky in 0..g.kernel[0] {
                let Some(row) = g.row(oy, ky) else { continue };
                for kx in 0..g.kernel[1] {
                    let (range, from) = g.inside(1, kx);
                    for (i, o) in range.enumerate() {
                        let at = row * w + from + i * s;
                        if (place[o] == usize::MAX) | beats(x[at], best[o]) {
                            best[o] = x[at];
                            place[o] = at;
                        }
                    }
                }
            }
            for (&at, &dy) in place.iter().zip(dy) {
                if at != usize::MAX {
                    dx[at] = dx[at] + dy;
                }
            }
        }
    }

    fn avg_plane<T: Real>(g: Geometry, x: &[T], y: &mut [T]) {
        let (w, s) = (g.input[1], g.stride[1]);
        for (oy, y) in y.chunks_exact_mut(g.output[1]).enumerate() {
            y.fill(T::ZERO);
            for ky in 0..g.kernel[0] {
                let Some(row) = g.row(oy, ky) else { continue };
                for kx in 0..g.kernel[1] {
                    let (range, from) = g.inside(1, kx);
                    let x = x[row * w..][..w][from..].iter().step_by(s);
                    for (y, &x) in y[range].iter_mut().zip(x) {
                        *y = *y + x;
                    }
                }
            }
            for (ox, y) in y.iter_mut().enumerate() {
                *y = *y / T::count(g.divisor(oy, ox));
            }
        }
    }

    fn avg_grad_plane<T: Real>(g: Geometry, dy: &[T], dx: &mut [T]) {
        let (w, s, ow) = (g.input[1], g.stride[1], g.output[1]);
        dx.fill(T::ZERO);
        if dy.is_empty() {
            return;
        }
        let mut share = vec![T::ZERO; ow];
        for (oy, dy) in dy.chunks_exact(ow).enumerate() {
            for (ox, (share, &dy)) in share.iter_mut().zip(dy).enumerate() {
                *share = dy / T::count(g.divisor(oy, ox));
            }
            for ky in 0..g.kernel[0] {
                let Some(row) = g.row(oy, ky) else { continue };
                for kx in 0..g.kernel[1] {
                    let (range, from) = g.inside(1, kx);
                    let dx = dx[row * w..][..w][from..].iter_mut().step_by(s);
                    for (dx, &share) in dx.zip(&share[range]) {
                        *dx = *dx + share;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    fn numbers(len: usize) -> Vec<f64> {
        // Few distinct values, so that ties are common.
        (0..len)
            .map(|i| ((i * 7919 + i / 7) % 23) as f64 - 11.0)
            .collect()
    }

    /// The value and the gradient by going through every window.
    fn naive(
        what: Pooling,
        w: &Window,
        planes: usize,
        input: [usize; 2],
        x: &[f64],
        dy: &[f64],
    ) -> Vec<f64> {
        let [h, wd] = input;
        let (oh, ow) = (w.out_size(0, h), w.out_size(1, wd));
        let grad = matches!(what, Pooling::MaxGrad | Pooling::AvgGrad);
        let mut out = vec![0.0; planes * if grad { h * wd } else { oh * ow }];
        for p in 0..planes {
            for (oy, ox) in (0..oh * ow).map(|i| (i / ow, i % ow)) {
                let o = (p * oh + oy) * ow + ox;
                let mut seen = Vec::new();
                for (ky, kx) in
                    (0..w.kernel[0] * w.kernel[1]).map(|i| (i / w.kernel[1], i % w.kernel[1]))
                {
                    let y = (oy * w.stride[0] + ky) as isize - w.padding[0] as isize;
                    let x = (ox * w.stride[1] + kx) as isize - w.padding[1] as isize;
                    if (0..h as isize).contains(&y) && (0..wd as isize).contains(&x) {
                        seen.push((p * h + y as usize) * wd + x as usize);
                    }
                }
                let count = if w.count_include_pad {
                    w.kernel[0] * w.kernel[1]
                } else {
                    seen.len()
                };
                let best = |seen: &[usize]| {
                    let mut best = seen[0];
                    for &i in seen {
                        if x[i] > x[best] || (x[i].is_nan() && !x[best].is_nan()) {
                            best = i;
                        }
                    }
                    best
                };
                match what {
                    Pooling::Max if seen.is_empty() => out[o] = f64::NEG_INFINITY,
                    Pooling::Max => out[o] = x[best(&seen)],
                    Pooling::MaxGrad if seen.is_empty() => {}
                    Pooling::MaxGrad => out[best(&seen)] += dy[o],
                    Pooling::Avg => out[o] = seen.iter().map(|&i| x[i]).sum::<f64>() / count as f64,
                    Pooling::AvgGrad => seen.iter().for_each(|&i| out[i] += dy[o] / count as f64),
                }
            }
        }
        out
    }

    fn check<T: Element>(w: &Window, planes: usize, input: [usize; 2], nan: bool, tol: f64) {
        let ins = planes * input[0] * input[1];
        let outs = planes * w.out_size(0, input[0]) * w.out_size(1, input[1]);
        let mut x = numbers(ins);
        if nan {
            x.iter_mut().step_by(5).for_each(|x| *x = f64::NAN);
            x.iter_mut()
                .skip(1)
                .step_by(3)
                .for_each(|x| *x = f64::NEG_INFINITY);
        }
        let dy = numbers(outs);
        let typed = |v: &[f64]| v.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let (tx, tdy) = (typed(&x), typed(&dy));
        for what in [
            Pooling::Max,
            Pooling::MaxGrad,
            Pooling::Avg,
            Pooling::AvgGrad,
        ] {
            let want = naive(what, w, planes, input, &x, &dy);
            let mut first: Option<Vec<f64>> = None;
            for threads in [1, 2] {
                pool::set_threads(threads);
                let mut out = vec![T::from_f64(55.0); want.len()];
                // SAFETY: the vectors have the sizes that the window gives.
                unsafe {
                    pool2d_dyn(
                        T::DTYPE,
                        what,
                        w,
                        planes,
                        input,
                        tx.as_ptr().cast(),
                        tdy.as_ptr().cast(),
                        out.as_mut_ptr().cast(),
                        After::none(),
                    );
                }
                let out: Vec<f64> = out.iter().map(|v| v.to_f64()).collect();
                for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
                    let same = got == want || (got.is_nan() && want.is_nan());
                    let near = (got - want).abs() <= tol * (1.0 + want.abs());
                    assert!(
                        same || near,
                        "{:?} {what:?} {w:?} {input:?} at {i}: {got} not {want}",
                        T::DTYPE
                    );
                }
                let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(first.get_or_insert_with(|| out.clone())), bits(&out));
            }
        }
    }

    #[test]
    fn agrees_with_going_through_every_window() {
        for (kernel, stride, padding) in [
            ([2, 2], [2, 2], [0, 0]),
            ([3, 3], [2, 2], [1, 1]),
            ([3, 2], [1, 1], [1, 0]),
            ([1, 1], [1, 1], [0, 0]),
            ([1, 4], [3, 2], [0, 2]),
            ([5, 5], [1, 3], [2, 2]),
        ] {
            for input in [[4, 6], [7, 5], [1, 1], [28, 28], [3, 40], [9, 1]] {
                for count_include_pad in [true, false] {
                    let w = Window {
                        kernel,
                        stride,
                        padding,
                        count_include_pad,
                    };
                    for nan in [false, true] {
                        check::<f32>(&w, 3, input, nan, 1e-5);
                        check::<f64>(&w, 1, input, nan, 1e-13);
                    }
                    check::<bf16>(&w, 2, input, false, 1e-2);
                    check::<f16>(&w, 2, input, true, 2e-3);
                }
            }
        }
        let w = Window {
            kernel: [2, 2],
            stride: [2, 2],
            padding: [0, 0],
            count_include_pad: true,
        };
        check::<f32>(&w, 0, [4, 4], false, 0.0);
        check::<f32>(&w, 2, [0, 4], false, 0.0);
        check::<f32>(&w, 100, [14, 14], true, 1e-5);
    }
}
