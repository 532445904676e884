//! Batch normalisation (Ioffe and Szegedy 2015) over `[batch, channels, inner]`.

use super::{PARTS, RowFloat, Shared, TASK, sum2};
use crate::cpu::pool;
use crate::cpu::reduce::kernel::{FLUSH, flush, fold_body, push_row};
use crate::simd_dispatch;
use std::ops::Range;

/// Runs of one channel at least this long are walked channel by channel; shorter ones (down to
/// the single elements of `[batch, channels]`) row by row, where loops are as long as a row.
const LONG: usize = 128;

/// How a `[batch, channels, inner]` array is cut: into parts of the batch, and by channels where
/// their runs are long.
struct Cut {
    batch: usize,
    channels: usize,
    inner: usize,
    /// Samples in a part, and number of parts.
    part: usize,
    parts: usize,
}

impl Cut {
    #[track_caller]
    fn new(len: usize, channels: usize, inner: usize) -> Cut {
        let row = channels * inner;
        let batch = len.checked_div(row).unwrap_or(0);
        assert_eq!(
            batch * row,
            len,
            "{len} elements are no batch of [{channels}, {inner}]"
        );
        // A part of one channel (or of all, row by row) is about four tasks' worth of elements:
        // it stays in L2 between two passes.
        let run = if inner >= LONG { inner } else { row };
        let part = (4 * TASK / run.max(1))
            .max(batch.div_ceil(PARTS))
            .max(1)
            .min(batch.max(1));
        Cut {
            batch,
            channels,
            inner,
            part,
            parts: batch.div_ceil(part),
        }
    }

    fn by_channel(&self) -> bool {
        self.inner >= LONG
    }

    fn samples(&self, part: usize) -> Range<usize> {
        part * self.part..self.batch.min((part + 1) * self.part)
    }

    /// The number of units of work: (channel, part) pairs or parts.
    fn units(&self) -> usize {
        if self.by_channel() {
            self.channels * self.parts
        } else {
            self.parts
        }
    }

    /// Calls `f` with (channel, part) or (0, part), small units together in one task.
    fn for_units(&self, f: impl Fn(usize, usize) + Sync) {
        let size = self.part
            * if self.by_channel() {
                self.inner
            } else {
                self.channels * self.inner
            };
        pool::run_chunks(self.units(), (TASK / size.max(1)).max(1), |units| {
            for u in units {
                f(u / self.parts, u % self.parts);
            }
        });
    }

    /// The elements of one sample's channel.
    fn run(&self, sample: usize, channel: usize) -> Range<usize> {
        let at = (sample * self.channels + channel) * self.inner;
        at..at + self.inner
    }

    /// The elements of one sample.
    fn row(&self, sample: usize) -> Range<usize> {
        let row = self.channels * self.inner;
        sample * row..(sample + 1) * row
    }

    /// One value a channel, repeated for each inner element.
    fn spread<T: Copy>(&self, per_channel: &[T]) -> Vec<T> {
        per_channel
            .iter()
            .flat_map(|&v| std::iter::repeat_n(v, self.inner))
            .collect()
    }

    /// The sums of the inner elements of each channel.
    fn gather(&self, row: &[f64], sums: &mut [f64]) {
        for (sum, run) in sums.iter_mut().zip(row.chunks_exact(self.inner.max(1))) {
            *sum = run.iter().sum();
        }
    }
}

