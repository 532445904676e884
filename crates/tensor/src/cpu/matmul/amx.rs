//! Products of one pair of matrices on the matrix unit: packing, blocking, and when it pays.
//!
//! The side with fewer lines is packed first, by all threads; the lines of the other are shared out
//! among tasks, each of which packs its own, so many elements at a time that they stay in its
//! second-level cache: the unit is fast enough for everything else to be a matter of memory.

use super::float::Block;
use super::{After, Matrix, Scratch};
use crate::cpu::amx::{self, Extent, Format, LINES, Lines, Product, STEP, TILE, Tiles};
use crate::cpu::{pool, simd};
use crate::precision::Precision;
use std::ops::Range;

/// Most lines of a task.
const TASK_LINES: usize = 256;
/// The work is cut into at least that many tasks, if there are lines for them.
const TASKS: usize = 4;
/// Elements of the sums that the shared side is packed for at a time.
const SUPER: usize = 4096;
/// Products with fewer multiply-adds run on the calling thread.
const SERIAL: usize = 250_000;

/// Whether the matrix unit is faster than the vector unit for a product of these sizes: padding to
/// whole tiles and packing take their toll.
pub fn pays(m: usize, n: usize, k: usize, precision: Precision) -> bool {
    if !simd::amx() {
        return false;
    }
    let parts = amx::parts(precision);
    let padded = |lines: usize| lines.next_multiple_of(LINES);
    // Multiply-adds, and packed elements, per cycle; only their comparison matters.
    let (rate, packed) = [(0.0, 0.0), (450.0, 2.5), (150.0, 1.8), (80.0, 1.4)][parts];
    let work = (padded(m) * padded(n) * k.next_multiple_of(STEP)) as f64;
    let amx = work / rate + ((padded(m) + padded(n)) * k) as f64 / packed + 400.0;
    let vector = (m * n * k) as f64 / 27.0;
    amx < vector
}

/// One side of a product.
#[derive(Clone, Copy)]
struct Side {
    ptr: *const f32,
    lines: usize,
    /// From one line to the next, and along a line.
    line: isize,
    step: isize,
    format: Format,
}
// SAFETY: only read.
unsafe impl Sync for Side {}

impl Side {
    fn blocks(&self) -> usize {
        self.lines.div_ceil(LINES)
    }

    /// Packs elements `at` of block `block`.
    unsafe fn pack(&self, parts: usize, block: usize, at: Range<usize>, dst: *mut u8) -> Extent {
        let first = (block * LINES) as isize * self.line + at.start as isize * self.step;
        let lines = Lines {
            ptr: self.ptr.wrapping_offset(first),
            line: self.line,
            step: self.step,
            lines: LINES.min(self.lines - block * LINES),
            len: at.len(),
        };
        // SAFETY: these elements of the operand; the caller has room for the tiles.
        unsafe { amx::pack(self.format, parts, lines, dst) }
    }
}

#[derive(Clone, Copy)]
struct Out<T>(*mut T);
// SAFETY: tasks write disjoint parts of the output.
unsafe impl<T> Sync for Out<T> {}
impl<T> Out<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

/// Two by two tiles of an output.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Near([f32; 4 * LINES * LINES]);

/// A planned product.
struct Job {
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<f32>,
    b: Matrix<f32>,
    /// Packed first, and shared by the tasks.
    shared: Side,
    /// Shared out among the tasks.
    split: Side,
    /// Whether the rows are shared out, and not the columns.
    by_rows: bool,
    /// Whether the transposed product is computed, and turned as it is written.
    turned: bool,
    parts: usize,
}

impl Job {
    fn plan(
        m: usize,
        n: usize,
        k: usize,
        a: Matrix<f32>,
        b: Matrix<f32>,
        precision: Precision,
    ) -> Job {
        let parts = amx::parts(precision);
        // Packing is cheapest along the operand's own order; turning tiles costs. What is best to be
        // turned: the operands that lie the other way, or the output?
        let turns = |turned: bool| {
            let bad = |contiguous: isize, lines: usize| match contiguous == 1 {
                true => 0,
                false => parts * lines * k,
            };
            let (rows, columns) = match turned {
                false => (a.col, b.col),
                true => (a.row, b.row),
            };
            bad(rows, m) + bad(columns, n) + if turned { 3 * m * n } else { 0 }
        };
        let turned = turns(true) < turns(false);
        let (first, second) = match turned {
            false => (Format::Rows, Format::Pairs),
            true => (Format::Pairs, Format::Rows),
        };
        let rows = Side {
            ptr: a.ptr,
            lines: m,
            line: a.row,
            step: a.col,
            format: first,
        };
        let columns = Side {
            ptr: b.ptr,
            lines: n,
            line: b.col,
            step: b.row,
            format: second,
        };
        // Rows come in whole runs of memory, which is better for what is done with the result.
        let by_rows = m >= 2 * LINES * TASKS.min(n.div_ceil(LINES)) || m >= n;
        let (shared, split) = if by_rows {
            (columns, rows)
        } else {
            (rows, columns)
        };
        Job {
            m,
            n,
            k,
            a,
            b,
            shared,
            split,
            by_rows,
            turned,
            parts,
        }
    }

