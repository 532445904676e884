//! An image's channels as lines of positions that the matrix unit reads in place.
//!
//! All rows of all images of a group lie one behind the other in one line, with the zeros of the
//! padding between them, once for each part of the numbers. On such a line every element of the
//! kernel is a shift by a constant: output position `p` sees the input at `p + shift`. Sums are
//! computed for every position of the line; those between the rows are junk, and dropped. A kernel
//! that moves by more than one position sees the image taken apart into *phases*: every second row,
//! say, and of it every second column.

use super::ConvShape;
use crate::cpu::simd::prefetch;
use crate::cpu::unit::{Extent, magnitude, rounded};
use std::arch::x86_64::*;

/// Positions of a vector.
pub const LANES: usize = 16;

/// One element of the kernel along one dimension: the output at `i` of phase `out` sees the source
/// at `i + shift` of phase `source`.
#[derive(Clone, Copy, Debug)]
pub struct Tap {
    /// An index into [`Axis::phases`].
    pub source: usize,
    pub out: usize,
    pub shift: isize,
}

/// One dimension of a correlation.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Size of what is read, and the distance of elements in a phase.
    pub source: usize,
    pub source_step: usize,
    /// Phases of the source that some element of the kernel sees.
    pub phases: Vec<usize>,
    /// Size of what is written, and the distance of elements in a phase.
    pub out: usize,
    pub out_step: usize,
    /// For each element of the kernel.
    pub taps: Vec<Tap>,
    /// Zeros before the first element.
    pub lead: usize,
    /// From one row (or image) to the next: rows share the zeros between them.
    pub pitch: usize,
}

impl Axis {
    /// How the output sees the input.
    pub fn forward(s: &ConvShape, d: usize) -> Axis {
        let step = s.stride[d];
        let taps = |k: usize| {
            let at = (k * s.dilation[d]) as isize - s.padding[d].0 as isize;
            Tap {
                source: at.rem_euclid(step as isize) as usize,
                out: 0,
                shift: at.div_euclid(step as isize),
            }
        };
        let taps = (0..s.kernel[d]).map(taps).collect();
        Axis::new((s.input[d], step), (s.output()[d], 1), taps)
    }

    /// How the input's gradient sees the output's.
    pub fn backward(s: &ConvShape, d: usize) -> Axis {
        let step = s.stride[d];
        let taps = |k: usize| {
            let at = (k * s.dilation[d]) as isize - s.padding[d].0 as isize;
            Tap {
                source: 0,
                out: at.rem_euclid(step as isize) as usize,
                shift: -at.div_euclid(step as isize),
            }
        };
        let taps = (0..s.kernel[d]).map(taps).collect();
        Axis::new((s.output()[d], 1), (s.input[d], step), taps)
    }

    fn new(source: (usize, usize), out: (usize, usize), mut taps: Vec<Tap>) -> Axis {
        let mut phases: Vec<usize> = taps.iter().map(|t| t.source).collect();
        phases.sort_unstable();
        phases.dedup();
        for t in &mut taps {
            t.source = phases.iter().position(|&p| p == t.source).unwrap();
        }
        let shifts = || taps.iter().map(|t| t.shift);
        let lead = (-shifts().min().unwrap()).max(0);
        let cells = lead + shifts().max().unwrap() + out.0.div_ceil(out.1) as isize;
        let (lead, cells) = (lead as usize, cells as usize);
        let longest = phases.iter().map(|&p| phase_len(source, p)).max().unwrap();
        let trail = cells - cells.min(lead + longest);
        Axis {
            source: source.0,
            source_step: source.1,
            phases,
            out: out.0,
            out_step: out.1,
            taps,
            lead,
            // Outputs of two rows must not share a position.
            pitch: (cells - lead.min(trail)).max(out.0.div_ceil(out.1)),
        }
    }

    /// Elements of phase `i` of the source that fit into a row.
    fn source_len(&self, i: usize) -> usize {
        let room = (self.pitch).saturating_sub(self.lead);
        phase_len((self.source, self.source_step), self.phases[i]).min(room)
    }

    /// Elements of a phase of the output.
    pub fn out_len(&self, phase: usize) -> usize {
        phase_len((self.out, self.out_step), phase)
    }
}

fn phase_len((size, step): (usize, usize), phase: usize) -> usize {
    size.saturating_sub(phase).div_ceil(step)
}

/// Up to 16 positions of a line that come from the image.
#[derive(Clone, Debug)]
struct Load {
    mask: u16,
    /// Where the first of them lies in the channel.
    from: u32,
    /// Where each lies.
    index: [i32; LANES],
}

