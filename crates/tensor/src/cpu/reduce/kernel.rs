//! The innermost loops of reductions.
//!
//! A reduction has three accumulators. *Lanes*: a fixed number of them whatever the instruction
//! set, so that the bits do not depend on it; each takes at most 16 elements in a row. *Wide*:
//! lanes, joined to a few, go over into it (`f64` for an `f32` sum) after those. *Parts*: wide
//! results of fixed chunks, merged pairwise. So an `f32` sum is as good as one in `f64` that was
//! rounded a few times on the way, at the speed of `f32` additions.

use crate::simd_dispatch;

/// One reduction of one element type.
pub trait Kernel: 'static + Sync {
    /// The elements.
    type In: Copy + Send + Sync;
    /// What a lane accumulates.
    type Lane: Copy + Send + Sync;
    /// What blocks and chunks accumulate.
    type Wide: Copy + Send + Sync;
    /// The neutral lane.
    const LANE: Self::Lane;
    /// The neutral wide value.
    const WIDE: Self::Wide;
    /// A lane that has taken one element.
    fn lane(x: Self::In) -> Self::Lane;
    /// Takes in one element.
    fn push(lane: Self::Lane, x: Self::In) -> Self::Lane;
    /// Joins two lanes.
    fn join(a: Self::Lane, b: Self::Lane) -> Self::Lane;
    /// Goes from lane to wide.
    fn widen(a: Self::Lane) -> Self::Wide;
    /// Joins two wide values.
    fn merge(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// Rounds the result.
    fn narrow(a: Self::Wide) -> Self::In;
}

macro_rules! kernel {
    ($($name:ident: $in:ty, $lane:ty, $wide:ty, $lane0:expr, $wide0:expr,
       |$a:ident, $b:ident| $join:expr;)*) => {$(
        pub struct $name;
        impl Kernel for $name {
            type In = $in;
            type Lane = $lane;
            type Wide = $wide;
            const LANE: $lane = $lane0;
            const WIDE: $wide = $wide0;
            #[inline(always)]
            fn lane(x: $in) -> $lane { x as $lane }
            #[inline(always)]
            fn push($a: $lane, x: $in) -> $lane { let $b = x as $lane; $join }
            #[inline(always)]
            fn join($a: $lane, $b: $lane) -> $lane { $join }
            #[inline(always)]
            fn widen(a: $lane) -> $wide { a as $wide }
            #[inline(always)]
            fn merge($a: $wide, $b: $wide) -> $wide { $join }
            #[inline(always)]
            fn narrow(a: $wide) -> $in { a as $in }
        }
    )*};
}
kernel! {
    SumF32: f32, f32, f64, 0.0, 0.0, |a, b| a + b;
    SumF64: f64, f64, f64, 0.0, 0.0, |a, b| a + b;
    SumI64: i64, i64, i64, 0, 0, |a, b| a.wrapping_add(b);
    // Products leave the range of f32 long before they lose digits: keep them in f64 throughout.
    ProdF32: f32, f64, f64, 1.0, 1.0, |a, b| a * b;
    ProdF64: f64, f64, f64, 1.0, 1.0, |a, b| a * b;
    ProdI64: i64, i64, i64, 1, 1, |a, b| a.wrapping_mul(b);
    // A NaN enters (b != b) and stays (no comparison with it holds).
    MaxF32: f32, f32, f32, f32::NEG_INFINITY, f32::NEG_INFINITY,
        |a, b| if b > a || b.is_nan() { b } else { a };
    MaxF64: f64, f64, f64, f64::NEG_INFINITY, f64::NEG_INFINITY,
        |a, b| if b > a || b.is_nan() { b } else { a };
    MinF32: f32, f32, f32, f32::INFINITY, f32::INFINITY,
        |a, b| if b < a || b.is_nan() { b } else { a };
    MinF64: f64, f64, f64, f64::INFINITY, f64::INFINITY,
        |a, b| if b < a || b.is_nan() { b } else { a };
    MaxI64: i64, i64, i64, i64::MIN, i64::MIN, |a, b| a.max(b);
    MinI64: i64, i64, i64, i64::MAX, i64::MAX, |a, b| a.min(b);
    MaxI32: i32, i32, i32, i32::MIN, i32::MIN, |a, b| a.max(b);
    MinI32: i32, i32, i32, i32::MAX, i32::MAX, |a, b| a.min(b);
    MaxU8: u8, u8, u8, 0, 0, |a, b| a.max(b);
    MinU8: u8, u8, u8, 255, 255, |a, b| a.min(b);
}

/// Lanes of a contiguous fold: four AVX-512 registers of `f32`.
pub(in crate::cpu) const LANES: usize = 64;
/// Elements that a lane takes before it goes over into its wide accumulator.
pub(in crate::cpu) const DEPTH: usize = 8;
/// Rows that a column fold takes between two flushes of its lanes.
pub(in crate::cpu) const FLUSH: usize = 16;