/// The mean and the biased variance of each channel of `x` (`[batch, channels, inner]`) over
/// batch and inner, in two passes over parts that stay in cache, merged by the formula of Chan,
/// Golub and LeVeque (1983). `mean` and `var` are `[channels]`; NaN over no elements.
pub fn batch_norm_stats<T: RowFloat>(
    x: &[T],
    channels: usize,
    inner: usize,
    mean: &mut [T],
    var: &mut [T],
) {
    assert!(mean.len() == channels && var.len() == channels);
    let cut = Cut::new(x.len(), channels, inner);
    // [part, channel]: the mean, and the sum of squared deviations from it.
    let mut means = vec![0.0; cut.parts * channels];
    let mut squares = vec![0.0; cut.parts * channels];
    {
        let (means, squares) = (Shared::new(&mut means), Shared::new(&mut squares));
        cut.for_units(|channel, part| {
            let samples = cut.samples(part);
            let count = (samples.len() * inner) as f64;
            let own = if cut.by_channel() {
                channel..channel + 1
            } else {
                0..channels
            };
            let own = part * channels + own.start..part * channels + own.end;
            // SAFETY: each unit has its own entries.
            let (m, s) = unsafe { (means.part(own.clone()), squares.part(own)) };
            if cut.by_channel() {
                let sum: f64 = samples
                    .clone()
                    .map(|i| total(&x[cut.run(i, channel)]))
                    .sum();
                m[0] = sum / count;
                let about = T::from_f64(m[0]);
                s[0] = samples
                    .map(|i| square_deviations(&x[cut.run(i, channel)], about))
                    .sum();
                // The deviations were from the rounded mean.
                s[0] -= count * (m[0] - about.to_f64()).powi(2);
                return;
            }
            let width = channels * inner;
            let (mut lanes, mut wide) = (vec![T::default(); width], vec![0.0; width]);
            for (k, i) in samples.clone().enumerate() {
                push_row::<T::Sum>(&mut lanes, &x[cut.row(i)]);
                if k % FLUSH == FLUSH - 1 {
                    flush::<T::Sum>(&mut wide, &mut lanes);
                }
            }
            flush::<T::Sum>(&mut wide, &mut lanes);
            cut.gather(&wide, m);
            m.iter_mut().for_each(|m| *m /= count);
            let about: Vec<T> = m.iter().map(|&m| T::from_f64(m)).collect();
            let spread = cut.spread(&about);
            wide.fill(0.0);
            for (k, i) in samples.enumerate() {
                push_square_deviations(&mut lanes, &x[cut.row(i)], &spread);
                if k % FLUSH == FLUSH - 1 {
                    flush::<T::Sum>(&mut wide, &mut lanes);
                }
            }
            flush::<T::Sum>(&mut wide, &mut lanes);
            cut.gather(&wide, s);
            for c in 0..channels {
                s[c] -= count * (m[c] - about[c].to_f64()).powi(2);
            }
        });
    }
    for c in 0..channels {
        let (mut n, mut m, mut s) = (0.0, 0.0, 0.0);
        for p in 0..cut.parts {
            let k = (cut.samples(p).len() * inner) as f64;
            let delta = means[p * channels + c] - m;
            s += squares[p * channels + c] + delta * delta * (n * k / (n + k));
            m += delta * (k / (n + k));
            n += k;
        }
        mean[c] = T::from_f64(if n == 0.0 { f64::NAN } else { m });
        // Rounding may leave a little less than nothing.
        var[c] = T::from_f64(if s < 0.0 { 0.0 } else { s / n });
    }
}

/// `y = (x - mean) * scale + shift` with one mean, scale and shift for each channel.
///
/// `x` and `y` are `[batch, channels, inner]`, the others `[channels]`.
pub fn batch_norm_apply<T: RowFloat>(
    x: &[T],
    inner: usize,
    mean: &[T],
    scale: &[T],
    shift: &[T],
    y: &mut [T],
) {
    let channels = mean.len();
    assert!(scale.len() == channels && shift.len() == channels && x.len() == y.len());
    let cut = Cut::new(x.len(), channels, inner);
    let y = Shared::new(y);
    let spread = (!cut.by_channel()).then(|| [mean, scale, shift].map(|v| cut.spread(v)));
    cut.for_units(|c, part| {
        for i in cut.samples(part) {
            match &spread {
                None => {
                    let at = cut.run(i, c);
                    // SAFETY: each run belongs to one unit.
                    let y = unsafe { y.part(at.clone()) };
                    apply_run(&x[at], mean[c], scale[c], shift[c], y);
                }
                Some([mean, scale, shift]) => {
                    let at = cut.row(i);
                    // SAFETY: each row belongs to one unit.
                    let y = unsafe { y.part(at.clone()) };
                    apply_row(&x[at], mean, scale, shift, y);
                }
            }
        }
    });
}