/// Which of 16 positions are outputs, all of one image, and where they belong.
#[derive(Clone, Debug)]
pub struct Piece {
    pub mask: u16,
    pub image: u32,
    /// The first one's place in the channel.
    pub to: u32,
    /// The place of each.
    pub index: [i32; LANES],
}

/// A phase of the output.
pub struct Phase {
    /// Elements of the kernel (`ky * width + kx`) that it sees.
    pub taps: Vec<usize>,
    /// For each of them the source's phase and the shift in it.
    pub shifts: Vec<(usize, usize)>,
    /// For each 16 positions the range of its pieces.
    ranges: Vec<(u32, u32)>,
    pieces: Vec<Piece>,
}

impl Phase {
    /// The outputs among positions `16 vector..`.
    pub fn pieces(&self, vector: usize) -> &[Piece] {
        match self.ranges.get(vector) {
            Some(&(from, to)) => &self.pieces[from as usize..to as usize],
            None => &[],
        }
    }
}

/// How a group of images lies as lines, and what the kernel sees of them.
pub struct Plan {
    pub images: usize,
    /// From one image to the next, in positions.
    pub image: usize,
    /// Positions for which sums are computed, a multiple of 32.
    pub positions: usize,
    /// The farthest shift.
    pub reach: usize,
    pub phases: Vec<Phase>,
    /// Whether outputs lie one behind the other.
    pub dense: bool,
    /// Phases of the source.
    pub sources: usize,
    loads: Vec<Vec<Load>>,
    /// Whether the positions of a vector lie one behind the other in the source.
    packed: bool,
}

impl Plan {
    pub fn new(axes: &[Axis; 2], images: usize) -> Plan {
        let [h, w] = axes;
        let image = h.pitch * w.pitch;
        let mut phases = Vec::new();
        let (mut positions, mut reach) = (0, 0);
        for py in 0..h.out_step {
            for px in 0..w.out_step {
                let mut taps = Vec::new();
                let mut shifts = Vec::new();
                for (ky, y) in h.taps.iter().enumerate().filter(|(_, t)| t.out == py) {
                    for (kx, x) in w.taps.iter().enumerate().filter(|(_, t)| t.out == px) {
                        taps.push(ky * w.taps.len() + kx);
                        let row = (y.shift + h.lead as isize) as usize;
                        let shift = row * w.pitch + (x.shift + w.lead as isize) as usize;
                        shifts.push((y.source * w.phases.len() + x.source, shift));
                        reach = reach.max(shift);
                    }
                }
                let (rows, columns) = (h.out_len(py), w.out_len(px));
                let mut phase = Phase {
                    taps,
                    shifts,
                    ranges: Vec::new(),
                    pieces: Vec::new(),
                };
                if rows * columns > 0 {
                    let end = (images - 1) * image + (rows - 1) * w.pitch + columns;
                    positions = positions.max(end);
                    phase.place(axes, (py, px), images, end);
                }
                phases.push(phase);
            }
        }
        let sources = h.phases.len() * w.phases.len();
        let loads = (0..sources).map(|i| loads(axes, i)).collect();
        let whole = w.source <= w.source_len(0);
        Plan {
            images,
            image,
            positions: positions.next_multiple_of(2 * LANES),
            reach,
            phases,
            dense: h.out_step * w.out_step == 1,
            sources,
            loads,
            packed: h.source_step * w.source_step == 1 && whole,
        }
    }

    /// Positions of a line that holds what output positions `at` see, and what packing spills over.
    pub fn line(&self, positions: usize) -> usize {
        let whole = match positions == self.positions {
            true => self.images * self.image,
            false => 0,
        };
        let len = whole.max(positions + self.reach) + LANES;
        // An odd number of cache lines, so that rows fall into different sets of the cache.
        (len.div_ceil(32) | 1) * 32
    }
}

impl Phase {
    fn place(&mut self, [h, w]: &[Axis; 2], phase: (usize, usize), images: usize, end: usize) {
        let (rows, columns) = (h.out_len(phase.0), w.out_len(phase.1));
        let image = h.pitch * w.pitch;
        for first in (0..end).step_by(LANES) {
            let start = self.pieces.len();
            for lane in 0..LANES {
                let (n, p) = ((first + lane) / image, (first + lane) % image);
                let (y, x) = (p / w.pitch, p % w.pitch);
                if n >= images || y >= rows || x >= columns {
                    continue;
                }
                let to = (y * h.out_step + phase.0) * w.out + x * w.out_step + phase.1;
                match self.pieces[start..].last_mut() {
                    Some(piece) if piece.image as usize == n => {
                        piece.mask |= 1 << lane;
                        piece.index[lane] = to as i32;
                    }
                    _ => {
                        let mut index = [0; LANES];
                        index[lane] = to as i32;
                        self.pieces.push(Piece {
                            mask: 1 << lane,
                            image: n as u32,
                            to: to as u32,
                            index,
                        });
                    }
                }
            }
            self.ranges.push((start as u32, self.pieces.len() as u32));
        }
    }
}

