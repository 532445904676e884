//! The output, and the gradient of the input.

use super::transforms::{self, Pixels, Points};
use super::{BESIDE, POINTS, Piece, TAPS, TILE, Tiles, kernels};
use crate::Face;
use crate::cpu::constant::{Constant, prepared};
use crate::cpu::conv::faces::{self, Correlation};
use crate::cpu::conv::{ConvShape, Ptr};
use crate::cpu::matmul::{After, Kernels, Scratch, Tile};
use crate::cpu::pool;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of transformed inputs that a task keeps in its cache.
const INPUTS: usize = 256 << 10;
/// The least number of tiles of a task, which reads all weights: a row of tiles is kept whole.
const LEAST: usize = 48;
/// Panels of output channels whose sums are kept at once.
const PANELS: usize = 4;
/// The work is cut into at least that many tasks.
const TASKS: usize = 4;

/// The transformed weights of all groups: for each group and point, panels of output channels by all
/// input channels.
struct Weights(Scratch<f32>);

/// A planned face: `outs` channels out of `ins`, in each of the groups.
pub struct Job {
    s: ConvShape,
    face: Face,
    set: &'static Kernels<f32>,
    tiles: Tiles,
    ins: usize,
    outs: usize,
    /// Rows of tiles of a task, and panels.
    rows: usize,
    panels: usize,
}

impl Job {
    /// The output, or else the input's gradient; `None` for shapes that have no such way.
    pub fn new(face: Face, s: &ConvShape) -> Option<Job> {
        kernels(s).map(|set| Job::with(set, face, s))
    }

    /// The same with kernels of any instruction set.
    pub fn with(set: &'static Kernels<f32>, face: Face, s: &ConvShape) -> Job {
        let c = match face {
            Face::Output => Correlation::output(s),
            _ => Correlation::input_grad(s),
        };
        let tiles = Tiles::new(c.walk);
        let panels = c.outs.div_ceil(2 * set.lanes);
        // Each task reads the weights of its panels, and transforms the inputs of its tiles.
        let fit = (INPUTS / (POINTS * c.ins * size_of::<f32>())).max(LEAST);
        let all = c.batch * tiles.rows;
        let rows = (fit / tiles.cols).clamp(1, all);
        let by_rows = all.div_ceil(rows);
        let cuts = TASKS.div_ceil(by_rows * c.groups).min(panels);
        Job {
            s: *s,
            face,
            set,
            tiles,
            ins: c.ins,
            outs: c.outs,
            rows: all.div_ceil(by_rows),
            panels: panels.div_ceil(cuts),
        }
    }

    /// Roughly how many cycles it takes.
    pub fn cycles(&self) -> usize {
        let s = &self.s;
        let tiles = s.batch * s.groups * self.tiles.rows * self.tiles.cols;
        let lanes = self.set.lanes;
        let products = tiles * POINTS * self.ins * self.outs.next_multiple_of(lanes);
        let panels = self.outs.div_ceil(2 * lanes).div_ceil(self.panels);
        let transforms = tiles * (5 * self.ins * panels + 4 * self.outs) * 8 / lanes;
        let weights = s.groups * self.ins * self.outs * 4;
        products * 10 / (lanes * 17) + transforms + weights + 20_000
    }

    /// Columns of a panel.
    fn width(&self) -> usize {
        2 * self.set.lanes
    }

    fn all_panels(&self) -> usize {
        self.outs.div_ceil(self.width())
    }