/// Where [`batch_norm_grad`] writes; `None` is not computed.
#[derive(Default)]
pub struct BatchNormGrad<'a, T> {
    /// Gradient of the input, `[batch, channels, inner]`.
    pub dx: Option<&'a mut [T]>,
    /// Gradient of the weight, `[channels]`.
    pub dweight: Option<&'a mut [T]>,
    /// Gradient of the bias, `[channels]`.
    pub dbias: Option<&'a mut [T]>,
}

/// The gradients of training-time batch norm, `y = (x - mean) rstd weight + bias`, where `mean`
/// and `rstd = 1 / sqrt(var + eps)` are those of `x` itself and so carry gradient too.
///
/// `x` and `dy` are `[batch, channels, inner]`; `mean`, `rstd` and `weight` (1 if `None`) are
/// `[channels]`. With the normalised input `h`: `dbias = sum(dy)`, `dweight = sum(dy h)`,
/// `dx = weight rstd (dy - mean(dy) - h mean(dy h))`.
pub fn batch_norm_grad<T: RowFloat>(
    x: &[T],
    inner: usize,
    mean: &[T],
    rstd: &[T],
    weight: Option<&[T]>,
    dy: &[T],
    out: BatchNormGrad<'_, T>,
) {
    let channels = mean.len();
    assert!(rstd.len() == channels && weight.is_none_or(|w| w.len() == channels));
    assert_eq!(x.len(), dy.len());
    let cut = Cut::new(x.len(), channels, inner);
    // [part, channel]: the sums of dy and of dy (x - mean).
    let mut plain = vec![0.0; cut.parts * channels];
    let mut moment = vec![0.0; cut.parts * channels];
    let spread = (!cut.by_channel()).then(|| cut.spread(mean));
    let dx = out.dx.map(|dx| {
        assert_eq!(dx.len(), x.len());
        Shared::new(dx)
    });
    let count = (cut.batch * inner) as f64;
    // From a channel's sums: mean, a, b, g in dx = (dy - a - (x - mean) b) g.
    let factors = |c: usize, plain: f64, moment: f64| {
        let r = rstd[c].to_f64();
        let g = r * weight.map_or(1.0, |w| w[c].to_f64());
        [
            mean[c],
            T::from_f64(plain / count),
            T::from_f64(moment * r * r / count),
            T::from_f64(g),
        ]
    };
    let grad_runs = |dx: &Shared<'_, T>, c: usize, samples: Range<usize>, factors: [T; 4]| {
        for i in samples {
            let at = cut.run(i, c);
            // SAFETY: each run is written once, by the unit that it belongs to.
            let dx = unsafe { dx.part(at.clone()) };
            grad_run(&x[at.clone()], &dy[at], factors, dx);
        }
    };
    // A channel in one part is finished while it is in cache.
    let at_once = cut.by_channel() && cut.parts == 1;
    {
        let (plain, moment) = (Shared::new(&mut plain), Shared::new(&mut moment));
        cut.for_units(|c, part| {
            let own = if cut.by_channel() {
                c..c + 1
            } else {
                0..channels
            };
            let own = part * channels + own.start..part * channels + own.end;
            // SAFETY: each unit has its own entries.
            let (s0, s1) = unsafe { (plain.part(own.clone()), moment.part(own)) };
            let Some(mean_row) = &spread else {
                for i in cut.samples(part) {
                    let at = cut.run(i, c);
                    let (a, b) = moments(&x[at.clone()], &dy[at], mean[c]);
                    s0[0] += a;
                    s1[0] += b;
                }
                if let (true, Some(dx)) = (at_once, &dx) {
                    grad_runs(dx, c, cut.samples(part), factors(c, s0[0], s1[0]));
                }
                return;
            };
            let width = channels * inner;
            let (mut lanes, mut wide) = (vec![T::default(); 2 * width], vec![0.0; 2 * width]);
            for (k, i) in cut.samples(part).enumerate() {
                push_moments(&mut lanes, &x[cut.row(i)], &dy[cut.row(i)], mean_row);
                if k % FLUSH == FLUSH - 1 {
                    flush::<T::Sum>(&mut wide, &mut lanes);
                }
            }
            flush::<T::Sum>(&mut wide, &mut lanes);
            cut.gather(&wide[..width], s0);
            cut.gather(&wide[width..], s1);
        });
    }
    let sum = |v: &[f64], c: usize| -> f64 { (0..cut.parts).map(|p| v[p * channels + c]).sum() };
    let sums: Vec<(f64, f64)> = (0..channels)
        .map(|c| (sum(&plain, c), sum(&moment, c)))
        .collect();
    for (o, &(plain, _)) in out.dbias.into_iter().flatten().zip(&sums) {
        *o = T::from_f64(plain);
    }
    for (c, o) in out.dweight.into_iter().flatten().enumerate() {
        *o = T::from_f64(sums[c].1 * rstd[c].to_f64());
    }
    let Some(dx) = dx.filter(|_| !at_once) else {
        return;
    };
    let all: Vec<[T; 4]> = (0..channels)
        .map(|c| factors(c, sums[c].0, sums[c].1))
        .collect();
    let rows = spread
        .map(|_| [0, 1, 2, 3].map(|k| cut.spread(&all.iter().map(|f| f[k]).collect::<Vec<T>>())));
    cut.for_units(|c, part| {
        let Some(rows) = &rows else {
            return grad_runs(&dx, c, cut.samples(part), all[c]);
        };
        for i in cut.samples(part) {
            let at = cut.row(i);
            // SAFETY: each row belongs to one unit.
            let dx = unsafe { dx.part(at.clone()) };
            grad_row(&x[at.clone()], &dy[at], rows, dx);
        }
    });
}