    /// Elements of the sums that a task packs at a time, of `len`.
    fn chunk(&self, len: usize) -> usize {
        let most = [0, 1024, 768, 512][self.parts];
        len.div_ceil(len.div_ceil(most)).next_multiple_of(STEP)
    }

    /// Blocks of lines of a task.
    fn task_blocks(&self) -> usize {
        let blocks = self.split.blocks();
        if self.m * self.n * self.k <= SERIAL {
            return blocks;
        }
        let tasks = blocks.div_ceil(TASK_LINES / LINES).next_multiple_of(TASKS);
        blocks.div_ceil(tasks).next_multiple_of(2)
    }

    /// Bytes of a block's tiles for that many elements.
    fn bytes(&self, len: usize) -> usize {
        len.div_ceil(STEP) * self.parts * TILE
    }

    /// Writes the product to rows of `c` that are `c_row` apart; see [`parallel`].
    unsafe fn run(&self, c: *mut f32, c_row: usize, after: After<'_>) {
        let span = SUPER.min(self.k);
        let blocks = self.shared.blocks();
        let packed = Scratch::<u8>::new(blocks * self.bytes(span));
        let mut shared_extents = vec![Extent::default(); blocks];
        let each = self.task_blocks();
        let tasks = self.split.blocks().div_ceil(each);
        let mut split_extents = vec![Extent::default(); tasks];
        for from in (0..self.k).step_by(span) {
            let at = from..self.k.min(from + span);
            let (dst, out) = (Out(packed.ptr()), Out(c));
            let seen = Out(shared_extents.as_mut_ptr());
            let some = (SERIAL / 8 / (LINES * at.len())).max(1);
            pool::run_chunks(blocks, some, |range| {
                for block in range {
                    // SAFETY: each block is packed to its own place by one task.
                    unsafe {
                        let dst = dst.get().add(block * self.bytes(at.len()));
                        let extent = self.shared.pack(self.parts, block, at.clone(), dst);
                        let seen = seen.get().add(block);
                        *seen = (*seen).and(extent);
                    }
                }
            });
            let shared = shared_extents
                .iter()
                .fold(Extent::default(), |a, b| a.and(*b));
            let seen = Out(split_extents.as_mut_ptr());
            let last = at.end == self.k;
            pool::run(tasks, |task| {
                let range = task * each..self.split.blocks().min((task + 1) * each);
                // SAFETY: each line of the output is written by one task.
                unsafe {
                    let extent = self.task(&range, &at, dst.get(), out.get(), c_row);
                    let seen = seen.get().add(task);
                    *seen = (*seen).and(extent);
                    if !last {
                        return;
                    }
                    let lines = range.start * LINES..self.split.lines.min(range.end * LINES);
                    if self.parts > 1 && !(*seen).suits(shared, self.k) {
                        self.by_vectors(&lines, out.get(), c_row);
                    }
                    match self.by_rows {
                        true => after(lines.start * self.n..lines.end * self.n),
                        false => (0..self.m)
                            .for_each(|i| after(i * self.n + lines.start..i * self.n + lines.end)),
                    }
                }
            });
        }
    }

    /// One task's lines of the output, for elements `at` of the sums.
    unsafe fn task(
        &self,
        blocks: &Range<usize>,
        at: &Range<usize>,
        packed: *const u8,
        c: *mut f32,
        c_row: usize,
    ) -> Extent {
        let chunk = self.chunk(at.len());
        let own = Scratch::<u8>::new(blocks.len() * self.bytes(chunk));
        let mut extent = Extent::default();
        // SAFETY: the processor has AMX, or nobody would have called; the rest is passed on.
        unsafe {
            let tiles = Tiles::new();
            for from in (at.start..at.end).step_by(chunk) {
                let some = from..at.end.min(from + chunk);
                let bytes = self.bytes(some.len());
                for (i, block) in blocks.clone().enumerate() {
                    let dst = own.ptr().add(i * bytes);
                    extent = extent.and(self.split.pack(self.parts, block, some.clone(), dst));
                }
                let steps = some.len().div_ceil(STEP);
                let add = from > 0;
                let whole = self.bytes(at.len());
                let skip = self.bytes(from - at.start);
                for s in (0..self.shared.blocks()).step_by(2) {
                    let shared = [0, 1].map(|i| packed.wrapping_add((s + i) * whole + skip));
                    for (strip, t) in blocks.clone().step_by(2).enumerate() {
                        // The next shared blocks, a share with each pair of the task's own.
                        let share = strip * bytes / 4;
                        let next = packed.wrapping_add((s + 2) * whole + skip + share % bytes);
                        let next = next.wrapping_add(share / bytes % 2 * whole);
                        let split = [0, 1].map(|i| {
                            own.ptr()
                                .cast_const()
                                .wrapping_add((t - blocks.start + i) * bytes)
                        });
                        let (first, second) = if self.by_rows {
                            ((t, split), (s, shared))
                        } else {
                            ((s, shared), (t, split))
                        };
                        self.tile(&tiles, first, second, steps, (c, c_row), add, next);
                    }
                }
            }
        }
        extent
    }

