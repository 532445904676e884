//! Products in which few rows (or, by dot products, columns) meet a large operand: what counts is to
//! read it from memory in order, in several streams at once, and once only.

use super::engine::{Float, Out, TASK};
use super::kernels::{Dots, Kernels, Tile};
use super::{Matrix, Scratch};
use crate::cpu::pool;
use crate::cpu::{After, Runs};
use std::ops::Range;

/// Rows or columns that count as few.
pub(super) const FEW: usize = 4;
/// The least bytes of an operand that a part of the sums should read.
const STRETCH: usize = 512 << 10;
/// Rows of such an operand that are read side by side.
const STREAMS: usize = 8;
/// Bytes of the output that sums are added to at a time: in the second-level cache.
const OUTPUT: usize = 128 << 10;
/// The most parts: each has results of its own to be added up.
const MOST_PARTS: usize = 16;

/// Rows from all over a range go side by side, as many as `most`: each of these streams is read in order.
/// `f` gets the first of the rows, how many they are, and from one to the next.
fn streams(range: Range<usize>, most: usize, f: impl Fn(usize, usize, usize)) {
    let each = range.len() / most;
    for i in 0..each {
        f(range.start + i, most, each);
    }
    let left = range.len() - each * most;
    if left > 0 {
        f(range.end - left, left, 1);
    }
}

/// Few columns (or rows) with both operands contiguous along the sums: as dot products of the large
/// operand's rows.
pub(super) struct ByDots<T: 'static> {
    set: &'static Kernels<T>,
    /// The large operand.
    big: Matrix<T>,
    /// Its rows.
    count: usize,
    k: usize,
    /// The rows of the small one, one behind the other.
    vectors: Scratch<T>,
    few: usize,
    /// Whether the large operand is the first.
    tall: bool,
}

impl<T: Float> ByDots<T> {
    /// Prepares the product of `a` (`m x k`) and `b` (`k x n`), if it suits.
    pub fn new(
        set: &'static Kernels<T>,
        [m, n, k]: [usize; 3],
        a: Matrix<T>,
        b: Matrix<T>,
    ) -> Option<Self> {
        let tall = n <= FEW && m >= 8 && a.col == 1;
        let wide = m <= FEW && n >= 8 && b.row == 1;
        if k < 2 * set.lanes || !(tall || wide) {
            return None;
        }
        let (big, small, count, few) = match tall {
            true => (a, b.transpose(), m, n),
            false => (b.transpose(), a, n, m),
        };
        let vectors = Scratch::<T>::new(few * k);
        for j in 0..few {
            for l in 0..k {
                let from = j as isize * small.row + l as isize * small.col;
                // SAFETY: an element of the small operand, and its place.
                unsafe { *vectors.ptr().add(j * k + l) = *small.ptr.wrapping_offset(from) };
            }
        }
        Some(ByDots {
            set,
            big,
            count,
            k,
            vectors,
            few,
            tall,
        })
    }

    /// The products of some of the rows: of row `i` and vector `j` to `c + i * c_row + j * c_vector`.
    unsafe fn rows(&self, range: Range<usize>, c: *mut T, c_row: isize, c_vector: isize) {
        let kernels = self.set.dots[self.few - 1];
        let dots = |first: usize, rows: usize, apart: usize| {
            let at = |step: isize| first as isize * step;
            // SAFETY: rows of the large operand, the vectors, and the output's elements for them.
            unsafe {
                kernels[rows - 1](&Dots {
                    k: self.k,
                    rows: self.big.ptr.wrapping_offset(at(self.big.row)),
                    row: apart as isize * self.big.row,
                    vectors: self.vectors.ptr(),
                    c: c.wrapping_offset(at(c_row)),
                    c_row: apart as isize * c_row,
                    c_vector,
                });
            }
        };
        streams(range, kernels.len(), dots);
    }