simd_dispatch! {
    fn total<T: RowFloat>(x: &[T]) -> f64 {
        fold_body::<T::Sum>(x)
    }

    fn square_deviations<T: RowFloat>(x: &[T], mean: T) -> f64 {
        sum2(x, x, |v, _| (v - mean) * (v - mean))
    }

    fn push_square_deviations<T: RowFloat>(lanes: &mut [T], x: &[T], mean: &[T]) {
        for ((o, &v), &m) in lanes.iter_mut().zip(x).zip(mean) {
            *o = *o + (v - m) * (v - m);
        }
    }

    fn apply_run<T: RowFloat>(x: &[T], mean: T, scale: T, shift: T, y: &mut [T]) {
        for (o, &v) in y.iter_mut().zip(x) {
            *o = (v - mean) * scale + shift;
        }
    }

    fn apply_row<T: RowFloat>(x: &[T], mean: &[T], scale: &[T], shift: &[T], y: &mut [T]) {
        for ((((o, &v), &m), &s), &b) in y.iter_mut().zip(x).zip(mean).zip(scale).zip(shift) {
            *o = (v - m) * s + b;
        }
    }

    fn moments<T: RowFloat>(x: &[T], dy: &[T], mean: T) -> (f64, f64) {
        (fold_body::<T::Sum>(dy), sum2(x, dy, |v, d| d * (v - mean)))
    }

    fn push_moments<T: RowFloat>(lanes: &mut [T], x: &[T], dy: &[T], mean: &[T]) {
        let (plain, moment) = lanes.split_at_mut(x.len());
        for ((((p, q), &v), &d), &m) in plain.iter_mut().zip(moment).zip(x).zip(dy).zip(mean) {
            *p = *p + d;
            *q = *q + d * (v - m);
        }
    }

    fn grad_run<T: RowFloat>(x: &[T], dy: &[T], factors: [T; 4], dx: &mut [T]) {
        let [mean, a, b, g] = factors;
        for ((o, &v), &d) in dx.iter_mut().zip(x).zip(dy) {
            *o = (d - a - (v - mean) * b) * g;
        }
    }

    fn grad_row<T: RowFloat>(x: &[T], dy: &[T], factors: &[Vec<T>; 4], dx: &mut [T]) {
        let n = x.len();
        let [mean, a, b, g] = factors.each_ref().map(|f| &f[..n]);
        let (dy, dx) = (&dy[..n], &mut dx[..n]);
        for i in 0..n {
            dx[i] = (dy[i] - a[i] - (x[i] - mean[i]) * b[i]) * g[i];
        }
    }
}
