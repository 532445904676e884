//! Stable sorting along an axis.

use super::copy::SharedPtr;
use super::pool;
use crate::DType;
use half::{bf16, f16};

/// What [`sort`] works on: a contiguous `[outer, n, inner]` array, sorted along the middle.
#[derive(Clone, Copy, Debug)]
pub struct SortSpec {
    /// The product of the sizes before the axis.
    pub outer: usize,
    /// The size of the axis.
    pub n: usize,
    /// The product of the sizes after the axis.
    pub inner: usize,
    /// How many of the sorted elements to keep (`n` for a full sort, `k` for top-k).
    pub take: usize,
    /// Largest first.
    pub descending: bool,
}

/// Elements with an order-preserving map to unsigned integers.
trait Key: Copy {
    type Bits: Copy + Ord + Send + Sync;
    /// NaN is above everything and all NaNs are equal; -0 equals +0.
    fn key(self, descending: bool) -> Self::Bits;
}

macro_rules! int_key {
    ($($t:ty => $u:ty, $flip:expr;)*) => {$(
        impl Key for $t {
            type Bits = $u;
            #[inline(always)]
            fn key(self, descending: bool) -> $u {
                let k = self as $u ^ $flip;
                if descending { !k } else { k }
            }
        }
    )*};
}
int_key! { u8 => u32, 0; i32 => u32, 1 << 31; i64 => u64, 1 << 63; }

macro_rules! float_key {
    ($($t:ty => $u:ty, $bits:literal, |$v:ident| $wide:expr;)*) => {$(
        impl Key for $t {
            type Bits = $u;
            #[inline(always)]
            fn key(self, descending: bool) -> $u {
                let $v = self;
                let v = $wide;
                let b = (v + 0.0).to_bits();
                let sign = 1 << ($bits - 1);
                let k = if v.is_nan() { !0 } else if b & sign != 0 { !b } else { b | sign };
                if descending { !k } else { k }
            }
        }
    )*};
}
float_key! {
    f16 => u32, 32, |v| v.to_f32();
    bf16 => u32, 32, |v| v.to_f32();
    f32 => u32, 32, |v| v;
    f64 => u64, 64, |v| v;
}

/// A key with its place, ordered by the key first. Places differ, so that an unstable sort of
/// these is a stable sort of the elements.
trait Packed<B>: Copy + Ord + Send + Sync {
    fn pack(key: B, place: usize) -> Self;
    fn place(self) -> usize;
}
impl Packed<u32> for u64 {
    #[inline(always)]
    fn pack(key: u32, place: usize) -> u64 {
        (key as u64) << 32 | place as u64
    }
    #[inline(always)]
    fn place(self) -> usize {
        self as u32 as usize
    }
}
impl<B: Copy + Ord + Send + Sync> Packed<B> for (B, usize) {
    #[inline(always)]
    fn pack(key: B, place: usize) -> Self {
        (key, place)
    }
    #[inline(always)]
    fn place(self) -> usize {
        self.1
    }
}

/// Sorts along an axis, keeping the order of equal elements, as `torch.sort(stable=True)`.
///
/// `src` is contiguous `[outer, n, inner]`; `values` and `indices` are contiguous
/// `[outer, take, inner]`; either may be null if it is not wanted. NaN counts as larger than any number (last when
/// ascending, first when descending), as in PyTorch.
///
/// # Safety
/// The pointers are aligned and valid for those sizes; the outputs overlap nothing.
///
/// # Panics
/// If `take > n`.
pub unsafe fn sort(
    dtype: DType,
    spec: SortSpec,
    src: *const u8,
    values: *mut u8,
    indices: *mut i64,
) {
    assert!(
        spec.take <= spec.n,
        "cannot take {} of {} elements",
        spec.take,
        spec.n
    );
    macro_rules! typed {
        ($t:ty, $wide:ty) => {
            // SAFETY: passed on to the caller.
            unsafe {
                if spec.n <= u32::MAX as usize {
                    rows::<$t, $wide>(spec, src.cast(), values.cast(), indices)
                } else {
                    rows::<$t, (<$t as Key>::Bits, usize)>(spec, src.cast(), values.cast(), indices)
                }
            }
        };
    }
    match dtype {
        DType::Bool | DType::U8 => typed!(u8, u64),
        DType::I32 => typed!(i32, u64),
        DType::I64 => typed!(i64, (u64, usize)),
        DType::F16 => typed!(f16, u64),
        DType::BF16 => typed!(bf16, u64),
        DType::F32 => typed!(f32, u64),
        DType::F64 => typed!(f64, (u64, usize)),
    }
}