    /// All of the product, to rows of `c` that are `c_row` apart, on the calling thread.
    ///
    /// # Safety
    /// The operands must be readable, `c` writable.
    pub unsafe fn block(&self, c: *mut T, c_row: isize) {
        let (row, vector) = if self.tall { (c_row, 1) } else { (1, c_row) };
        // SAFETY: passed on from the caller.
        unsafe { self.rows(0..self.count, c, row, vector) }
    }

    /// All of the product, to the contiguous `out`, on all threads; `after` gets runs that count
    /// from `base`.
    ///
    /// # Safety
    /// As for [`block`](Self::block).
    pub unsafe fn parallel(&self, out: *mut T, base: usize, after: After<'_>) {
        let (m, n) = match self.tall {
            true => (self.count, self.few),
            false => (self.few, self.count),
        };
        let chunk = (TASK / (self.few * self.k)).max(self.count.div_ceil(64));
        let out = Out(out);
        pool::run_chunks(self.count, chunk.max(1).next_multiple_of(4), |r| {
            let out = &out;
            let (row, vector) = if self.tall { (n, 1) } else { (1, n) };
            // SAFETY: passed on from the caller; a task writes what its rows yield.
            unsafe { self.rows(r.clone(), out.0, row as isize, vector as isize) };
            let (rows, cols) = if self.tall { (r, 0..n) } else { (0..m, r) };
            after(Runs::block(base, n, rows, cols));
        });
    }
}

/// The length of the parts that the sums of few rows and a large `b` with contiguous rows are cut into,
/// each of which [`by_streams`] computes.
pub(super) fn part<T>([m, n, k]: [usize; 3], b: &Matrix<T>) -> Option<usize> {
    // Even numbers share out well.
    let parts = match (n * k * size_of::<T>() / STRETCH).min(MOST_PARTS) {
        parts @ 0..4 => parts / 2 * 2,
        parts => parts / 4 * 4,
    };
    let long = parts > 1 && k >= parts * 6 * STREAMS;
    (m <= FEW && b.col == 1 && long).then(|| k.div_ceil(parts).next_multiple_of(STREAMS))
}

/// Writes `a x b` to the contiguous `c` on the calling thread, for few rows and a `b` whose rows are
/// contiguous, in [`streams`] of these.
///
/// # Safety
/// The operands must be readable, `c` writable for `m * n` elements.
pub(super) unsafe fn by_streams<T: Float>(
    set: &'static Kernels<T>,
    [m, n, k]: [usize; 3],
    a: Matrix<T>,
    b: Matrix<T>,
    c: *mut T,
) {
    let columns = Scratch::<T>::new(m * k);
    // SAFETY: all of `a`, of which the copy has the size.
    unsafe { set.pack_panel(a.ptr, a.row, a.col, m, k, columns.ptr(), m) };
    let width = 2 * set.lanes;
    let sums = |range: Range<usize>, first: usize, rows: usize, apart: usize| {
        for j in range.step_by(width) {
            let cols = width.min(n - j);
            let vectors = cols.div_ceil(set.lanes);
            let lanes = cols - (vectors - 1) * set.lanes;
            let b_at = first as isize * b.row + j as isize;
            let tile = Tile {
                k: rows,
                a: columns.ptr().wrapping_add(first * m),
                a_step: (apart * m) as isize,
                b: b.ptr.wrapping_offset(b_at),
                b_step: apart as isize * b.row,
                c: c.wrapping_add(j),
                c_step: n as isize,
                b_lanes: lanes,
                c_lanes: lanes,
                accumulate: first > 0,
            };
            // SAFETY: some rows of the operands and columns of the output.
            unsafe { set.tile[vectors - 1][m - 1](&tile) };
        }
    };
    // As many columns at a time as there is room for near.
    let some = (OUTPUT / (m * size_of::<T>())).next_multiple_of(width);
    for j in (0..n).step_by(some) {
        let range = j..n.min(j + some);
        streams(0..k, STREAMS, |first, rows, apart| {
            sums(range.clone(), first, rows, apart)
        });
    }
}
