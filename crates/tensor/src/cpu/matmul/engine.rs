//! Products of one pair of matrices with a set of kernels: orientation, packing and blocking.
//!
//! A kernel's vectors run along one dimension of the output, in which one operand must be
//! contiguous. [`Job::plan`] decides whether that is the columns (of `b`) or, computing the
//! transposed product, the rows (of `a`): whichever needs less copying and wastes fewer lanes.
//! For instance `x w^T` with a small batch `x` computes `w x^T`, which packs the small `x` and reads
//! the large `w` in place.

use super::few::{self, ByDots};
use super::kernels::{Kernel, Kernels, Lanes, Tile};
use super::tile_rows::TileRows;
use super::{Matrix, Scratch};
use crate::cpu::own::Own;
use crate::cpu::pool;
use crate::cpu::{After, Runs};
use crate::simd_dispatch;
use std::ops::Range;

/// Products with fewer multiply-adds run on the calling thread.
const SERIAL: usize = 150_000;
/// The least work for a task of its own.
pub(super) const TASK: usize = 60_000;
/// Bytes of a line of the operands that are worked on at once: a tile's rows then stay in the
/// first-level cache, and panels stream from the second, which is fast enough; the fewer the chunks,
/// the less often the output is read and written.
const DEPTH: usize = 4096;
/// Bytes that stay in the first-level cache.
const NEAR: usize = 32 << 10;
/// Rows of the second operand that neighbouring panels are packed from at a time, and columns of the
/// first that neighbouring tiles are.
const PACK_ROWS: usize = 8;
const PACK_COLS: usize = 64;
/// Elements that a task packs.
const PACK_TASK: usize = 32 << 10;
/// Bytes of the second operand that are packed at a time: they should stay in the third-level cache.
const SLAB: usize = 4 << 20;
/// An operand with as many bytes comes from memory: it is packed, a slab at a time, even where it could
/// be read in place.
const FAR: usize = 4 << 20;
/// With fewer rows than this, tasks share out the columns.
const LOW: usize = 32;
/// The most rows of a task: the more, the less often the second operand is read again.
const TASK_ROWS: usize = 192;
/// From so many uses on, packing a panel pays.
const REUSE: usize = 4;
/// From so many uses on, packing rows pays that could be read where they lie.
const MANY: usize = 32;

/// A planned product of `p x k` and `k x q` matrices whose vectors run along `q`.
#[derive(Clone, Copy)]
pub struct Job<T: 'static> {
    set: &'static Kernels<T>,
    p: usize,
    q: usize,
    k: usize,
    a: Matrix<T>,
    b: Matrix<T>,
    /// The output is to be transposed: its rows are along `q`.
    swap: bool,
    /// Vectors per panel of `b`.
    vectors: usize,
    pack_b: bool,
    /// Elements along the sums that packed panels of `b` hold: `k`, or more.
    pitch: usize,
    /// The sums are cut into chunks of this length.
    chunk: usize,
}

/// An element type with products of our own.
pub trait Float: Lanes + crate::Element + std::ops::Add<Output = Self> {}
impl Float for f32 {}
impl Float for f64 {}

#[derive(Clone, Copy)]
pub(super) struct Out<T>(pub *mut T);
// SAFETY: tasks write disjoint parts of the output.
unsafe impl<T> Sync for Out<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Out<T> {}

/// How many of `all` go into one part, if a part has room for `most` and all are shared out evenly.
fn even(all: usize, most: usize) -> usize {
    all.div_ceil(all.div_ceil(most))
}

impl<T: Float> Job<T> {
    /// Plans the product of `a` (`m x k`) and `b` (`k x n`).
    pub fn plan(
        set: &'static Kernels<T>,
        m: usize,
        n: usize,
        k: usize,
        mut a: Matrix<T>,
        mut b: Matrix<T>,
        may_swap: bool,
    ) -> Self {
        // The stride of a dimension of size 1 means nothing: let it count as contiguous.
        if m == 1 {
            a.row = 1;
        }
        if n == 1 {
            b.col = 1;
        }
        // Rough costs in cycles; only their comparison matters.
        let cost = |p: usize, q: usize, b: Matrix<T>| {
            let compute = p as f64 * k as f64 * q.div_ceil(set.lanes) as f64 / 2.0;
            let pack = match (b.col, b.row) {
                (1, _) if p <= REUSE * 8 => 0.0,
                (1, _) => 0.1,
                (_, 1) => 0.3,
                _ => 1.5,
            };
            compute + pack * q as f64 * k as f64
        };
        let straight = cost(m, n, b);
        let swapped = cost(n, m, a.transpose()) + 0.5 * (m * n) as f64;
        let swap = may_swap && swapped < straight;
        let (p, q, a, b) = match swap {
            true => (n, m, b.transpose(), a.transpose()),
            false => (m, n, a, b),
        };
        let vectors = match q.div_ceil(set.lanes) {
            1 => 1,
            3 => 3,
            _ => 2,
        };
        let pack_b = b.col != 1 || p > REUSE * 8;
        // With very few rows, what counts is to read `b` in long runs of memory.
        let most = match p <= few::FEW && !pack_b {
            true => 16,
            false => DEPTH / size_of::<T>(),
        };
        Job {
            set,
            p,
            q,
            k,
            a,
            b,
            swap,
            vectors,
            pack_b,
            pitch: k,
            chunk: even(k, most),
        }
    }

