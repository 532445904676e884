//! Layer normalisation (Ba, Kiros and Hinton 2016) over rows.

use super::{PARTS, RowFloat, Shared, TASK, for_groups, row_count, sum2};
use crate::cpu::pool;
use crate::cpu::reduce::kernel::{FLUSH, flush, fold_body, merge_row};
use crate::simd_dispatch;

/// `y = (x - mean) / sqrt(var + eps) * weight + bias` over each row of `n` elements, with the
/// biased variance, as `torch.nn.functional.layer_norm`.
///
/// `x` and `y` are `[rows, n]`, `weight` and `bias` `[n]`.
pub fn layer_norm<T: RowFloat>(
    x: &[T],
    n: usize,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
    eps: f64,
    y: &mut [T],
) {
    assert_eq!(x.len(), y.len());
    for v in [weight, bias].into_iter().flatten() {
        assert_eq!(v.len(), n);
    }
    let y = Shared::new(y);
    for_groups(row_count(x, n), n, |rows| {
        let range = rows.start * n..rows.end * n;
        // SAFETY: groups are disjoint.
        let y = unsafe { y.part(range.clone()) };
        forward_group(&x[range], n, weight, bias, eps, y);
    });
}

/// Where [`layer_norm_grad`] writes; `None` is not computed.
#[derive(Default)]
pub struct LayerNormGrad<'a, T> {
    /// Gradient of the input, `[rows, n]`.
    pub dx: Option<&'a mut [T]>,
    /// Gradient of the weight, `[n]`.
    pub dweight: Option<&'a mut [T]>,
    /// Gradient of the bias, `[n]`.
    pub dbias: Option<&'a mut [T]>,
}

/// The gradients of [`layer_norm`] from its input `x` and `dy`, both `[rows, n]`.
///
/// With `g = dy * weight` and the normalised input `h`: `dx = (g - mean(g) - h mean(g h)) /
/// sqrt(var + eps)`, `dweight = sum(dy h)` and `dbias = sum(dy)` over the rows. The statistics are
/// computed again, which costs less than reading them from memory would save.
pub fn layer_norm_grad<T: RowFloat>(
    x: &[T],
    n: usize,
    weight: Option<&[T]>,
    eps: f64,
    dy: &[T],
    out: LayerNormGrad<'_, T>,
) {
    assert_eq!(x.len(), dy.len());
    assert!(weight.is_none_or(|w| w.len() == n));
    let rows = row_count(x, n);
    let dx = out.dx.map(|dx| {
        assert_eq!(dx.len(), x.len());
        Shared::new(dx)
    });
    let sums = [out.dweight, out.dbias];
    let wanted = sums.iter().any(Option::is_some);
    // At least as many rows as fill the lanes once: a part costs two rows of `f64`.
    let part = (TASK / n.max(1)).max(rows.div_ceil(PARTS)).max(FLUSH);
    let parts = rows.div_ceil(part);
    let mut wide = vec![0.0f64; if wanted { parts * 2 * n } else { 0 }];
    let wide_parts = Shared::new(&mut wide);
    pool::run_chunks(rows, part, |rows| {
        let p = rows.start / part;
        let mut h = vec![T::default(); n];
        let mut g = vec![T::default(); n];
        let mut lanes = vec![T::default(); if wanted { 2 * n } else { 0 }];
        // SAFETY: each task has its own part.
        let wide = wanted.then(|| unsafe { wide_parts.part(p * 2 * n..(p + 1) * 2 * n) });
        let wide = wide.unwrap_or_default();
        for (taken, row) in rows.clone().enumerate() {
            let range = row * n..(row + 1) * n;
            let rstd = normalise_row(&x[range.clone()], eps, &mut h);
            let dy = &dy[range.clone()];
            if let Some(dx) = &dx {
                // SAFETY: each row is written by one task.
                input_grad_row(rstd, &h, weight, dy, &mut g, unsafe { dx.part(range) });
            }
            if wanted {
                push_products(&mut lanes, &h, dy);
                if taken % FLUSH == FLUSH - 1 {
                    flush::<T::Sum>(wide, &mut lanes);
                }
            }
        }
        flush::<T::Sum>(wide, &mut lanes);
    });
    let mut total = vec![0.0f64; 2 * n];
    for p in wide.chunks_exact((2 * n).max(1)) {
        merge_row::<T::Sum>(&mut total, p);
    }
    for (to, from) in sums.into_iter().zip(total.chunks(n.max(1))) {
        for (o, &s) in to.into_iter().flatten().zip(from) {
            *o = T::from_f64(s);
        }
    }
}

/// `h = (x - mean) / sqrt(var + eps)`; returns `1 / sqrt(var + eps)`.
#[inline(always)]
fn normalise<T: RowFloat>(x: &[T], eps: f64, h: &mut [T]) -> f64 {
    let n = x.len() as f64;
    let mean = T::from_f64(fold_body::<T::Sum>(x) / n);
    for (o, &v) in h.iter_mut().zip(x) {
        *o = v - mean;
    }
    let var = sum2(h, h, |a, b| a * b) / n;
    let rstd = 1.0 / (var + eps).sqrt();
    let scale = T::from_f64(rstd);
    for o in h {
        *o = *o * scale;
    }
    rstd
}

simd_dispatch! {
    fn forward_group<T: RowFloat>(
        x: &[T],
        n: usize,
        weight: Option<&[T]>,
        bias: Option<&[T]>,
        eps: f64,
        y: &mut [T],
    ) {
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            normalise(x, eps, y);
            match (weight, bias) {
                (Some(w), Some(b)) => {
                    for ((o, &w), &b) in y.iter_mut().zip(w).zip(b) {
                        *o = *o * w + b;
                    }
                }
                (Some(w), None) => y.iter_mut().zip(w).for_each(|(o, &w)| *o = *o * w),
                (None, Some(b)) => y.iter_mut().zip(b).for_each(|(o, &b)| *o = *o + b),
                (None, None) => {}
            }
        }
    }

    fn normalise_row<T: RowFloat>(x: &[T], eps: f64, h: &mut [T]) -> f64 {
        normalise(x, eps, h)
    }

    fn input_grad_row<T: RowFloat>(
        rstd: f64,
        h: &[T],
        weight: Option<&[T]>,
        dy: &[T],
        g: &mut [T],
        dx: &mut [T],
    ) {
        let n = h.len() as f64;
        match weight {
            Some(w) => g.iter_mut().zip(dy).zip(w).for_each(|((g, &d), &w)| *g = d * w),
            None => g.copy_from_slice(dy),
        }
        let mean_g = T::from_f64(fold_body::<T::Sum>(g) / n);
        let mean_gh = T::from_f64(sum2(g, h, |a, b| a * b) / n);
        let rstd = T::from_f64(rstd);
        for ((o, &g), &h) in dx.iter_mut().zip(&*g).zip(h) {
            *o = (g - mean_g - h * mean_gh) * rstd;
        }
    }

    /// Adds `dy h` to the first half of the lanes and `dy` to the second.
    fn push_products<T: RowFloat>(lanes: &mut [T], h: &[T], dy: &[T]) {
        let (first, second) = lanes.split_at_mut(h.len());
        for (((a, b), &h), &d) in first.iter_mut().zip(second).zip(h).zip(dy) {
            *a = *a + d * h;
            *b = *b + d;
        }
    }
}