    /// Two by two tiles of the output, or what there is of them.
    #[allow(clippy::too_many_arguments)]
    unsafe fn tile(
        &self,
        tiles: &Tiles,
        (row, a): (usize, [*const u8; 2]),
        (column, b): (usize, [*const u8; 2]),
        steps: usize,
        (c, c_row): (*mut f32, usize),
        accumulate: bool,
        ahead: *const u8,
    ) {
        let (row, column) = (row * LINES, column * LINES);
        let (rows, columns) = (self.m - row, self.n - column);
        let (m, n) = (1 + (rows > LINES) as usize, 1 + (columns > LINES) as usize);
        let c = c.wrapping_add(row * c_row + column);
        let mut product = Product {
            a,
            b,
            steps,
            c,
            c_row,
            accumulate,
            ahead,
        };
        // SAFETY: passed on from the caller; what is not whole tiles in the output's own order goes
        // to memory that has room for them.
        unsafe {
            if !self.turned && rows >= m * LINES && columns >= n * LINES {
                return amx::multiply(tiles, self.parts, m, n, &product);
            }
            const WIDTH: usize = 2 * LINES;
            let mut near = Near([0f32; WIDTH * WIDTH]);
            (product.c, product.c_row) = (near.0.as_mut_ptr(), WIDTH);
            product.accumulate = false;
            if self.turned {
                (product.a, product.b) = (b, a);
                amx::multiply(tiles, self.parts, n, m, &product);
                let across = near;
                let (from, to) = (across.0.as_ptr(), near.0.as_mut_ptr());
                super::engine::turn(
                    from,
                    WIDTH as isize,
                    n * LINES,
                    m * LINES,
                    to,
                    WIDTH as isize,
                );
            } else {
                amx::multiply(tiles, self.parts, m, n, &product);
            }
            let width = columns.min(WIDTH);
            for (i, sums) in near.0.chunks_exact(WIDTH).enumerate().take(rows) {
                let to = std::slice::from_raw_parts_mut(c.add(i * c_row), width);
                match accumulate {
                    true => to.iter_mut().zip(sums).for_each(|(c, x)| *c += x),
                    false => to.copy_from_slice(&sums[..width]),
                }
            }
        }
    }

    /// Lines of the output whose factors have no exact parts.
    unsafe fn by_vectors(&self, lines: &Range<usize>, c: *mut f32, c_row: usize) {
        let (mut a, mut b, mut c) = (self.a, self.b, c);
        let (mut m, mut n) = (self.m, self.n);
        if self.by_rows {
            a.ptr = a.ptr.wrapping_offset(lines.start as isize * a.row);
            c = c.wrapping_add(lines.start * c_row);
            m = lines.len();
        } else {
            b.ptr = b.ptr.wrapping_offset(lines.start as isize * b.col);
            c = c.wrapping_add(lines.start);
            n = lines.len();
        }
        // SAFETY: passed on from the caller.
        unsafe { f32::block(m, n, self.k, a, b, c, c_row as isize, false) }
    }
}

/// Writes `a x b` to the contiguous `out` on all threads; `after` gets ranges that count from
/// `base`.
///
/// # Safety
/// As for [`matmul`](super::matmul); [`pays`] must have said so.
#[allow(clippy::too_many_arguments)]
pub unsafe fn parallel(
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<f32>,
    b: Matrix<f32>,
    precision: Precision,
    out: *mut f32,
    base: usize,
    after: After<'_>,
) {
    let job = Job::plan(m, n, k, a, b, precision);
    let shifted = |r: Range<usize>| after(base + r.start..base + r.end);
    // SAFETY: passed on from the caller.
    unsafe { job.run(out, n, &shifted) }
}