    fn width(&self) -> usize {
        self.vectors * self.set.lanes
    }

    fn panels(&self) -> usize {
        self.q.div_ceil(self.width())
    }

    /// Packs some rows of some panels of `b` to their places in `dst`.
    unsafe fn pack_b(&self, panels: Range<usize>, rows: Range<usize>, dst: *mut T) {
        let (width, Matrix { row, col, .. }) = (self.width(), self.b);
        // Neighbouring panels have neighbouring pieces of the operand's rows.
        let some = if col == 1 { PACK_ROWS } else { self.k };
        for l in rows.clone().step_by(some) {
            let len = some.min(rows.end - l);
            for i in panels.clone() {
                let lines = width.min(self.q - i * width);
                let at = (i * width) as isize * col + l as isize * row;
                let src = self.b.ptr.wrapping_offset(at);
                // SAFETY: some rows of panel `i` of the operand and their place in the packed copy.
                unsafe {
                    let dst = dst.add(i * width * self.k + l * width);
                    self.set.pack_panel(src, col, row, lines, len, dst, width);
                }
            }
        }
    }

    /// A copy of all of `b` in panels, made on all threads.
    unsafe fn prepack_b(&self) -> Scratch<T> {
        let (panels, width) = (self.panels(), self.width());
        let out = Scratch::<T>::new(panels * width * self.k);
        let dst = Out(out.ptr());
        // Tasks share out what is read in long runs, if there are enough of them.
        let by_row = self.b.col == 1 && self.k >= 16 * PACK_ROWS;
        let (all, each) = match by_row {
            true => (
                self.k,
                (PACK_TASK / self.q).max(1).next_multiple_of(PACK_ROWS),
            ),
            false => (panels, PACK_TASK / (width * self.k)),
        };
        pool::run_chunks(all, each.max(1), |r| {
            let dst = &dst;
            let (panels, rows) = match by_row {
                true => (0..panels, r),
                false => (r, 0..self.k),
            };
            // SAFETY: passed on from the caller; each row of a panel is packed by one task.
            unsafe { self.pack_b(panels, rows, dst.0) }
        });
        out
    }

