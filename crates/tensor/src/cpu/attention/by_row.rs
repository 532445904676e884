//! What attention does to rows of scores and of its operands, one after the other.

use crate::cpu::math;
use crate::cpu::matmul::Matrix;
use crate::cpu::reduce::kernel::tree;
use crate::cpu::rows::{RowFloat, sum2};
use crate::simd_dispatch;

/// Scores of a row that are handled together; rows have room for whole groups of them.
pub const LANES: usize = 16;
/// Groups that are added up before they go over into wider sums.
const DEPTH: usize = 8;

/// Which scores of a block its rows see.
#[derive(Clone, Copy)]
pub struct Seen {
    /// From one row to the next.
    pub stride: usize,
    /// Keys of the block.
    pub n: usize,
    /// How many of them row 0 sees; each row sees one more, up to all.
    pub first: usize,
}

impl Seen {
    /// How many keys row `i` sees.
    #[inline(always)]
    fn by(&self, i: usize) -> usize {
        (self.first + i).min(self.n)
    }

    /// How many scores of row `i` are computed with: whole groups.
    #[inline(always)]
    fn padded(&self, i: usize) -> usize {
        self.by(i).next_multiple_of(LANES)
    }
}

/// Rows of an array that others write to as well.
#[derive(Clone, Copy)]
pub struct Rows<T> {
    pub ptr: *mut T,
    /// From one to the next.
    pub step: usize,
    pub len: usize,
}

impl<T> Rows<T> {
    /// # Safety
    /// Row `i` exists, has been written, and is not in use elsewhere.
    pub unsafe fn row<'a>(self, i: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.step), self.len) }
    }
}

/// # Safety
/// `mask` can be read at `row.len()` elements `step` apart.
pub unsafe fn add_mask<T: RowFloat>(row: &mut [T], mask: *const T, step: isize) {
    for (j, v) in row.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *v = *v + unsafe { *mask.offset(j as isize * step) };
    }
}

