//! Convolution straight from the padded image, without laying out columns.
//!
//! A tile is a run of output positions in one row by two vectors of output channels: the image's
//! elements are broadcast from where they are, the weights are packed with the channels side by
//! side. The finished rows, channels last, are transposed into place.

use super::columns::{SLACK, Walk};
use super::faces::Correlation;
use super::{ConvShape, Ptr};
use crate::Element;
use crate::cpu::constant::{Constant, prepared};
use crate::cpu::matmul::{ImageTile, Kernels, Scratch, WeightTile};
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::{After, Runs};

/// Bytes of finished rows that are kept before they are transposed.
const ROWS: usize = 64 << 10;
/// Bytes of packed weights that a tile may stream from the second-level cache.
const WEIGHTS: usize = 384 << 10;
/// The least number of multiply-adds for a task of its own.
const TASK: usize = 60_000;

fn width<T>(set: &Kernels<T>) -> usize {
    2 * set.lanes
}

/// Where the element of the padded image under weight `l` lies, for `[channel, ky, kx]`.
pub fn offsets(walk: &Walk, channels: usize) -> Vec<usize> {
    let [ph, pw] = walk.padded();
    let mut out = Vec::with_capacity(channels * walk.kernel[0] * walk.kernel[1]);
    for c in 0..channels {
        for ky in 0..walk.kernel[0] {
            for kx in 0..walk.kernel[1] {
                out.push((c * ph + ky * walk.dilation[0]) * pw + kx * walk.dilation[1]);
            }
        }
    }
    out
}

/// Whether the direct way is the faster one: wide enough tiles, enough channels to fill vectors,
/// weights that stay in the cache, and sums long enough to hide the final transposition.
pub fn suits<T>(set: &Kernels<T>, c: &Correlation) -> bool {
    let k = c.ins * c.walk.kernel[0] * c.walk.kernel[1];
    let lanes = c.outs.next_multiple_of(set.lanes);
    let [_, ow] = c.walk.output;
    ow >= 7
        && c.outs * 4 >= lanes * 3
        && c.walk.stride[1] <= 2
        && k >= 48
        && k * width(set) * size_of::<T>() <= WEIGHTS
}

/// The part of a convolution that makes output rows `y0..y1`.
pub fn some_rows(walk: &Walk, y0: usize, y1: usize) -> Walk {
    let span = walk.dilation[0] * (walk.kernel[0] - 1) + 1;
    let height = (y1 - y0 - 1) * walk.stride[0] + span;
    let lo = walk.padding[0].0 - (y0 * walk.stride[0]) as isize;
    Walk {
        padding: [
            (lo, height as isize - walk.image[0] as isize - lo),
            walk.padding[1],
        ],
        output: [y1 - y0, walk.output[1]],
        ..*walk
    }
}

/// The weights of all groups, packed.
struct Panels<T>(Scratch<T>);