/// The least number of elements that is worth a task of its own.
const TASK: usize = 4096;

/// Rows longer than this are cut into pieces that are sorted in parallel and then merged.
const PIECE: usize = 1 << 16;

unsafe fn rows<T: Key, P: Packed<T::Bits>>(
    spec: SortSpec,
    src: *const T,
    values: *mut T,
    indices: *mut i64,
) {
    let SortSpec {
        outer,
        n,
        inner,
        take,
        descending,
    } = spec;
    if outer * inner * take == 0 {
        return;
    }
    let (src, values, indices) = (
        SharedPtr(src.cast_mut()),
        SharedPtr(values),
        SharedPtr(indices),
    );
    let (step, rows) = (inner, outer * inner);
    let first = |row: usize, n: usize| (row / inner * n * inner + row % inner) as isize;
    let load = |row: usize, places: std::ops::Range<usize>, to: &mut Vec<P>| {
        let from = src.at(first(row, n));
        to.clear();
        // SAFETY: places are below `n`, so the element is inside the source.
        to.extend(places.map(|p| P::pack(unsafe { *from.add(p * step) }.key(descending), p)));
    };
    let store = |row: usize, sorted: &[P], from: usize| {
        let read = src.at(first(row, n));
        let at = first(row, take) + (from * step) as isize;
        for (k, p) in sorted.iter().enumerate() {
            // SAFETY: each row writes its own `take` elements of the outputs.
            unsafe {
                if !values.get().is_null() {
                    *values.at(at).add(k * step) = *read.add(p.place() * step);
                }
                if !indices.get().is_null() {
                    *indices.at(at).add(k * step) = p.place() as i64;
                }
            }
        }
    };
    if n <= 2 * PIECE || take < n / 8 {
        let per_task = (TASK / n).max(1);
        pool::run(rows.div_ceil(per_task), |t| {
            let mut keys: Vec<P> = Vec::with_capacity(n);
            for row in t * per_task..((t + 1) * per_task).min(rows) {
                load(row, 0..n, &mut keys);
                if take < n {
                    keys.select_nth_unstable(take);
                    keys.truncate(take);
                }
                keys.sort_unstable();
                store(row, &keys, 0);
            }
        });
        return;
    }
    // Long rows, one after another: sort pieces, then merge pairs of runs.
    for row in 0..rows {
        let pieces = n.div_ceil(PIECE);
        let runs: Vec<std::sync::Mutex<Vec<P>>> = (0..pieces).map(|_| Default::default()).collect();
        pool::run(pieces, |i| {
            let mut keys = Vec::with_capacity(PIECE);
            load(row, i * PIECE..n.min((i + 1) * PIECE), &mut keys);
            keys.sort_unstable();
            *runs[i].lock().unwrap() = keys;
        });
        let mut runs: Vec<Vec<P>> = runs.into_iter().map(|r| r.into_inner().unwrap()).collect();
        while runs.len() > 1 {
            runs = merge_pairs(runs);
        }
        let sorted = &runs[0];
        pool::run(take.div_ceil(PIECE), |i| {
            let part = i * PIECE..take.min((i + 1) * PIECE);
            store(row, &sorted[part.clone()], part.start);
        });
    }
}

