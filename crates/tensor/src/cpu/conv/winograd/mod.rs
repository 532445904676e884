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
//! The sums have a ninth of the terms, which makes up for the additions: the error is as large as that
//! of the sums themselves where the numbers of a neighbourhood are of one size. It is relative to the
//! largest of the 4x4 inputs that share a tile. Where one is out of all proportion to the others
//! ([`transforms::even`]), or results are not finite or next to nothing ([`transforms::in_range`]), the
//! sums are computed as they are written.
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

/// Whether there is such a way for these sizes: `None` if not, or what serves it.
fn kernels(s: &ConvShape) -> Option<&'static Kernels<f32>> {
    let alike = s.kernel == [3, 3] && s.stride == [1, 1] && s.dilation == [1, 1];
    let whole = |channels: usize| channels >= 16 && channels.is_multiple_of(8);
    match alike && whole(s.group_in()) && whole(s.group_out()) {
        true => f32::kernels(),
        false => None,
    }
}

/// The tiles of the images of a convolution, row after row and image after image.
#[derive(Clone, Copy)]
struct Tiles {
    walk: Walk,
    /// Rows of tiles of an image, and tiles of a row.
    rows: usize,
    cols: usize,
}

/// Some rows of tiles of one image.
struct Piece {
    image: usize,
    rows: Range<usize>,
    /// Where its tiles begin among those of all pieces.
    at: usize,
}

impl Tiles {
    fn new(walk: Walk) -> Tiles {
        let [rows, cols] = walk.output.map(|n| n.div_ceil(TILE));
        Tiles { walk, rows, cols }
    }

    /// Rows of tiles of all images, cut by image.
    fn pieces(&self, rows: Range<usize>) -> impl Iterator<Item = Piece> {
        let (each, cols) = (self.rows, self.cols);
        let images = rows.start / each..rows.end.div_ceil(each);
        images.map(move |image| {
            let first = rows.start.max(image * each);
            let end = rows.end.min((image + 1) * each);
            Piece {
                image,
                rows: first - image * each..end - image * each,
                at: (first - rows.start) * cols,
            }
        })
    }

    /// Rows of outputs that some rows of tiles make.
    fn outputs(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * TILE..(rows.end * TILE).min(self.walk.output[0])
    }

    /// Positions of the inputs that so many rows of tiles see, and from one row of them to the next.
    fn seen(&self, rows: usize) -> (usize, usize) {
        let row = self.cols * TILE + 2;
        ((rows * TILE + 2) * row, row)
    }

    /// Lays out what some rows of tiles see of an image, channels side by side.
    ///
    /// # Safety
    /// `x` holds so many channels of the image, `to` has room for what is [`seen`](Self::seen).
    unsafe fn lay_out(
        &self,
        set: &Kernels<f32>,
        x: *const f32,
        channels: usize,
        rows: &Range<usize>,
        to: *mut f32,
    ) {
        let [top, left] = self.walk.padding.map(|(lo, _)| lo);
        let (_, width) = self.seen(rows.len());
        let first = (rows.start * TILE) as isize - top;
        let lines = rows.len() * TILE + 2;
        // SAFETY: passed on from the caller.
        unsafe {
            positions(
                set,
                x,
                self.walk.image,
                channels,
                [first, -left],
                [lines, width],
                to,
            )
        };
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
