//! Scaled dot-product attention and its gradient in blocks of queries and keys: the matrix of
//! weights is never stored whole (Dao et al. 2022, "FlashAttention"). Only a mask's gradient, where
//! one is asked for, is as large as that.
//!
//! Work is cut by shape alone, and every sum has one order.

mod by_row;

use self::by_row::{
    LANES, Rows, Seen, add_mask, back, dots, exponentials, finish, kept, rows_scaled, scaled_copy,
    times,
};
use super::interp::uniform;
use super::matmul::{Block, Matrix, Right, Scratch};
use super::own::Own;
use super::pool;
use super::rows::RowFloat;
use crate::dtype::DType;
use crate::fast::{Dropped, side_by_side};
use crate::precision::Precision;
use std::ops::Range;

/// Queries of a block, at most.
const QUERIES: usize = 64;
/// The same of causal attention to few keys, where scores that nobody sees weigh more than smaller products:
/// with 64 keys it takes 0.83 of the time, with 256 up to 1.06. (Between the two is a guess.)
const FEW_QUERIES: usize = 32;
/// How many keys are few.
const FEW_KEYS: usize = 128;
/// Keys of a block: with the queries, half of a second-level cache. Blocks of keys begin where blocks of
/// queries do, and what queries see of them ends at whole steps of the matrix unit, or where all keys do.
const KEYS: usize = 512;
const _: () = assert!(KEYS.is_multiple_of(QUERIES) && FEW_QUERIES <= QUERIES && FEW_KEYS <= KEYS);
const _: () = assert!(QUERIES.is_multiple_of(32) && FEW_QUERIES.is_multiple_of(32));
/// The least number of multiply-adds for a task of its own.
const TASK: usize = 200_000;
/// To read a key from memory takes as long as so many queries' products with it.
const LOAD: usize = 8;
/// The forward pass is cut into at least about this many tasks, the gradient, whose parts have sums of
/// their own, into fewer.
const PARTS: [usize; 2] = [32, 8];

/// Sizes and options.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub batch: usize,
    pub heads: usize,
    /// Heads of the keys and values.
    pub groups: usize,
    pub queries: usize,
    pub keys: usize,
    /// Of a query and a key.
    pub size: usize,
    /// Of a value.
    pub width: usize,
    pub scale: f64,
    /// Whether query `i` sees keys `0..=i` alone.
    pub causal: bool,
    /// Which weights become 0.
    pub dropped: Option<Dropped>,
    /// Of the products.
    pub precision: Precision,
}

/// An array `[batch, heads, time, size]`.
#[derive(Debug)]
pub struct Array<T> {
    pub ptr: *const T,
    pub strides: [isize; 4],
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Array<T> {}

impl<T> Array<T> {
    /// The rows of one head from `time` on.
    fn head(&self, batch: usize, head: usize, time: usize) -> Matrix<T> {
        let [b, h, row, col] = self.strides;
        let at = batch as isize * b + head as isize * h + time as isize * row;
        Matrix::new(self.ptr.wrapping_offset(at), row, col)
    }
}

/// What attention is computed from.
#[derive(Debug)]
pub struct Inputs<T> {
    pub q: Array<T>,
    pub k: Array<T>,
    pub v: Array<T>,
    pub mask: Option<Array<T>>,
}
// SAFETY: only read.
unsafe impl<T> Sync for Inputs<T> {}

struct Out<T>(*mut T);
// SAFETY: tasks write disjoint parts.
unsafe impl<T> Sync for Out<T> {}

struct In<T>(*const T);
// SAFETY: only read.
unsafe impl<T> Sync for In<T> {}

// Tasks share these by a reference to the whole, which is what can be shared.
impl<T> Out<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}
impl<T> In<T> {
    fn get(&self) -> *const T {
        self.0
    }
}

/// The queries of one head that a task handles together.
struct Queries {
    batch: usize,
    head: usize,
    group: usize,
    rows: Range<usize>,
}

impl Attention {
    /// Queries of a block.
    fn rows(&self) -> usize {
        match self.causal && self.keys <= FEW_KEYS {
            true => FEW_QUERIES,
            false => QUERIES,
        }
    }

    fn blocks(&self) -> usize {
        self.queries.div_ceil(self.rows())
    }