/// Merges neighbours of sorted runs, every merge cut into pieces for the pool.
fn merge_pairs<P: Copy + Ord + Send + Sync>(runs: Vec<Vec<P>>) -> Vec<Vec<P>> {
    let mut out = Vec::with_capacity(runs.len().div_ceil(2));
    let mut runs = runs.into_iter();
    while let (Some(a), b) = (runs.next(), runs.next()) {
        let Some(b) = b else {
            out.push(a);
            break;
        };
        let total = a.len() + b.len();
        let mut merged = vec![a[0]; total];
        {
            // Piece i takes the elements of rank i * PIECE .. of the merge.
            let cuts: Vec<usize> = (0..=total.div_ceil(PIECE))
                .map(|i| split(&a, &b, (i * PIECE).min(total)))
                .collect();
            let to = SharedPtr(merged.as_mut_ptr());
            pool::run(cuts.len() - 1, |i| {
                let (from, end) = (i * PIECE, total.min((i + 1) * PIECE));
                let (mut x, mut y) = (cuts[i], from - cuts[i]);
                // SAFETY: pieces are disjoint ranges of `merged`.
                let part =
                    unsafe { std::slice::from_raw_parts_mut(to.at(from as isize), end - from) };
                for slot in part {
                    *slot = if y == b.len() || (x < a.len() && a[x] < b[y]) {
                        x += 1;
                        a[x - 1]
                    } else {
                        y += 1;
                        b[y - 1]
                    };
                }
            });
        }
        out.push(merged);
    }
    out
}

/// How many of the `rank` smallest elements of two sorted runs (all distinct) are in the first.
fn split<P: Ord>(a: &[P], b: &[P], rank: usize) -> usize {
    let (mut lo, mut hi) = (rank.saturating_sub(b.len()), rank.min(a.len()));
    while lo < hi {
        let mid = (lo + hi) / 2;
        if a[mid] < b[rank - mid - 1] {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    lo
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    fn order(a: f64, b: f64) -> Ordering {
        match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(&b).unwrap(),
            (a, b) => a.cmp(&b),
        }
    }

    fn check<T: crate::Element>(outer: usize, n: usize, inner: usize, take: usize, data: &[T]) {
        for descending in [false, true] {
            let spec = SortSpec {
                outer,
                n,
                inner,
                take,
                descending,
            };
            let mut values = vec![T::from_f64(0.0); outer * take * inner];
            let mut indices = vec![-1i64; outer * take * inner];
            // SAFETY: the buffers have the sizes of the spec.
            unsafe {
                let v = values.as_mut_ptr().cast();
                sort(
                    T::DTYPE,
                    spec,
                    data.as_ptr().cast(),
                    v,
                    indices.as_mut_ptr(),
                )
            };
            for o in 0..outer {
                for i in 0..inner {
                    let at = |p: usize| data[(o * n + p) * inner + i].to_f64();
                    let mut want: Vec<usize> = (0..n).collect();
                    want.sort_by(|&a, &b| {
                        let c = order(at(a), at(b));
                        if descending { c.reverse() } else { c }
                    });
                    for k in 0..take {
                        let out = (o * take + k) * inner + i;
                        assert_eq!(indices[out] as usize, want[k]);
                        let (got, want) = (values[out].to_f64(), at(want[k]));
                        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
                    }
                }
            }
        }
    }

    #[test]
    fn agrees_with_a_stable_sort() {
        let specials = [
            f64::NAN,
            f64::INFINITY,
            -0.0,
            0.0,
            f64::NEG_INFINITY,
            1.0,
            -1.0,
            -f64::NAN,
        ];
        let mut state = 1u64;
        let mut value = |i: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            match (state >> 60) as usize {
                0 => specials[i % specials.len()],
                _ => ((state >> 40) % 50) as f64 - 25.0,
            }
        };
        let sizes = [
            (0, 3, 1, 3),
            (1, 0, 1, 0),
            (1, 1, 1, 1),
            (3, 17, 1, 17),
            (2, 33, 5, 33),
            (2, 33, 5, 4),
            (1, 200_003, 1, 200_003),
            (1, 200_003, 1, 9),
        ];
        for (outer, n, inner, take) in sizes {
            let data: Vec<f64> = (0..outer * n * inner).map(&mut value).collect();
            check::<f64>(outer, n, inner, take, &data);
            check::<f32>(outer, n, inner, take, &cast(&data));
            check::<i64>(outer, n, inner, take, &cast(&data));
            if n < 1000 {
                check::<f16>(outer, n, inner, take, &cast(&data));
                check::<bf16>(outer, n, inner, take, &cast(&data));
                check::<i32>(outer, n, inner, take, &cast(&data));
                check::<u8>(outer, n, inner, take, &cast(&data));
                check::<bool>(outer, n, inner, take, &cast(&data));
            }
        }
    }

    fn cast<T: crate::Element>(data: &[f64]) -> Vec<T> {
        data.iter().map(|&v| T::from_f64(v)).collect()
    }
}