    /// The kernels for so many vectors.
    fn tiles(&self, vectors: usize, by_row: bool) -> &'static [Kernel<T>] {
        match by_row {
            true => self.set.tile_by_row[vectors - 1],
            false => self.set.tile[vectors - 1],
        }
    }

    /// Rows of a tile when all of `a` is packed.
    fn height(&self) -> usize {
        even(self.p, self.tiles(self.vectors, false).len())
    }

    /// Packs rows of `a`, elements `l..l + k` of each, tile after tile to `dst`.
    unsafe fn pack_a(&self, tiles: TileRows, l: usize, k: usize, dst: *mut T) {
        let a = self.a;
        // Neighbouring tiles have neighbouring pieces of the operand's columns.
        let some = if a.row == 1 { PACK_COLS } else { k };
        for first in (0..k).step_by(some) {
            let len = some.min(k - first);
            for some in tiles.each() {
                let (i, lines) = (some.start, some.len());
                let at = i as isize * a.row + (l + first) as isize * a.col;
                let src = a.ptr.wrapping_offset(at);
                // SAFETY: these rows of the operand; their place in the copy.
                unsafe {
                    let dst = dst.add((i - tiles.first) * k + first * lines);
                    self.set
                        .pack_panel(src, a.row, a.col, lines, len, dst, lines);
                }
            }
        }
    }

    /// Computes the given rows and panels of the output. `packed` holds all of `b`'s panels, or is
    /// null if they are read in place; `packed_a` is null or what [`prepack`] made, and then
    /// `rows` starts at a tile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn compute(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        packed_a: *const T,
        packed: *const T,
        c: *mut T,
        c_row: isize,
        accumulate: bool,
    ) {
        let a = self.a;
        let ready = !packed_a.is_null();
        // The operand is read nearly as fast where it lies, along its rows if tiles need not be lower,
        // along its columns if it stays in the first-level cache.
        let lower = self.tiles(self.vectors, true).len() < self.tiles(self.vectors, false).len();
        let near = self.k * a.col.unsigned_abs() * size_of::<T>() <= NEAR;
        let many = panels.len() >= MANY && rows.len() > few::FEW;
        let pays = panels.len() >= REUSE && if a.row == 1 { !near } else { lower || many };
        let pack_a = !ready && (pays || (a.row != 1 && a.col != 1));
        let by_row = !pack_a && !ready && a.row != 1;
        let tiles = match ready {
            true => TileRows::of_height(rows.clone(), self.height()),
            false => TileRows::shared_out(rows.clone(), self.tiles(self.vectors, by_row).len()),
        };
        let scratch = pack_a.then(|| Own::<T>::new(rows.len() * self.chunk));
        let width = self.width();

        let mut l = 0;
        while l < self.k {
            let k = self.chunk.min(self.k - l);
            // Where the tile of row `i` is, if not read in place: at `tiled_a + i * k`.
            let tiled_a = if let Some(scratch) = &scratch {
                // SAFETY: these rows of the operand; the scratch has room for them.
                unsafe { self.pack_a(tiles, l, k, scratch.ptr()) };
                scratch.ptr().cast_const().wrapping_sub(rows.start * k)
            } else {
                packed_a.wrapping_add(l * self.p)
            };
            for j in panels.clone() {
                let cols = width.min(self.q - j * width);
                let vectors = cols.div_ceil(self.set.lanes);
                let kernels = self.tiles(vectors, by_row);
                let lanes = cols - (vectors - 1) * self.set.lanes;
                let (b, b_step, b_lanes) = if packed.is_null() {
                    let b = self.b.ptr.wrapping_add(j * width);
                    (
                        b.wrapping_offset(l as isize * self.b.row),
                        self.b.row,
                        lanes,
                    )
                } else {
                    let b = packed.wrapping_add(j * width * self.pitch + l * width);
                    (b, width as isize, self.set.lanes)
                };
                for some in tiles.each() {
                    let (i, lines) = (some.start, some.len());
                    let (a, a_step) = if ready || pack_a {
                        (tiled_a.wrapping_add(i * k), lines as isize)
                    } else {
                        let at = i as isize * a.row + l as isize * a.col;
                        (
                            a.ptr.wrapping_offset(at),
                            if by_row { a.row } else { a.col },
                        )
                    };
                    let tile = Tile {
                        k,
                        a,
                        a_step,
                        b,
                        b_step,
                        c: c.wrapping_offset(i as isize * c_row)
                            .wrapping_add(j * width),
                        c_step: c_row,
                        b_lanes,
                        c_lanes: lanes,
                        accumulate: accumulate || l > 0,
                    };
                    // SAFETY: the tile lies within the operands and the output.
                    unsafe { kernels[lines - 1](&tile) };
                }
            }
            l += k;
        }
    }

    /// How many elements of the sums and panels of `b` are worked on at a time, so that what is packed
    /// stays in the cache until all rows have used it. Sums are cut between chunks.
    fn slab(&self) -> (usize, usize) {
        if !self.pack_b {
            return (self.k, self.panels());
        }
        let panel = self.chunk * self.width() * size_of::<T>();
        let room = |bytes: usize| (SLAB / bytes).max(1);
        let chunks = even(self.k.div_ceil(self.chunk), room(panel * self.panels()));
        (chunks * self.chunk, even(self.panels(), room(panel)))
    }

    /// The part of the product with these elements of the sums and panels of `b`.
    fn part(&self, sums: Range<usize>, panels: Range<usize>) -> Self {
        let first = panels.start * self.width();
        let (a, b) = (self.a, self.b);
        let (at, cols) = (sums.start as isize, first as isize);
        Job {
            q: self.q.min(panels.end * self.width()) - first,
            k: sums.len(),
            pitch: sums.len(),
            a: Matrix {
                ptr: a.ptr.wrapping_offset(at * a.col),
                ..a
            },
            b: Matrix {
                ptr: b.ptr.wrapping_offset(at * b.row + cols * b.col),
                ..b
            },
            ..*self
        }
    }

    /// Writes, or adds, the product to rows of `c` on all threads; `done` gets the rows and columns
    /// that have been.
    ///
    /// # Safety
    /// The operands must be readable, `c` writable.
    unsafe fn run(
        &self,
        c: *mut T,
        c_row: usize,
        accumulate: bool,
        done: &(dyn Fn(Range<usize>, Range<usize>) + Sync),
    ) {
        let (panels, width) = (self.panels(), self.width());
        // SAFETY: passed on from the caller.
        let packed = self.pack_b.then(|| unsafe { self.prepack_b() });
        let source = Out(packed.as_ref().map_or(std::ptr::null_mut(), |s| s.ptr()));
        let target = Out(c);
        let compute = |rows: Range<usize>, panels: Range<usize>| {
            let (source, target, none) = (&source, &target, std::ptr::null());
            let (b, c, c_row) = (source.0.cast_const(), target.0, c_row as isize);
            let cols = panels.start * width..self.q.min(panels.end * width);
            // SAFETY: passed on from the caller; each task writes rows or columns of its own.
            unsafe { self.compute(rows.clone(), panels, none, b, c, c_row, accumulate) };
            done(rows, cols);
        };
        if self.p >= LOW || panels < 4 {
            pool::run_chunks(self.p, self.task_rows(), |rows| compute(rows, 0..panels));
        } else {
            let each = (TASK / (self.p * width * self.k)).max(1);
            let least = if self.p <= few::FEW { 8 } else { 1 };
            let each = each.max(panels.div_ceil(16)).max(least);
            pool::run_chunks(panels, each, |some| compute(0..self.p, some));
        }
    }

    /// A copy of all of `a`, chunk after chunk of its columns, each in tiles of rows; made on all
    /// threads.
    unsafe fn prepack(&self) -> Scratch<T> {
        let out = Scratch::<T>::of_form(self.p * self.k, self.a.constant);
        let height = self.height();
        let dst = Out(out.ptr());
        let some = (PACK_TASK / (height * self.k)).max(1);
        pool::run_chunks(self.p.div_ceil(height), some, |r| {
            let dst = &dst;
            let rows = r.start * height..self.p.min(r.end * height);
            let tiles = TileRows::of_height(rows, height);
            for l in (0..self.k).step_by(self.chunk) {
                let k = self.chunk.min(self.k - l);
                let at = l * self.p + tiles.first * k;
                // SAFETY: some rows, one chunk; the copy has room for all of them, and each tile is
                // packed by one task.
                unsafe { self.pack_a(tiles, l, k, dst.0.add(at)) };
            }
        });
        out
    }

    /// The cuts of the `p` rows into tasks: how many rows each takes.
    fn task_rows(&self) -> usize {
        let work = self.p * self.q * self.k;
        let most = (work / TASK).min(self.p / 8).max(1);
        let few = self.p.div_ceil(TASK_ROWS).max(4);
        self.p.div_ceil(few.next_multiple_of(4).min(most))
    }
}

