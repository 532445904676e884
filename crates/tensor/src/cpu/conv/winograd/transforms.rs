//! The transforms, on neighbouring channels at a time.

#![allow(clippy::needless_range_loop)] // plain loops over registers

use super::TAPS;

/// Neighbouring channels.
type Vector<const W: usize> = [f32; W];

/// # Safety
/// The channels at `p` must be readable.
#[inline(always)]
unsafe fn load<const W: usize>(p: *const f32) -> Vector<W> {
    // SAFETY: passed on from the caller.
    unsafe { p.cast::<Vector<W>>().read_unaligned() }
}

/// # Safety
/// The channels at `p` must be writable.
#[inline(always)]
unsafe fn store<const W: usize>(p: *mut f32, x: Vector<W>) {
    // SAFETY: passed on from the caller.
    unsafe { p.cast::<Vector<W>>().write_unaligned(x) }
}

/// Calls that a compiler may not put in place, as those of closures, would not be compiled for the
/// processor: so these are loops.
macro_rules! by_channel {
    ($($name:ident($($x:ident),+) = $value:expr;)*) => {$(
        #[inline(always)]
        fn $name<const W: usize>($($x: Vector<W>),+) -> Vector<W> {
            let mut out = [0.0; W];
            for i in 0..W {
                $(let $x = $x[i];)+
                out[i] = $value;
            }
            out
        }
    )*};
}
by_channel! {
    add(a, b) = a + b;
    sub(a, b) = a - b;
    neg(a) = -a;
    half(a) = 0.5 * a;
}

/// The larger exponents (and the bits after them) of each channel.
#[inline(always)]
fn larger<const W: usize>(mut most: [u32; W], x: Vector<W>) -> [u32; W] {
    for i in 0..W {
        let bits = x[i].to_bits() << 1;
        most[i] = if bits > most[i] { bits } else { most[i] };
    }
    most
}

/// The largest exponent; 0 if there are only zeros.
#[inline(always)]
fn largest<const W: usize>(most: [u32; W]) -> u32 {
    let mut all = 0;
    for bits in most {
        all = if bits > all { bits } else { all };
    }
    all >> 24
}

/// Whether results whose largest exponent this is are what they should be: not so if one is not
/// finite, which spreads over its tile, nor if all are so small that what was subnormal on the way,
/// and counted as zero, weighs.
pub fn in_range(exponent: u32) -> bool {
    exponent == 0 || (SMALL..INFINITE).contains(&exponent)
}

/// `B^T d`.
#[inline(always)]
fn input<const W: usize>([d0, d1, d2, d3]: [Vector<W>; 4]) -> [Vector<W>; 4] {
    [sub(d0, d2), add(d1, d2), sub(d2, d1), sub(d1, d3)]
}
/// `A^T m`.
#[inline(always)]
fn output<const W: usize>([m0, m1, m2, m3]: [Vector<W>; 4]) -> [Vector<W>; 2] {
    [add(add(m0, m1), m2), sub(sub(m1, m2), m3)]
}
/// `A y`.
#[inline(always)]
fn output_grad<const W: usize>([y0, y1]: [Vector<W>; 2]) -> [Vector<W>; 4] {
    [y0, add(y0, y1), sub(y0, y1), neg(y1)]
}
/// `G g`.
#[inline(always)]
fn weight<const W: usize>([g0, g1, g2]: [Vector<W>; 3]) -> [Vector<W>; 4] {
    let ends = add(g0, g2);
    [g0, half(add(ends, g1)), half(sub(ends, g1)), g2]
}
/// `G^T m`.
#[inline(always)]
fn weight_grad<const W: usize>([m0, m1, m2, m3]: [Vector<W>; 4]) -> [Vector<W>; 3] {
    let both = half(add(m1, m2));
    [add(m0, both), half(sub(m1, m2)), add(m3, both)]
}