    /// Block `i` of all heads' blocks.
    fn block(&self, i: usize) -> Queries {
        let (unit, block) = (i / self.blocks(), i % self.blocks());
        let (batch, head) = (unit / self.heads, unit % self.heads);
        let start = block * self.rows();
        Queries {
            batch,
            head,
            group: head / (self.heads / self.groups),
            rows: start..self.queries.min(start + self.rows()),
        }
    }

    /// How many keys some of these rows see.
    fn seen(&self, rows: &Range<usize>) -> usize {
        match self.causal {
            true => self.keys.min(rows.end),
            false => self.keys,
        }
    }

    /// From one row of a block's scores to the next: not a power of two, so that columns do not push
    /// each other out of the cache.
    fn stride(&self) -> usize {
        KEYS.min(self.keys).next_multiple_of(LANES) + LANES
    }

    /// The keys and values of a head up to `end`, block by block, as the operands that `operands`
    /// makes of them, each with its size (`n`, `k`), packed for so many blocks of queries.
    ///
    /// # Safety
    /// The operands are readable, now and while the result is used.
    unsafe fn packed<T: Block, const N: usize>(
        &self,
        end: usize,
        products: usize,
        operands: impl Fn(&Range<usize>) -> [(usize, usize, Matrix<T>); N],
    ) -> Vec<Keys<T, N>> {
        let block = |start: usize| {
            let keys = start..end.min(start + KEYS);
            let right = |(n, k, b)| unsafe {
                // SAFETY: the caller's promise.
                match self.precision {
                    Precision::Medium => {
                        Right::new(n, k, b, (products, self.rows()), self.precision)
                    }
                    _ => Right::by_vectors(n, k, b, products),
                }
            };
            let operands = operands(&keys).map(right);
            Keys { keys, operands }
        };
        (0..end).step_by(KEYS).map(block).collect()
    }

