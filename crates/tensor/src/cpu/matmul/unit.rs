//! Products of one pair of matrices on the matrix unit: packing, blocking, and when it pays.
//!
//! The side with fewer lines is packed first, by all threads; the lines of the other are shared out
//! among tasks, each of which packs its own, so many elements at a time that they stay in its
//! second-level cache: the unit is fast enough for everything else to be a matter of memory. A
//! constant side is packed whole, once, and kept.

use super::float::Block;
use super::kernels::avx512;
use super::{Matrix, Scratch};
use crate::cpu::constant::{self, Constant};
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::simd::prefetch;
use crate::cpu::unit::{
    self, Extent, Format, Kind, LINES, Lines, Product, STEP, TILE, Tiles, Wide,
};
use crate::cpu::{After, Runs};
use crate::precision::Precision;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// Numbers of a task's result that may lie in its own memory, which has room for what it packs besides.
const APART: usize = 1 << 18;
/// Most lines of a task.
const TASK_LINES: usize = 256;
/// The work is cut into at least that many tasks, if there are many lines.
const TASKS: usize = 4;
/// Elements of the sums that the shared side is packed for at a time.
const SUPER: usize = 4096;
/// Elements of the sums, in all parts, that are no more work than writing the result.
const SHORT: usize = 192;
/// Products with fewer multiply-adds run on the calling thread.
const SERIAL: usize = 250_000;
/// Operands of more numbers than that are not in a core's caches.
const FAR: usize = 1 << 20;

/// Whether the matrix unit is faster than the vector unit for a product of these sizes: padding to
/// whole tiles and packing take their toll.
pub fn pays(m: usize, n: usize, k: usize, precision: Precision, constant: [bool; 2]) -> bool {
    let parts = unit::parts(precision);
    let packed = [1.5, 1.0, 0.8][parts - 1];
    let packing = |numbers: usize, constant: bool| {
        numbers as f64
            * match (numbers > FAR, constant) {
                // Many numbers come from memory, a nanosecond each;
                (true, false) => 2.6,
                (false, false) => 1.0 / packed,
                // ... what has been packed before comes at two bytes a part.
                (true, true) => 0.5 * parts as f64,
                (false, true) => 0.0,
            }
    };
    // What else there is, as measured with few rows or columns.
    let more = [2e3, 12e3, 35e3][parts - 1];
    faster(m, n, k, precision, more, constant, packing)
}

/// As [`pays`] for [`block`], whose operands are few enough to come from the caches.
pub fn block_pays(m: usize, n: usize, k: usize, precision: Precision) -> bool {
    let packing = |numbers: usize, _| numbers as f64 / 3.0;
    // As measured on each kind in attention, heads of 64 by 64 to 256.
    let more = match unit::kind() {
        Some(Kind::Amx) => 7000.0,
        _ => 3000.0,
    };
    precision == Precision::Medium && faster(m, n, k, precision, more, [false; 2], packing)
}

/// By rough numbers of cycles: `packing` for so many numbers of an operand that may be constant, `more`
/// for anything at all.
fn faster(
    m: usize,
    n: usize,
    k: usize,
    precision: Precision,
    more: f64,
    constant: [bool; 2],
    packing: impl Fn(usize, bool) -> f64,
) -> bool {
    let Some(kind) = unit::serving(precision) else {
        return false;
    };
    let padded = |lines: usize| lines.next_multiple_of(LINES);
    // Multiply-adds per cycle, as whole products have them.
    let rate = match kind {
        Kind::Amx => [0.0, 450.0, 120.0, 60.0][unit::parts(precision)],
        Kind::Dots => 54.0,
    };
    let work = (padded(m) * padded(n) * k.next_multiple_of(STEP)) as f64;
    let packing = packing(padded(m) * k, constant[0]) + packing(padded(n) * k, constant[1]);
    // The vector unit, too, waits for what comes from memory.
    let far = |numbers: usize| if numbers > FAR { numbers as f64 } else { 0.0 };
    let vector = ((m * n * k) as f64 / 27.0).max(far(m * k) + far(n * k));
    work / rate + packing + more < vector
}

