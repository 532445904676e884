//! The output of a convolution, and the gradient of its input, on the matrix unit.
//!
//! Weights are packed once, the images of a task are laid out as lines (`lines.rs`), and for each
//! pair of blocks of output channels the kernel slides over the lines: the sums are rows of
//! channels by 32 positions, so that they leave the registers in the order in which the output
//! lies, short of the junk between the rows.

use super::lines::{Axis, LANES, Phase, Piece, Plan, Sizes, Target};
use super::{ConvShape, Face, Ptr};
use crate::cpu::constant::{Constant, prepared};
use crate::cpu::matmul::Scratch;
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::simd::prefetch;
use crate::cpu::unit::{self, Extent, Format, LINES, Lines, STEP, Side, Sliding, TILE, Tiles};
use crate::cpu::{After, Runs};
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of laid-out images that a task keeps in its cache.
const IMAGES: usize = 512 << 10;
/// The same where the weights are so many that they come from memory for each task.
const MORE_IMAGES: usize = 1 << 20;
/// Positions of a strip.
const STRIP: usize = 2 * LANES;
/// The work is cut into at least that many tasks.
const TASKS: usize = 4;

/// Of an operand that is 1 throughout.
const ONES: Extent = Extent {
    least: 0x3F80_0000,
    most: 0x3F80_0000,
};
/// What the products of so many parts cost, in products of tiles: there are one, three or six, and six
/// take half as long again, as measured.
pub(super) const COST: [usize; 4] = [0, 1, 3, 9];

/// The weights of all groups, packed.
struct Weights {
    tiles: Scratch<u8>,
    extent: Extent,
}

/// A planned face: `outs` channels out of `ins`, in each of the groups.
pub struct Job {
    s: ConvShape,
    face: Face,
    parts: usize,
    ins: usize,
    outs: usize,
    /// Elements of a channel, of the operand and of the result.
    source: usize,
    result: usize,
    plan: Plan,
}

impl Job {
    /// `None` for so few channels that most of a tile would be empty.
    pub fn new(face: Face, s: &ConvShape) -> Option<Job> {
        let forward = face == Face::Output;
        let (mut ins, mut outs) = (s.group_in(), s.group_out());
        let axis = if forward {
            Axis::forward
        } else {
            Axis::backward
        };
        if !forward {
            (ins, outs) = (outs, ins);
        }
        if ins < 8 || outs < 4 {
            return None;
        }
        let axes = [axis(s, 0), axis(s, 1)];
        let parts = unit::parts(s.precision);
        let taps = s.kernel[0] * s.kernel[1];
        let one = Plan::new(&axes, 1);
        let bytes = |plan: &Plan| ins.next_multiple_of(STEP) * plan.sources * parts * 2;
        let weights = taps * ins.next_multiple_of(STEP) * outs.next_multiple_of(LINES) * parts * 2;
        let room = if weights > IMAGES {
            MORE_IMAGES
        } else {
            IMAGES
        };
        let most = (s.batch * s.groups).div_ceil(TASKS).min(s.batch);
        let images = (room / (bytes(&one) * one.image)).clamp(1, most);
        let images = s.batch.div_ceil(s.batch.div_ceil(images));
        let plan = match images {
            1 => one,
            _ => Plan::new(&axes, images),
        };
        let [oh, ow] = s.output();
        let (x, y) = (s.input[0] * s.input[1], oh * ow);
        let (source, result) = if forward { (x, y) } else { (y, x) };
        Some(Job {
            s: *s,
            face,
            parts,
            ins,
            outs,
            source,
            result,
            plan,
        })
    }

    /// Roughly how many cycles it takes.
    pub fn cycles(&self) -> usize {
        let (s, plan) = (&self.s, &self.plan);
        let groups = s.batch.div_ceil(plan.images) * s.groups;
        let taps = s.kernel[0] * s.kernel[1];
        let tiles = plan.positions / LANES * self.outs.div_ceil(LINES);
        let steps = self.ins.div_ceil(STEP) * taps / plan.phases.len().min(taps);
        let unit = (unit::cycles() + 1) * COST[self.parts] * steps + 120;
        let lines = plan.images * plan.image * plan.sources * self.ins * (self.parts + 2) / 12;
        let weights = s.groups * taps * self.ins * self.outs * (self.parts + 1) / 2;
        let tiles = tiles * plan.phases.len();
        groups * (tiles * unit + lines) + weights + 4_000
    }

    fn blocks(&self) -> usize {
        self.outs.div_ceil(LINES)
    }

    fn steps(&self) -> usize {
        self.ins.div_ceil(STEP)
    }

    /// Bytes of the packed weights of one group.
    fn group_bytes(&self) -> usize {
        let taps: usize = self.plan.phases.iter().map(|p| p.taps.len()).sum();
        self.blocks() * self.steps() * taps * self.parts * TILE
    }