    /// Writes, or adds, `a x b` to rows of `c`.
    ///
    /// # Safety
    /// As for [`Block::block`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn product<T: Block>(
        &self,
        m: usize,
        n: usize,
        k: usize,
        a: Matrix<T>,
        b: Matrix<T>,
        c: *mut T,
        c_row: isize,
        add: bool,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            if !T::block_by_tiles(m, n, k, self.precision, a, b, c, c_row, add) {
                T::block(m, n, k, a, b, c, c_row, add);
            }
        }
    }

    /// Where a query's output begins in the flat result.
    fn output(&self, of: &Queries) -> usize {
        ((of.batch * self.queries + of.rows.start) * self.heads + of.head) * self.width
    }

    /// Where a query's logarithm lies in the flat result.
    fn log(&self, of: &Queries) -> usize {
        let rows = self.batch * self.heads * self.queries;
        rows * self.width + (of.batch * self.heads + of.head) * self.queries + of.rows.start
    }

    /// Where the gradients of queries, keys and values lie in the flat result.
    fn gradients(&self) -> [Place; 3] {
        let heads = [self.heads, self.groups, self.groups];
        let times = [self.queries, self.keys, self.keys];
        let sizes = [self.size, self.size, self.width];
        let together = side_by_side(self.queries, self.keys, self.size, self.width);
        let all: usize = heads.iter().sum();
        let mut start = 0;
        [0, 1, 2].map(|i| {
            let own = heads[i] * sizes[i];
            let place = Place {
                start,
                row: if together { all * sizes[i] } else { own },
                time: times[i],
                head: sizes[i],
            };
            start += if together {
                own
            } else {
                self.batch * times[i] * own
            };
            place
        })
    }

    /// What the weights of these rows and keys are multiplied with by dropout, rows one behind
    /// the other.
    ///
    /// # Safety
    /// `factors` has room for one to each weight.
    unsafe fn factors<T: RowFloat>(
        &self,
        dropped: Dropped,
        of: &Queries,
        keys: &Range<usize>,
        factors: *mut T,
    ) {
        let first = (of.batch * self.heads + of.head) * self.queries + of.rows.start;
        // Rows that are whole follow each other in the numbers' count, too.
        let (rows, n) = match keys.len() == self.keys {
            true => (1, of.rows.len() * self.keys),
            false => (of.rows.len(), keys.len()),
        };
        for i in 0..rows {
            let start = (first + i) * self.keys + keys.start;
            // SAFETY: the caller's promise.
            let row = unsafe { std::slice::from_raw_parts_mut(factors.add(i * n), n) };
            let mut numbers = [0.0f32; 512];
            for (j, part) in row.chunks_mut(numbers.len()).enumerate() {
                let at = start + j * numbers.len();
                // SAFETY: a chunk is no longer than the array.
                unsafe {
                    let numbers = numbers.as_mut_ptr().cast();
                    uniform(DType::F32, dropped.key, at, part.len(), numbers);
                }
                kept(&numbers, dropped.p, part);
            }
        }
    }

    /// The queries of a block times the scale, rows one behind the other.
    ///
    /// # Safety
    /// As for [`forward`]; `to` has room.
    unsafe fn queries<T: RowFloat>(&self, x: &Inputs<T>, of: &Queries, to: *mut T) {
        let q = x.q.head(of.batch, of.head, of.rows.start);
        // SAFETY: the elements of these queries, and their place.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, of.rows.len() * self.size);
            scaled_copy(q, self.size, T::from_f64(self.scale), to);
        }
    }

    /// The masked products of scaled queries and keys, [`stride`](Self::stride) apart; `by` is the
    /// block of keys as a second operand. Returns which of them the rows see.
    ///
    /// # Safety
    /// As for [`forward`]; `scores` has room.
    unsafe fn scores<T: Block + RowFloat>(
        &self,
        x: &Inputs<T>,
        of: &Queries,
        keys: &Range<usize>,
        by: &Right<T>,
        queries: *const T,
        scores: *mut T,
    ) -> Seen {
        let (m, n, stride) = (of.rows.len(), keys.len(), self.stride());
        let q = Matrix::new(queries, self.size as isize, 1);
        // SAFETY: passed on from the caller.
        unsafe { by.multiply([m, n, self.size], q, scores, stride as isize, false) };
        if let Some(mask) = &x.mask {
            let mask = mask.head(of.batch, of.head, of.rows.start);
            for i in 0..m {
                let at = i as isize * mask.row + keys.start as isize * mask.col;
                // SAFETY: the row has been written; the mask can be read wherever its strides reach.
                unsafe {
                    let row = std::slice::from_raw_parts_mut(scores.add(i * stride), n);
                    add_mask(row, mask.ptr.offset(at), mask.col);
                }
            }
        }
        let first = match self.causal {
            // Blocks of keys begin where blocks of queries do, so that row 0 sees one at least.
            true => of.rows.start + 1 - keys.start,
            false => n,
        };
        Seen { stride, n, first }
    }
}

/// Where an array `[batch, time, heads, size]` lies.
struct Place {
    start: usize,
    /// From one time to the next.
    row: usize,
    /// How many times there are.
    time: usize,
    /// From one head to the next.
    head: usize,
}

impl Place {
    fn at(&self, batch: usize, head: usize, time: usize) -> usize {
        self.start + (batch * self.time + time) * self.row + head * self.head
    }
}

/// Operands made of a block of one head's keys and values.
struct Keys<T: 'static, const N: usize> {
    keys: Range<usize>,
    operands: [Right<T>; N],
}

impl<T, const N: usize> Keys<T, N> {
    /// Those of the keys before `end`, if there are any.
    fn before(&self, end: usize) -> Option<Range<usize>> {
        let keys = self.keys.start..self.keys.end.min(end);
        (!keys.is_empty()).then_some(keys)
    }
}