    /// The weights, transformed; kept if they are constant.
    fn weights(&self, w: *const f32, constant: Option<Constant>) -> Arc<Weights> {
        let (s, set, width) = (&self.s, self.set, self.width());
        let (panels, ins, outs) = (self.all_panels(), self.ins, self.outs);
        let size = s.groups * POINTS * panels * ins * width;
        let forward = self.face == Face::Output;
        let shape = [forward as usize, s.groups, ins, outs];
        prepared(constant, w.cast(), &shape, size * size_of::<f32>(), || {
            let all = Scratch::<f32>::of_form(size, constant);
            let (from, to) = (Ptr(w.cast_mut()), Ptr(all.ptr()));
            // Input channels that are worked on at once.
            let some = 16.min(ins);
            let cuts = ins.div_ceil(some);
            pool::run_chunks(s.groups * panels * cuts, 4, |tasks| {
                let (from, to) = (&from, &to);
                let near = Scratch::<f32>::new(some * TAPS * width);
                for task in tasks {
                    let (unit, cut) = (task / cuts, task % cuts);
                    let (group, panel) = (unit / panels, unit % panels);
                    let (o, c) = (panel * width, cut * some);
                    let lines = width.min(outs - o);
                    let some = some.min(ins - c);
                    // SAFETY: the weights of these channels, and their place in the panel.
                    unsafe {
                        if lines < width {
                            near.ptr().write_bytes(0, some * TAPS * width);
                        }
                        let block = panels * ins * width;
                        let to = to.0.add((group * POINTS * panels + panel) * ins * width);
                        if forward {
                            let row = (ins * TAPS) as isize;
                            let from = from.0.add(((group * outs + o) * ins + c) * TAPS);
                            set.turn(from, row, lines, some * TAPS, near.ptr(), width as isize);
                        }
                        for i in 0..some {
                            let taps = near.ptr().add(i * TAPS * width);
                            if !forward {
                                let from = from.0.add(((group * ins + c + i) * outs + o) * TAPS);
                                set.turn(from, TAPS as isize, lines, TAPS, taps, width as isize);
                            }
                            let to = to.add((c + i) * width);
                            transforms::weights(taps, width, !forward, to, block);
                        }
                    }
                }
            });
            Weights(all)
        })
    }

    /// # Safety
    /// As for [`conv`](crate::cpu::conv::conv); `constant` is the memory of the weights if nothing
    /// writes to it.
    pub unsafe fn run(
        &self,
        x: *const f32,
        w: *const f32,
        constant: Option<Constant>,
        y: *mut f32,
        after: After<'_>,
    ) {
        let (s, tiles, width) = (&self.s, &self.tiles, self.width());
        let (ins, outs) = (self.ins, self.outs);
        let weights = self.weights(w, constant);
        let all = s.batch * tiles.rows;
        let (by_rows, cuts) = (
            all.div_ceil(self.rows),
            self.all_panels().div_ceil(self.panels),
        );
        let [source, result] = [tiles.walk.image, tiles.walk.output].map(|[h, w]| h * w);
        let row = tiles.walk.output[1];
        let most = self.rows * tiles.cols;
        let (seen, line) = tiles.seen(self.rows.min(tiles.rows));
        let block = |channels: usize| most * channels + 16;
        let (x, w, y) = (Ptr(x.cast_mut()), Ptr(w.cast_mut()), Ptr(y));
        let weights = Ptr(weights.0.ptr());
        pool::run(s.groups * by_rows * cuts, |task| {
            let (x, w, y, weights) = (&x, &w, &y, &weights);
            let (unit, cut) = (task / cuts, task % cuts);
            let (group, first) = (unit / by_rows, unit % by_rows * self.rows);
            let rows = first..all.min(first + self.rows);
            let count = rows.len() * tiles.cols;
            let pixels = Scratch::<f32>::new(seen * ins.max(PANELS * width));
            let inputs = Scratch::<f32>::new(POINTS * block(ins));
            let inputs = Points {
                ptr: inputs.ptr(),
                block: block(ins),
                channels: ins,
            };
            let sums = Scratch::<f32>::new(POINTS * block(PANELS * width));
            let near = |cols, rows: &Range<usize>, width| Pixels {
                ptr: pixels.ptr(),
                width,
                rows: rows.len(),
                cols,
            };
            // Of each piece, whether its numbers suit.
            let mut suits = SmallVec::<[bool; 16]>::new();
            for Piece { image, rows, at } in tiles.pieces(rows.clone()) {
                // SAFETY: the group's channels of the image; scratch of the sizes needed.
                unsafe {
                    let x = x.0.add((image * s.groups + group) * ins * source);
                    tiles.lay_out(self.set, x, ins, &rows, pixels.ptr());
                }
                suits.push(transforms::even(
                    pixels.ptr(),
                    tiles.seen(rows.len()).0 * ins,
                ));
                transforms::inputs(near(tiles.cols, &rows, line), inputs.from(at));
            }
            let panels = cut * self.panels..self.all_panels().min((cut + 1) * self.panels);
            for first in panels.clone().step_by(PANELS) {
                let panels = first..panels.end.min(first + PANELS);
                let o = first * width;
                let channels = (panels.len() * width).min(outs - o);
                // Rows of sums are whole vectors.
                let pitch = channels.next_multiple_of(self.set.lanes);
                let sums = Points {
                    ptr: sums.ptr(),
                    block: block(pitch),
                    channels: pitch,
                };
                // SAFETY: what has been transformed; scratch of the sizes needed.
                unsafe { self.multiply(group, panels, inputs, count, weights.0, sums) };
                for (piece, suits) in tiles.pieces(rows.clone()).zip(&mut suits) {
                    let Piece { image, rows, at } = piece;
                    let line = tiles.cols * TILE;
                    let most = transforms::outputs(sums.from(at), near(tiles.cols, &rows, line));
                    *suits &= transforms::in_range(most);
                    let unit = image * s.groups + group;
                    for c in (0..channels).step_by(BESIDE) {
                        for (i, oy) in tiles.outputs(&rows).enumerate() {
                            // SAFETY: a row of the output, which is this task's own.
                            unsafe {
                                let from = pixels.ptr().add(i * line * pitch + c);
                                let to = y.0.add((unit * outs + o + c) * result + oy * row);
                                let some = BESIDE.min(channels - c);
                                self.set
                                    .turn(from, pitch as isize, row, some, to, result as isize);
                            }
                        }
                    }
                }
            }
            let channels = panels.start * width..outs.min(panels.end * width);
            for (Piece { image, rows, .. }, suits) in tiles.pieces(rows).zip(suits) {
                let lines = tiles.outputs(&rows);
                let unit = image * s.groups + group;
                if !suits {
                    // SAFETY: one group of one image, of which these channels and rows are this
                    // task's own.
                    unsafe {
                        let x = x.0.add(unit * ins * source);
                        let w = w.0.add(group * ins * outs * TAPS);
                        let y = y.0.add(unit * outs * result);
                        self.by_sums(x, w, &channels, &lines, y);
                    }
                }
                let at = |o: usize| (unit * outs + o) * result;
                if lines.len() == tiles.walk.output[0] {
                    after(at(channels.start)..at(channels.end));
                } else {
                    for o in channels.clone() {
                        after(at(o) + lines.start * row..at(o) + lines.end * row);
                    }
                }
            }
        });
    }