/// A first operand that is used many times, packed once. See [`super::float::Left`].
pub struct Packed<T: 'static> {
    job: Job<T>,
    copy: Option<Scratch<T>>,
}

impl<T: Float> Packed<T> {
    /// Packs `a` (`p x k`) for products with `q` columns, on all threads.
    ///
    /// # Safety
    /// `a` must be readable, now and while the result is used.
    pub unsafe fn new(
        set: &'static Kernels<T>,
        p: usize,
        q: usize,
        k: usize,
        a: Matrix<T>,
    ) -> Self {
        // The second operand comes in packed panels.
        let b = Matrix::new(std::ptr::null(), 0, 1);
        let job = Job::plan(set, p, q, k, a, b, false);
        // SAFETY: passed on from the caller.
        let copy = (p > 2).then(|| unsafe { job.prepack() });
        Packed { job, copy }
    }

    /// Columns of a panel.
    pub fn width(&self) -> usize {
        self.job.width()
    }

    /// Rows of a tile.
    pub fn height(&self) -> usize {
        self.job.height()
    }

    /// The given rows (from a tile's start) and panels of the product; `b` holds these panels.
    ///
    /// # Safety
    /// `b` must hold `k` rows of [`width`](Self::width) for each panel; `c` is the output's
    /// element (0, 0), writable at the rows and columns named.
    pub unsafe fn multiply(
        &self,
        rows: Range<usize>,
        panels: Range<usize>,
        b: *const T,
        c: *mut T,
        c_row: isize,
    ) {
        let b = b.wrapping_sub(panels.start * self.width() * self.job.k);
        let a = self
            .copy
            .as_ref()
            .map_or(std::ptr::null(), |c| c.ptr().cast_const());
        // SAFETY: passed on from the caller.
        unsafe { self.job.compute(rows, panels, a, b, c, c_row, false) }
    }
}

