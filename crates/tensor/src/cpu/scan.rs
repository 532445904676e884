//! Cumulative sums, products and extremes along an axis.

use super::copy::SharedPtr;
use super::pool;
use crate::DType;
use half::{bf16, f16};

/// What is accumulated by [`scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scan {
    /// Running sum.
    Sum,
    /// Running product.
    Prod,
}

/// A contiguous `[outer, n, inner]` array, scanned along the middle.
#[derive(Clone, Copy, Debug)]
pub struct ScanSpec {
    /// The product of the sizes before the axis.
    pub outer: usize,
    /// The size of the axis.
    pub n: usize,
    /// The product of the sizes after the axis.
    pub inner: usize,
    /// From the last element to the first (the gradient of a cumulative sum is one of these).
    pub reverse: bool,
}

/// Accumulation: elements of type `T`, kept in `A` in between.
trait Step<T, A>: Sync {
    const START: A;
    fn read(x: T) -> A;
    fn join(a: A, b: A) -> A;
    fn write(a: A) -> T;
}

struct Sum;
struct Prod;
macro_rules! step {
    ($($t:ty, $a:ty: |$x:ident| $read:expr, |$w:ident| $write:expr, $zero:expr, $one:expr,
       |$p:ident, $q:ident| $add:expr, $mul:expr;)*) => {$(
        impl Step<$t, $a> for Sum {
            const START: $a = $zero;
            #[inline(always)]
            fn read($x: $t) -> $a { $read }
            #[inline(always)]
            fn join($p: $a, $q: $a) -> $a { $add }
            #[inline(always)]
            fn write($w: $a) -> $t { $write }
        }
        impl Step<$t, $a> for Prod {
            const START: $a = $one;
            #[inline(always)]
            fn read($x: $t) -> $a { $read }
            #[inline(always)]
            fn join($p: $a, $q: $a) -> $a { $mul }
            #[inline(always)]
            fn write($w: $a) -> $t { $write }
        }
    )*};
}
step! {
    f32, f64: |x| x as f64, |a| a as f32, 0.0, 1.0, |a, b| a + b, a * b;
    f64, f64: |x| x, |a| a, 0.0, 1.0, |a, b| a + b, a * b;
    f16, f32: |x| x.to_f32(), |a| f16::from_f32(a), 0.0, 1.0, |a, b| a + b, a * b;
    bf16, f32: |x| x.to_f32(), |a| bf16::from_f32(a), 0.0, 1.0, |a, b| a + b, a * b;
    i64, i64: |x| x, |a| a, 0, 1, |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    i32, i32: |x| x, |a| a, 0, 1, |a, b| a.wrapping_add(b), a.wrapping_mul(b);
    u8, u8: |x| x, |a| a, 0, 1, |a, b| a.wrapping_add(b), a.wrapping_mul(b);
}

/// Columns that one task scans side by side.
const STRIP: usize = 64;
/// The least number of elements that is worth a task of its own.
const TASK: usize = 1 << 15;
/// With fewer lines than this, long ones are cut in parts.
const ENOUGH: usize = 8;

/// Cumulative sum or product, as `torch.cumsum` and `torch.cumprod`: element `i` of the output is
/// the fold of elements `0..=i` (`i..n` in reverse) of its line.
///
/// Source and output are contiguous `[outer, n, inner]` of one type, and may be the same array.
/// `f32` accumulates in `f64`, the half types in `f32`, integers wrap.
///
/// # Safety
/// The pointers are aligned and valid for those sizes; they are equal or do not overlap.
///
/// # Panics
/// If `dtype` is `Bool`, which has no sum of its own.
pub unsafe fn scan(op: Scan, dtype: DType, spec: ScanSpec, src: *const u8, out: *mut u8) {
    macro_rules! typed {
        ($t:ty, $a:ty) => {
            // SAFETY: passed on to the caller.
            unsafe {
                match op {
                    Scan::Sum => lines::<$t, $a, Sum>(spec, src.cast(), out.cast()),
                    Scan::Prod => lines::<$t, $a, Prod>(spec, src.cast(), out.cast()),
                }
            }
        };
    }
    match dtype {
        DType::Bool => panic!("a cumulative {op:?} of bools needs an integer type"),
        DType::U8 => typed!(u8, u8),
        DType::I32 => typed!(i32, i32),
        DType::I64 => typed!(i64, i64),
        DType::F16 => typed!(f16, f32),
        DType::BF16 => typed!(bf16, f32),
        DType::F32 => typed!(f32, f64),
        DType::F64 => typed!(f64, f64),
    }
}

