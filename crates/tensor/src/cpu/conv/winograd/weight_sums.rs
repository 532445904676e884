//! The gradient of the weights.

use super::transforms::{self, Pixels, Points};
use super::{POINTS, TILE, Tiles, kernels, positions};
use crate::cpu::After;
use crate::cpu::conv::{ConvShape, Ptr, faces};
use crate::cpu::matmul::{Kernels, Scratch, Tile};
use crate::cpu::own::Own;
use crate::cpu::pool;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Bytes of sums of a task.
const SUMS: usize = 2 << 20;
/// Bytes of transformed tiles that a task keeps in its cache.
const NEAR: usize = 512 << 10;
/// The least number of tiles that are added to the sums at once.
const LEAST: usize = 48;
/// The work is cut into about that many tasks.
const TASKS: usize = 8;
/// The least number of tiles of a part of the batch, and of output channels of a cut.
const PART: usize = 256;
const CUT: usize = 32;

/// A planned gradient.
pub struct Job {
    s: ConvShape,
    set: &'static Kernels<f32>,
    tiles: Tiles,
    /// Output channels of a task.
    outs: usize,
    /// Parts of the batch that are summed up by themselves, then added in order.
    parts: usize,
    /// Rows of tiles that are added to the sums at once.
    rows: usize,
}

impl Job {
    /// `None` for shapes that have no such way.
    pub fn new(s: &ConvShape) -> Option<Job> {
        kernels(s).map(|set| Job::with(set, s))
    }

    /// The same with kernels of any instruction set.
    pub fn with(set: &'static Kernels<f32>, s: &ConvShape) -> Job {
        let tiles = Tiles::new(faces::walk(s));
        let (ins, outs) = (s.group_in(), s.group_out());
        let all = tiles.all(s.batch);
        // Parts cost sums that are as large as all weights, cuts that inputs are transformed again.
        let most = (all * tiles.cols / PART).clamp(1, all);
        let fit = SUMS / (POINTS * ins * size_of::<f32>());
        let cuts = outs
            .div_ceil(fit.max(8))
            .max(TASKS.div_ceil(most * s.groups));
        let outs = outs.div_ceil(cuts).next_multiple_of(8).max(CUT);
        let cuts = s.group_out().div_ceil(outs);
        let parts = TASKS.div_ceil(cuts * s.groups).min(most);
        let part = all.div_ceil(parts);
        let fit = (NEAR / (POINTS * (ins + outs) * size_of::<f32>())).max(LEAST);
        let rows = (fit / tiles.cols).clamp(1, part);
        Job {
            s: *s,
            set,
            tiles,
            outs,
            parts: all.div_ceil(part),
            rows: part.div_ceil(part.div_ceil(rows)),
        }
    }

    /// Roughly how many cycles it takes.
    pub fn cycles(&self) -> usize {
        let s = &self.s;
        let (ins, outs, lanes) = (s.group_in(), s.group_out(), self.set.lanes);
        let tiles = self.tiles.all(s.batch) * self.tiles.cols * s.groups;
        let products = tiles * POINTS * outs * ins.next_multiple_of(lanes);
        let cuts = outs.div_ceil(self.outs);
        let transforms = tiles * (5 * ins * cuts + 4 * outs) * 8 / lanes;
        let weights = s.groups * ins * outs * (8 + 4 * self.parts);
        products * 10 / (lanes * 16) + transforms + weights + 20_000
    }

