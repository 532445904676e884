//! The gradient of a convolution's weights on the matrix unit.
//!
//! For each element of the kernel it is the product of the input, shifted, with the output's
//! gradient, summed over positions. The input's channels lie as lines (`lines.rs`) that are read
//! at any shift; the gradients, zero between the rows, are packed into tiles once.

use super::lines::{Axis, LANES, Plan, Sizes};
use super::{ConvShape, Ptr};
use crate::cpu::After;
use crate::cpu::matmul::{Scratch, transpose_registers};
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::unit::{self, Extent, Format, LINES, Lines, STEP, Side, Sliding, TILE, Tiles};
use std::arch::x86_64::*;
use std::ops::Range;

/// Bytes of sums that a task keeps in its cache.
const SUMS: usize = 640 << 10;
/// Bytes of images and gradients that a task keeps there besides.
const IMAGES: usize = 640 << 10;
/// The work is cut into at least that many tasks.
const TASKS: usize = 4;
/// Elements of the sums in a tile.
const SQUARE: usize = LINES * LINES;

/// A planned gradient.
pub struct Job {
    s: ConvShape,
    parts: usize,
    plan: Plan,
    /// Tasks take so many pairs of blocks of input channels: all, or one.
    pairs: usize,
    /// Parts of the batch that are summed up by themselves, then added in order.
    shares: usize,
}

impl Job {
    pub fn new(s: &ConvShape) -> Job {
        let axes = [Axis::forward(s, 0), Axis::forward(s, 1)];
        let parts = unit::parts(s.precision);
        let (ins, outs) = (s.group_in(), s.group_out());
        let taps = s.kernel[0] * s.kernel[1];
        let all = ins.div_ceil(2 * LINES);
        let sums = taps * all * outs.div_ceil(2 * LINES) * 4 * SQUARE * 4;
        let pairs = if sums > SUMS { 1 } else { all };
        let tasks = all.div_ceil(pairs) * s.groups;
        let shares = TASKS.div_ceil(tasks).min(s.batch);
        let one = Plan::new(&axes, 1);
        let channels = pairs * 2 * LINES * one.sources + if pairs == all { outs } else { 0 };
        let share = s.batch.div_ceil(shares);
        let images = (IMAGES / (channels * one.image * parts * 2)).clamp(1, share);
        let images = share.div_ceil(share.div_ceil(images));
        let plan = match images {
            1 => one,
            _ => Plan::new(&axes, images),
        };
        Job {
            s: *s,
            parts,
            plan,
            pairs,
            shares: s.batch.div_ceil(share),
        }
    }

    /// Roughly how many cycles it takes.
    pub fn cycles(&self) -> usize {
        let (s, plan) = (&self.s, &self.plan);
        let groups = s.batch.div_ceil(plan.images) * s.groups;
        let taps = s.kernel[0] * s.kernel[1];
        let (ins, outs) = (s.group_in(), s.group_out());
        let products = super::tiles::COST[self.parts];
        let tiles = taps * ins.div_ceil(LINES) * outs.div_ceil(LINES);
        let lines = plan.images * plan.image * plan.sources * ins * (self.parts + 2) / 8;
        let grads = plan.positions * outs.next_multiple_of(LINES) * (self.parts + 1) / 3;
        let unit = plan.positions / STEP * (unit::cycles() * products + 8) * tiles + lines + grads;
        groups * unit + tiles * s.groups * 400 + 4_000
    }

    fn steps(&self) -> usize {
        self.plan.positions / STEP
    }

    fn out_blocks(&self) -> usize {
        self.s.group_out().div_ceil(LINES)
    }

