//! Convolution with few channels, on one side or in each group, straight from the padded image:
//! depthwise layers, first layers, and the gradients of such.
//!
//! A vector is a run of positions in one output row, so nothing is laid out or transposed.

use super::Ptr;
use super::columns::SLACK;
use super::direct::{offsets, some_rows};
use super::faces::Correlation;
use crate::Element;
use crate::cpu::matmul::{Kernels, PlaneTile, Run, Scratch};
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::{After, Runs};

/// The least number of multiply-adds for a task of its own.
const TASK: usize = 60_000;

/// Whether this way suits: contiguous runs that fill most of their vectors, and either sums too
/// short or channels too few for the other ways.
pub fn suits<T>(set: &Kernels<T>, c: &Correlation) -> bool {
    let k = c.ins * c.walk.kernel[0] * c.walk.kernel[1];
    let [_, ow] = c.walk.output;
    let full = ow * 4 >= ow.next_multiple_of(set.lanes) * 3;
    c.walk.stride[1] == 1 && (c.outs <= 4 || (full && (k < 48 || c.outs < set.lanes)))
}

/// # Safety
/// As for [`conv`](super::conv), for the sizes in `c`.
pub unsafe fn correlate<T: Element>(
    set: &'static Kernels<T>,
    c: &Correlation,
    x: *const T,
    w: *const T,
    y: *mut T,
    after: After<'_>,
) {
    let image = c.walk.image[0] * c.walk.image[1];
    let [oh, ow] = c.walk.output;
    let k = c.ins * c.walk.kernel[0] * c.walk.kernel[1];
    // Weights in tiles of channels, `[k, channels]`.
    let height = c.outs.div_ceil(c.outs.div_ceil(set.plane.len()));
    let packed = Scratch::<T>::new(c.groups * c.outs * k);
    for group in 0..c.groups {
        for o in (0..c.outs).step_by(height) {
            let (lines, at) = (height.min(c.outs - o), (group * c.outs + o) * k);
            // SAFETY: the weights of these channels and their place.
            unsafe {
                let (src, dst) = (w.add(at), packed.ptr().add(at));
                set.pack_panel(src, k as isize, 1, lines, k, dst, lines);
            }
        }
    }

    // A unit is one group of one image; few or large ones are cut by rows, small ones joined.
    let units = c.batch * c.groups;
    let work = c.outs * oh * ow * k;
    let cuts = 8usize.div_ceil(units).min(work / TASK + 1).min(oh);
    let cut = oh.div_ceil(cuts);
    let cuts = oh.div_ceil(cut);
    let joined = if cuts == 1 { (TASK / work).max(1) } else { 1 };
    // Runs that are worked on together, for all tiles of channels.
    let most = set.plane[height - 1].len() * 2;
    let padded_len = c.ins * some_rows(&c.walk, 0, cut).padded_len() + SLACK;

    let (x, y, weights) = (Ptr(x.cast_mut()), Ptr(y), Ptr(packed.ptr()));
    pool::run_chunks(units * cuts, joined, |tasks| {
        let (x, y, weights) = (&x, &y, &weights);
        let padded = Own::<T>::new(padded_len);
        // All tasks of one call have the same rows: either there is one, or each is a whole unit.
        let y0 = tasks.start % cuts * cut;
        let y1 = oh.min(y0 + cut);
        let walk = some_rows(&c.walk, y0, y1);
        let offsets = offsets(&walk, c.ins);
        let [_, pw] = walk.padded();
        let mut runs = Vec::with_capacity((y1 - y0) * ow.div_ceil(set.lanes));
        for r in 0..y1 - y0 {
            for px in (0..ow).step_by(set.lanes) {
                let lanes = set.lanes.min(ow - px);
                runs.push(Run {
                    from: r * walk.stride[0] * pw + px,
                    to: r * ow + px,
                    lanes,
                });
            }
        }
        for task in tasks.clone() {
            let unit = task / cuts;
            let group = unit % c.groups;
            // SAFETY: unit `unit` of the input and the output rows that only this task writes;
            // the padded image is readable for a vector beyond each run.
            unsafe {
                walk.pad(x.0.add(unit * c.ins * image), c.ins, padded.ptr());
                let end = c.ins * walk.padded_len();
                padded.ptr().add(end).write_bytes(0, SLACK);
                for runs in runs.chunks(most) {
                    for o in (0..c.outs).step_by(height) {
                        let lines = height.min(c.outs - o);
                        let kernels = set.plane[lines - 1];
                        let tile = |runs: &[Run]| {
                            kernels[runs.len() - 1](&PlaneTile {
                                k,
                                w: weights.0.add((group * c.outs + o) * k),
                                image: padded.ptr(),
                                offsets: offsets.as_ptr(),
                                runs: runs.as_ptr(),
                                c: y.0.add(((unit * c.outs + o) * oh + y0) * ow),
                                c_step: oh * ow,
                            });
                        };
                        runs.chunks(kernels.len()).for_each(tile);
                    }
                }
            }
            if cuts > 1 {
                let planes = unit * c.outs..(unit + 1) * c.outs;
                after(Runs::block(0, oh * ow, planes, y0 * ow..y1 * ow));
            }
        }
        if cuts == 1 {
            let size = c.outs * oh * ow;
            after((tasks.start * size..tasks.end * size).into());
        }
    });
}
