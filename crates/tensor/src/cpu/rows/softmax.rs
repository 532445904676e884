//! Softmax and log-softmax over rows.

use super::{RowFloat, Shared, for_groups, row_count, sum2};
use crate::cpu::math;
use crate::cpu::reduce::kernel::fold_body;
use crate::simd_dispatch;

/// `y = exp(x - max) / sum(exp(x - max))` over each row of `n` elements.
///
/// `x` and `y` are `[rows, n]`. A row with a NaN, with +inf, or of -inf alone gives NaN, as in
/// PyTorch.
pub fn softmax<T: RowFloat>(x: &[T], n: usize, y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    let y = Shared::new(y);
    for_groups(row_count(x, n), n, |rows| {
        let range = rows.start * n..rows.end * n;
        // SAFETY: groups are disjoint.
        softmax_group(&x[range.clone()], n, unsafe { y.part(range) });
    });
}

/// The gradient of [`softmax`] from its result: `dx = y (dy - sum(y dy))`. All are `[rows, n]`.
pub fn softmax_grad<T: RowFloat>(y: &[T], dy: &[T], n: usize, dx: &mut [T]) {
    assert!(y.len() == dy.len() && y.len() == dx.len());
    let dx = Shared::new(dx);
    for_groups(row_count(y, n), n, |rows| {
        let range = rows.start * n..rows.end * n;
        // SAFETY: groups are disjoint.
        let dx = unsafe { dx.part(range.clone()) };
        softmax_grad_group(&y[range.clone()], &dy[range], n, dx);
    });
}

/// `y = x - max - log(sum(exp(x - max)))` over each row of `n` elements; `[rows, n]` each.
pub fn log_softmax<T: RowFloat>(x: &[T], n: usize, y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    let y = Shared::new(y);
    for_groups(row_count(x, n), n, |rows| {
        let range = rows.start * n..rows.end * n;
        let mut scratch = vec![T::default(); range.len()];
        // SAFETY: groups are disjoint.
        let y = unsafe { y.part(range.clone()) };
        log_softmax_group(&x[range], n, y, &mut scratch);
    });
}

/// The gradient of [`log_softmax`] from its result: `dx = dy - exp(y) sum(dy)`. All are
/// `[rows, n]`.
pub fn log_softmax_grad<T: RowFloat>(y: &[T], dy: &[T], n: usize, dx: &mut [T]) {
    assert!(y.len() == dy.len() && y.len() == dx.len());
    let dx = Shared::new(dx);
    for_groups(row_count(y, n), n, |rows| {
        let range = rows.start * n..rows.end * n;
        // SAFETY: groups are disjoint.
        let dx = unsafe { dx.part(range.clone()) };
        log_softmax_grad_group(&y[range.clone()], &dy[range], n, dx);
    });
}

simd_dispatch! {
    pub(super) fn softmax_group<T: RowFloat>(x: &[T], n: usize, y: &mut [T]) {
        shift_by_max(x, n, y);
        for v in y.iter_mut() {
            *v = math::exp(*v);
        }
        for row in y.chunks_exact_mut(n) {
            let scale = T::from_f64(1.0 / fold_body::<T::Sum>(row));
            for v in row {
                *v = *v * scale;
            }
        }
    }

    fn softmax_grad_group<T: RowFloat>(y: &[T], dy: &[T], n: usize, dx: &mut [T]) {
        let rows = y.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n));
        for ((y, dy), dx) in rows {
            let s = T::from_f64(sum2(y, dy, |a, b| a * b));
            for ((o, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *o = y * (dy - s);
            }
        }
    }

    fn log_softmax_group<T: RowFloat>(x: &[T], n: usize, y: &mut [T], scratch: &mut [T]) {
        shift_by_max(x, n, y);
        for (e, &v) in scratch.iter_mut().zip(&*y) {
            *e = math::exp(v);
        }
        for (row, e) in y.chunks_exact_mut(n).zip(scratch.chunks_exact(n)) {
            let log = T::from_f64(math::log(fold_body::<T::Sum>(e)));
            for v in row {
                *v = *v - log;
            }
        }
    }

    fn log_softmax_grad_group<T: RowFloat>(y: &[T], dy: &[T], n: usize, dx: &mut [T]) {
        for (o, &v) in dx.iter_mut().zip(y) {
            *o = math::exp(v);
        }
        for (dx, dy) in dx.chunks_exact_mut(n).zip(dy.chunks_exact(n)) {
            let s = T::from_f64(fold_body::<T::Sum>(dy));
            for (o, &dy) in dx.iter_mut().zip(dy) {
                *o = dy - *o * s;
            }
        }
    }
}

/// `y = x - max(x)` over each row.
#[inline(always)]
pub(super) fn shift_by_max<T: RowFloat>(x: &[T], n: usize, y: &mut [T]) {
    for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
        let max = fold_body::<T::Max>(x);
        for (o, &v) in y.iter_mut().zip(x) {
            *o = v - max;
        }
    }
}