/// Bytes of a block's tiles for so many elements of so many parts.
fn tiles_bytes(len: usize, parts: usize) -> usize {
    len.div_ceil(STEP) * parts * TILE
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
    constant: Option<Constant>,
}
// SAFETY: only read.
unsafe impl Sync for Side {}

impl Side {
    fn blocks(&self) -> usize {
        self.lines.div_ceil(LINES)
    }

    /// How many blocks there are of `block` and the next.
    fn pair(&self, block: usize) -> usize {
        (self.blocks() - block).min(2)
    }

    /// Packs elements `at` of `count` blocks (one or two) from `block` on, one behind the other, as far as there are
    /// any.
    unsafe fn pack(
        &self,
        parts: usize,
        block: usize,
        count: usize,
        at: Range<usize>,
        dst: *mut u8,
    ) -> Extent {
        let first = (block * LINES) as isize * self.line + at.start as isize * self.step;
        let lines = Lines {
            ptr: self.ptr.wrapping_offset(first),
            line: self.line,
            step: self.step,
            lines: (count * LINES).min(self.lines - block * LINES),
            len: at.len(),
        };
        // SAFETY: these elements of the operand; the caller has room for the tiles.
        unsafe { unit::pack(self.format, parts, lines, dst) }
    }

    /// All `k` elements of all blocks, packed [`SUPER`] at a time, if the operand is constant.
    unsafe fn prepared(&self, parts: usize, k: usize) -> Option<Arc<Prepared>> {
        self.constant?;
        let bytes = self.blocks() * tiles_bytes(k, parts);
        let pack = || {
            let tiles = Scratch::<u8>::of_form(bytes, self.constant);
            let mut extents = vec![Extent::default(); self.blocks()];
            for from in (0..k).step_by(SUPER) {
                let at = from..k.min(from + SUPER);
                let dst = tiles
                    .ptr()
                    .wrapping_add(self.blocks() * tiles_bytes(from, parts));
                // SAFETY: passed on from the caller; there is room for all tiles.
                let more = unsafe { self.pack_all(parts, &at, dst) };
                extents
                    .iter_mut()
                    .zip(more)
                    .for_each(|(x, more)| *x = x.and(more));
            }
            Prepared { tiles, extents }
        };
        let [line, step] = [self.line, self.step].map(|x| x as usize);
        let shape = [self.lines, k, line, step, self.format as usize, parts];
        let ptr = self.ptr.cast();
        Some(constant::prepared(self.constant, ptr, &shape, bytes, pack))
    }

    /// Packs elements `at` of all blocks, one behind the other, on all threads.
    unsafe fn pack_all(&self, parts: usize, at: &Range<usize>, dst: *mut u8) -> Vec<Extent> {
        let bytes = tiles_bytes(at.len(), parts);
        let mut extents = vec![Extent::default(); self.blocks()];
        let (dst, seen) = (Out(dst), Out(extents.as_mut_ptr()));
        // Pairs are for lines that lie side by side, if there are enough for all threads.
        let each = if self.line == 1 && self.blocks() >= 8 {
            2
        } else {
            1
        };
        let some = (SERIAL / 8 / (each * LINES * at.len())).max(1);
        pool::run_chunks(self.blocks().div_ceil(each), some, |range| {
            for i in range {
                let block = i * each;
                // SAFETY: each block is packed to its own place by one task.
                unsafe {
                    let dst = dst.get().add(block * bytes);
                    // Of a pair, for both.
                    *seen.get().add(block) = self.pack(parts, block, each, at.clone(), dst);
                }
            }
        });
        extents
    }
}