/// Writes the flat result: the output `[batch, queries, heads, width]`, then the logarithm of each
/// row's sum of exponentials `[batch, heads, queries]`.
///
/// # Safety
/// The inputs can be read wherever sizes and strides reach; `out` has room and overlaps none.
pub unsafe fn forward<T: Block + RowFloat>(a: &Attention, x: &Inputs<T>, out: *mut T) {
    // A task takes blocks of queries of one head, for which its keys and values are packed once.
    let (heads, blocks) = (a.batch * a.heads, a.blocks());
    if blocks == 0 {
        return;
    }
    let [parts, per_part] = cuts(PARTS[0], heads, blocks);
    let rows = (per_part * a.rows().min(a.queries)).max(LOAD);
    let work = rows * a.keys * (a.size + a.width);
    let out = Out(out);
    pool::run_chunks(heads * parts, TASK.div_ceil(work.max(1)), |range| {
        let tile = QUERIES * a.stride();
        let scratch = Own::<T>::new((1 + a.dropped.is_some() as usize) * tile);
        let queries = Own::<T>::new(QUERIES * a.size);
        let tiles = [0, 1].map(|i| scratch.ptr().wrapping_add(i * tile));
        for i in range {
            let some = blocks_of(i % parts, per_part, blocks);
            let block = |j: usize| a.block(i / parts * blocks + j);
            // SAFETY: passed on from the caller; each block has its own part of the output.
            unsafe {
                let of = block(some.start);
                let end = some.clone().map(|j| a.seen(&block(j).rows)).max();
                let keys = a.packed(end.unwrap_or(0), some.len(), |keys| {
                    let k = x.k.head(of.batch, of.group, keys.start);
                    let v = x.v.head(of.batch, of.group, keys.start);
                    let n = keys.len();
                    [(n, a.size, k.transpose()), (a.width, n, v)]
                });
                for j in some {
                    forward_block(a, x, &block(j), &keys, queries.ptr(), tiles, out.get());
                }
            }
        }
    });
}

/// Into how many parts so many blocks of each unit are cut for there to be `least` tasks, and how many
/// blocks a part has.
fn cuts(least: usize, units: usize, blocks: usize) -> [usize; 2] {
    let parts = least.div_ceil(units.max(1)).min(blocks).max(1);
    let per_part = blocks.div_ceil(parts).max(1);
    [blocks.div_ceil(per_part).max(1), per_part]
}

/// The blocks of a part.
fn blocks_of(part: usize, per_part: usize, blocks: usize) -> Range<usize> {
    part * per_part..blocks.min((part + 1) * per_part)
}

/// # Safety
/// As for [`forward`].
unsafe fn forward_block<T: Block + RowFloat>(
    a: &Attention,
    x: &Inputs<T>,
    of: &Queries,
    keys: &[Keys<T, 2>],
    queries: *mut T,
    [scores, factors]: [*mut T; 2],
    out: *mut T,
) {
    let rows = of.rows.len();
    let stride = a.stride();
    let mut largest = [T::from_f64(f64::NEG_INFINITY); QUERIES];
    let mut sum = [0.0f64; QUERIES];
    // SAFETY: passed on from the caller.
    unsafe {
        let y = Rows {
            ptr: out.add(a.output(of)),
            step: a.heads * a.width,
            len: a.width,
        };
        a.queries(x, of, queries);
        let end = a.seen(&of.rows);
        for block in keys {
            let Some(keys) = block.before(end) else { break };
            let n = keys.len();
            let [k, v] = &block.operands;
            let seen = a.scores(x, of, &keys, k, queries, scores);
            let weights = std::slice::from_raw_parts_mut(scores, rows * stride);
            let mut fade = [T::default(); QUERIES];
            exponentials(weights, seen, &mut largest, &mut sum, &mut fade);
            if keys.start > 0 {
                rows_scaled(y, &fade[..rows]);
            }
            if let Some(dropped) = a.dropped {
                a.factors(dropped, of, &keys, factors);
                times(weights, seen, std::slice::from_raw_parts(factors, rows * n));
            }
            let weights = Matrix::new(scores.cast_const(), stride as isize, 1);
            let y_row = y.step as isize;
            v.multiply([rows, a.width, n], weights, y.ptr, y_row, keys.start > 0);
        }
        let log = std::slice::from_raw_parts_mut(out.add(a.log(of)), rows);
        let mut scale = [T::default(); QUERIES];
        finish(&largest[..rows], &sum, &mut scale, log);
        rows_scaled(y, &scale[..rows]);
    }
}

