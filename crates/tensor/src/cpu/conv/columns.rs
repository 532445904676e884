//! Laying out the columns that a convolution multiplies, and adding them back.

#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Level, level};
use smallvec::SmallVec;
use std::ops::Range;

/// Elements that are copied at once; copies may run past their end by less than this.
pub const SLACK: usize = 16;

/// How the kernel walks over one image, padding resolved.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Height and width of the image, without padding.
    pub image: [usize; 2],
    /// Rows and columns added before and after; negative ones are cut off.
    pub padding: [(isize, isize); 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Walk {
    /// Height and width of the padded image.
    pub fn padded(&self) -> [usize; 2] {
        std::array::from_fn(|d| {
            let (lo, hi) = self.padding[d];
            (self.image[d] as isize + lo + hi).max(0) as usize
        })
    }

    /// Elements of a padded channel.
    pub fn padded_len(&self) -> usize {
        let [h, w] = self.padded();
        h * w
    }

    /// Output positions.
    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Whether the columns are the image itself.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [(0, 0); 2]
    }

    /// Copies channels with their padding of zeros.
    ///
    /// # Safety
    /// `src` must hold the channels, `dst` have room for them at their padded size.
    pub unsafe fn pad<T: Copy>(&self, src: *const T, channels: usize, dst: *mut T) {
        let [h, w] = self.image.map(|x| x as isize);
        let [ph, pw] = self.padded();
        let (top, left) = (self.padding[0].0, self.padding[1].0);
        // The part of a padded row that comes from the image.
        let begin = left.clamp(0, pw as isize) as usize;
        let end = (left + w).clamp(begin as isize, pw as isize) as usize;
        for c in 0..channels {
            for y in 0..ph {
                // SAFETY: row `y` of channel `c`; the zero of all float types is all-zero bits.
                unsafe {
                    let to = dst.add((c * ph + y) * pw);
                    let from = y as isize - top;
                    if from < 0 || from >= h {
                        to.write_bytes(0, pw);
                        continue;
                    }
                    let row = src.offset((c as isize * h + from) * w);
                    to.write_bytes(0, begin);
                    let part = row.offset(begin as isize - left);
                    std::ptr::copy_nonoverlapping(part, to.add(begin), end - begin);
                    to.add(end).write_bytes(0, pw - end);
                }
            }
        }
    }

    /// Lays out the columns of `positions` as panels of `width`: each panel has a row of `width`
    /// elements for every channel and kernel element.
    ///
    /// # Safety
    /// `image` must hold the channels padded, readable for [`SLACK`] elements beyond; `dst` must
    /// have room for the panels and [`SLACK`] more.
    pub unsafe fn columns<T: Copy>(
        &self,
        image: *const T,
        channels: usize,
        positions: Range<usize>,
        width: usize,
        dst: *mut T,
    ) {
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx512 {
            // SAFETY: the feature is there; the rest is passed on from the caller.
            return unsafe { self.columns_avx512(image, channels, positions, width, dst) };
        }
        // SAFETY: passed on from the caller.
        unsafe { self.columns_body(image, channels, positions, width, dst) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn columns_avx512<T: Copy>(
        &self,
        image: *const T,
        channels: usize,
        positions: Range<usize>,
        width: usize,
        dst: *mut T,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { self.columns_body(image, channels, positions, width, dst) }
    }

    #[inline(always)]
    unsafe fn columns_body<T: Copy>(
        &self,
        image: *const T,
        channels: usize,
        positions: Range<usize>,
        width: usize,
        mut dst: *mut T,
    ) {
        let [_, pw] = self.padded();
        let [_, ow] = self.output;
        let step = self.stride[1];
        let mut start = positions.start;
        // Runs of positions within one output row: offset in the image, offset in the panel,
        // length.
        let mut runs: SmallVec<[(usize, usize, usize); 34]> = SmallVec::new();
        while start < positions.end {
            let end = (start + width).min(positions.end);
            runs.clear();
            let mut p = start;
            while p < end {
                let (y, x) = (p / ow, p % ow);
                let len = (ow - x).min(end - p);
                runs.push((y * self.stride[0] * pw + x * step, p - start, len));
                p += len;
            }
            for c in 0..channels {
                for ky in 0..self.kernel[0] {
                    for kx in 0..self.kernel[1] {
                        let at = c * self.padded_len()
                            + ky * self.dilation[0] * pw
                            + kx * self.dilation[1];
                        // SAFETY: within the padded image, or the slack behind it. What a copy
                        // writes beyond its run is overwritten by the next run, by the next row
                        // or the next panel, or lies in the slack.
                        unsafe {
                            let image = image.add(at);
                            for &(from, to, len) in &runs {
                                copy(image.add(from), step, dst.add(to), len);
                            }
                            dst.add(end - start).write_bytes(0, width - (end - start));
                            dst = dst.add(width);
                        }
                    }
                }
            }
            start = end;
        }
    }

    /// Adds rows of columns (`[channel, ky, kx]` by position) to the channels they came from.
    ///
    /// # Safety
    /// `columns` must hold `channels * kernel` rows of all positions, `image` the channels without
    /// padding.
    pub unsafe fn add_back<T: Copy + std::ops::Add<Output = T>>(
        &self,
        columns: *const T,
        channels: usize,
        image: *mut T,
    ) {
        let [h, w] = self.image;
        let [oh, ow] = self.output;
        let mut row = columns;
        // The outputs `o` for which `o * stride + at - lo` falls into `0..size`.
        let inside = |d: usize, at: usize, count: usize| {
            let (lo, s) = (self.padding[d].0, self.stride[d] as isize);
            let first = at as isize - lo;
            let begin = ((-first).max(0) + s - 1) / s;
            let end = (self.image[d] as isize - first + s - 1).div_euclid(s);
            (
                begin.min(count as isize),
                end.clamp(0, count as isize),
                first,
            )
        };
        for c in 0..channels {
            for ky in 0..self.kernel[0] {
                let (y0, y1, top) = inside(0, ky * self.dilation[0], oh);
                for kx in 0..self.kernel[1] {
                    let (x0, x1, left) = inside(1, kx * self.dilation[1], ow);
                    for y in y0..y1 {
                        let iy = y * self.stride[0] as isize + top;
                        for x in x0..x1 {
                            let ix = x * self.stride[1] as isize + left;
                            // SAFETY: `y` and `x` were chosen so that `iy`, `ix` are inside.
                            unsafe {
                                let to = image.offset(((c * h) as isize + iy) * w as isize + ix);
                                *to = *to + *row.offset(y * ow as isize + x);
                            }
                        }
                    }
                    // SAFETY: the next row, or the end.
                    row = unsafe { row.add(oh * ow) };
                }
            }
        }
    }
}

/// Copies `len` elements that are `step` apart; with step 1 in whole blocks.
#[inline(always)]
unsafe fn copy<T: Copy>(src: *const T, step: usize, dst: *mut T, len: usize) {
    // SAFETY: the caller leaves room for [`SLACK`] more elements on both sides.
    unsafe {
        if step == 1 {
            let mut i = 0;
            while i < len {
                dst.add(i)
                    .cast::<[T; SLACK]>()
                    .write_unaligned(src.add(i).cast::<[T; SLACK]>().read_unaligned());
                i += SLACK;
            }
        } else {
            for i in 0..len {
                *dst.add(i) = *src.add(i * step);
            }
        }
    }
}