/// A second operand that is used many times, packed once. See [`super::float::Right`].
pub struct PackedRight<T: 'static> {
    job: Job<T>,
    copy: Scratch<T>,
}

impl<T: Float> PackedRight<T> {
    /// Packs `b` (`k x q`), on all threads.
    ///
    /// # Safety
    /// `b` must be readable.
    pub unsafe fn new(set: &'static Kernels<T>, q: usize, k: usize, b: Matrix<T>) -> Self {
        let any = Matrix::new(std::ptr::null(), k as isize, 1);
        let job = Job::plan(set, set.tile[0].len(), q, k, any, b, false);
        // SAFETY: passed on from the caller.
        let copy = unsafe { job.prepack_b() };
        PackedRight { job, copy }
    }

    /// Writes, or adds, `a x b` to rows of `c`, on the calling thread; of `b`, the first `q` columns
    /// and `k` rows.
    ///
    /// # Safety
    /// `a` must be readable for `rows` rows, `c` writable for as many, `c_row` apart.
    pub unsafe fn multiply(
        &self,
        [rows, q, k]: [usize; 3],
        a: Matrix<T>,
        c: *mut T,
        c_row: isize,
        accumulate: bool,
    ) {
        debug_assert!(q <= self.job.q && k <= self.job.pitch);
        let job = Job {
            p: rows,
            q,
            k,
            a,
            ..self.job
        };
        let (panels, b) = (0..job.panels(), self.copy.ptr().cast_const());
        let none = std::ptr::null();
        // SAFETY: passed on from the caller.
        unsafe { job.compute(0..rows, panels, none, b, c, c_row, accumulate) }
    }
}

/// Writes (or adds) `a x b` to rows of `c` that are `c_row` apart, on the calling thread.
///
/// # Safety
/// As for [`matmul`](super::matmul), for `c` too.
#[allow(clippy::too_many_arguments)]
pub unsafe fn block<T: Float>(
    set: &'static Kernels<T>,
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<T>,
    b: Matrix<T>,
    c: *mut T,
    c_row: isize,
    accumulate: bool,
) {
    if !accumulate && let Some(dots) = ByDots::new(set, [m, n, k], a, b) {
        // SAFETY: passed on from the caller.
        return unsafe { dots.block(c, c_row) };
    }
    let job = Job::plan(set, m, n, k, a, b, !accumulate);
    let packed = job
        .pack_b
        .then(|| Own::<T>::new(job.panels() * job.width() * k));
    let null = std::ptr::null();
    // SAFETY: passed on from the caller.
    unsafe {
        if let Some(packed) = &packed {
            job.pack_b(0..job.panels(), 0..k, packed.ptr());
        }
        let packed = packed
            .as_ref()
            .map_or(std::ptr::null(), |s| s.ptr().cast_const());
        if job.swap {
            let turned = Own::<T>::new(job.p * job.q);
            let q = job.q as isize;
            job.compute(
                0..job.p,
                0..job.panels(),
                null,
                packed,
                turned.ptr(),
                q,
                false,
            );
            set.turn(turned.ptr(), q, job.p, job.q, c, c_row);
        } else {
            job.compute(
                0..job.p,
                0..job.panels(),
                null,
                packed,
                c,
                c_row,
                accumulate,
            );
        }
    }
}