/// Calls a function of the widest run of channels that divides their number.
macro_rules! by_width {
    ($channels:expr, $f:ident($($arg:expr),*)) => {
        match $channels % 16 {
            0 => $f::<16>($($arg),*),
            _ => $f::<8>($($arg),*),
        }
    };
}

/// Where the 16 elements of transformed tiles lie: tile `i` has its channels at `i * channels` of
/// each of 16 blocks, `block` elements apart.
#[derive(Clone, Copy)]
pub struct Points {
    ptr: *mut f32,
    block: usize,
    channels: usize,
}

impl Points {
    /// # Safety
    /// All tiles that functions of the result work on must be readable and writable while they do.
    pub unsafe fn new(ptr: *mut f32, block: usize, channels: usize) -> Points {
        Points {
            ptr,
            block,
            channels,
        }
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The points from tile `i` on.
    pub fn skip(self, i: usize) -> Points {
        let ptr = self.ptr.wrapping_add(i * self.channels);
        Points { ptr, ..self }
    }

    /// Where an element of tile `i` has its channels.
    pub fn at(&self, element: usize, i: usize) -> *mut f32 {
        self.ptr
            .wrapping_add(element * self.block + i * self.channels)
    }
}

/// Where the pixels of some rows of tiles lie, channels side by side: `rows` rows of `cols` tiles,
/// lines of `width` positions.
#[derive(Clone, Copy)]
pub struct Pixels {
    ptr: *mut f32,
    width: usize,
    rows: usize,
    cols: usize,
}

impl Pixels {
    /// # Safety
    /// The positions that the tiles cover must be readable and writable while functions work on the
    /// result.
    pub unsafe fn new(ptr: *mut f32, width: usize, [rows, cols]: [usize; 2]) -> Pixels {
        Pixels {
            ptr,
            width,
            rows,
            cols,
        }
    }