    /// Where a block's tiles for a phase begin.
    fn weights_at(&self, group: usize, phase: usize, block: usize) -> usize {
        let taps = |phases: &[Phase]| phases.iter().map(|p| p.taps.len()).sum::<usize>();
        let before = taps(&self.plan.phases[..phase]) * self.blocks();
        let within = self.plan.phases[phase].taps.len() * block;
        group * self.group_bytes() + (before + within) * self.steps() * self.parts * TILE
    }

    /// Packs the weights of a step of a block, for all phases.
    unsafe fn pack(
        &self,
        w: *const f32,
        group: usize,
        block: usize,
        step: usize,
        to: *mut u8,
    ) -> Extent {
        let taps = self.s.kernel[0] * self.s.kernel[1];
        let window = self.s.window();
        let (o, c) = (block * LINES, step * STEP);
        let (lines, len) = (LINES.min(self.outs - o), STEP.min(self.ins - c));
        let mut near;
        let from = match self.face {
            Face::Output => Lines {
                ptr: w.wrapping_add((group * self.outs + o) * window + c * taps),
                line: window as isize,
                step: taps as isize,
                lines,
                len,
            },
            // The gradient's sums run over the output channels, whose weights lie far apart.
            _ => {
                let run = lines * taps;
                near = vec![0f32; len * run];
                for l in 0..len {
                    let from = w.wrapping_add((group * self.ins + c + l) * window + o * taps);
                    // SAFETY: weights of these channels.
                    let from = unsafe { std::slice::from_raw_parts(from, run) };
                    near[l * run..][..run].copy_from_slice(from);
                }
                Lines {
                    ptr: near.as_ptr(),
                    line: taps as isize,
                    step: run as isize,
                    lines,
                    len,
                }
            }
        };
        let mut extent = Extent::default();
        for (i, phase) in self.plan.phases.iter().enumerate() {
            let at = self.weights_at(group, i, block);
            let at = at + step * phase.taps.len() * self.parts * TILE;
            for (t, &tap) in phase.taps.iter().enumerate() {
                let x = Lines {
                    ptr: from.ptr.wrapping_add(tap),
                    ..from
                };
                // SAFETY: weights of these channels, and the place of their tiles.
                let more = unsafe {
                    let dst = to.add(at + t * self.parts * TILE);
                    unit::pack(Format::Rows, self.parts, x, dst)
                };
                extent = extent.and(more);
            }
        }
        extent
    }

    /// Lays out some images for sums at `strips`.
    unsafe fn lay_out(
        &self,
        x: *const f32,
        images: usize,
        strips: &Range<usize>,
        to: Target,
    ) -> Extent {
        let plan = &self.plan;
        let first = strips.start * 2;
        let vectors = first..first + to.source / LANES;
        let filled = match strips.len() * STRIP == plan.positions {
            true => images * plan.image,
            false => (plan.image - (plan.image).min(first * LANES)).min(to.source),
        };
        // SAFETY: passed on from the caller; rows and lines of the target.
        unsafe {
            for row in 0..self.steps() * self.parts * 16 {
                let (block, part, r) = (row / 16 / self.parts, row / 16 % self.parts, row % 16);
                let row = to.ptr.add(block * to.block + part * to.part + r * to.row);
                let from = match block * STEP + 2 * r < self.ins {
                    true => filled,
                    false => 0,
                };
                for source in 0..plan.sources {
                    row.add((source * to.source + from) * 4)
                        .write_bytes(0, (to.source - from) * 4);
                }
            }
            let mut sizes = Sizes::new(plan.sizes());
            let mut extent = Extent::default();
            for image in 0..images {
                let x = x.add(image * self.s.groups * self.ins * self.source);
                plan.pairs(
                    self.parts,
                    x,
                    self.ins,
                    self.source,
                    image,
                    vectors.clone(),
                    &mut sizes,
                    to,
                );
                extent = extent.and(sizes.take());
            }
            extent
        }
    }

