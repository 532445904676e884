//! Convolutions of 3x3 with steps of one by Winograd's minimal filtering, `F(2x2, 3x3)`: 16
//! multiplications for four outputs, where the sums themselves have 36.
//!
//! The output is cut into tiles of 2x2, each of which sees 4x4 inputs. Inputs and weights are
//! transformed, the 16 elements of a tile are as many products over the channels, and four outputs
//! come out of the sums (`B`, `G` and `A` as in the paper):
//!
//! ```text
//! y = A^T [ sum over channels of (G w G^T) * (B^T x B) ] A
//! ```
//!
//! The gradient of the input is a convolution of the same kind with the kernel turned round, that of
//! the weights is `G^T [ sum over tiles of (A dy A^T) * (B^T x B) ] G`. All transforms are additions
//! and halvings. Channels lie side by side in them, so that images of any size are alike.
//!
//! The sums have a ninth of the terms, which makes up for the additions. The error of an output is
//! relative to the largest input that it sees times the largest element of the kernel (of a weight's
//! gradient, to the largest numbers of its tiles), where that of the sums as they are written is
//! relative to their terms. So these are computed instead where kernels have elements of very
//! different size ([`transforms::taps_alike`]), inputs are out of all proportion
//! ([`transforms::even`]), or results not finite or next to nothing ([`transforms::in_range`]).
//!
//! Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks* (2015), arXiv:1509.09308.

mod outputs;
mod transforms;
mod weight_sums;

pub use outputs::Job;
pub use weight_sums::Job as SumsJob;

use super::ConvShape;
use super::columns::Walk;
use crate::cpu::matmul::{Kernels, Lanes};
use std::ops::Range;

/// Outputs of a tile along one side.
const TILE: usize = 2;
/// Elements of a transformed tile.
const POINTS: usize = 16;
/// Weights of a channel.
const TAPS: usize = 9;
/// Channels that are laid out together.
const BESIDE: usize = 16;
/// The most tiles of a row that are worked on at once.
const WIDEST: usize = 128;

/// Whether there is such a way for these sizes: `None` if not, or what serves it.
fn kernels(s: &ConvShape) -> Option<&'static Kernels<f32>> {
    let alike = s.kernel == [3, 3] && s.stride == [1, 1] && s.dilation == [1, 1];
    let whole = |channels: usize| channels >= 16 && channels.is_multiple_of(8);
    match alike && whole(s.group_in()) && whole(s.group_out()) {
        true => f32::kernels(),
        false => None,
    }
}

/// The tiles of the images of a convolution: row after row, band after band (wide images are cut into
/// some), and image after image.
#[derive(Clone, Copy)]
struct Tiles {
    walk: Walk,
    bands: usize,
    /// Rows of tiles of a band, and tiles of a row.
    rows: usize,
    cols: usize,
}

/// Some rows of tiles of one band.
struct Piece {
    image: usize,
    band: usize,
    rows: Range<usize>,
    /// Where its tiles begin among those of all pieces.
    at: usize,
}

impl Tiles {
    fn new(walk: Walk) -> Tiles {
        let [rows, all] = walk.output.map(|n| n.div_ceil(TILE));
        let cols = all.div_ceil(all.div_ceil(WIDEST));
        let bands = all.div_ceil(cols);
        Tiles {
            walk,
            bands,
            rows,
            cols,
        }
    }

    /// Rows of tiles of so many images.
    fn all(&self, batch: usize) -> usize {
        batch * self.bands * self.rows
    }

    /// Some of these rows, cut by image and band.
    fn pieces(&self, rows: Range<usize>) -> impl Iterator<Item = Piece> {
        let Tiles {
            bands,
            rows: each,
            cols,
            ..
        } = *self;
        (rows.start / each..rows.end.div_ceil(each)).map(move |unit| {
            let first = rows.start.max(unit * each);
            let end = rows.end.min((unit + 1) * each);
            Piece {
                image: unit / bands,
                band: unit % bands,
                rows: first - unit * each..end - unit * each,
                at: (first - rows.start) * cols,
            }
        })
    }

    /// Rows and columns of outputs that a piece makes.
    fn outputs(&self, piece: &Piece) -> [Range<usize>; 2] {
        let [height, width] = self.walk.output;
        let (rows, col) = (&piece.rows, piece.band * self.cols);
        [
            rows.start * TILE..(rows.end * TILE).min(height),
            col * TILE..((col + self.cols) * TILE).min(width),
        ]
    }

    /// Lines and columns of the inputs that so many rows of tiles see.
    fn seen(&self, rows: usize) -> [usize; 2] {
        [rows, self.cols].map(|n| n * TILE + 2)
    }

    /// Lays out what the tiles of a piece see of its image, channels side by side.
    ///
    /// # Safety
    /// `x` holds so many channels of the image, `to` has room for what is [`seen`](Self::seen).
    unsafe fn lay_out(
        &self,
        set: &Kernels<f32>,
        x: *const f32,
        channels: usize,
        piece: &Piece,
        to: *mut f32,
    ) {
        let [top, left] = self.walk.padding.map(|(lo, _)| lo);
        let corner = [
            (piece.rows.start * TILE) as isize - top,
            (piece.band * self.cols * TILE) as isize - left,
        ];
        let window = self.seen(piece.rows.len());
        // SAFETY: passed on from the caller.
        unsafe { positions(set, x, self.walk.image, channels, corner, window, to) };
    }
}

/// Lays out a window of an image, which may reach beyond it, channels side by side; zeros beyond.
///
/// # Safety
/// `x` holds so many channels of an image of `[h, w]`, `to` has room for `lines * width` positions.
unsafe fn positions(
    set: &Kernels<f32>,
    x: *const f32,
    [h, w]: [usize; 2],
    channels: usize,
    [y0, x0]: [isize; 2],
    [lines, width]: [usize; 2],
    to: *mut f32,
) {
    let begin = (-x0).clamp(0, width as isize) as usize;
    let end = (w as isize - x0).clamp(begin as isize, width as isize) as usize;
    let inside = (-y0).clamp(0, lines as isize) as usize..(h as isize - y0).max(0) as usize;
    let inside = inside.start..inside.end.clamp(inside.start, lines);
    let line = width * channels;
    // SAFETY: lines of the window; zeros have all-zero bits.
    unsafe {
        to.write_bytes(0, inside.start * line);
        for i in inside.clone() {
            let to = to.add(i * line);
            to.write_bytes(0, begin * channels);
            to.add(end * channels)
                .write_bytes(0, (width - end) * channels);
        }
        to.add(inside.end * line)
            .write_bytes(0, (lines - inside.end) * line);
    }
    // Few channels at a time, whose rows lie in few pages.
    for c in (0..channels).step_by(BESIDE) {
        for i in inside.clone() {
            // SAFETY: positions of the image, and their place in the window.
            unsafe {
                let y = (y0 + i as isize) as usize;
                let from = x.offset(((c * h + y) * w + begin) as isize + x0);
                let to = to.add(i * line + begin * channels + c);
                let (some, step) = (BESIDE.min(channels - c), (h * w) as isize);
                set.turn(from, step, some, end - begin, to, channels as isize);
            }
        }
    }
}

#[cfg(test)]
mod tests;
