//! The transforms, on neighbouring channels at a time.

use super::TAPS;

/// Neighbouring channels.
type Some<const W: usize> = [f32; W];

/// # Safety
/// The channels at `p` must be readable.
#[inline(always)]
unsafe fn load<const W: usize>(p: *const f32) -> Some<W> {
    // SAFETY: passed on from the caller.
    unsafe { p.cast::<Some<W>>().read_unaligned() }
}

/// # Safety
/// The channels at `p` must be writable.
#[inline(always)]
unsafe fn store<const W: usize>(p: *mut f32, x: Some<W>) {
    // SAFETY: passed on from the caller.
    unsafe { p.cast::<Some<W>>().write_unaligned(x) }
}

#[inline(always)]
fn add<const W: usize>(a: Some<W>, b: Some<W>) -> Some<W> {
    std::array::from_fn(|i| a[i] + b[i])
}
#[inline(always)]
fn sub<const W: usize>(a: Some<W>, b: Some<W>) -> Some<W> {
    std::array::from_fn(|i| a[i] - b[i])
}
#[inline(always)]
fn neg<const W: usize>(a: Some<W>) -> Some<W> {
    a.map(|x| -x)
}
#[inline(always)]
fn half<const W: usize>(a: Some<W>) -> Some<W> {
    a.map(|x| 0.5 * x)
}

/// `B^T d`.
#[inline(always)]
fn input<const W: usize>([d0, d1, d2, d3]: [Some<W>; 4]) -> [Some<W>; 4] {
    [sub(d0, d2), add(d1, d2), sub(d2, d1), sub(d1, d3)]
}
/// `A^T m`.
#[inline(always)]
fn output<const W: usize>([m0, m1, m2, m3]: [Some<W>; 4]) -> [Some<W>; 2] {
    [add(add(m0, m1), m2), sub(sub(m1, m2), m3)]
}
/// `A y`.
#[inline(always)]
fn output_grad<const W: usize>([y0, y1]: [Some<W>; 2]) -> [Some<W>; 4] {
    [y0, add(y0, y1), sub(y0, y1), neg(y1)]
}
/// `G g`.
#[inline(always)]
fn weight<const W: usize>([g0, g1, g2]: [Some<W>; 3]) -> [Some<W>; 4] {
    let ends = add(g0, g2);
    [g0, half(add(ends, g1)), half(sub(ends, g1)), g2]
}
/// `G^T m`.
#[inline(always)]
fn weight_grad<const W: usize>([m0, m1, m2, m3]: [Some<W>; 4]) -> [Some<W>; 3] {
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
    pub ptr: *mut f32,
    pub block: usize,
    pub channels: usize,
}

impl Points {
    /// The points from tile `i` on.
    pub fn from(self, i: usize) -> Points {
        let ptr = self.ptr.wrapping_add(i * self.channels);
        Points { ptr, ..self }
    }
}