    /// Packs the gradients of a block of channels of some images.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack(
        &self,
        dy: *const f32,
        group: usize,
        block: usize,
        images: &Range<usize>,
        to: *mut u8,
    ) -> Extent {
        let [oh, ow] = self.s.output();
        let (outs, size) = (self.s.group_out(), oh * ow);
        let lines = LINES.min(outs - block * LINES);
        let phase = &self.plan.phases[0];
        let mut near = [0f32; LINES * STEP];
        let mut extent = Extent::default();
        for step in 0..self.steps() {
            // SAFETY: gradients of these channels; the step's tiles.
            unsafe {
                for v in 0..STEP / LANES {
                    let pieces = phase.pieces(step * STEP / LANES + v);
                    for line in 0..lines {
                        let mut x = _mm512_setzero_ps();
                        for piece in pieces {
                            let n = images.start + piece.image as usize;
                            if n < images.end {
                                let channel = (n * self.s.groups + group) * outs;
                                let channel = channel + block * LINES + line;
                                let from = dy.add(channel * size + piece.to as usize);
                                x = _mm512_mask_expandloadu_ps(x, piece.mask, from);
                            }
                        }
                        _mm512_storeu_ps(near.as_mut_ptr().add(line * STEP + v * LANES), x);
                    }
                }
                let x = Lines {
                    ptr: near.as_ptr(),
                    line: STEP as isize,
                    step: 1,
                    lines,
                    len: STEP,
                };
                let to = to.add(step * self.parts * TILE);
                extent = extent.and(unit::pack(Format::Pairs, self.parts, x, to));
            }
        }
        extent
    }

    /// Whether it has been computed, which it is not if some numbers have no exact parts.
    ///
    /// # Safety
    /// As for [`conv`](super::conv); there must be a [`unit`].
    pub unsafe fn run(
        &self,
        x: *const f32,
        dy: *const f32,
        dw: *mut f32,
        after: After<'_>,
    ) -> bool {
        let (s, plan, parts) = (&self.s, &self.plan, self.parts);
        let (ins, outs) = (s.group_in(), s.group_out());
        let taps = s.kernel[0] * s.kernel[1];
        let image = s.input[0] * s.input[1];
        let (steps, blocks) = (self.steps(), self.out_blocks());
        let out_pairs = blocks.div_ceil(2);
        let cuts = ins.div_ceil(2 * LINES).div_ceil(self.pairs);
        let share = s.batch.div_ceil(self.shares);
        let groups = share.div_ceil(plan.images);
        // The images of group `i` of a share.
        let images = |part: usize, i: usize| {
            let first = part * share + i * plan.images;
            let end = s.batch.min((part + 1) * share);
            first.min(end)..end.min(first + plan.images)
        };
        let block_bytes = steps * parts * TILE;
        let group_bytes = blocks * block_bytes;

        // Gradients that several tasks need are packed before.
        let shared = cuts > 1;
        let all = self.shares * groups * s.groups;
        let packed = Scratch::<u8>::new(if shared { all * group_bytes } else { 0 });
        let mut extents = vec![Extent::default(); if shared { all * blocks } else { 0 }];
        let (dy, to) = (Ptr(dy.cast_mut()), Ptr(packed.ptr()));
        let seen = Ptr(extents.as_mut_ptr());
        pool::run(extents.len(), |i| {
            let (dy, to, seen) = (&dy, &to, &seen);
            let (unit, block) = (i / blocks, i % blocks);
            let images = images(unit / s.groups / groups, unit / s.groups % groups);
            // SAFETY: each block is packed by one task; the processor has AVX-512.
            unsafe {
                let to = to.0.add(i * block_bytes);
                *seen.0.add(i) = self.pack(dy.0, unit % s.groups, block, &images, to);
            }
        });

        // `[share, group, pair of input blocks, pair of output blocks, tap, 4 tiles]`.
        let in_pairs = ins.div_ceil(2 * LINES);
        let pair = out_pairs * taps * 4 * SQUARE;
        let sums = Scratch::<f32>::new(self.shares * s.groups * in_pairs * pair);
        let line = plan.line(plan.positions);
        let (x, out) = (Ptr(x.cast_mut()), Ptr(sums.ptr()));
        let tasks = self.shares * s.groups * cuts;
        let mut more = vec![[Extent::default(); 2]; tasks];
        let seen = Ptr(more.as_mut_ptr());
        pool::run(tasks, |task| {
            let (x, dy, to, out, seen) = (&x, &dy, &to, &out, &seen);
            let (part, group, cut) = (task / cuts / s.groups, task / cuts % s.groups, task % cuts);
            let first = cut * self.pairs;
            let pairs = self.pairs.min(in_pairs - first);
            let c = first * 2 * LINES;
            let channels = (pairs * 2 * LINES).min(ins - c);
            let bytes = plan.target(std::ptr::null_mut(), parts, line, 2).block;
            let lines = Own::<u8>::new(channels.div_ceil(LINES) * bytes);
            let own = Own::<u8>::new(if shared { 0 } else { group_bytes });
            let target = plan.target(lines.ptr(), parts, line, 2);
            let mut sizes = Sizes::new(channels);
            let mut extents = [Extent::default(); 2];
            let all = (part * s.groups + group) * in_pairs + first;
            // SAFETY: the channels and sums of this task; there is a unit.
            unsafe {
                let sums = out.0.add(all * pair);
                for i in 0..groups {
                    let images = images(part, i);
                    if images.is_empty() && i > 0 {
                        break;
                    }
                    clear(plan, channels, parts, images.len(), target);
                    for (at, n) in images.clone().enumerate() {
                        let x = x.0.add(((n * s.groups + group) * ins + c) * image);
                        plan.rows(parts, x, channels, image, at, &mut sizes, target);
                    }
                    let grads = if shared {
                        let unit = (part * groups + i) * s.groups + group;
                        to.0.add(unit * group_bytes)
                    } else {
                        for block in 0..blocks {
                            let to = own.ptr().add(block * block_bytes);
                            let more = self.pack(dy.0, group, block, &images, to);
                            extents[1] = extents[1].and(more);
                        }
                        own.ptr()
                    };
                    self.multiply(target, channels, grads, sums, i > 0);
                }
                extents[0] = sizes.take();
                *seen.0.add(task) = extents;
            }
        });
        if parts > 1 {
            let grads = Extent::together(&extents);
            let [x, grads] = more.iter().fold([Extent::default(), grads], |a, b| {
                [a[0].and(b[0]), a[1].and(b[1])]
            });
            let [oh, ow] = s.output();
            if !x.suits(grads, s.batch * oh * ow) {
                return false;
            }
        }

        // Add up the shares, and put the sums where they belong.
        let dw = Ptr(dw);
        let next = s.groups * in_pairs * pair;
        pool::run(s.groups * blocks, |task| {
            let (out, dw) = (&out, &dw);
            let (group, block) = (task / blocks, task % blocks);
            let lines = LINES.min(outs - block * LINES);
            let first = group * outs + block * LINES;
            let mut turned = vec![0f32; LINES * LINES * taps];
            for c in 0..ins.div_ceil(LINES) {
                let at = (group * in_pairs + c / 2) * pair + block / 2 * taps * 4 * SQUARE;
                let at = at + (block % 2 * 2 + c % 2) * SQUARE;
                let run = LINES.min(ins - c * LINES) * taps;
                // SAFETY: sums that have been written; the weights of these channels.
                unsafe {
                    for tap in 0..taps {
                        let from = out.0.add(at + tap * 4 * SQUARE);
                        collect(from, self.shares, next, turned[tap..].as_mut_ptr(), taps);
                    }
                    for o in 0..lines {
                        let to = dw.0.add((first + o) * s.window() + c * LINES * taps);
                        let from = turned.as_ptr().add(o * LINES * taps);
                        std::ptr::copy_nonoverlapping(from, to, run);
                    }
                }
            }
            after((first * s.window()..(first + lines) * s.window()).into());
        });
        true
    }

    /// Adds the products of a group of images to the sums.
    unsafe fn multiply(
        &self,
        lines: super::lines::Target,
        channels: usize,
        grads: *const u8,
        sums: *mut f32,
        accumulate: bool,
    ) {
        let (steps, blocks) = (self.steps(), self.out_blocks());
        let shifts = &self.plan.phases[0].shifts;
        let in_blocks = channels.div_ceil(LINES);
        // Steps whose tiles stay in the first-level cache for all elements of the kernel.
        let chunk = match shifts.len() {
            1 => steps,
            _ => [0, 12, 6, 4][self.parts],
        };
        let offsets: Vec<usize> = (0..chunk.min(steps)).map(|i| i * STEP * 2).collect();
        // SAFETY: passed on from the caller.
        unsafe {
            let tiles = Tiles::new();
            for from in (0..steps).step_by(chunk) {
                for o in (0..blocks).step_by(2) {
                    let packed = [0, 1]
                        .map(|i| grads.wrapping_add(((o + i) * steps + from) * self.parts * TILE));
                    for c in (0..in_blocks).step_by(2) {
                        let at = c / 2 * blocks.div_ceil(2) + o / 2;
                        let sums = sums.add(at * shifts.len() * 4 * SQUARE);
                        for (tap, &(source, shift)) in shifts.iter().enumerate() {
                            let begin = (source * lines.source + shift + from * STEP) * 2;
                            let product = Sliding {
                                packed,
                                sliding: lines.ptr.add(c * lines.block + begin),
                                offsets: offsets.as_ptr(),
                                part: lines.part,
                                block: lines.block,
                                row: lines.row,
                                steps: chunk.min(steps - from),
                                sums: sums.add(tap * 4 * SQUARE),
                                accumulate: accumulate || from > 0,
                            };
                            let (p, s) = (2.min(blocks - o), 2.min(in_blocks - c));
                            unit::slide(&tiles, self.parts, Side::First, p, s, &product);
                        }
                    }
                }
            }
        }
    }
}