/// A packed side.
struct Prepared {
    tiles: Scratch<u8>,
    /// Of each block, or of two together.
    extents: Vec<Extent>,
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

/// Lines of two blocks.
const WIDTH: usize = 2 * LINES;

/// Two by two tiles of an output.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([f32; WIDTH * WIDTH]);

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
        let parts = unit::parts(precision);
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
            constant: a.constant,
        };
        let columns = Side {
            ptr: b.ptr,
            lines: n,
            line: b.col,
            step: b.row,
            format: second,
            constant: b.constant,
        };
        // The longer side is shared out, so that tasks have much to do with what they read of the other;
        // but where sums are short, what counts is that rows come in whole runs of memory.
        let short = m >= 2 * LINES * TASKS && k * parts <= SHORT;
        let by_rows = m >= n || short;
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
        // Large tasks read the shared side less often; few or odd ones leave threads without work.
        let many = blocks >= 4 * TASKS;
        let most = (blocks / if many { TASKS } else { 2 }).clamp(2, TASK_LINES / LINES);
        let last = |each: &usize| blocks.div_ceil(*each).next_multiple_of(2) * each;
        let sizes = (1..=most / 2).rev().map(|pairs| 2 * pairs);
        sizes.min_by_key(last).unwrap_or(blocks)
    }

    /// Bytes of a block's tiles for that many elements.
    fn bytes(&self, len: usize) -> usize {
        tiles_bytes(len, self.parts)
    }

    /// Writes the product to rows of `c` that are `c_row` apart; see [`parallel`].
    unsafe fn run(&self, c: *mut f32, c_row: usize, after: After<'_>) {
        let span = SUPER.min(self.k);
        // SAFETY: passed on from the caller.
        let kept =
            [&self.shared, &self.split].map(|side| unsafe { side.prepared(self.parts, self.k) });
        let [kept_shared, kept_split] = &kept;
        let packed = match kept_shared {
            Some(_) => None,
            None => Some(Scratch::<u8>::new(self.shared.blocks() * self.bytes(span))),
        };
        let mut shared = kept_shared
            .as_ref()
            .map_or(Extent::default(), |kept| Extent::together(&kept.extents));
        let each = self.task_blocks();
        let tasks = self.split.blocks().div_ceil(each);
        let mut split_extents = vec![Extent::default(); tasks];
        for from in (0..self.k).step_by(span) {
            let at = from..self.k.min(from + span);
            // Where a side's tiles for these elements are; null if it has not been packed.
            let whole = |side: &Side, kept: &Option<Arc<Prepared>>| match kept {
                Some(kept) => kept
                    .tiles
                    .ptr()
                    .wrapping_add(side.blocks() * self.bytes(from)),
                None => std::ptr::null_mut(),
            };
            let mut shared_tiles = whole(&self.shared, kept_shared);
            if let Some(packed) = &packed {
                shared_tiles = packed.ptr();
                // SAFETY: these elements of the operand; there is room for its tiles.
                let more = unsafe { self.shared.pack_all(self.parts, &at, shared_tiles) };
                shared = shared.and(Extent::together(&more));
            }
            let split_tiles = whole(&self.split, kept_split);
            let (near, split, out) = (Out(shared_tiles), Out(split_tiles), Out(c));
            let seen = Out(split_extents.as_mut_ptr());
            let last = at.end == self.k;
            pool::run(tasks, |task| {
                let range = task * each..self.split.blocks().min((task + 1) * each);
                let lines = range.start * LINES..self.split.lines.min(range.end * LINES);
                let (rows, cols) = match self.by_rows {
                    true => (lines.clone(), 0..self.n),
                    false => (0..self.m, lines.clone()),
                };
                // A result that only `after` reads stays in the task's own memory, and in its core's cache.
                let some = rows.len() * cols.len();
                let apart = after.alone && span == self.k && some <= APART;
                let room = Own::<f32>::new(if apart { some } else { 0 });
                let (to, to_row) = if apart {
                    let first = rows.start * cols.len() + cols.start;
                    (room.ptr().wrapping_sub(first), cols.len())
                } else {
                    (out.get(), c_row)
                };
                // SAFETY: each line of the output is written by one task.
                unsafe {
                    let packed = [near.get(), split.get()].map(<*mut u8>::cast_const);
                    let extent = self.task(&range, &at, packed, to, to_row, false);
                    let seen = seen.get().add(task);
                    *seen = match kept_split {
                        Some(kept) => Extent::together(&kept.extents[range.clone()]),
                        None => (*seen).and(extent),
                    };
                    if !last {
                        return;
                    }
                    if self.parts > 1 && !(*seen).suits(shared, self.k) {
                        self.by_vectors(&lines, to, to_row);
                    }
                    after(Runs {
                        apart: apart.then(|| room.ptr().cast_const().cast()),
                        ..Runs::block(0, self.n, rows, cols)
                    });
                }
            });
        }
    }

    /// One task's lines of the output, for elements `at` of the sums, with the tiles of the shared side
    /// and, if the split side was packed before, those of that: else it is null, and the task packs
    /// its own.
    unsafe fn task(
        &self,
        blocks: &Range<usize>,
        at: &Range<usize>,
        [shared, split]: [*const u8; 2],
        c: *mut f32,
        c_row: usize,
        accumulate: bool,
    ) -> Extent {
        // Pairs are packed together, and do not reach into another task.
        debug_assert!(blocks.start.is_multiple_of(2));
        debug_assert!(blocks.len().is_multiple_of(2) || blocks.end == self.split.blocks());
        let chunk = self.chunk(at.len());
        let ready = !split.is_null();
        let scratch = Own::<u8>::new(if ready {
            0
        } else {
            blocks.len() * self.bytes(chunk)
        });
        // Two blocks of the shared side go along with all of the task's own: by dot products, few
        // steps at a time, so that they come from the first-level cache.
        let run = match unit::kind() {
            Some(Kind::Dots) if blocks.len() > 4 => 8,
            _ => chunk / STEP,
        };
        // Two by two tiles of the output for each pair of the task's blocks.
        let sums = Own::<Sums>::new(blocks.len().div_ceil(2));
        let mut extent = Extent::default();
        // SAFETY: there is a unit, or nobody would have called; the rest is passed on.
        unsafe {
            let tiles = Tiles::new();
            for from in (at.start..at.end).step_by(chunk) {
                let some = from..at.end.min(from + chunk);
                let stride = self.bytes(at.len());
                let share = self.bytes(some.len());
                // The task's own tiles, and the bytes from one block to the next.
                let (own, bytes) = if ready {
                    let skip = blocks.start * stride + self.bytes(from - at.start);
                    (split.wrapping_add(skip), stride)
                } else {
                    let bytes = share;
                    for (i, block) in blocks.clone().enumerate().step_by(2) {
                        let dst = scratch.ptr().add(i * bytes);
                        extent =
                            extent.and(self.split.pack(self.parts, block, 2, some.clone(), dst));
                    }
                    (scratch.ptr().cast_const(), bytes)
                };
                let steps = some.len().div_ceil(STEP);
                let add = accumulate || from > 0;
                for s in (0..self.shared.blocks()).step_by(2) {
                    let pair = shared.wrapping_add(s * stride + self.bytes(from - at.start));
                    let mut ahead = 0;
                    for step in (0..steps).step_by(run) {
                        let now = run.min(steps - step);
                        let skip = step * self.parts * TILE;
                        let shared = [0, 1].map(|i| pair.wrapping_add(i * stride + skip));
                        for (i, t) in blocks.clone().step_by(2).enumerate() {
                            let (row, column) = if self.by_rows { (t, s) } else { (s, t) };
                            let place = (row * LINES, column * LINES);
                            let to = c.wrapping_add(place.0 * c_row + place.1);
                            // Whole blocks go to their place as they come out of the unit, if their
                            // sums are one run; others by way of a buffer. (So the two add up a
                            // chunk's sums to those before in another order.)
                            let whole = self.m - place.0 >= WIDTH && self.n - place.1 >= WIDTH;
                            let at_once = whole && !self.turned && run >= steps;
                            let near = sums.ptr().add(i);
                            let own = own.wrapping_add(2 * i * bytes + skip);
                            // The next two blocks, a share with each call.
                            let next = pair.wrapping_add((2 + ahead / share % 2) * stride);
                            let mut product = Product {
                                a: [own, own.wrapping_add(bytes)],
                                b: shared,
                                steps: now,
                                c: if at_once { to } else { near.cast() },
                                c_row: if at_once { c_row } else { WIDTH },
                                accumulate: if at_once { add } else { step > 0 },
                                ahead: next.wrapping_add(ahead % share),
                            };
                            ahead += now * self.parts * TILE / 4;
                            // Memory of the output comes while the unit is at work; the stores would
                            // wait for it one by one.
                            if step == 0 {
                                for i in 0..WIDTH.min(self.m - place.0) {
                                    let row = to.wrapping_add(i * c_row);
                                    prefetch(row.cast());
                                    if self.n - place.1 > LINES {
                                        prefetch(row.wrapping_add(LINES).cast());
                                    }
                                }
                            }
                            let mut counts = [self.split.pair(t), self.shared.pair(s)];
                            if self.shared.format == Format::Rows {
                                std::mem::swap(&mut product.a, &mut product.b);
                                counts.swap(0, 1);
                            }
                            unit::multiply(&tiles, self.parts, counts[0], counts[1], &product);
                            if !at_once && step + now == steps {
                                self.write(&*near, place, (to, c_row), add);
                            }
                        }
                    }
                }
            }
        }
        extent
    }

    /// Writes sums to their place in the output, or adds them.
    #[target_feature(enable = "avx512f")]
    unsafe fn write(
        &self,
        sums: &Sums,
        (row, column): (usize, usize),
        (c, c_row): (*mut f32, usize),
        accumulate: bool,
    ) {
        let (rows, columns) = ((self.m - row).min(WIDTH), (self.n - column).min(WIDTH));
        let mut turned = MaybeUninit::<Sums>::uninit();
        let mut from = sums.0.as_ptr();
        // SAFETY: both have room for all tiles; the processor has AVX-512; the output has these rows
        // and columns.
        unsafe {
            if self.turned {
                let to = turned.as_mut_ptr().cast::<f32>();
                avx512::SINGLE.turn(from, WIDTH as isize, WIDTH, WIDTH, to, WIDTH as isize);
                from = to;
            }
            for i in 0..rows {
                let (from, to) = (from.add(i * WIDTH), c.add(i * c_row));
                if columns == WIDTH {
                    // A constant length, so that no function is called.
                    type Row = [f32; WIDTH];
                    let (from, to) = (from.cast::<Row>(), to.cast::<Row>());
                    match accumulate {
                        true => (*to).iter_mut().zip(&*from).for_each(|(c, x)| *c += x),
                        false => *to = *from,
                    }
                } else {
                    for j in 0..columns {
                        let before = if accumulate { *to.add(j) } else { 0.0 };
                        *to.add(j) = before + *from.add(j);
                    }
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

/// Writes `a x b` to the contiguous `out` on all threads; `after` gets runs that count from
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
    let shifted = |runs: Runs| after(runs.from_base(base));
    let after = After::new(&shifted).alone(after.alone);
    // SAFETY: passed on from the caller.
    unsafe { job.run(out, n, after) }
}

/// Writes, or adds, `a x b` to rows of `c` that are `c_row` apart, on the calling thread; the numbers
/// have one part, that of [`Precision::Medium`].
///
/// # Safety
/// As for [`matmul`](super::matmul), for `c` too; [`block_pays`] must have said so.
#[allow(clippy::too_many_arguments)]
pub unsafe fn block(
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<f32>,
    b: Matrix<f32>,
    c: *mut f32,
    c_row: isize,
    accumulate: bool,
) {
    let job = Job::plan(m, n, k, a, b, Precision::Medium);
    let (blocks, bytes) = (job.shared.blocks(), job.bytes(k));
    let packed = Own::<u8>::new(blocks * bytes);
    for block in (0..blocks).step_by(2) {
        // SAFETY: passed on from the caller; each pair has its own place.
        unsafe {
            let to = packed.ptr().add(block * bytes);
            job.shared.pack(job.parts, block, 2, 0..k, to);
        }
    }
    let all = 0..job.split.blocks();
    // SAFETY: passed on from the caller, whose output has its rows in order.
    unsafe {
        let c_row = c_row as usize;
        let packed = [packed.ptr().cast_const(), std::ptr::null()];
        job.task(&all, &(0..k), packed, c, c_row, accumulate);
    }
}

/// A second operand (`k x n`) that is used for many products with few rows, split and packed once.
/// See [`super::float::Right`].
pub struct PackedRight {
    /// Bytes of the tiles of a block of columns.
    bytes: usize,
    b: Matrix<f32>,
    parts: usize,
    tiles: Scratch<u8>,
    extent: Extent,
}

impl PackedRight {
    /// Whether the matrix unit is faster than the vector unit for products of so many rows: it
    /// takes as long for one as for 16.
    pub fn pays(rows: usize, n: usize, k: usize, precision: Precision) -> bool {
        let least = match unit::serving(precision) {
            None => return false,
            Some(Kind::Amx) => [0, 2, 4, 6][unit::parts(precision)],
            Some(Kind::Dots) => 12,
        };
        rows >= least && n >= LINES && k >= STEP && n * k >= 4096
    }

    /// Packs `b`, on all threads.
    ///
    /// # Safety
    /// `b` must be readable, now and while the result is used; there must be a [unit](unit::kind).
    pub unsafe fn new(n: usize, k: usize, b: Matrix<f32>, precision: Precision) -> Self {
        let parts = unit::parts(precision);
        let tiles = Scratch::<u8>::new(n.div_ceil(LINES) * tiles_bytes(k, parts));
        let columns = Side {
            ptr: b.ptr,
            lines: n,
            line: b.col,
            step: b.row,
            format: Format::Pairs,
            constant: None,
        };
        // SAFETY: passed on from the caller; there is room for the tiles.
        let extents = unsafe { columns.pack_all(parts, &(0..k), tiles.ptr()) };
        PackedRight {
            bytes: tiles_bytes(k, parts),
            b,
            parts,
            tiles,
            extent: Extent::together(&extents),
        }
    }

    /// Writes, or adds, `a x b` to rows of `c`, on the calling thread; of `b`, the first `n` columns
    /// and `k` rows. If those are not all rows, `k` must be a multiple of [`STEP`].
    ///
    /// # Safety
    /// `a` must be readable for `rows` rows, `c` writable for as many, `c_row` apart.
    pub unsafe fn multiply(
        &self,
        [rows, n, k]: [usize; 3],
        a: Matrix<f32>,
        c: *mut f32,
        c_row: isize,
        accumulate: bool,
    ) {
        /// Columns of a run of the inner loop.
        const WIDTH: usize = 4 * LINES;
        #[repr(align(64))]
        struct Near([f32; LINES * WIDTH]);
        let own = Own::<u8>::new(tiles_bytes(k, self.parts));
        let steps = k.div_ceil(STEP);
        let columns = n.div_ceil(LINES);
        let mut near = Near([0f32; LINES * WIDTH]);
        for block in 0..rows.div_ceil(LINES) {
            let some = LINES.min(rows - block * LINES);
            let c = c.wrapping_offset((block * LINES) as isize * c_row);
            let a = Matrix {
                ptr: a.ptr.wrapping_offset((block * LINES) as isize * a.row),
                ..a
            };
            let lines = Lines {
                ptr: a.ptr,
                line: a.row,
                step: a.col,
                lines: some,
                len: k,
            };
            // SAFETY: the rows of the operand and of the output; there is a unit.
            unsafe {
                let extent = unit::pack(Format::Rows, self.parts, lines, own.ptr());
                if self.parts > 1 && !extent.suits(self.extent, k) {
                    f32::block(some, n, k, a, self.b, c, c_row, accumulate);
                    continue;
                }
                let tiles = Tiles::new();
                for column in (0..columns).step_by(4) {
                    let width = (n - column * LINES).min(WIDTH);
                    let b = |i: usize| {
                        let block = (column + i).min(columns - 1);
                        self.tiles
                            .ptr()
                            .cast_const()
                            .wrapping_add(block * self.bytes)
                    };
                    let c = c.wrapping_add(column * LINES);
                    let whole = some == LINES && width == WIDTH && c_row > 0;
                    let (to, to_row) = match whole {
                        true => (c, c_row as usize),
                        false => (near.0.as_mut_ptr(), WIDTH),
                    };
                    let wide = Wide {
                        a: own.ptr(),
                        b: [b(0), b(1), b(2), b(3)],
                        steps,
                        c: to,
                        c_row: to_row,
                        accumulate: whole && accumulate,
                    };
                    unit::multiply_wide(&tiles, self.parts, &wide);
                    if whole {
                        continue;
                    }
                    for i in 0..some {
                        for j in 0..width {
                            let to = c.offset(i as isize * c_row).add(j);
                            let sum = near.0[i * WIDTH + j];
                            *to = if accumulate { *to + sum } else { sum };
                        }
                    }
                }
            }
        }
    }
}
