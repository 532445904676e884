//! The output, and the gradient of the input.

use super::transforms::{self, Pixels, Points};
use super::{BESIDE, POINTS, TAPS, TILE, Tiles, kernels};
use crate::Face;
use crate::cpu::constant::{Constant, prepared};
use crate::cpu::conv::direct::some_rows;
use crate::cpu::conv::faces::{self, Correlation};
use crate::cpu::conv::{ConvShape, Ptr};
use crate::cpu::matmul::{Kernels, Scratch, Tile};
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::{After, Runs};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
struct Weights {
    all: Scratch<f32>,
    /// Whether their sizes suit.
    suit: bool,
}

/// A planned face.
pub struct Job {
    s: ConvShape,
    face: Face,
    set: &'static Kernels<f32>,
    c: Correlation,
    tiles: Tiles,
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
        let all = tiles.all(c.batch);
        let rows = (fit / tiles.cols).clamp(1, all);
        let by_rows = all.div_ceil(rows);
        let cuts = TASKS.div_ceil(by_rows * c.groups).min(panels);
        Job {
            s: *s,
            face,
            set,
            c,
            tiles,
            rows: all.div_ceil(by_rows),
            panels: panels.div_ceil(cuts),
        }
    }

    /// Roughly how many cycles it takes.
    pub fn cycles(&self) -> usize {
        let (c, lanes) = (&self.c, self.set.lanes);
        let tiles = self.tiles.all(c.batch) * self.tiles.cols * c.groups;
        let products = tiles * POINTS * c.ins * c.outs.next_multiple_of(lanes);
        let cuts = self.all_panels().div_ceil(self.panels);
        let transforms = tiles * (5 * c.ins * cuts + 4 * c.outs) * 8 / lanes;
        let weights = c.groups * c.ins * c.outs * 4;
        products * 10 / (lanes * 17) + transforms + weights + 20_000
    }

    /// Columns of a panel.
    fn width(&self) -> usize {
        2 * self.set.lanes
    }

    fn all_panels(&self) -> usize {
        self.c.outs.div_ceil(self.width())
    }

    /// The weights, transformed; kept if they are constant.
    fn weights(&self, w: *const f32, constant: Option<Constant>) -> Arc<Weights> {
        let (set, width, panels) = (self.set, self.width(), self.all_panels());
        let Correlation {
            groups, ins, outs, ..
        } = self.c;
        let size = groups * POINTS * panels * ins * width;
        let forward = self.face == Face::Output;
        let shape = [forward as usize, groups, ins, outs];
        prepared(constant, w.cast(), &shape, size * size_of::<f32>(), || {
            let all = Scratch::<f32>::of_form(size, constant);
            let (from, to) = (Ptr(w.cast_mut()), Ptr(all.ptr()));
            let suit = AtomicBool::new(true);
            pool::run(groups * panels, |task| {
                let (from, to) = (&from, &to);
                let (group, panel) = (task / panels, task % panels);
                let o = panel * width;
                let lines = width.min(outs - o);
                let some = BESIDE.min(ins);
                let near = Own::<f32>::new(some * TAPS * width);
                let mut sizes: SmallVec<[f32; TAPS * 32]> = smallvec![0.0; TAPS * width];
                for c in (0..ins).step_by(some) {
                    let some = some.min(ins - c);
                    // SAFETY: the weights of these channels, and their place in the panel.
                    unsafe {
                        if lines < width {
                            near.ptr().write_bytes(0, some * TAPS * width);
                        }
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
                            let taps = std::slice::from_raw_parts(taps, TAPS * width);
                            let at = (group * POINTS * panels + panel) * ins + c + i;
                            let to = to.0.add(at * width);
                            let to = Points::new(to, panels * ins * width, width);
                            transforms::weights(taps, !forward, to, &mut sizes);
                        }
                    }
                }
                if !transforms::taps_alike(&sizes, width, lines) {
                    suit.store(false, Ordering::Relaxed);
                }
            });
            let suit = suit.into_inner();
            Weights { all, suit }
        })
    }

    /// Whether it has been computed, which it is not if the weights do not suit.
    ///
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
    ) -> bool {
        let (tiles, width) = (&self.tiles, self.width());
        let Correlation {
            batch,
            groups,
            ins,
            outs,
            ..
        } = self.c;
        let weights = self.weights(w, constant);
        if !weights.suit {
            return false;
        }
        let all = tiles.all(batch);
        let (by_rows, cuts) = (
            all.div_ceil(self.rows),
            self.all_panels().div_ceil(self.panels),
        );
        let [source, result] = [tiles.walk.image, tiles.walk.output].map(|[h, w]| h * w);
        let row = tiles.walk.output[1];
        let [lines, line] = tiles.seen(self.rows.min(tiles.rows));
        let beside = PANELS.min(self.panels);
        let block = |channels: usize| self.rows * tiles.cols * channels + 16;
        let (x, w, y) = (Ptr(x.cast_mut()), Ptr(w.cast_mut()), Ptr(y));
        let weights = Ptr(weights.all.ptr());
        pool::run(groups * by_rows * cuts, |task| {
            let (x, w, y, weights) = (&x, &w, &y, &weights);
            let (unit, cut) = (task / cuts, task % cuts);
            let (group, first) = (unit / by_rows, unit % by_rows * self.rows);
            let rows = first..all.min(first + self.rows);
            let count = rows.len() * tiles.cols;
            let pixels = Own::<f32>::new(lines * line * ins.max(beside * width));
            let inputs = Own::<f32>::new(POINTS * block(ins));
            let sums = Own::<f32>::new(POINTS * block(beside * width));
            let near = |rows: &Range<usize>, width| {
                // SAFETY: there is room for so many rows.
                unsafe { Pixels::new(pixels.ptr(), width, [rows.len(), tiles.cols]) }
            };
            // SAFETY: there is room for all tiles of the task.
            let inputs = unsafe { Points::new(inputs.ptr(), block(ins), ins) };
            // Of each piece, whether its numbers suit.
            let mut suits = SmallVec::<[bool; 16]>::new();
            for piece in tiles.pieces(rows.clone()) {
                // SAFETY: the group's channels of the image; scratch of the sizes needed.
                let seen = unsafe {
                    let x = x.0.add((piece.image * groups + group) * ins * source);
                    tiles.lay_out(self.set, x, ins, &piece, pixels.ptr());
                    let [lines, line] = tiles.seen(piece.rows.len());
                    std::slice::from_raw_parts(pixels.ptr(), lines * line * ins)
                };
                suits.push(transforms::even(seen));
                transforms::inputs(near(&piece.rows, line), inputs.skip(piece.at));
            }
            let panels = cut * self.panels..self.all_panels().min((cut + 1) * self.panels);
            for first in panels.clone().step_by(beside) {
                let panels = first..panels.end.min(first + beside);
                let o = first * width;
                let channels = (panels.len() * width).min(outs - o);
                // Rows of sums are whole vectors.
                let pitch = channels.next_multiple_of(self.set.lanes);
                // SAFETY: there is room for all tiles; what has been transformed.
                let sums = unsafe {
                    let sums = Points::new(sums.ptr(), block(pitch), pitch);
                    self.multiply(group, panels, inputs, count, weights.0, sums);
                    sums
                };
                for (piece, suits) in tiles.pieces(rows.clone()).zip(&mut suits) {
                    let line = tiles.cols * TILE;
                    let most = transforms::outputs(sums.skip(piece.at), near(&piece.rows, line));
                    *suits &= transforms::in_range(most);
                    let unit = piece.image * groups + group;
                    let [lines, cols] = tiles.outputs(&piece);
                    for c in (0..channels).step_by(BESIDE) {
                        let some = BESIDE.min(channels - c);
                        for (i, oy) in lines.clone().enumerate() {
                            // SAFETY: part of a row of the output, which is this task's own.
                            unsafe {
                                let from = pixels.ptr().add(i * line * pitch + c);
                                let at = (unit * outs + o + c) * result + oy * row + cols.start;
                                let (step, next) = (pitch as isize, result as isize);
                                self.set
                                    .turn(from, step, cols.len(), some, y.0.add(at), next);
                            }
                        }
                    }
                }
            }
            let channels = panels.start * width..outs.min(panels.end * width);
            for (piece, suits) in tiles.pieces(rows).zip(suits) {
                let unit = piece.image * groups + group;
                let [lines, cols] = tiles.outputs(&piece);
                if !suits {
                    // SAFETY: one group of one image, of which these channels and positions are this
                    // task's own.
                    unsafe {
                        let x = x.0.add(unit * ins * source);
                        let w = w.0.add(group * ins * outs * TAPS);
                        let y = y.0.add(unit * outs * result);
                        self.by_sums(x, w, &channels, [&lines, &cols], y);
                    }
                }
                self.tell(unit, channels.clone(), [lines, cols], after);
            }
        });
        true
    }

    /// Tells `after` of channels, lines and columns of one group of one image.
    fn tell(
        &self,
        unit: usize,
        channels: Range<usize>,
        [lines, cols]: [Range<usize>; 2],
        after: After<'_>,
    ) {
        let [height, row] = self.c.walk.output;
        let first = unit * self.c.outs;
        let planes = first + channels.start..first + channels.end;
        if cols.len() < row {
            for plane in planes {
                after(Runs::block(
                    plane * height * row,
                    row,
                    lines.clone(),
                    cols.clone(),
                ));
            }
        } else {
            let positions = lines.start * row..lines.end * row;
            after(Runs::block(0, height * row, planes, positions));
        }
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
        let (set, width, all) = (self.set, self.width(), self.all_panels());
        let Correlation { ins, outs, .. } = self.c;
        for point in 0..POINTS {
            for panel in panels.clone() {
                let cols = width.min(outs - panel * width);
                let kernels = set.tile_by_row[cols.div_ceil(set.lanes) - 1];
                let height = count.div_ceil(count.div_ceil(kernels.len()));
                for i in (0..count).step_by(height) {
                    // SAFETY: passed on from the caller.
                    unsafe {
                        let at = (group * POINTS + point) * all + panel;
                        kernels[height.min(count - i) - 1](&Tile {
                            k: ins,
                            a: inputs.at(point, i),
                            a_step: ins as isize,
                            b: weights.add(at * ins * width),
                            b_step: width as isize,
                            c: sums.at(point, i).add((panel - panels.start) * width),
                            c_step: sums.channels() as isize,
                            b_lanes: set.lanes,
                            c_lanes: set.lanes,
                            accumulate: false,
                        });
                    }
                }
            }
        }
    }

    /// Some channels, lines and columns of one image, by the sums as they are written.
    unsafe fn by_sums(
        &self,
        x: *const f32,
        w: *const f32,
        channels: &Range<usize>,
        [lines, cols]: [&Range<usize>; 2],
        y: *mut f32,
    ) {
        let [height, row] = self.c.walk.output;
        let c = Correlation {
            batch: 1,
            groups: 1,
            outs: channels.len(),
            walk: some_rows(&self.c.walk, lines.start, lines.end),
            ..self.c
        };
        let whole = Own::<f32>::new(channels.len() * lines.len() * row);
        // SAFETY: passed on from the caller.
        unsafe {
            let turned =
                (self.face != Face::Output).then(|| faces::turn_weights(&self.s.one_group(), w));
            let w = turned.as_ref().map_or(w, |w| w.ptr().cast_const());
            let w = w.add(channels.start * c.ins * TAPS);
            faces::correlate(&c, x, w, None, whole.ptr(), After::none());
            for (i, o) in channels.clone().enumerate() {
                for (l, line) in lines.clone().enumerate() {
                    let from = whole.ptr().add((i * lines.len() + l) * row + cols.start);
                    let to = y.add((o * height + line) * row + cols.start);
                    std::ptr::copy_nonoverlapping(from, to, cols.len());
                }
            }
        }
    }
}