/// Where the line's positions come from, for one image and phase `i` of the source.
fn loads([h, w]: &[Axis; 2], i: usize) -> Vec<Load> {
    let (py, px) = (i / w.phases.len(), i % w.phases.len());
    let (rows, columns) = (h.source_len(py), w.source_len(px));
    let image = h.pitch * w.pitch;
    let load = |first: usize| {
        let mut load = Load {
            mask: 0,
            from: 0,
            index: [0; LANES],
        };
        for lane in 0..LANES.min(image - first) {
            let (y, x) = ((first + lane) / w.pitch, (first + lane) % w.pitch);
            let (Some(y), Some(x)) = (y.checked_sub(h.lead), x.checked_sub(w.lead)) else {
                continue;
            };
            if y < rows && x < columns {
                let (y, x) = (
                    y * h.source_step + h.phases[py],
                    x * w.source_step + w.phases[px],
                );
                let from = y * w.source + x;
                if load.mask == 0 {
                    load.from = from as u32;
                }
                load.mask |= 1 << lane;
                load.index[lane] = from as i32;
            }
        }
        load
    };
    (0..image).step_by(LANES).map(load).collect()
}

/// The largest magnitudes at positions of lines, or of whole lines, for [`Extent`].
pub struct Sizes(Vec<u32>);

impl Sizes {
    pub fn new(len: usize) -> Sizes {
        Sizes(vec![0; len])
    }

    /// What has been seen since the last call.
    pub fn take(&mut self) -> Extent {
        let mut extent = Extent::default();
        for most in &mut self.0 {
            if *most > 0 {
                extent.least = extent.least.min(*most);
                extent.most = extent.most.max(*most);
            }
            *most = 0;
        }
        extent
    }
}

/// Where the parts of channels go: `row` bytes from one channel (or pair) to the next within a
/// block of 16, `part` from one part to the next, `block` from one block to the next; `source`
/// positions from one phase of the source to the next.
#[derive(Clone, Copy)]
pub struct Target {
    pub ptr: *mut u8,
    pub row: usize,
    pub part: usize,
    pub block: usize,
    pub source: usize,
}

impl Plan {
    /// A target for lines of `line` positions of `width` bytes each.
    pub fn target(&self, ptr: *mut u8, parts: usize, line: usize, width: usize) -> Target {
        // Again an odd number of cache lines.
        let row = ((self.sources * line * width / 64) | 1) * 64;
        Target {
            ptr,
            row,
            part: 16 * row,
            block: parts * 16 * row,
            source: line,
        }
    }

    /// Positions whose sizes [`Plan::pairs`] looks at.
    pub fn sizes(&self) -> usize {
        self.sources * self.image.next_multiple_of(LANES)
    }