    /// The result at some strips of some images that have been laid out.
    unsafe fn slide(
        &self,
        weights: *const u8,
        group: usize,
        images: usize,
        strips: &Range<usize>,
        from: Target,
        y: *mut f32,
    ) {
        #[repr(align(64))]
        struct Near([f32; 4 * LINES * LANES]);
        let mut near = Near([0.0; 4 * LINES * LANES]);
        // SAFETY: passed on from the caller; there is a unit, or nobody would have called.
        unsafe {
            if self.plan.phases.iter().any(|p| p.taps.is_empty()) {
                for n in 0..images {
                    let y = y.add(n * self.s.groups * self.outs * self.result);
                    y.write_bytes(0, self.outs * self.result);
                }
            }
            let tiles = Tiles::new();
            for (i, phase) in self.plan.phases.iter().enumerate() {
                if phase.taps.is_empty() {
                    continue;
                }
                let mut offsets = Vec::with_capacity(self.steps() * phase.taps.len());
                for step in 0..self.steps() {
                    for &(source, shift) in &phase.shifts {
                        offsets.push(step * from.block + (source * from.source + shift) * 4);
                    }
                }
                for block in (0..self.blocks()).step_by(2) {
                    let p = 2.min(self.blocks() - block);
                    let packed =
                        [0, 1].map(|b| weights.wrapping_add(self.weights_at(group, i, block + b)));
                    for strip in strips.clone() {
                        let pieces = [0, 1].map(|v| phase.pieces(2 * strip + v));
                        let s = match pieces.map(|p| p.is_empty()) {
                            [true, true] => continue,
                            [_, true] => 1,
                            _ => 2,
                        };
                        let product = Sliding {
                            packed,
                            sliding: from.ptr.add((strip - strips.start) * STRIP * 4),
                            offsets: offsets.as_ptr(),
                            part: from.part,
                            block: LANES * 4,
                            row: from.row,
                            steps: offsets.len(),
                            sums: near.0.as_mut_ptr(),
                            accumulate: false,
                        };
                        let channels = (p * LINES).min(self.outs - block * LINES);
                        let y = y.add(block * LINES * self.result);
                        let image = |piece: &Piece| {
                            y.add(piece.image as usize * self.s.groups * self.outs * self.result)
                        };
                        let pieces =
                            pieces.map(|all| all.iter().filter(|p| (p.image as usize) < images));
                        // Memory of the output comes while the unit is at work.
                        for piece in pieces.iter().cloned().flatten() {
                            let y = image(piece).wrapping_add(piece.to as usize);
                            for c in 0..channels {
                                prefetch(y.wrapping_add(c * self.result).cast());
                            }
                        }
                        unit::slide(&tiles, self.parts, Side::Second, p, s, &product);
                        for (v, pieces) in pieces.into_iter().enumerate() {
                            for piece in pieces {
                                let y = image(piece);
                                let sums = near.0.as_ptr().add(v * LINES * LANES);
                                match (self.plan.dense, piece.mask) {
                                    (true, 0xFFFF) => {
                                        drop_dense::<true>(piece, sums, channels, y, self.result)
                                    }
                                    (true, _) => {
                                        drop_dense::<false>(piece, sums, channels, y, self.result)
                                    }
                                    _ => drop_spread(piece, sums, channels, y, self.result),
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// The weights, packed; kept if they are constant.
    fn weights(&self, w: *const f32, constant: Option<Constant>) -> Arc<Weights> {
        let s = &self.s;
        let (blocks, steps) = (self.blocks(), self.steps());
        let bytes = s.groups * self.group_bytes();
        // All that the order of the taps follows from.
        let [top, left] = s.padding;
        let shape = [
            (self.face == Face::Output) as usize,
            self.parts,
            s.groups,
            self.ins,
            self.outs,
        ];
        let sizes = [s.input, s.kernel, s.stride, s.dilation];
        let padding = [top.0, top.1, left.0, left.1];
        let shape = [&shape[..], sizes.as_flattened(), &padding].concat();
        prepared(constant, w.cast(), &shape, bytes, || {
            let tiles = Scratch::<u8>::of_form(bytes, constant);
            let mut extents = vec![Extent::default(); s.groups * blocks * steps];
            let seen = Ptr(extents.as_mut_ptr());
            let to = Ptr(tiles.ptr());
            let from = Ptr(w.cast_mut());
            let taps = s.kernel[0] * s.kernel[1];
            pool::run_chunks(extents.len(), 16_384 / (LINES * STEP * taps) + 1, |r| {
                let (seen, to, from) = (&seen, &to, &from);
                for i in r {
                    let (group, block, step) =
                        (i / (blocks * steps), i / steps % blocks, i % steps);
                    // SAFETY: each step of each block is packed by one task.
                    unsafe { *seen.0.add(i) = self.pack(from.0, group, block, step, to.0) };
                }
            });
            let extent = Extent::together(&extents);
            Weights { tiles, extent }
        })
    }

    /// Whether it has been computed, which it is not if the weights have no exact parts.
    ///
    /// # Safety
    /// As for [`conv`](super::conv); there must be a [`unit`]. `constant` is the memory of the weights
    /// if nothing writes to it.
    pub unsafe fn run(
        &self,
        x: *const f32,
        w: *const f32,
        constant: Option<Constant>,
        y: *mut f32,
        after: After<'_>,
    ) -> bool {
        let (s, plan) = (&self.s, &self.plan);
        let steps = self.steps();
        let weights = self.weights(w, constant);
        let of_weights = weights.extent;
        let k = self.ins * s.kernel[0] * s.kernel[1];
        // What can be told of the weights alone.
        if self.parts > 1 && !of_weights.suits(ONES, 1) {
            return false;
        }

        let groups = s.batch.div_ceil(plan.images);
        let units = groups * s.groups;
        let strips = plan.positions / STRIP;
        // Few units are cut by strips.
        let cuts = match plan.images == 1 && plan.dense && units < TASKS {
            true => (2 * TASKS).div_ceil(units).min(strips.div_ceil(4)),
            false => 1,
        };
        let cut = strips.div_ceil(cuts);
        let cuts = strips.div_ceil(cut);
        let line = plan.line(cut * STRIP);
        let (x, y, weights) = (Ptr(x.cast_mut()), Ptr(y), Ptr(weights.tiles.ptr()));
        let w = Ptr(w.cast_mut());
        pool::run(units * cuts, |task| {
            let (x, y, weights, w) = (&x, &y, &weights, &w);
            let (unit, piece) = (task / cuts, task % cuts);
            let (n, group) = (unit / s.groups * plan.images, unit % s.groups);
            let images = plan.images.min(s.batch - n);
            let strips = piece * cut..strips.min((piece + 1) * cut);
            let size = plan.target(std::ptr::null_mut(), self.parts, line, 4).block;
            let lines = Own::<u8>::new(steps * size);
            let to = plan.target(lines.ptr(), self.parts, line, 4);
            let first = (n * s.groups + group) * self.outs * self.result;
            // SAFETY: the images and the results of this task; scratch of the sizes needed.
            unsafe {
                let from = x.0.add((n * s.groups + group) * self.ins * self.source);
                let extent = self.lay_out(from, images, &strips, to);
                if self.parts == 1 || extent.suits(of_weights, k) {
                    self.slide(weights.0, group, images, &strips, to, y.0.add(first));
                } else {
                    self.by_vectors(x.0, w.0, n, group, images, y.0);
                }
            }
            if cuts == 1 {
                let size = self.outs * self.result;
                let of_group = group * size..(group + 1) * size;
                after(Runs::block(0, s.groups * size, n..n + images, of_group));
            } else {
                let phase = &plan.phases[0];
                let mut at = strips.start * 2..strips.end * 2;
                let begin = at.clone().find_map(|v| phase.pieces(v).first());
                let end = at.rfind(|&v| !phase.pieces(v).is_empty());
                let (Some(begin), Some(end)) = (begin, end) else {
                    return;
                };
                let last = phase.pieces(end).last().unwrap();
                let end = last.to as usize + last.mask.count_ones() as usize;
                let positions = begin.to as usize..end;
                after(Runs::block(first, self.result, 0..self.outs, positions));
            }
        });
        true
    }

    /// Some images whose numbers have no exact parts.
    unsafe fn by_vectors(
        &self,
        x: *const f32,
        w: *const f32,
        n: usize,
        group: usize,
        images: usize,
        y: *mut f32,
    ) {
        let s = self.s.one_group();
        for n in n..n + images {
            let unit = n * self.s.groups + group;
            // SAFETY: one group of one image, which is this task's own.
            unsafe {
                let x = x.add(unit * self.ins * self.source);
                let w = w.add(group * self.s.group_out() * self.s.window());
                let y = y.add(unit * self.outs * self.result);
                super::faces::run(self.face, &s, x, w, None, y, After::none());
            }
        }
    }
}

/// Writes what 16 positions of up to 32 channels have for one image to where it belongs.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn drop_dense<const WHOLE: bool>(
    piece: &Piece,
    sums: *const f32,
    channels: usize,
    y: *mut f32,
    row: usize,
) {
    let y = y.wrapping_add(piece.to as usize);
    let store = (0xFFFFu32 >> (16 - piece.mask.count_ones())) as __mmask16;
    for c in 0..channels {
        // SAFETY: the sums of channel `c`, and its outputs.
        unsafe {
            let at = c / LINES * 2 * LINES * LANES + c % LINES * LANES;
            let sums = _mm512_load_ps(sums.add(at));
            let y = y.add(c * row);
            match WHOLE {
                true => _mm512_storeu_ps(y, sums),
                false => {
                    _mm512_mask_storeu_ps(y, store, _mm512_maskz_compress_ps(piece.mask, sums))
                }
            }
        }
    }
}

/// The same where outputs do not lie one behind the other.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn drop_spread(piece: &Piece, sums: *const f32, channels: usize, y: *mut f32, row: usize) {
    // SAFETY: the sums of each channel, and its outputs.
    unsafe {
        let index = _mm512_loadu_si512(piece.index.as_ptr().cast());
        for c in 0..channels {
            let at = c / LINES * 2 * LINES * LANES + c % LINES * LANES;
            let sums = _mm512_load_ps(sums.add(at));
            _mm512_mask_i32scatter_ps::<4>(y.add(c * row), piece.mask, index, sums);
        }
    }
}