    /// Multiplies the inputs of `count` tiles by the weights of some panels, point by point.
    unsafe fn multiply(
        &self,
        group: usize,
        panels: Range<usize>,
        inputs: Points,
        count: usize,
        weights: *const f32,
        sums: Points,
    ) {
        let (set, ins, width, all) = (self.set, self.ins, self.width(), self.all_panels());
        for point in 0..POINTS {
            for panel in panels.clone() {
                let cols = width.min(self.outs - panel * width);
                let kernels = set.tile_by_row[cols.div_ceil(set.lanes) - 1];
                let height = count.div_ceil(count.div_ceil(kernels.len()));
                for i in (0..count).step_by(height) {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        let at = (group * POINTS + point) * all + panel;
                        let c = sums.ptr.add(point * sums.block + i * sums.channels);
                        kernels[height.min(count - i) - 1](&Tile {
                            k: ins,
                            a: inputs.ptr.add(point * inputs.block + i * ins),
                            a_step: ins as isize,
                            b: weights.add(at * ins * width),
                            b_step: width as isize,
                            c: c.add((panel - panels.start) * width),
                            c_step: sums.channels as isize,
                            b_lanes: set.lanes,
                            c_lanes: set.lanes,
                            accumulate: false,
                        });
                    }
                }
            }
        }
    }

    /// Some channels and rows of one image, by the sums as they are written.
    unsafe fn by_sums(
        &self,
        x: *const f32,
        w: *const f32,
        channels: &Range<usize>,
        lines: &Range<usize>,
        y: *mut f32,
    ) {
        let s = ConvShape {
            batch: 1,
            groups: 1,
            in_channels: self.s.group_in(),
            out_channels: self.s.group_out(),
            ..self.s
        };
        let [height, row] = self.tiles.walk.output;
        let whole = Scratch::<f32>::new(self.outs * height * row);
        // SAFETY: passed on from the caller.
        unsafe {
            faces::run(self.face, &s, x, w, None, whole.ptr(), &|_| {});
            for o in channels.clone() {
                let at = (o * height + lines.start) * row;
                let from = whole.ptr().add(at);
                std::ptr::copy_nonoverlapping(from, y.add(at), lines.len() * row);
            }
        }
    }
}