    /// Lays out image `image` of the group with two channels in each row, which are the tiles of a
    /// second operand. `vectors` of a single image's line are laid out, or (for a group) all.
    ///
    /// # Safety
    /// `x` must hold the channels, `image_size` apart; the target have room; the processor must
    /// have AVX-512 with `bf16`.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn pairs(
        &self,
        parts: usize,
        x: *const f32,
        channels: usize,
        image_size: usize,
        image: usize,
        vectors: std::ops::Range<usize>,
        sizes: &mut Sizes,
        to: Target,
    ) {
        let shift = image * self.image;
        let ahead = 2 * image_size.max(512);
        for c in (0..channels).step_by(2) {
            for source in 0..self.sources {
                let loads = &self.loads[source];
                let some = vectors.start.min(loads.len())..vectors.end.min(loads.len());
                let at = c / 2 % 16 * to.row + (source * to.source + shift) * 4;
                let sizes = &mut sizes.0[source * loads.len() * LANES..];
                // SAFETY: passed on from the caller.
                unsafe {
                    let first = x.add(c * image_size);
                    let second = (c + 1 < channels).then(|| first.add(image_size));
                    let dst = to.ptr.add(c / 32 * to.block + at);
                    let loads = &loads[some.clone()];
                    match (parts, self.packed) {
                        (1, true) => {
                            pair_row::<1, true>(loads, first, second, sizes, dst, to.part, ahead)
                        }
                        (2, true) => {
                            pair_row::<2, true>(loads, first, second, sizes, dst, to.part, ahead)
                        }
                        (_, true) => {
                            pair_row::<3, true>(loads, first, second, sizes, dst, to.part, ahead)
                        }
                        (1, _) => {
                            pair_row::<1, false>(loads, first, second, sizes, dst, to.part, ahead)
                        }
                        (2, _) => {
                            pair_row::<2, false>(loads, first, second, sizes, dst, to.part, ahead)
                        }
                        (..) => {
                            pair_row::<3, false>(loads, first, second, sizes, dst, to.part, ahead)
                        }
                    }
                }
            }
        }
    }

    /// Lays out image `image` of the group with a channel in each row, which are the tiles of a
    /// first operand. `sizes` has one number for each channel.
    ///
    /// # Safety
    /// As for [`Plan::pairs`].
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn rows(
        &self,
        parts: usize,
        x: *const f32,
        channels: usize,
        image_size: usize,
        image: usize,
        sizes: &mut Sizes,
        to: Target,
    ) {
        let ahead = image_size.max(512);
        for c in 0..channels {
            for (source, loads) in self.loads.iter().enumerate() {
                let at = c % 16 * to.row + (source * to.source + image * self.image) * 2;
                // SAFETY: passed on from the caller.
                let most = unsafe {
                    let x = x.add(c * image_size);
                    let dst = to.ptr.add(c / 16 * to.block + at);
                    match (parts, self.packed) {
                        (1, true) => single_row::<1, true>(loads, x, dst, to.part, ahead),
                        (2, true) => single_row::<2, true>(loads, x, dst, to.part, ahead),
                        (_, true) => single_row::<3, true>(loads, x, dst, to.part, ahead),
                        (1, _) => single_row::<1, false>(loads, x, dst, to.part, ahead),
                        (2, _) => single_row::<2, false>(loads, x, dst, to.part, ahead),
                        (..) => single_row::<3, false>(loads, x, dst, to.part, ahead),
                    }
                };
                sizes.0[c] = sizes.0[c].max(most);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn fetch<const PACKED: bool>(load: &Load, x: *const f32) -> __m512 {
    // SAFETY: elements of the channel.
    unsafe {
        match PACKED {
            true => _mm512_maskz_expandloadu_ps(load.mask, x.add(load.from as usize)),
            false => {
                let index = _mm512_loadu_si512(load.index.as_ptr().cast());
                _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), load.mask, index, x)
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pair_row<const PARTS: usize, const PACKED: bool>(
    loads: &[Load],
    first: *const f32,
    second: Option<*const f32>,
    sizes: &mut [u32],
    dst: *mut u8,
    part: usize,
    ahead: usize,
) {
    for (v, load) in loads.iter().enumerate() {
        // What comes next, which the processor's own prefetching meets anew with each page.
        let next = first.wrapping_add(load.from as usize + ahead);
        prefetch(next.cast());
        prefetch(next.wrapping_add(ahead / 2).cast());
        // SAFETY: elements of both channels; 64 bytes of the line for each part.
        unsafe {
            let mut a = fetch::<PACKED>(load, first);
            let mut b = match second {
                Some(second) => fetch::<PACKED>(load, second),
                None => _mm512_setzero_ps(),
            };
            if PARTS > 1 {
                let most = sizes.as_mut_ptr().add(v * LANES).cast();
                let both = _mm512_max_epu32(magnitude(a), magnitude(b));
                let both = _mm512_max_epu32(both, _mm512_loadu_si512(most));
                _mm512_storeu_si512(most, both);
            }
            for p in 0..PARTS {
                let (x, y) = (rounded::<PARTS>(a), rounded::<PARTS>(b));
                let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(x));
                let both = _mm512_or_si512(low, _mm512_castps_si512(y));
                _mm512_storeu_si512(dst.add(p * part + v * 64).cast(), both);
                if p + 1 < PARTS {
                    (a, b) = (_mm512_sub_ps(a, x), _mm512_sub_ps(b, y));
                }
            }
        }
    }
}

/// Returns the largest magnitude.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn single_row<const PARTS: usize, const PACKED: bool>(
    loads: &[Load],
    x: *const f32,
    dst: *mut u8,
    part: usize,
    ahead: usize,
) -> u32 {
    let mut most = _mm512_setzero_si512();
    for (v, load) in loads.iter().enumerate() {
        prefetch(x.wrapping_add(load.from as usize + ahead).cast());
        // SAFETY: elements of the channel; 32 bytes of the line for each part.
        unsafe {
            let mut a = fetch::<PACKED>(load, x);
            if PARTS > 1 {
                most = _mm512_max_epu32(most, magnitude(a));
            }
            for p in 0..PARTS {
                let x = rounded::<PARTS>(a);
                let half = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(x)));
                _mm256_storeu_si256(dst.add(p * part + v * 32).cast(), half);
                if p + 1 < PARTS {
                    a = _mm512_sub_ps(a, x);
                }
            }
        }
    }
    _mm512_reduce_max_epu32(most)
}