    /// The upper left corner of tile `i`, in positions.
    #[inline(always)]
    fn corner(self, i: usize) -> usize {
        2 * (i / self.cols * self.width + i % self.cols)
    }
}

/// The exponent of 2^-90, and of what is not finite.
const SMALL: u32 = 37;
const INFINITE: u32 = 255;
/// How many times larger than is usual a number may be, as a power of two.
const SPREAD: u64 = 40;
/// How many times larger than any other an element of the kernel may be, over all channels.
const TAP_SPREAD: f32 = 64.0;

crate::simd_dispatch! {
    /// Whether all numbers are finite, and none of them is out of all proportion to those that are not
    /// zero, by the mean of their exponents.
    pub fn even(x: &[f32]) -> bool {
        let (mut most, mut sum, mut count) = ([0u32; 32], [0u32; 32], [0u32; 32]);
        let (chunks, rest) = x.as_chunks::<32>();
        let mut last = [0f32; 32];
        last[..rest.len()].copy_from_slice(rest);
        for chunk in chunks.iter().chain([&last]) {
            for i in 0..32 {
                let exponent = chunk[i].to_bits() << 1 >> 24;
                most[i] = if exponent > most[i] { exponent } else { most[i] };
                sum[i] += exponent;
                count[i] += (exponent > 0) as u32;
            }
        }
        let mut all = (0u32, 0u64, 0u64);
        for i in 0..32 {
            all = (all.0.max(most[i]), all.1 + sum[i] as u64, all.2 + count[i] as u64);
        }
        let (most, sum, count) = all;
        most < INFINITE && most as u64 * count <= sum + SPREAD * count
    }

    /// Transforms inputs.
    pub fn inputs(x: Pixels, to: Points) {
        by_width!(to.channels, inputs_of(x, to))
    }

    /// Makes outputs out of sums and tells their largest exponent.
    pub fn outputs(from: Points, y: Pixels) -> u32 {
        by_width!(from.channels, outputs_of(from, y))
    }

    /// Transforms gradients of outputs.
    pub fn output_grads(dy: Pixels, to: Points) {
        by_width!(to.channels, output_grads_of(dy, to))
    }

    /// Transforms weights of neighbouring channels, tap after tap, to a tile of points, and adds their
    /// sizes to `sizes`. `turned`: the kernel is turned by half a circle.
    pub fn weights(w: &[f32], turned: bool, to: Points, sizes: &mut [f32]) {
        assert!(w.len() == TAPS * to.channels && sizes.len() == w.len());
        for (size, w) in sizes.iter_mut().zip(w) {
            *size += w.abs();
        }
        by_width!(to.channels, weights_of(w.as_ptr(), turned, to))
    }

    /// Makes the gradients of neighbouring channels' weights out of the first tile of sums, of which
    /// there are so many parts, `part` elements apart: tap `t` of channel `i` at `to[9 i + t]`. Tells the
    /// largest exponent.
    pub fn weight_grads(sums: Points, parts: usize, part: usize, to: &mut [f32]) -> u32 {
        assert!(to.len() == TAPS * sums.channels);
        by_width!(sums.channels, weight_grads_of(sums, parts, part, to.as_mut_ptr()))
    }
}

/// Whether in the first `count` of `width` channels no element of the kernel is out of all proportion
/// to another: an input under the small one would be multiplied by the large one, and cancelled.
pub fn taps_alike(sizes: &[f32], width: usize, count: usize) -> bool {
    (0..count).all(|i| {
        let taps = || sizes[i..].iter().step_by(width).copied();
        let (least, most) = (taps().fold(f32::MAX, f32::min), taps().fold(0.0, f32::max));
        taps().sum::<f32>().is_finite() && most <= TAP_SPREAD * least
    })
}

/// A column of four, three or two of what `$at` gives for a row.
macro_rules! column {
    (4 $at:ident!($($x:tt)*)) => { [$at!(0, $($x)*), $at!(1, $($x)*), $at!(2, $($x)*), $at!(3, $($x)*)] };
    (3 $at:ident!($($x:tt)*)) => { [$at!(0, $($x)*), $at!(1, $($x)*), $at!(2, $($x)*)] };
    (2 $at:ident!($($x:tt)*)) => { [$at!(0, $($x)*), $at!(1, $($x)*)] };
}

#[inline(always)]
fn inputs_of<const W: usize>(x: Pixels, to: Points) {
    let Points {
        channels, block, ..
    } = to;
    for i in 0..x.rows * x.cols {
        let corner = x.corner(i);
        for c in (0..channels).step_by(W) {
            let from = x.ptr.wrapping_add(corner * channels + c);
            let to = to.ptr.wrapping_add(i * channels + c);
            macro_rules! at {
                ($r:expr, $s:expr) => {
                    load::<W>(from.add(($r * x.width + $s) * channels))
                };
            }
            // Row by row of the result, so that few registers do.
            macro_rules! row {
                ($r:literal: $f:ident $a:literal $b:literal) => {
                    let mut row = [[0.0; W]; 4];
                    for s in 0..4 {
                        row[s] = $f(at!($a, s), at!($b, s));
                    }
                    let row = input(row);
                    for s in 0..4 {
                        store(to.add((4 * $r + s) * block), row[s]);
                    }
                };
            }
            // SAFETY: the caller vouches for the 4x4 positions and the points of the tile.
            unsafe {
                row!(0: sub 0 2);
                row!(1: add 1 2);
                row!(2: sub 2 1);
                row!(3: sub 1 3);
            }
        }
    }
}

#[inline(always)]
fn outputs_of<const W: usize>(from: Points, y: Pixels) -> u32 {
    let Points {
        channels, block, ..
    } = from;
    let mut most = [0; W];
    for i in 0..y.rows * y.cols {
        let corner = y.corner(i);
        for c in (0..channels).step_by(W) {
            let from = from.ptr.wrapping_add(i * channels + c);
            let to = y.ptr.wrapping_add(corner * channels + c);
            macro_rules! at {
                ($r:expr, $s:expr) => {
                    load::<W>(from.add((4 * $r + $s) * block))
                };
            }
            // SAFETY: the caller vouches for the points and the 2x2 positions of the tile.
            unsafe {
                let mut columns = [[[0.0; W]; 2]; 4];
                for s in 0..4 {
                    columns[s] = output(column!(4 at!(s)));
                }
                for r in 0..2 {
                    macro_rules! turned {
                        ($s:expr, $r:expr) => {
                            columns[$s][$r]
                        };
                    }
                    let row = output(column!(4 turned!(r)));
                    for s in 0..2 {
                        most = larger(most, row[s]);
                        store(to.add((r * y.width + s) * channels), row[s]);
                    }
                }
            }
        }
    }
    largest(most)
}

#[inline(always)]
fn output_grads_of<const W: usize>(dy: Pixels, to: Points) {
    let Points {
        channels, block, ..
    } = to;
    for i in 0..dy.rows * dy.cols {
        let corner = dy.corner(i);
        for c in (0..channels).step_by(W) {
            let from = dy.ptr.wrapping_add(corner * channels + c);
            let to = to.ptr.wrapping_add(i * channels + c);
            macro_rules! at {
                ($r:expr, $s:expr) => {
                    load::<W>(from.add(($r * dy.width + $s) * channels))
                };
            }
            // SAFETY: the caller vouches for the 2x2 positions and the points of the tile.
            unsafe {
                let columns = [
                    output_grad(column!(2 at!(0))),
                    output_grad(column!(2 at!(1))),
                ];
                for r in 0..4 {
                    let row = output_grad([columns[0][r], columns[1][r]]);
                    for s in 0..4 {
                        store(to.add((4 * r + s) * block), row[s]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn weights_of<const W: usize>(w: *const f32, turned: bool, to: Points) {
    let Points {
        ptr,
        block,
        channels,
    } = to;
    for c in (0..channels).step_by(W) {
        macro_rules! at {
            ($r:expr, $s:expr) => {{
                let tap = 3 * $r + $s;
                let tap = if turned { TAPS - 1 - tap } else { tap };
                load::<W>(w.add(tap * channels + c))
            }};
        }
        // SAFETY: the caller vouches for the taps and the results.
        unsafe {
            let mut columns = [[[0.0; W]; 4]; 3];
            for s in 0..3 {
                columns[s] = weight(column!(3 at!(s)));
            }
            for r in 0..4 {
                let row = weight([columns[0][r], columns[1][r], columns[2][r]]);
                for s in 0..4 {
                    store(ptr.add((4 * r + s) * block + c), row[s]);
                }
            }
        }
    }
}

#[inline(always)]
fn weight_grads_of<const W: usize>(sums: Points, parts: usize, part: usize, to: *mut f32) -> u32 {
    let Points {
        ptr,
        block,
        channels,
    } = sums;
    let mut most = [0; W];
    for c in (0..channels).step_by(W) {
        macro_rules! at {
            ($r:expr, $s:expr) => {{
                let from = ptr.add((4 * $r + $s) * block + c);
                let mut sum = load::<W>(from);
                for p in 1..parts {
                    sum = add(sum, load(from.add(p * part)));
                }
                sum
            }};
        }
        // SAFETY: the caller vouches for all parts of the sums, and the weights of these channels.
        unsafe {
            let mut columns = [[[0.0; W]; 3]; 4];
            for s in 0..4 {
                columns[s] = weight_grad(column!(4 at!(s)));
            }
            let mut taps = [[0.0; W]; TAPS];
            for r in 0..3 {
                let row = weight_grad([columns[0][r], columns[1][r], columns[2][r], columns[3][r]]);
                for s in 0..3 {
                    most = larger(most, row[s]);
                    taps[3 * r + s] = row[s];
                }
            }
            for i in 0..W {
                for t in 0..TAPS {
                    *to.add((c + i) * TAPS + t) = taps[t][i];
                }
            }
        }
    }
    largest(most)
}