/// # Safety
/// As for [`conv`](super::conv), for the sizes in `c`; `constant` is the memory of the weights if
/// nothing writes to it.
pub unsafe fn correlate<T: Element>(
    set: &'static Kernels<T>,
    c: &Correlation,
    x: *const T,
    w: *const T,
    constant: Option<Constant>,
    y: *mut T,
    after: After<'_>,
) {
    let image = c.walk.image[0] * c.walk.image[1];
    let [oh, ow] = c.walk.output;
    let k = c.ins * c.walk.kernel[0] * c.walk.kernel[1];
    let width = width(set);
    let panels = c.outs.div_ceil(width);
    // Weights as panels `[k, width]` of every group.
    let size = c.groups * panels * k * width;
    let shape = [c.groups, c.outs, k];
    let packed = prepared(constant, w.cast(), &shape, size * size_of::<T>(), || {
        let packed = Scratch::<T>::of_form(size, constant);
        let (from, to) = (Ptr(w.cast_mut()), Ptr(packed.ptr()));
        pool::run_chunks(c.groups * panels, (1 << 14_usize) / (k * width) + 1, |r| {
            let (from, to) = (&from, &to);
            for i in r {
                let (group, o) = (i / panels, i % panels * width);
                let lines = width.min(c.outs - o);
                // SAFETY: the weights of `lines` channels; panel `i`.
                unsafe {
                    let src = from.0.add((group * c.outs + o) * k);
                    let dst = to.0.add(i * k * width);
                    set.pack_panel(src, k as isize, 1, lines, k, dst, width);
                }
            }
        });
        Panels(packed)
    });

    // A unit is one group of one image. Few or large ones are cut by rows, if there are more weights
    // than inputs by panels before that: each task reads all of the other.
    let units = c.batch * c.groups;
    let work = c.outs * oh * ow * k;
    let pieces = 8usize.div_ceil(units).min(work / TASK + 1);
    let by_panels = match c.outs * k > c.ins * image {
        true => pieces.min(panels),
        false => 1,
    };
    let each = panels.div_ceil(by_panels);
    let cut = oh.div_ceil(pieces.div_ceil(by_panels).min(oh));
    let row_cuts = oh.div_ceil(cut);
    let cuts = row_cuts * panels.div_ceil(each);
    let joined = if cuts == 1 { (TASK / work).max(1) } else { 1 };
    let most = some_rows(&c.walk, 0, cut);
    let padded_len = c.ins * most.padded_len() + SLACK;
    let rows = (ROWS / (ow * width * size_of::<T>())).clamp(1, cut);
    let tiles = ow.div_ceil(set.image[0][1].len());

    let (x, y, weights) = (Ptr(x.cast_mut()), Ptr(y), Ptr(packed.0.ptr()));
    pool::run_chunks(units * cuts, joined, |tasks| {
        let (x, y, weights) = (&x, &y, &weights);
        let padded = Own::<T>::new(padded_len);
        let done = Own::<T>::new(rows * ow * width);
        for task in tasks.clone() {
            let (unit, piece) = (task / cuts, task % cuts);
            let y0 = piece % row_cuts * cut;
            let y1 = oh.min(y0 + cut);
            let from = piece / row_cuts * each;
            let some_panels = from..panels.min(from + each);
            let walk = some_rows(&c.walk, y0, y1);
            let offsets = offsets(&walk, c.ins);
            let [_, pw] = walk.padded();
            let step = walk.stride[1];
            // SAFETY: unit `unit` of the input and the output rows that only this task writes;
            // scratch of the sizes needed; tiles within the padded image.
            unsafe {
                walk.pad(x.0.add(unit * c.ins * image), c.ins, padded.ptr());
                for panel in some_panels.clone() {
                    let o = panel * width;
                    let lines = width.min(c.outs - o);
                    let vectors = lines.div_ceil(set.lanes);
                    let kernels = set.image[step - 1][vectors - 1];
                    let b = weights
                        .0
                        .add((unit % c.groups * panels + panel) * k * width);
                    for first in (0..y1 - y0).step_by(rows) {
                        let some = rows.min(y1 - y0 - first);
                        for r in 0..some {
                            let row = padded.ptr().add((first + r) * walk.stride[0] * pw);
                            for tile in 0..tiles {
                                let px = tile * ow / tiles;
                                let count = (tile + 1) * ow / tiles - px;
                                kernels[count - 1](&ImageTile {
                                    k,
                                    a: row.add(px * step),
                                    offsets: offsets.as_ptr(),
                                    b,
                                    b_step: width,
                                    c: done.ptr().add((r * ow + px) * width),
                                    c_step: width,
                                });
                            }
                        }
                        let out = y.0.add(((unit * c.outs + o) * oh + y0 + first) * ow);
                        let step = (oh * ow) as isize;
                        set.turn(done.ptr(), width as isize, some * ow, lines, out, step);
                    }
                }
            }
            if cuts > 1 {
                let first = unit * c.outs;
                let last = c.outs.min(some_panels.end * width);
                let planes = first + some_panels.start * width..first + last;
                after(Runs::block(0, oh * ow, planes, y0 * ow..y1 * ow));
            }
        }
        if cuts == 1 {
            let size = c.outs * oh * ow;
            after((tasks.start * size..tasks.end * size).into());
        }
    });
}

/// Whether the weight gradient may be taken directly.
pub fn suits_weights<T>(set: &Kernels<T>, s: &ConvShape) -> bool {
    let outs = s.group_out();
    let [oh, ow] = s.output();
    ow >= 4 && oh * ow >= 32 && outs * 4 >= outs.next_multiple_of(set.lanes) * 3 && s.window() >= 4
}

/// Adds (or writes) one image's part of the weight gradient of some channels to `sums`, which is
/// `[weights, width]` for each panel of output channels.
pub struct WeightSums<T: 'static> {
    set: &'static Kernels<T>,
    pub walk: Walk,
    pub channels: usize,
    pub outs: usize,
    offsets: Vec<usize>,
}

impl<T: Element> WeightSums<T> {
    pub fn new(set: &'static Kernels<T>, walk: Walk, channels: usize, outs: usize) -> Self {
        let offsets = offsets(&walk, channels);
        WeightSums {
            set,
            walk,
            channels,
            outs,
            offsets,
        }
    }

    /// Elements per row of sums.
    pub fn row(set: &Kernels<T>, outs: usize) -> usize {
        outs.next_multiple_of(width(set))
    }

    /// # Safety
    /// `x` holds the channels of one image, `dy` the output's gradient `[outs, positions]`,
    /// `padded` and `grads` are scratch of `channels * padded_len` and
    /// `positions * row` elements; `sums` is `[channels * taps, row]`.
    pub unsafe fn add(
        &self,
        x: *const T,
        dy: *const T,
        padded: *mut T,
        grads: *mut T,
        sums: *mut T,
        accumulate: bool,
    ) {
        let walk = &self.walk;
        let positions = walk.positions();
        let set = self.set;
        let width = width(set);
        let row = Self::row(set, self.outs);
        let [_, pw] = walk.padded();
        let weights = self.offsets.len();
        let height = weights.div_ceil(weights.div_ceil(set.weight[1].len()));
        // SAFETY: passed on from the caller.
        unsafe {
            walk.pad(x, self.channels, padded);
            for o in (0..self.outs).step_by(width) {
                let lines = width.min(self.outs - o);
                let vectors = lines.div_ceil(set.lanes);
                let src = dy.add(o * positions);
                let grads = grads.add(o * positions);
                set.pack_panel(src, positions as isize, 1, lines, positions, grads, width);
                for i in (0..weights).step_by(height) {
                    let count = height.min(weights - i);
                    (set.weight[vectors - 1][count - 1])(&WeightTile {
                        a: padded,
                        offsets: self.offsets[i..].as_ptr(),
                        size: walk.output,
                        steps: [walk.stride[0] * pw, walk.stride[1]],
                        b: grads,
                        b_step: width,
                        c: sums.add(i * row + o),
                        c_step: row,
                        accumulate,
                    });
                }
            }
        }
    }
}
