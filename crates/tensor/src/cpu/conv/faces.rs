//! The three faces as products with columns.

use super::columns::{SLACK, Walk};
use super::{ConvShape, Face, Ptr};
#[cfg(target_arch = "x86_64")]
use super::{direct, planes};
use crate::cpu::constant::{Constant, prepared};
use crate::cpu::matmul::{Block, Left, Matrix, Scratch};
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::{After, Runs};
use crate::precision::Precision;
use std::ops::Range;
use std::sync::Arc;

/// The least number of multiply-adds for a task of its own.
const TASK: usize = 60_000;
/// Channels whose sums share a cache line.
const BESIDE: usize = 16;
/// The least number of positions for a product of their columns; smaller images are joined.
const SUM: usize = 128;
/// Bytes of columns that a task lays out at once, leaving half of a second-level cache.
const COLUMNS: usize = 256 << 10;

/// # Safety
/// As for [`conv`](super::conv); nothing is empty.
pub unsafe fn run<T: Block>(
    face: Face,
    s: &ConvShape,
    a: *const T,
    b: *const T,
    constant: Option<Constant>,
    out: *mut T,
    after: After<'_>,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match face {
            Face::Output => correlate(&Correlation::output(s), a, b, constant, out, after),
            Face::InputGrad if s.stride == [1, 1] => {
                let turned = turn_weights(s, b);
                correlate(
                    &Correlation::input_grad(s),
                    a,
                    turned.ptr(),
                    None,
                    out,
                    after,
                );
            }
            Face::InputGrad => input_grad(s, a, b, out, after),
            Face::WeightGrad => weight_grad(s, a, b, out, after),
        }
    }
}

fn signed(padding: [(usize, usize); 2]) -> [(isize, isize); 2] {
    padding.map(|(lo, hi)| (lo as isize, hi as isize))
}

/// How the kernel walks over the input.
pub fn walk(s: &ConvShape) -> Walk {
    Walk {
        image: s.input,
        padding: signed(s.padding),
        kernel: s.kernel,
        stride: s.stride,
        dilation: s.dilation,
        output: s.output(),
    }
}

/// `y[n, g, o, p] = sum_k w[g, o, k] * columns(x[n, g])[k, p]`.
#[derive(Clone, Copy)]
pub struct Correlation {
    pub batch: usize,
    pub groups: usize,
    /// Channels per group.
    pub ins: usize,
    pub outs: usize,
    pub walk: Walk,
    pub precision: Precision,
}

impl Correlation {
    pub fn output(s: &ConvShape) -> Self {
        Correlation {
            batch: s.batch,
            groups: s.groups,
            ins: s.group_in(),
            outs: s.group_out(),
            walk: walk(s),
            precision: s.precision,
        }
    }

    /// With stride 1 the input's gradient is itself a correlation of the output's gradient, with
    /// the kernel turned by half a circle.
    pub fn input_grad(s: &ConvShape) -> Self {
        Correlation {
            batch: s.batch,
            groups: s.groups,
            ins: s.group_out(),
            outs: s.group_in(),
            walk: Walk {
                image: s.output(),
                padding: std::array::from_fn(|d| {
                    let reach = (s.dilation[d] * (s.kernel[d] - 1)) as isize;
                    let (lo, hi) = s.padding[d];
                    (reach - lo as isize, reach - hi as isize)
                }),
                kernel: s.kernel,
                stride: [1, 1],
                dilation: s.dilation,
                output: s.input,
            },
            precision: s.precision,
        }
    }
}

/// `[g, o, c, ky, kx]` to `[g, c, o, -ky, -kx]`.
///
/// # Safety
/// `w` must hold the weights.
pub unsafe fn turn_weights<T: Block>(s: &ConvShape, w: *const T) -> Scratch<T> {
    let (outs, ins, taps) = (s.group_out(), s.group_in(), s.kernel[0] * s.kernel[1]);
    let turned = Scratch::<T>::new(s.groups * outs * ins * taps);
    let (w, to) = (Ptr(w.cast_mut()), Ptr(turned.ptr()));
    pool::run_chunks(s.groups * ins, 16_384usize.div_ceil(outs * taps), |range| {
        let (w, to) = (&w, &to);
        for unit in range {
            let (g, c) = (unit / ins, unit % ins);
            for o in 0..outs {
                // SAFETY: the weights of an input channel, each once.
                unsafe {
                    let from = w.0.add(((g * outs + o) * ins + c) * taps);
                    let to = to.0.add((unit * outs + o) * taps);
                    for t in 0..taps {
                        *to.add(t) = *from.add(taps - 1 - t);
                    }
                }
            }
        }
    });
    turned
}