/// Writes `a x b` to the contiguous `out` on all threads; `after` gets runs that count from
/// `base`.
///
/// # Safety
/// As for [`matmul`](super::matmul).
#[allow(clippy::too_many_arguments)]
pub unsafe fn parallel<T: Float>(
    set: &'static Kernels<T>,
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<T>,
    b: Matrix<T>,
    out: *mut T,
    base: usize,
    after: After<'_>,
) {
    let work = m * n * k;
    if let Some(dots) = ByDots::new(set, [m, n, k], a, b) {
        // SAFETY: passed on from the caller.
        return unsafe { dots.parallel(out, base, after) };
    }
    if work <= SERIAL {
        // SAFETY: passed on from the caller.
        unsafe { block(set, m, n, k, a, b, out, n as isize, false) };
        return after((base..base + m * n).into());
    }
    if let Some(part) = few::part([m, n, k], &b) {
        // SAFETY: passed on from the caller.
        let product = |size, a, b, c| unsafe { few::by_streams(set, size, a, b, c) };
        // SAFETY: as above.
        return unsafe { split_sums([m, n, k], part, a, b, product, out, base, after) };
    }
    // A small output with long sums would be one task.
    if m * n <= 64 * 64 && k >= 8 * (m * n).isqrt().max(128) {
        let part = (4 * TASK / (m * n)).clamp(256, 4096);
        let product = |[m, n, k]: [usize; 3], a, b, c| {
            // SAFETY: passed on from the caller.
            unsafe { block(set, m, n, k, a, b, c, n as isize, false) }
        };
        // SAFETY: as above.
        return unsafe { split_sums([m, n, k], part, a, b, product, out, base, after) };
    }
    let mut job = Job::plan(set, m, n, k, a, b, true);
    job.pack_b |= job.p > few::FEW && job.q * k * size_of::<T>() >= FAR;
    let turned = job.swap.then(|| Scratch::<T>::new(m * n));
    let target = Out(turned.as_ref().map_or(out, |s| s.ptr()));
    let (row, (depth, breadth)) = (job.q, job.slab());
    for first in (0..job.panels()).step_by(breadth) {
        let panels = first..job.panels().min(first + breadth);
        let cols = first * job.width();
        for l in (0..k).step_by(depth) {
            let sums = l..k.min(l + depth);
            let complete = sums.end == k && !job.swap;
            let done = |rows: Range<usize>, part: Range<usize>| {
                if complete {
                    let cols = cols + part.start..cols + part.end;
                    after(Runs::block(base, row, rows, cols));
                }
            };
            let slab = job.part(sums, panels.clone());
            // SAFETY: passed on from the caller.
            unsafe { slab.run(target.0.add(cols), row, l > 0, &done) };
        }
    }
    if job.swap {
        let (from, to) = (target, Out(out));
        let some = (16_384 / n).max(1).next_multiple_of(16);
        pool::run_chunks(m, some, |r| {
            let (from, to) = (&from, &to);
            // SAFETY: rows `r` of the output are columns `r` of the transposed product.
            unsafe {
                let (from, to) = (from.0.add(r.start), to.0.add(r.start * n));
                set.turn(from, m as isize, n, r.len(), to, n as isize);
            }
            after(Runs::block(base, n, r, 0..n));
        });
    }
}

/// The sums are cut into parts of a fixed length, which `product` writes, as `(sizes, a, b, c)`; they
/// are added up in order.
#[allow(clippy::too_many_arguments)]
unsafe fn split_sums<T: Float>(
    [m, n, k]: [usize; 3],
    part: usize,
    a: Matrix<T>,
    b: Matrix<T>,
    product: impl Fn([usize; 3], Matrix<T>, Matrix<T>, *mut T) + Sync,
    out: *mut T,
    base: usize,
    after: After<'_>,
) {
    let (parts, size) = (k.div_ceil(part), m * n);
    let sums = Scratch::<T>::new(parts * size);
    let (target, out) = (Out(sums.ptr()), Out(out));
    pool::run(parts, |i| {
        let (a, b, target) = (&a, &b, &target);
        let at = i * part;
        let shift = |x: &Matrix<T>, step| Matrix {
            ptr: x.ptr.wrapping_offset(at as isize * step),
            ..*x
        };
        let (a, b) = (shift(a, a.col), shift(b, b.row));
        // SAFETY: part `i` of the sums has its own place.
        unsafe {
            let c = target.0.add(i * size);
            product([m, n, part.min(k - at)], a, b, c);
        }
    });
    pool::run_chunks(size, 4096, |r| {
        let (sums, out) = (&target, &out);
        // SAFETY: these elements of every part, and of the output, which one task writes.
        unsafe {
            let part =
                |j: usize| std::slice::from_raw_parts(sums.0.add(j * size + r.start), r.len());
            let first = out.0.add(r.start);
            first.copy_from_nonoverlapping(part(0).as_ptr(), r.len());
            let out = std::slice::from_raw_parts_mut(first, r.len());
            (1..parts).for_each(|j| add_to(out, part(j)));
        }
        after((base + r.start..base + r.end).into());
    });
}

simd_dispatch! {
    fn add_to<T: Float>(to: &mut [T], from: &[T]) {
        for (to, &x) in to.iter_mut().zip(from) {
            *to = *to + x;
        }
    }
}