simd_dispatch! {
    /// Rows of `size` elements times `scale`, one behind the other.
    pub fn scaled_copy<T: RowFloat>(from: Matrix<T>, size: usize, scale: T, to: &mut [T]) {
        for (i, to) in to.chunks_exact_mut(size).enumerate() {
            let row = from.ptr.wrapping_offset(i as isize * from.row);
            // SAFETY: elements of row `i`.
            unsafe {
                if from.col == 1 {
                    let row = std::slice::from_raw_parts(row, size);
                    to.iter_mut().zip(row).for_each(|(to, &x)| *to = x * scale);
                } else {
                    for (j, to) in to.iter_mut().enumerate() {
                        *to = *row.wrapping_offset(j as isize * from.col) * scale;
                    }
                }
            }
        }
    }

    /// Multiplies each row with a number of its own.
    pub fn rows_scaled<T: RowFloat>(rows: Rows<T>, scales: &[T]) {
        for (i, &scale) in scales.iter().enumerate() {
            // SAFETY: the caller has as many rows to himself.
            for v in unsafe { rows.row(i) } {
                *v = *v * scale;
            }
        }
    }

    /// The scalar products of contiguous rows of `len` elements.
    pub fn dots<T: RowFloat>(a: Matrix<T>, b: Matrix<T>, len: usize, to: &mut [T]) {
        for (i, to) in to.iter_mut().enumerate() {
            let [a, b] = [a, b].map(|x| {
                let row = x.ptr.wrapping_offset(i as isize * x.row);
                // SAFETY: there are as many rows, which nobody writes to.
                unsafe { std::slice::from_raw_parts(row, len) }
            });
            *to = T::from_f64(sum2(a, b, |a, b| a * b));
        }
    }

    /// What sums of exponentials give: the scale of each row, and the logarithm of the sum without
    /// the shift by the largest score. A row that sees nothing has zeros.
    pub fn finish<T: RowFloat>(largest: &[T], sum: &[f64], scale: &mut [T], log: &mut [T]) {
        for (i, &shift) in largest.iter().enumerate() {
            let blind = sum[i] == 0.0;
            let part = math::log(sum[i]);
            scale[i] = T::from_f64(if blind { 0.0 } else { 1.0 / sum[i] });
            log[i] = T::from_f64(if blind { f64::NEG_INFINITY } else { shift.to_f64() + part });
        }
    }

    /// Multiplies values with factors of their own, as far as there are factors.
    pub fn times<T: RowFloat>(values: &mut [T], seen: Seen, factors: &[T]) {
        let rows = values.chunks_exact_mut(seen.stride).zip(factors.chunks_exact(seen.n));
        for (values, factors) in rows {
            for (v, &f) in values.iter_mut().zip(factors) {
                *v = *v * f;
            }
        }
    }

    /// 0 where a number is less than `p`, and what keeps the mean elsewhere.
    pub fn kept<T: RowFloat>(numbers: &[f32], p: f64, factors: &mut [T]) {
        let (limit, scale) = (p as f32, T::from_f64(1.0 / (1.0 - p)));
        for (f, &u) in factors.iter_mut().zip(numbers) {
            *f = if u < limit { T::default() } else { scale };
        }
    }

    /// Turns rows of scores into exponentials relative to the largest score so far, which is kept
    /// together with their sum; `fade` is what earlier exponentials must be multiplied with.
    pub fn exponentials<T: RowFloat>(
        scores: &mut [T],
        seen: Seen,
        largest: &mut [T],
        sum: &mut [f64],
        fade: &mut [T],
    ) {
        let none = T::from_f64(f64::NEG_INFINITY);
        for (i, row) in scores.chunks_exact_mut(seen.stride).enumerate() {
            row[seen.by(i)..seen.padded(i)].fill(none);
            let (groups, _) = row[..seen.padded(i)].as_chunks_mut::<LANES>();
            let mut lanes = [none; LANES];
            // NaN is passed over: it makes the sum NaN, and with it the row.
            let larger = |a: T, b: T| if b > a { b } else { a };
            for group in &*groups {
                for j in 0..LANES {
                    lanes[j] = larger(lanes[j], group[j]);
                }
            }
            let max = larger(largest[i], tree(lanes, larger));
            let shift = if max == none { T::default() } else { max };
            let mut wide = [0.0f64; LANES];
            for groups in groups.chunks_mut(DEPTH) {
                let mut lanes = [T::default(); LANES];
                for group in groups {
                    for j in 0..LANES {
                        let e = math::exp(group[j] - shift);
                        group[j] = e;
                        lanes[j] = lanes[j] + e;
                    }
                }
                for j in 0..LANES {
                    wide[j] += lanes[j].to_f64();
                }
            }
            unseen(row, seen, i);
            fade[i] = math::exp(largest[i] - shift);
            largest[i] = max;
            sum[i] = sum[i] * fade[i].to_f64() + tree(wide, |a, b| a + b);
        }
    }

    /// From scores to weights, and from the weights' gradients to those of the scaled scores.
    pub fn back<T: RowFloat>(
        weights: &mut [T],
        slopes: &mut [T],
        seen: Seen,
        shift: &[T],
        along: &[T],
    ) {
        let rows = weights.chunks_exact_mut(seen.stride).zip(slopes.chunks_exact_mut(seen.stride));
        for (i, (weights, slopes)) in rows.enumerate() {
            let (by, end) = (seen.by(i), seen.padded(i));
            weights[by..end].fill(T::from_f64(f64::NEG_INFINITY));
            slopes[by..end].fill(T::default());
            let (p, _) = weights[..end].as_chunks_mut::<LANES>();
            let (d, _) = slopes[..end].as_chunks_mut::<LANES>();
            for (p, d) in p.iter_mut().zip(d) {
                for j in 0..LANES {
                    p[j] = math::exp(p[j] - shift[i]);
                    d[j] = p[j] * (d[j] - along[i]);
                }
            }
            unseen(weights, seen, i);
            unseen(slopes, seen, i);
        }
    }
}

/// What row `i` does not see has no weight.
#[inline(always)]
fn unseen<T: RowFloat>(row: &mut [T], seen: Seen, i: usize) {
    row[seen.by(i)..seen.n].fill(T::default());
}