/// The elements of each channel that a kernel of one element sees.
unsafe fn thin<T: Block>(walk: &Walk, channels: usize, x: *const T) -> Scratch<T> {
    let ([h, w], [oh, ow]) = (walk.image, walk.output);
    let thinned = Scratch::<T>::new(channels * oh * ow);
    let (from, to) = (Ptr(x.cast_mut()), Ptr(thinned.ptr()));
    pool::run_chunks(channels, 16_384usize.div_ceil(oh * ow), |range| {
        let (from, to) = (&from, &to);
        for c in range {
            for y in 0..oh {
                for x in 0..ow {
                    // SAFETY: positions of the image, each seen by one of the output.
                    unsafe {
                        let at = (c * h + y * walk.stride[0]) * w + x * walk.stride[1];
                        *to.0.add((c * oh + y) * ow + x) = *from.0.add(at);
                    }
                }
            }
        }
    });
    thinned
}

/// # Safety
/// As for [`conv`](super::conv), for the sizes in `c`; `constant` is the memory of the weights if nothing
/// writes to it.
pub unsafe fn correlate<T: Block>(
    c: &Correlation,
    x: *const T,
    w: *const T,
    constant: Option<Constant>,
    y: *mut T,
    after: After<'_>,
) {
    if c.walk.kernel == [1, 1] && c.walk.padding == [(0, 0); 2] && c.batch * c.groups == 1 {
        // The weights are used once: a product like any other, with the image, or what the stride
        // leaves of it.
        let (k, positions) = (c.ins, c.walk.positions());
        let thinned = match c.walk.is_pointwise() {
            true => None,
            // SAFETY: passed on from the caller.
            false => Some(unsafe { thin(&c.walk, k, x) }),
        };
        let x = thinned.as_ref().map_or(x, |x| x.ptr().cast_const());
        let x = Matrix::new(x, positions as isize, 1);
        let mut w = Matrix::new(w, k as isize, 1);
        w.constant = constant;
        // SAFETY: passed on from the caller.
        return unsafe { T::parallel(c.outs, positions, k, c.precision, w, x, y, 0, after) };
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(set) = T::kernels() {
        // SAFETY: passed on from the caller.
        unsafe {
            if direct::suits(set, c) {
                return direct::correlate(set, c, x, w, constant, y, after);
            }
            if planes::suits(set, c) {
                return planes::correlate(set, c, x, w, y, after);
            }
        }
    }
    let walk = &c.walk;
    let image = walk.image[0] * walk.image[1];
    let positions = walk.positions();
    let taps = walk.kernel[0] * walk.kernel[1];
    let k = c.ins * taps;
    let shape = [c.groups, c.outs, positions, k];
    let bytes = c.groups * c.outs * k * size_of::<T>();
    let lefts: Arc<Vec<Left<T>>> = prepared(constant, w.cast(), &shape, bytes, || {
        let left = |g| {
            let mut a = Matrix::new(w.wrapping_add(g * c.outs * k), k as isize, 1);
            a.constant = constant;
            // SAFETY: the weights of group `g`.
            unsafe { Left::new(c.outs, positions, k, a) }
        };
        (0..c.groups).map(left).collect()
    });
    let (width, height) = (lefts[0].width(), lefts[0].height());
    let panels = positions.div_ceil(width);

    // A unit is one group of one image. Small units are joined into tasks; when there are few
    // units, each is cut by positions, then by output channels.
    let units = c.batch * c.groups;
    let work = c.outs * positions * k;
    let pieces = (8usize.div_ceil(units)).min(work / TASK + 1);
    let cuts = pieces.min(panels);
    let cut = panels.div_ceil(cuts);
    let cuts = panels.div_ceil(cut);
    let tiles = c.outs.div_ceil(height);
    let rows = tiles.div_ceil((pieces / cuts).clamp(1, tiles)) * height;
    let row_cuts = c.outs.div_ceil(rows);
    let whole = cuts * row_cuts == 1;
    let joined = if whole { (TASK / work).max(1) } else { 1 };

    let padded_len = c.ins * walk.padded_len() + SLACK;
    let at_once = (COLUMNS / (k * width * size_of::<T>())).max(1);
    let (x, y) = (Ptr(x.cast_mut()), Ptr(y));
    pool::run_chunks(units * cuts * row_cuts, joined, |tasks| {
        let (x, y) = (&x, &y);
        let padded = Own::<T>::new(padded_len);
        let columns = Own::<T>::new(at_once.min(cut) * k * width + SLACK);
        for task in tasks.clone() {
            let (unit, piece) = (task / (cuts * row_cuts), task % (cuts * row_cuts));
            let (from, o) = (piece % cuts * cut, piece / cuts * rows);
            let some_panels = from..panels.min(from + cut);
            let some_rows = o..c.outs.min(o + rows);
            let left = &lefts[unit % c.groups];
            // SAFETY: unit `unit` of the input; the rows and panels of the output that only this
            // task writes; scratch of the sizes needed.
            unsafe {
                walk.pad(x.0.add(unit * c.ins * image), c.ins, padded.ptr());
                padded.ptr().add(padded_len - SLACK).write_bytes(0, SLACK);
                let out = y.0.add(unit * c.outs * positions);
                for first in some_panels.clone().step_by(at_once) {
                    let now = first..some_panels.end.min(first + at_once);
                    let range = now.start * width..positions.min(now.end * width);
                    walk.columns(padded.ptr(), c.ins, range, width, columns.ptr());
                    let rows = some_rows.clone();
                    left.multiply(rows, now, columns.ptr(), out, positions as isize);
                }
            }
            if !whole {
                let cols = from * width..positions.min(some_panels.end * width);
                let first = unit * c.outs;
                let planes = first + some_rows.start..first + some_rows.end;
                after(Runs::block(0, positions, planes, cols));
            }
        }
        if whole {
            let size = c.outs * positions;
            after((tasks.start * size..tasks.end * size).into());
        }
    });
}

/// The input's gradient for any stride: the gradients of the columns, added back.
unsafe fn input_grad<T: Block>(
    s: &ConvShape,
    dy: *const T,
    w: *const T,
    dx: *mut T,
    after: After<'_>,
) {
    let walk = walk(s);
    let (outs, ins, k) = (s.group_out(), s.group_in(), s.window());
    let taps = s.kernel[0] * s.kernel[1];
    let (image, positions) = (s.input[0] * s.input[1], walk.positions());
    let units = s.batch * s.groups;
    let left = |g| {
        let a = Matrix::new(w.wrapping_add(g * outs * k), 1, k as isize);
        // SAFETY: the weights of group `g`.
        unsafe { Left::new(k, positions, outs, a) }
    };
    let lefts: Vec<Left<T>> = (0..s.groups).map(left).collect();
    let (width, height) = (lefts[0].width(), lefts[0].height());
    let panels = positions.div_ceil(width);
    // Channels per task: their columns should fit in the cache, all threads have some, and the rows
    // of a task are whole tiles.
    let fit = (COLUMNS / (taps * positions * size_of::<T>())).max(1);
    let share = (ins * units).div_ceil(8).max(1);
    let whole = (1..=height).find(|n| (n * taps).is_multiple_of(height));
    let some = fit.min(share).next_multiple_of(whole.unwrap_or(1)).min(ins);
    let cuts = ins.div_ceil(some);
    let (dy, dx) = (Ptr(dy.cast_mut()), Ptr(dx));
    pool::run(units * cuts, |task| {
        let (dy, dx) = (&dy, &dx);
        let (unit, c) = (task / cuts, task % cuts * some);
        let channels = some.min(ins - c);
        let columns = Own::<T>::new(channels * taps * positions);
        let grads = Own::<T>::new(panels * outs * width);
        let start = (unit * ins + c) * image;
        // SAFETY: the unit's gradient, and the channels of `dx` that only this task writes; scratch of
        // the sizes needed.
        unsafe {
            for panel in 0..panels {
                let cols = width.min(positions - panel * width);
                for o in 0..outs {
                    let from = dy.0.add((unit * outs + o) * positions + panel * width);
                    let to = grads.ptr().add((panel * outs + o) * width);
                    std::ptr::copy_nonoverlapping(from, to, cols);
                    to.add(cols).write_bytes(0, width - cols);
                }
            }
            let rows = c * taps..(c + channels) * taps;
            let to = columns.ptr().wrapping_sub(rows.start * positions);
            let left = &lefts[unit % s.groups];
            left.multiply(rows, 0..panels, grads.ptr(), to, positions as isize);
            dx.0.add(start).write_bytes(0, channels * image);
            walk.add_back(columns.ptr(), channels, dx.0.add(start));
        }
        after((start..start + channels * image).into());
    });
}

/// The weights' gradient: for each group of channels, products of columns and output gradients
/// summed over the images; where there are few such groups, the images are cut into fixed parts
/// whose sums are added in order.
unsafe fn weight_grad<T: Block>(
    s: &ConvShape,
    x: *const T,
    dy: *const T,
    dw: *mut T,
    after: After<'_>,
) {
    let walk = walk(s);
    let (outs, ins) = (s.group_out(), s.group_in());
    let taps = s.kernel[0] * s.kernel[1];
    let (image, positions) = (s.input[0] * s.input[1], walk.positions());
    let k = s.window();
    // Channels per task: their sums should fit in the cache.
    let fit = (COLUMNS / (taps * outs * size_of::<T>())).max(1);
    let cuts = ins.div_ceil(fit);
    let some = ins.div_ceil(cuts);
    let cuts = ins.div_ceil(some);
    let parts = 8usize.div_ceil(s.groups * cuts).min(s.batch);
    let per_part = s.batch.div_ceil(parts);
    let parts = s.batch.div_ceil(per_part);
    // The sums lie as `[o, k]` or, where that fills vectors better, as `[k, o]`.
    let turned = outs >= 16 || outs >= some * taps;
    #[cfg(target_arch = "x86_64")]
    let direct = T::kernels().filter(|set| direct::suits_weights(set, s));
    #[cfg(target_arch = "x86_64")]
    let turned = turned || direct.is_some();
    // Elements from one row of sums to the next, if they lie as `[k, o]`.
    #[cfg(target_arch = "x86_64")]
    let stride = direct.map_or(outs, |set| direct::WeightSums::row(set, outs));
    #[cfg(not(target_arch = "x86_64"))]
    let stride = outs;
    let size = some * taps * stride;
    let sums = Scratch::<T>::new(parts * s.groups * cuts * size);
    let (x, dy, to) = (Ptr(x.cast_mut()), Ptr(dy.cast_mut()), Ptr(sums.ptr()));
    // Small images are joined, for sums that are worth a product. Columns of a few channels at a time.
    let joined = (SUM / positions).clamp(1, per_part);
    let step = (COLUMNS / (taps * joined * positions * size_of::<T>())).clamp(1, some);
    let padded_len = step * walk.padded_len() + SLACK;
    pool::run(parts * s.groups * cuts, |task| {
        let (x, dy, to) = (&x, &dy, &to);
        let (part, rest) = (task / (s.groups * cuts), task % (s.groups * cuts));
        let (group, c) = (rest / cuts, rest % cuts * some);
        let channels = some.min(ins - c);
        let rows = channels * taps;
        let images = part * per_part..s.batch.min((part + 1) * per_part);
        #[cfg(target_arch = "x86_64")]
        if let Some(set) = direct {
            let sums = direct::WeightSums::new(set, walk, channels, outs);
            let padded = Own::<T>::new(channels * walk.padded_len());
            let grads = Own::<T>::new(positions * stride);
            for n in images.clone() {
                let unit = n * s.groups + group;
                // SAFETY: channels of image `n`, and its output's gradient; scratch of the sizes
                // needed; the sums of this task.
                unsafe {
                    let x = x.0.add((unit * ins + c) * image);
                    let dy = dy.0.add(unit * outs * positions);
                    let (padded, grads, to) = (padded.ptr(), grads.ptr(), to.0.add(task * size));
                    sums.add(x, dy, padded, grads, to, n > images.start);
                }
            }
            return;
        }
        let in_place = walk.is_pointwise();
        let padded = Own::<T>::new(if in_place { 0 } else { padded_len });
        let columns = Own::<T>::new(step * taps * positions + SLACK);
        let beside =
            |rows: usize| Own::<T>::new(rows * if joined > 1 { joined * positions } else { 0 });
        let (all_columns, all_grads) = (beside(step * taps), beside(outs));
        for first_image in images.clone().step_by(joined) {
            let count = joined.min(images.end - first_image);
            let len = count * positions;
            // Puts an image's rows beside those of the others.
            let join = |from: *const T, rows: usize, i: usize, to: &Own<T>| {
                for r in 0..rows {
                    // SAFETY: row `r` of an image, and its part of the joined rows.
                    unsafe {
                        let to = to.ptr().add(r * len + i * positions);
                        std::ptr::copy_nonoverlapping(from.add(r * positions), to, positions);
                    }
                }
            };
            let grads = |i| {
                dy.0.wrapping_add(((first_image + i) * s.groups + group) * outs * positions)
            };
            let mut grad = grads(0).cast_const();
            if joined > 1 {
                (0..count).for_each(|i| join(grads(i), outs, i, &all_grads));
                grad = all_grads.ptr();
            }
            let grads = Matrix::new(grad, len as isize, 1);
            for first in (0..channels).step_by(step) {
                let now = step.min(channels - first);
                let mut cols = std::ptr::null();
                for i in 0..count {
                    let unit = (first_image + i) * s.groups + group;
                    // SAFETY: channels of an image; scratch of the sizes needed.
                    unsafe {
                        cols = x.0.add((unit * ins + c + first) * image).cast_const();
                        if !in_place {
                            walk.pad(cols, now, padded.ptr());
                            let end = now * walk.padded_len();
                            padded.ptr().add(end).write_bytes(0, SLACK);
                            let all = 0..positions;
                            walk.columns(padded.ptr(), now, all, positions, columns.ptr());
                            cols = columns.ptr();
                        }
                    }
                    if joined > 1 {
                        join(cols, now * taps, i, &all_columns);
                        cols = all_columns.ptr();
                    }
                }
                let cols = Matrix::new(cols, len as isize, 1);
                let more = first_image > images.start;
                // SAFETY: columns and gradients of these images; the sums of this task.
                unsafe {
                    let sums = to.0.add(task * size);
                    let at = first * taps;
                    if turned {
                        let (c, b) = (sums.add(at * outs), grads.transpose());
                        T::block(now * taps, outs, len, cols, b, c, outs as isize, more);
                    } else {
                        let (c, b) = (sums.add(at), cols.transpose());
                        T::block(outs, now * taps, len, grads, b, c, rows as isize, more);
                    }
                }
            }
        }
    });
    // Add the parts in order, and put them where they belong: for a line's width of channels at a
    // time, since these lie side by side in the sums.
    let (from, out) = (Ptr(sums.ptr()), Ptr(dw));
    let chunk = 16_384usize.div_ceil(k * parts).next_multiple_of(BESIDE);
    pool::run_chunks(s.out_channels, chunk, |range: Range<usize>| {
        let (from, out) = (&from, &out);
        let mut first = range.start;
        while first < range.end {
            let (group, first_in) = (first / outs, first % outs);
            let count = BESIDE.min(outs - first_in).min(range.end - first);
            for cut in 0..cuts {
                let c = cut * some;
                let rows = some.min(ins - c) * taps;
                let base = (group * cuts + cut) * size;
                // The sum of an element's parts.
                let sum = |at: usize| {
                    // SAFETY: one element of every part.
                    unsafe {
                        let from = from.0.add(base + at);
                        let part = |p: usize| *from.add(p * s.groups * cuts * size);
                        (1..parts).fold(*from, |sum, p| sum + part(p))
                    }
                };
                let to = out.0.wrapping_add(first * k + c * taps);
                if !turned {
                    for (i, r) in (0..count).flat_map(|i| (0..rows).map(move |r| (i, r))) {
                        // SAFETY: this task's own element of `dw`.
                        unsafe { *to.add(i * k + r) = sum((first_in + i) * rows + r) };
                    }
                    continue;
                }
                // Some rows at a time, so that both sides are read and written along their lines.
                let mut near = [[T::from_f64(0.0); BESIDE]; BESIDE];
                for row in (0..rows).step_by(BESIDE) {
                    let some = BESIDE.min(rows - row);
                    for (r, near) in near.iter_mut().enumerate().take(some) {
                        for (i, near) in near.iter_mut().enumerate().take(count) {
                            *near = sum((row + r) * stride + first_in + i);
                        }
                    }
                    for i in 0..count {
                        for (r, near) in near.iter().enumerate().take(some) {
                            // SAFETY: as above.
                            unsafe { *to.add(i * k + row + r) = near[i] };
                        }
                    }
                }
            }
            first += count;
        }
        after((range.start * k..range.end * k).into());
    });
}