unsafe fn lines<T: Copy, A: Copy + Send + Sync, S: Step<T, A>>(
    spec: ScanSpec,
    src: *const T,
    out: *mut T,
) {
    let ScanSpec {
        outer,
        n,
        inner,
        reverse,
    } = spec;
    if outer * n * inner == 0 {
        return;
    }
    let (src, out) = (SharedPtr(src.cast_mut()), SharedPtr(out));
    let strip = inner.min(STRIP);
    let strips = inner.div_ceil(strip);
    let units = outer * strips;
    // Scans positions `from..to` (counted in the direction of the scan) of a unit, on from `acc`.
    let piece = |u: usize, from: usize, to: usize, acc: &mut [A], write: bool| {
        let first = (u / strips) * n * inner + (u % strips) * strip;
        let len = strip.min(inner - (u % strips) * strip);
        for k in from..to {
            let row = if reverse { n - 1 - k } else { k };
            let at = (first + row * inner) as isize;
            for (c, a) in acc[..len].iter_mut().enumerate() {
                // SAFETY: inside the array; units are disjoint, as are pieces of one unit.
                unsafe {
                    *a = S::join(*a, S::read(*src.at(at).add(c)));
                    if write {
                        *out.at(at).add(c) = S::write(*a);
                    }
                }
            }
        }
    };
    if units >= ENOUGH || n * strip < 2 * TASK {
        let per_task = (TASK / (n * strip)).max(1);
        pool::run(units.div_ceil(per_task), |t| {
            for u in t * per_task..units.min((t + 1) * per_task) {
                piece(u, 0, n, &mut [S::START; STRIP], true);
            }
        });
        return;
    }
    // Few long lines: fold each part, then scan each from what comes before it.
    let part = (TASK / strip).max(n.div_ceil(256));
    let parts = n.div_ceil(part);
    let mut starts = vec![[S::START; STRIP]; units * parts];
    let to = SharedPtr(starts.as_mut_ptr());
    pool::run(units * parts, |t| {
        let (u, p) = (t / parts, t % parts);
        // SAFETY: each task has its own element of `starts`.
        let acc = unsafe { &mut *to.at(t as isize) };
        piece(u, p * part, n.min((p + 1) * part), acc, false);
    });
    for line in starts.chunks_mut(parts) {
        let mut before = [S::START; STRIP];
        for fold in line {
            for (b, f) in before.iter_mut().zip(fold) {
                let next = S::join(*b, *f);
                *f = std::mem::replace(b, next);
            }
        }
    }
    pool::run(units * parts, |t| {
        let (u, p) = (t / parts, t % parts);
        piece(
            u,
            p * part,
            n.min((p + 1) * part),
            &mut starts[t].clone(),
            true,
        );
    });
}

/// Running maximum (or minimum) and its place, as `torch.cummax` and `torch.cummin`.
///
/// `src` and `values` are contiguous `[outer, n, inner]` of one type, `indices` the same of `i64`;
/// either output may be null if it is not wanted. Among equals the last counts, and once a NaN has
/// been met it stays (the place moves to each further NaN). `spec.reverse` scans from the end.
///
/// # Safety
/// The pointers are aligned and valid for those sizes; the outputs overlap nothing.
pub unsafe fn scan_extreme(
    largest: bool,
    dtype: DType,
    spec: ScanSpec,
    src: *const u8,
    values: *mut u8,
    indices: *mut i64,
) {
    macro_rules! typed {
        ($t:ty, |$v:ident| $nan:expr) => {
            // SAFETY: passed on to the caller.
            unsafe {
                extremes::<$t>(spec, src.cast(), values.cast(), indices, |new, $v: $t| {
                    let old = $v;
                    let old_nan = $nan;
                    let $v = new;
                    $nan || (!old_nan && if largest { new >= old } else { new <= old })
                })
            }
        };
    }
    match dtype {
        DType::Bool | DType::U8 => typed!(u8, |_v| false),
        DType::I32 => typed!(i32, |_v| false),
        DType::I64 => typed!(i64, |_v| false),
        DType::F16 => typed!(f16, |v| v.is_nan()),
        DType::BF16 => typed!(bf16, |v| v.is_nan()),
        DType::F32 => typed!(f32, |v| v.is_nan()),
        DType::F64 => typed!(f64, |v| v.is_nan()),
    }
}