/// Writes zeros where the images of a group leave a target as it was.
unsafe fn clear(
    plan: &Plan,
    channels: usize,
    parts: usize,
    images: usize,
    to: super::lines::Target,
) {
    for row in 0..channels.div_ceil(LINES) * parts * LINES {
        let (block, part, r) = (row / LINES / parts, row / LINES % parts, row % LINES);
        let from = match block * LINES + r < channels {
            true => images * plan.image,
            false => 0,
        };
        // SAFETY: the row's lines.
        unsafe {
            let row = to.ptr.add(block * to.block + part * to.part + r * to.row);
            for source in 0..plan.sources {
                row.add((source * to.source + from) * 2)
                    .write_bytes(0, (to.source - from) * 2);
            }
        }
    }
}

/// Adds up the shares' tiles `[input, output]`, `next` elements apart, and writes them as
/// `[output, input]` with elements `step` apart.
#[target_feature(enable = "avx512f")]
unsafe fn collect(from: *const f32, shares: usize, next: usize, to: *mut f32, step: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut rows = [_mm512_setzero_ps(); LINES];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_ps(from.add(i * LINES));
            for share in 1..shares {
                let more = _mm512_loadu_ps(from.add(share * next + i * LINES));
                *row = _mm512_add_ps(*row, more);
            }
        }
        let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(step as i32));
        for (i, row) in transpose_registers(rows).into_iter().enumerate() {
            _mm512_i32scatter_ps::<4>(to.add(i * LINES * step), index, row);
        }
    }
}