/// Writes the gradients `dq [batch, queries, heads, size]`, `dk [batch, keys, groups, size]`,
/// `dv [batch, keys, groups, width]`, one behind the other or [`side_by_side`], and, if `mask` says so,
/// behind them the mask's `[batch, queries, heads, keys]`. `y` is the flat result, `dy` its gradient.
///
/// # Safety
/// As for [`forward`].
pub unsafe fn backward<T: Block + RowFloat>(
    a: &Attention,
    x: &Inputs<T>,
    y: *const T,
    dy: *const T,
    mask: bool,
    out: *mut T,
) {
    let (units, repeats) = (a.batch * a.groups, a.heads / a.groups);
    let [dq, dk, dv] = &a.gradients();
    let dmask = a.queries * a.heads * a.size + a.keys * a.groups * (a.size + a.width);
    let dmask = mask.then_some(a.batch * dmask);
    // Blocks of queries that share keys may be handled in parts, each with sums of its own.
    let blocks = repeats * a.blocks();
    let [parts, per_part] = cuts(PARTS[1], units, blocks);
    let sums = a.keys * (a.size + a.width);
    let partial = Scratch::<T>::new(if parts > 1 { units * parts * sums } else { 0 });
    let partial = Out(partial.ptr());
    let (out, y, dy) = (Out(out), In(y), In(dy));
    let work = per_part * a.rows().min(a.queries) * a.keys * (3 * a.size + 2 * a.width);
    pool::run_chunks(units * parts, TASK.div_ceil(work.max(1)), |range| {
        let tile = QUERIES * a.stride();
        let scratch = Own::<T>::new((2 + a.dropped.is_some() as usize) * tile);
        let queries = Own::<T>::new(QUERIES * a.size);
        for i in range {
            let (unit, part) = (i / parts, i % parts);
            let (batch, group) = (unit / a.groups, unit % a.groups);
            let some = blocks_of(part, per_part, blocks);
            let block = |j: usize| {
                let head = group * repeats + j / a.blocks();
                a.block((batch * a.heads + head) * a.blocks() + j % a.blocks())
            };
            // SAFETY: passed on from the caller; each part writes rows and sums of its own.
            unsafe {
                let sums = if parts > 1 {
                    let at = partial.get().add(i * sums);
                    Sums {
                        dk: at,
                        dv: at.add(a.keys * a.size),
                        rows: [a.size, a.width],
                    }
                } else {
                    Sums {
                        dk: out.get().add(dk.at(batch, group, 0)),
                        dv: out.get().add(dv.at(batch, group, 0)),
                        rows: [dk.row, dv.row],
                    }
                };
                // The last block, which comes first, writes its keys' sums; the others add to them.
                let written = some.clone().last().map_or(0, |j| a.seen(&block(j).rows));
                sums.clear(a, written..a.keys);
                let end = some.clone().map(|j| a.seen(&block(j).rows)).max();
                let keys = a.packed(end.unwrap_or(0), some.len(), |keys| {
                    let k = x.k.head(batch, group, keys.start);
                    let v = x.v.head(batch, group, keys.start);
                    let n = keys.len();
                    [
                        (n, a.size, k.transpose()),
                        (n, a.width, v.transpose()),
                        (a.size, n, k),
                    ]
                });
                let last = some.end;
                for j in some.rev() {
                    let tiles = [0, 1, 2].map(|i| scratch.ptr().wrapping_add(i * tile));
                    let (given, out) = ((y.get(), dy.get()), out.get());
                    let queries = queries.ptr();
                    let add = j + 1 != last;
                    backward_block(
                        a,
                        x,
                        &block(j),
                        given,
                        &keys,
                        (&sums, dq),
                        add,
                        queries,
                        tiles,
                        dmask,
                        out,
                    );
                }
            }
        }
    });
    if parts == 1 {
        return;
    }
    pool::run_chunks(units, 1, |range| {
        for unit in range {
            let (batch, group) = (unit / a.groups, unit % a.groups);
            let mut from = 0;
            for (to, n) in [(dk, a.size), (dv, a.width)] {
                for key in 0..a.keys {
                    for j in 0..n {
                        // SAFETY: every unit writes rows of its own, from sums that are there.
                        unsafe {
                            let p = partial.get().add(unit * parts * sums + from + key * n + j);
                            let sum = (1..parts).fold(*p, |s, part| s + *p.add(part * sums));
                            *out.get().add(to.at(batch, group, key) + j) = sum;
                        }
                    }
                }
                from += a.keys * n;
            }
        }
    });
}

/// Where the gradients of one head of keys and values are summed.
struct Sums<T> {
    dk: *mut T,
    dv: *mut T,
    /// Steps between rows.
    rows: [usize; 2],
}