unsafe fn extremes<T: Copy>(
    spec: ScanSpec,
    src: *const T,
    values: *mut T,
    indices: *mut i64,
    wins: impl Fn(T, T) -> bool + Sync,
) {
    let ScanSpec {
        outer,
        n,
        inner,
        reverse,
    } = spec;
    if outer * n * inner == 0 {
        return;
    }
    let (src, values, indices) = (
        SharedPtr(src.cast_mut()),
        SharedPtr(values),
        SharedPtr(indices),
    );
    let lines = outer * inner;
    let per_task = (TASK / n).max(1);
    pool::run(lines.div_ceil(per_task), |t| {
        for line in t * per_task..lines.min((t + 1) * per_task) {
            let first = (line / inner) * n * inner + line % inner;
            let mut place = if reverse { n - 1 } else { 0 };
            // SAFETY: all positions are inside the arrays; lines are disjoint.
            unsafe {
                let mut best = *src.at((first + place * inner) as isize);
                for k in 0..n {
                    let row = if reverse { n - 1 - k } else { k };
                    let at = (first + row * inner) as isize;
                    let x = *src.at(at);
                    if wins(x, best) {
                        (best, place) = (x, row);
                    }
                    if !values.get().is_null() {
                        *values.at(at) = best;
                    }
                    if !indices.get().is_null() {
                        *indices.at(at) = place as i64;
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    fn noise(n: usize) -> Vec<f64> {
        let mut s = 99u64;
        (0..n)
            .map(|_| {
                s = s
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (s >> 40) as f64 / 16777216.0 - 0.5
            })
            .collect()
    }

    fn specs() -> Vec<ScanSpec> {
        let sizes = [
            (1, 1, 1),
            (0, 3, 2),
            (2, 0, 2),
            (3, 17, 1),
            (3, 17, 5),
            (2, 9, 150),
            (1, 200_001, 1),
            (1, 70_000, 3),
            (9, 10_000, 1),
        ];
        sizes
            .iter()
            .flat_map(|&(outer, n, inner)| {
                [false, true].map(|reverse| ScanSpec {
                    outer,
                    n,
                    inner,
                    reverse,
                })
            })
            .collect()
    }

    fn check<T: Element>(op: Scan, spec: ScanSpec, data: &[f64], tol: f64) {
        let x: Vec<T> = data.iter().map(|&v| T::from_f64(v)).collect();
        let mut first: Option<Vec<T>> = None;
        for threads in [1, 2] {
            pool::set_threads(threads);
            let mut y = vec![T::from_f64(0.0); x.len()];
            // SAFETY: both buffers have the size of the spec.
            unsafe { scan(op, T::DTYPE, spec, x.as_ptr().cast(), y.as_mut_ptr().cast()) };
            assert!(
                first.get_or_insert_with(|| y.clone()) == &y,
                "thread counts disagree"
            );
            for line in 0..spec.outer * spec.inner {
                let mut acc = if op == Scan::Sum { 0.0 } else { 1.0 };
                for k in 0..spec.n {
                    let row = if spec.reverse { spec.n - 1 - k } else { k };
                    let at = ((line / spec.inner) * spec.n + row) * spec.inner + line % spec.inner;
                    let v = x[at].to_f64();
                    acc = if op == Scan::Sum { acc + v } else { acc * v };
                    let got = y[at].to_f64();
                    assert!(
                        (got - acc).abs() <= tol * (1.0 + acc.abs()),
                        "{op:?} {spec:?}: {got} {acc}"
                    );
                }
            }
        }
    }

    #[test]
    fn scans_agree_with_f64() {
        for spec in specs() {
            let data = noise(spec.outer * spec.n * spec.inner);
            let near_one: Vec<f64> = data.iter().map(|v| 1.0 + v * 1e-3).collect();
            let whole: Vec<f64> = data.iter().map(|v| (v * 9.0).round()).collect();
            check::<f32>(Scan::Sum, spec, &data, 1e-7);
            check::<f32>(Scan::Prod, spec, &near_one, 1e-7);
            check::<f64>(Scan::Sum, spec, &data, 1e-12);
            check::<f64>(Scan::Prod, spec, &near_one, 1e-11);
            check::<i64>(Scan::Sum, spec, &whole, 0.0);
            check::<i32>(Scan::Sum, spec, &whole, 0.0);
            if spec.n < 100 {
                check::<bf16>(Scan::Sum, spec, &data, 8e-3);
                check::<f16>(Scan::Sum, spec, &data, 1e-3);
            }
        }
    }

    #[test]
    fn running_extremes_follow_pytorch() {
        let x = [1f32, 3.0, 3.0, 2.0, f32::NAN, 9.0, f32::NAN, -1.0];
        let spec = ScanSpec {
            outer: 1,
            n: 8,
            inner: 1,
            reverse: false,
        };
        let (mut v, mut i) = ([0f32; 8], [0i64; 8]);
        // SAFETY: all buffers hold 8 elements.
        unsafe {
            let values = v.as_mut_ptr().cast();
            scan_extreme(
                true,
                DType::F32,
                spec,
                x.as_ptr().cast(),
                values,
                i.as_mut_ptr(),
            );
        }
        assert_eq!(v[..4], [1.0, 3.0, 3.0, 3.0]);
        assert!(v[4..].iter().all(|v| v.is_nan()));
        assert_eq!(i, [0, 1, 2, 2, 4, 4, 6, 6]);
        let x = [5i64, 2, 2, 7, 1, 1];
        let spec = ScanSpec {
            outer: 1,
            n: 3,
            inner: 2,
            reverse: true,
        };
        let mut i = [0i64; 6];
        // SAFETY: all buffers hold 6 elements; values are not wanted.
        unsafe {
            let none = std::ptr::null_mut();
            scan_extreme(
                false,
                DType::I64,
                spec,
                x.as_ptr().cast(),
                none,
                i.as_mut_ptr(),
            );
        }
        assert_eq!(i, [2, 2, 2, 2, 2, 2]);
    }
}