    /// Whether it has been computed, which it is not if some numbers do not suit.
    ///
    /// # Safety
    /// As for [`conv`](crate::cpu::conv::conv).
    pub unsafe fn run(
        &self,
        x: *const f32,
        dy: *const f32,
        dw: *mut f32,
        after: After<'_>,
    ) -> bool {
        let (s, set, tiles) = (&self.s, self.set, &self.tiles);
        let (ins, outs) = (s.group_in(), s.group_out());
        let cuts = outs.div_ceil(self.outs);
        let all = tiles.all(s.batch);
        let part = all.div_ceil(self.parts);
        let [h, w] = s.input;
        let [oh, ow] = s.output();
        let [lines, line] = tiles.seen(self.rows.min(tiles.rows));
        let block = |channels: usize| self.rows * tiles.cols * channels + 16;
        // `[part, group, point, output channel, input channel]`.
        let size = s.groups * POINTS * outs * ins;
        let sums = Scratch::<f32>::new(self.parts * size);
        let (x, dy, to) = (Ptr(x.cast_mut()), Ptr(dy.cast_mut()), Ptr(sums.ptr()));
        let suits = AtomicBool::new(true);
        pool::run(self.parts * s.groups * cuts, |task| {
            let (x, dy, to) = (&x, &dy, &to);
            let (i, cut) = (task / cuts, task % cuts);
            let (i, group) = (i / s.groups, i % s.groups);
            let o = cut * self.outs;
            let some = self.outs.min(outs - o);
            let pixels = Own::<f32>::new(lines * line * ins.max(some));
            let inputs = Own::<f32>::new(POINTS * block(ins));
            let grads = Own::<f32>::new(POINTS * block(some));
            // SAFETY: there is room for all tiles that are added at once.
            let (inputs, grads) = unsafe {
                let inputs = Points::new(inputs.ptr(), block(ins), ins);
                (inputs, Points::new(grads.ptr(), block(some), some))
            };
            let end = all.min((i + 1) * part);
            for first in (i * part..end).step_by(self.rows) {
                let rows = first..end.min(first + self.rows);
                if !suits.load(Ordering::Relaxed) {
                    return;
                }
                for piece in tiles.pieces(rows.clone()) {
                    let unit = piece.image * s.groups + group;
                    let [lines, cols] = [piece.rows.len(), tiles.cols];
                    // SAFETY: the group's channels of the image and of the gradient; scratch of the
                    // sizes needed.
                    unsafe {
                        let near = pixels.ptr();
                        let laid_out = |[h, w]: [usize; 2], channels: usize| {
                            transforms::even(std::slice::from_raw_parts(near, h * w * channels))
                        };
                        let x = x.0.add(unit * ins * h * w);
                        tiles.lay_out(set, x, ins, &piece, near);
                        let even = laid_out(tiles.seen(lines), ins);
                        let seen = Pixels::new(near, line, [lines, cols]);
                        transforms::inputs(seen, inputs.skip(piece.at));

                        let dy = dy.0.add((unit * outs + o) * oh * ow);
                        let corner =
                            [piece.rows.start, piece.band * cols].map(|n| (n * TILE) as isize);
                        let window = [lines, cols].map(|n| n * TILE);
                        positions(set, dy, [oh, ow], some, corner, window, near);
                        if !even || !laid_out(window, some) {
                            suits.store(false, Ordering::Relaxed);
                        }
                        let made = Pixels::new(near, window[1], [lines, cols]);
                        transforms::output_grads(made, grads.skip(piece.at));
                    }
                }
                // SAFETY: what has been transformed; the sums of this task.
                unsafe {
                    let to = to.0.add(i * size + group * POINTS * outs * ins + o * ins);
                    let count = rows.len() * tiles.cols;
                    self.add(inputs, grads, count, to, first > i * part);
                }
            }
        });

        if !suits.load(Ordering::Relaxed) {
            return false;
        }
        let most = AtomicU32::new(0);
        let (from, to) = (Ptr(sums.ptr()), Ptr(dw));
        let window = s.window();
        let each = 4_096usize.div_ceil(ins);
        pool::run_chunks(s.out_channels, each, |range| {
            let (from, to) = (&from, &to);
            for o in range {
                let (group, first) = (o / outs, o % outs);
                // SAFETY: the sums of an output channel, and its weights.
                let (from, to) = unsafe {
                    let from = from.0.add(group * POINTS * outs * ins + first * ins);
                    let to = std::slice::from_raw_parts_mut(to.0.add(o * window), window);
                    (Points::new(from, outs * ins, ins), to)
                };
                let exponent = transforms::weight_grads(from, self.parts, size, to);
                most.fetch_max(exponent, Ordering::Relaxed);
            }
        });
        let suits = transforms::in_range(most.into_inner());
        if suits {
            pool::run_chunks(s.out_channels, each, |r| {
                after((r.start * window..r.end * window).into())
            });
        }
        suits
    }

    /// Adds (or writes) the products of `count` tiles to sums of `[point, output channel, input
    /// channel]`.
    unsafe fn add(
        &self,
        inputs: Points,
        grads: Points,
        count: usize,
        sums: *mut f32,
        accumulate: bool,
    ) {
        let (set, ins, some) = (self.set, inputs.channels(), grads.channels());
        let block = self.s.group_out() * ins;
        let width = 2 * set.lanes;
        for point in 0..POINTS {
            for c in (0..ins).step_by(width) {
                let cols = width.min(ins - c);
                let vectors = cols.div_ceil(set.lanes);
                let lanes = cols - (vectors - 1) * set.lanes;
                let kernels = set.tile[vectors - 1];
                let height = some.div_ceil(some.div_ceil(kernels.len()));
                for o in (0..some).step_by(height) {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        kernels[height.min(some - o) - 1](&Tile {
                            k: count,
                            a: grads.at(point, 0).add(o),
                            a_step: some as isize,
                            b: inputs.at(point, 0).add(c),
                            b_step: ins as isize,
                            c: sums.add(point * block + o * ins + c),
                            c_step: ins as isize,
                            b_lanes: lanes,
                            c_lanes: lanes,
                            accumulate,
                        });
                    }
                }
            }
        }
    }
}