/// Lanes that are left when they go over into wide accumulators: widening all of them takes longer
/// than a short row.
pub(in crate::cpu) const WIDE: usize = 8;

/// Joins lanes as a tree until `M` are left.
#[inline(always)]
pub(in crate::cpu) fn joined<T: Copy, const N: usize, const M: usize>(
    mut lanes: [T; N],
    join: impl Fn(T, T) -> T,
) -> [T; M] {
    let mut half = N / 2;
    while half >= M {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    std::array::from_fn(|i| lanes[i])
}

/// Joins all lanes as a tree.
#[inline(always)]
pub(in crate::cpu) fn tree<T: Copy, const N: usize>(lanes: [T; N], join: impl Fn(T, T) -> T) -> T {
    joined::<T, N, 1>(lanes, join)[0]
}

/// The fold of one run, for use inside a dispatched function.
#[inline(always)]
pub(in crate::cpu) fn fold_body<K: Kernel>(x: &[K::In]) -> K::Wide {
    let (full, rest) = x.as_chunks::<LANES>();
    let mut result = K::WIDE;
    if !full.is_empty() {
        let mut wide = [K::WIDE; WIDE];
        for group in full.chunks(DEPTH) {
            let mut lanes = [K::LANE; LANES];
            for chunk in group {
                for i in 0..LANES {
                    lanes[i] = K::push(lanes[i], chunk[i]);
                }
            }
            let lanes: [K::Lane; WIDE] = joined(lanes, K::join);
            for i in 0..WIDE {
                wide[i] = K::merge(wide[i], K::widen(lanes[i]));
            }
        }
        result = tree(wide, K::merge);
    }
    // Scalar steps for the last few: cheaper than a detour through memory to a full register.
    let (eights, rest) = rest.as_chunks::<8>();
    if !eights.is_empty() {
        let mut lanes = [K::LANE; 8];
        for chunk in eights {
            for i in 0..8 {
                lanes[i] = K::push(lanes[i], chunk[i]);
            }
        }
        result = K::merge(result, K::widen(tree(lanes, K::join)));
    }
    if !rest.is_empty() {
        let lane = rest.iter().fold(K::LANE, |a, &v| K::push(a, v));
        result = K::merge(result, K::widen(lane));
    }
    result
}

simd_dispatch! {
    /// The fold of one run.
    pub(in crate::cpu) fn fold<K: Kernel>(x: &[K::In]) -> K::Wide {
        fold_body::<K>(x)
    }

    /// The folds of the rows of a contiguous `[out.len(), n]`.
    pub(in crate::cpu) fn fold_rows<K: Kernel>(x: &[K::In], n: usize, out: &mut [K::Wide]) {
        for (row, o) in x.chunks_exact(n).zip(out) {
            *o = fold_body::<K>(row);
        }
    }

    /// Takes one row into a row of lanes.
    pub(in crate::cpu) fn push_row<K: Kernel>(lanes: &mut [K::Lane], x: &[K::In]) {
        for (a, &v) in lanes.iter_mut().zip(x) {
            *a = K::push(*a, v);
        }
    }

    /// Takes four rows into a row of lanes, as a small tree.
    pub(in crate::cpu) fn push_4_rows<K: Kernel>(lanes: &mut [K::Lane], x: [&[K::In]; 4]) {
        let n = lanes.len();
        let [a, b, c, d] = x.map(|r| &r[..n]);
        for i in 0..n {
            let left = K::push(K::lane(a[i]), b[i]);
            let right = K::push(K::lane(c[i]), d[i]);
            lanes[i] = K::join(lanes[i], K::join(left, right));
        }
    }

    /// Moves a row of lanes into a row of wide values.
    pub(in crate::cpu) fn flush<K: Kernel>(wide: &mut [K::Wide], lanes: &mut [K::Lane]) {
        for (w, a) in wide.iter_mut().zip(lanes) {
            *w = K::merge(*w, K::widen(*a));
            *a = K::LANE;
        }
    }

    /// Merges a row of wide values into another.
    pub(in crate::cpu) fn merge_row<K: Kernel>(into: &mut [K::Wide], from: &[K::Wide]) {
        for (a, &b) in into.iter_mut().zip(from) {
            *a = K::merge(*a, b);
        }
    }
}

/// Merges parts pairwise, so that the error grows with the logarithm of their number.
pub(in crate::cpu) fn merge_all<K: Kernel>(parts: &[K::Wide]) -> K::Wide {
    match parts {
        [] => K::WIDE,
        [one] => *one,
        _ => {
            let (a, b) = parts.split_at(parts.len() / 2);
            K::merge(merge_all::<K>(a), merge_all::<K>(b))
        }
    }
}