impl<T: RowFloat> Sums<T> {
    /// # Safety
    /// There is room for the rows of these keys.
    unsafe fn clear(&self, a: &Attention, keys: Range<usize>) {
        for key in keys {
            // SAFETY: the caller's promise.
            unsafe {
                let dk = self.dk.add(key * self.rows[0]);
                std::slice::from_raw_parts_mut(dk, a.size).fill(T::default());
                let dv = self.dv.add(key * self.rows[1]);
                std::slice::from_raw_parts_mut(dv, a.width).fill(T::default());
            }
        }
    }
}

/// # Safety
/// As for [`backward`]; there is room for the queries and the weights of a block.
#[allow(clippy::too_many_arguments)]
unsafe fn backward_block<T: Block + RowFloat>(
    a: &Attention,
    x: &Inputs<T>,
    of: &Queries,
    (y, dy): (*const T, *const T),
    keys: &[Keys<T, 3>],
    (sums, dq): (&Sums<T>, &Place),
    add: bool,
    queries: *mut T,
    [weights, slopes, factors]: [*mut T; 3],
    dmask: Option<usize>,
    out: *mut T,
) {
    let m = of.rows.len();
    let (row, stride) = ((a.heads * a.width) as isize, a.stride());
    // SAFETY: passed on from the caller.
    unsafe {
        let (start, log) = (a.output(of), a.log(of));
        let mut shift = [T::default(); QUERIES];
        let mut along = [T::default(); QUERIES];
        let rows = |ptr: *const T| Matrix::new(ptr.add(start), row, 1);
        dots(rows(y), rows(dy), a.width, &mut along[..m]);
        for i in 0..m {
            along[i] = along[i] - *dy.add(log + i);
            let l = *y.add(log + i);
            // Exponentials of a row that sees nothing are 0.
            let blind = l.to_f64() == f64::NEG_INFINITY;
            shift[i] = if blind { T::from_f64(f64::INFINITY) } else { l };
        }
        let dy = Matrix::new(dy.add(start), row, 1);
        a.queries(x, of, queries);
        let q = Matrix::new(queries.cast_const(), a.size as isize, 1);
        let dq = Rows {
            ptr: out.add(dq.at(of.batch, of.head, of.rows.start)),
            step: dq.row,
            len: a.size,
        };
        let end = a.seen(&of.rows);
        for block in keys {
            let Some(keys) = block.before(end) else { break };
            let n = keys.len();
            let [k, v, k_rows] = &block.operands;
            let seen = a.scores(x, of, &keys, k, queries, weights);
            v.multiply([m, n, a.width], dy, slopes, stride as isize, false);
            let p = std::slice::from_raw_parts_mut(weights, m * stride);
            let d = std::slice::from_raw_parts_mut(slopes, m * stride);
            let f = match a.dropped {
                None => &[][..],
                Some(dropped) => {
                    a.factors(dropped, of, &keys, factors);
                    std::slice::from_raw_parts(factors, m * n)
                }
            };
            times(d, seen, f);
            back(p, d, seen, &shift, &along);
            times(p, seen, f);
            if let Some(start) = dmask {
                for (i, row) in d.chunks_exact(stride).enumerate() {
                    let query = of.batch * a.queries + of.rows.start + i;
                    let at = start + (query * a.heads + of.head) * a.keys;
                    let all = std::slice::from_raw_parts_mut(out.add(at), a.keys);
                    all[keys.clone()].copy_from_slice(&row[..n]);
                    // Keys that none of the rows sees have no block.
                    if keys.end == end {
                        all[end..].fill(T::default());
                    }
                }
            }
            let tile = |ptr: *mut T| Matrix::new(ptr.cast_const(), stride as isize, 1);
            let (weights, slopes) = (tile(weights), tile(slopes));
            let [dk_row, dv_row] = sums.rows.map(|r| r as isize);
            let dk = sums.dk.offset(keys.start as isize * dk_row);
            let dv = sums.dv.offset(keys.start as isize * dv_row);
            a.product(n, a.width, m, weights.transpose(), dy, dv, dv_row, add);
            a.product(n, a.size, m, slopes.transpose(), q, dk, dk_row, add);
            let dq_row = dq.step as isize;
            k_rows.multiply([m, a.size, n], slopes, dq.ptr, dq_row, keys.start > 0);
        }
        // So far they are those of scaled queries.
        rows_scaled(dq, &[T::from_f64(a.scale); QUERIES][..m]);
    }
}
