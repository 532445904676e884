//! The gradient of depthwise weights, of groups with one input channel, with AVX-512.
//!
//! Each weight is the sum over positions of an output's gradient times the input, shifted. A vector
//! is a run of positions in one row; it is multiplied with the inputs that up to nine weights see,
//! whose sums stay in registers.

use super::columns::{SLACK, Walk};
use super::{ConvShape, Ptr};
use crate::cpu::After;
use crate::cpu::own::Own;
use crate::cpu::pool;
use std::arch::x86_64::*;

/// Sums that are kept in registers.
const MOST: usize = 9;
/// The least number of multiply-adds for a task of its own.
const TASK: usize = 60_000;
const LANES: usize = 16;

/// A planned gradient.
pub struct Job {
    s: ConvShape,
    walk: Walk,
    /// Where each weight's input lies in the padded image, from that of the first.
    offsets: Vec<usize>,
}

impl Job {
    /// `None` for groups of more channels, which other ways suit.
    pub fn new(s: &ConvShape) -> Option<Job> {
        if s.group_in() != 1 || s.group_out() > 4 {
            return None;
        }
        let walk = super::faces::walk(s);
        let offsets = super::direct::offsets(&walk, 1);
        Some(Job {
            s: *s,
            walk,
            offsets,
        })
    }

    /// # Safety
    /// As for [`conv`](super::conv); the processor must have AVX-512F.
    pub unsafe fn run(&self, x: *const f32, dy: *const f32, dw: *mut f32, after: After<'_>) {
        let (s, walk) = (&self.s, &self.walk);
        let (image, outs, taps) = (s.input[0] * s.input[1], s.group_out(), self.offsets.len());
        let positions = walk.positions();
        let some = TASK / (s.batch * outs * positions * taps) + 1;
        let (x, dy, dw) = (Ptr(x.cast_mut()), Ptr(dy.cast_mut()), Ptr(dw));
        pool::run_chunks(s.groups, some, |groups| {
            let (x, dy, dw) = (&x, &dy, &dw);
            let len = walk.padded_len();
            let padded = Own::<f32>::new(len + LANES * walk.stride[1] + SLACK);
            let mut sums = vec![[0f32; LANES]; outs * taps];
            for group in groups.clone() {
                sums.fill([0.0; LANES]);
                // SAFETY: this task's group of each image, and its weights; scratch of the size
                // needed; the processor has AVX-512.
                unsafe {
                    for unit in (0..s.batch).map(|n| n * s.groups + group) {
                        walk.pad(x.0.add(unit * image), 1, padded.ptr());
                        for o in 0..outs {
                            let dy = dy.0.add((unit * outs + o) * positions);
                            for from in (0..taps).step_by(MOST) {
                                let end = taps.min(from + MOST);
                                let offsets = &self.offsets[from..end];
                                let sums = &mut sums[o * taps + from..o * taps + end];
                                add(walk, padded.ptr(), dy, offsets, sums);
                            }
                        }
                    }
                    for (i, lanes) in sums.iter().enumerate() {
                        let sum = _mm512_reduce_add_ps(_mm512_loadu_ps(lanes.as_ptr()));
                        *dw.0.add(group * outs * taps + i) = sum;
                    }
                }
            }
            after((groups.start * outs * taps..groups.end * outs * taps).into());
        });
    }
}

/// Adds the products of one image to the sums of up to nine weights.
unsafe fn add(
    walk: &Walk,
    image: *const f32,
    dy: *const f32,
    offsets: &[usize],
    sums: &mut [[f32; LANES]],
) {
    macro_rules! choose {
        ($($n:literal)*) => {
            match (offsets.len(), walk.stride[1]) {
                $(
                    ($n, 1) => add_some::<$n, false>(walk, image, dy, offsets, sums),
                    ($n, _) => add_some::<$n, true>(walk, image, dy, offsets, sums),
                )*
                (n, _) => unreachable!("{n} weights"),
            }
        };
    }
    // SAFETY: passed on from the caller.
    unsafe { choose!(1 2 3 4 5 6 7 8 9) }
}

#[target_feature(enable = "avx512f")]
unsafe fn add_some<const N: usize, const SPREAD: bool>(
    walk: &Walk,
    image: *const f32,
    dy: *const f32,
    offsets: &[usize],
    sums: &mut [[f32; LANES]],
) {
    let ([oh, ow], [_, pw]) = (walk.output, walk.padded());
    let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(walk.stride[1] as i32));
    let mut offset = [0; N];
    offset.copy_from_slice(offsets);
    // SAFETY: inputs of the padded image and gradients at the positions that exist.
    unsafe {
        let mut sum: [__m512; N] = std::array::from_fn(|i| _mm512_loadu_ps(sums[i].as_ptr()));
        for y in 0..oh {
            for px in (0..ow).step_by(LANES) {
                let mask = (0xFFFFu32 >> (LANES - LANES.min(ow - px))) as __mmask16;
                let g = _mm512_maskz_loadu_ps(mask, dy.add(y * ow + px));
                let row = image.add(y * walk.stride[0] * pw + px * walk.stride[1]);
                for i in 0..N {
                    let from = row.add(offset[i]);
                    let x = match SPREAD {
                        false => _mm512_maskz_loadu_ps(mask, from),
                        true => {
                            let zero = _mm512_setzero_ps();
                            _mm512_mask_i32gather_ps::<4>(zero, mask, index, from)
                        }
                    };
                    sum[i] = _mm512_fmadd_ps(g, x, sum[i]);
                }
            }
        }
        for i in 0..N {
            _mm512_storeu_ps(sums[i].as_mut_ptr(), sum[i]);
        }
    }
}