/// Where the pixels of some rows of tiles lie, channels side by side: `rows` rows of `cols` tiles,
/// lines of `width` positions.
#[derive(Clone, Copy)]
pub struct Pixels {
    pub ptr: *mut f32,
    pub width: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Pixels {
    /// The upper left corner of each tile, in positions.
    #[inline(always)]
    fn tiles(self) -> impl Iterator<Item = usize> {
        let Pixels { width, rows, cols, .. } = self;
        (0..rows).flat_map(move |y| (0..cols).map(move |x| 2 * (y * width + x)))
    }
}

crate::simd_dispatch! {
    /// Transforms inputs; the memory that `x` and `to` name must be there.
    pub fn inputs(x: Pixels, to: Points) {
        by_width!(to.channels, inputs_of(x, to))
    }

    /// Makes outputs out of sums and tells whether all are finite; the memory that `from` and `y` name
    /// must be there.
    pub fn outputs(from: Points, y: Pixels) -> bool {
        by_width!(from.channels, outputs_of(from, y))
    }

    /// Transforms gradients of outputs; the memory that `dy` and `to` name must be there.
    pub fn output_grads(dy: Pixels, to: Points) {
        by_width!(to.channels, output_grads_of(dy, to))
    }

    /// Transforms weights of neighbouring channels, tap after tap, `width` elements apart; the 16
    /// results are `block` apart. All must be there. `turned`: the kernel is turned by half a circle.
    pub fn weights(w: *const f32, width: usize, turned: bool, to: *mut f32, block: usize) {
        by_width!(width, weights_of(w, width, turned, to, block))
    }

    /// Makes the gradients of neighbouring channels' weights out of sums that are `block` apart, each
    /// of them in parts that are `part` apart: tap `t` of channel `i` at `to[9 i + t]`. All must be
    /// there. Tells whether all are finite.
    pub fn weight_grads(
        sums: *const f32, channels: usize, block: usize, parts: usize, part: usize, to: *mut f32,
    ) -> bool {
        by_width!(channels, weight_grads_of(sums, channels, block, parts, part, to))
    }
}

#[inline(always)]
fn inputs_of<const W: usize>(x: Pixels, to: Points) {
    let Points { channels, block, .. } = to;
    for (i, corner) in x.tiles().enumerate() {
        for c in (0..channels).step_by(W) {
            let from = x.ptr.wrapping_add(corner * channels + c);
            let to = to.ptr.wrapping_add(i * channels + c);
            let at = |r: usize, s: usize| {
                // SAFETY: the caller vouches for the 4x4 positions of the tile.
                unsafe { load::<W>(from.add((r * x.width + s) * channels)) }
            };
            // Row by row of the result, so that few registers do.
            let rows = [(0, 2), (1, 2), (2, 1), (1, 3)];
            for (r, (a, b)) in rows.into_iter().enumerate() {
                let f = if r == 1 { add::<W> } else { sub::<W> };
                let row = std::array::from_fn(|s| f(at(a, s), at(b, s)));
                for (s, v) in input(row).into_iter().enumerate() {
                    // SAFETY: the caller vouches for the points of the tile.
                    unsafe { store(to.add((4 * r + s) * block), v) };
                }
            }
        }
    }
}

#[inline(always)]
fn outputs_of<const W: usize>(from: Points, y: Pixels) -> bool {
    let Points { channels, block, .. } = from;
    // Zero times what is not finite is not zero.
    let mut zeros = [0.0; W];
    for (i, corner) in y.tiles().enumerate() {
        for c in (0..channels).step_by(W) {
            let from = from.ptr.wrapping_add(i * channels + c);
            let to = y.ptr.wrapping_add(corner * channels + c);
            let column = |s: usize| {
                output(std::array::from_fn(|r| {
                    // SAFETY: the caller vouches for the points of the tile.
                    unsafe { load::<W>(from.add((4 * r + s) * block)) }
                }))
            };
            let columns: [_; 4] = std::array::from_fn(column);
            for r in 0..2 {
                for (s, v) in output(columns.map(|v| v[r])).into_iter().enumerate() {
                    zeros = add(zeros, v.map(|v| 0.0 * v));
                    // SAFETY: the caller vouches for the 2x2 positions of the tile.
                    unsafe { store(to.add((r * y.width + s) * channels), v) };
                }
            }
        }
    }
    zeros.iter().all(|&z| z == 0.0)
}

#[inline(always)]
fn output_grads_of<const W: usize>(dy: Pixels, to: Points) {
    let Points { channels, block, .. } = to;
    for (i, corner) in dy.tiles().enumerate() {
        for c in (0..channels).step_by(W) {
            let from = dy.ptr.wrapping_add(corner * channels + c);
            let to = to.ptr.wrapping_add(i * channels + c);
            let column = |s: usize| {
                output_grad(std::array::from_fn(|r| {
                    // SAFETY: the caller vouches for the 2x2 positions of the tile.
                    unsafe { load::<W>(from.add((r * dy.width + s) * channels)) }
                }))
            };
            let columns: [_; 2] = std::array::from_fn(column);
            for r in 0..4 {
                let row = output_grad(columns.map(|v| v[r]));
                for (s, v) in row.into_iter().enumerate() {
                    // SAFETY: the caller vouches for the points of the tile.
                    unsafe { store(to.add((4 * r + s) * block), v) };
                }
            }
        }
    }
}

#[inline(always)]
fn weights_of<const W: usize>(
    w: *const f32,
    width: usize,
    turned: bool,
    to: *mut f32,
    block: usize,
) {
    for c in (0..width).step_by(W) {
        let column = |s: usize| {
            weight(std::array::from_fn(|r| {
                let tap = 3 * r + s;
                let tap = if turned { TAPS - 1 - tap } else { tap };
                // SAFETY: the caller vouches for the taps.
                unsafe { load::<W>(w.add(tap * width + c)) }
            }))
        };
        let columns: [_; 3] = std::array::from_fn(column);
        for r in 0..4 {
            for (s, v) in weight(columns.map(|v| v[r])).into_iter().enumerate() {
                // SAFETY: the caller vouches for the results.
                unsafe { store(to.add((4 * r + s) * block + c), v) };
            }
        }
    }
}

#[inline(always)]
fn weight_grads_of<const W: usize>(
    sums: *const f32,
    channels: usize,
    block: usize,
    parts: usize,
    part: usize,
    to: *mut f32,
) -> bool {
    let mut zeros = [0.0; W];
    for c in (0..channels).step_by(W) {
        let point = |i: usize| {
            let from = sums.wrapping_add(i * block + c);
            // SAFETY: the caller vouches for all parts of the sums.
            let all = (0..parts).map(|p| unsafe { load::<W>(from.add(p * part)) });
            all.reduce(add).unwrap_or([0.0; W])
        };
        let column = |s: usize| weight_grad(std::array::from_fn(|r| point(4 * r + s)));
        let columns: [_; 4] = std::array::from_fn(column);
        for r in 0..3 {
            for (s, v) in weight_grad(columns.map(|v| v[r])).into_iter().enumerate() {
                zeros = add(zeros, v.map(|v| 0.0 * v));
                for (i, v) in v.into_iter().enumerate() {
                    // SAFETY: the caller vouches for the weights of these channels.
                    unsafe { *to.add((c + i) * TAPS + 3 * r + s) = v };
                }
            }
        }
    }
    zeros.iter().all(|&z| z == 0.0)
}
