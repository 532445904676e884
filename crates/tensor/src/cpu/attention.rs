//! Scaled dot-product attention and its gradient in blocks of queries and keys: the matrix of
//! weights is never stored whole (Dao et al. 2022, "FlashAttention"). Only a mask's gradient, where
//! one is asked for, is as large as that.
//!
//! Work is cut by shape alone, and every sum has one order.

use super::interp::uniform;
use super::math;
use super::matmul::{Block, Matrix, Scratch};
use super::pool;
use super::reduce::kernel::fold_body;
use super::rows::RowFloat;
use crate::dtype::DType;
use crate::fast::Dropped;
use crate::precision::Precision;
use crate::simd_dispatch;
use std::ops::Range;

/// Queries of a block.
const QUERIES: usize = 64;
/// Keys of a block: with the queries, half of a second-level cache.
const KEYS: usize = 512;
/// The least number of multiply-adds for a task of its own.
const TASK: usize = 200_000;
/// The gradient is cut into at least about this many tasks.
const PARTS: usize = 8;

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
    fn blocks(&self) -> usize {
        self.queries.div_ceil(QUERIES)
    }

    /// Block `i` of all heads' blocks.
    fn block(&self, i: usize) -> Queries {
        let (unit, block) = (i / self.blocks(), i % self.blocks());
        let (batch, head) = (unit / self.heads, unit % self.heads);
        let start = block * QUERIES;
        Queries {
            batch,
            head,
            group: head / (self.heads / self.groups),
            rows: start..self.queries.min(start + QUERIES),
        }
    }

    /// The keys that some of these rows see, block by block.
    fn key_blocks(&self, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let end = match self.causal {
            true => self.keys.min(rows.end),
            false => self.keys,
        };
        (0..end)
            .step_by(KEYS)
            .map(move |start| start..end.min(start + KEYS))
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

    /// The scaled and masked products of queries and keys, rows one behind the other.
    ///
    /// # Safety
    /// As for [`forward`]; `scores` has room.
    unsafe fn scores<T: Block + RowFloat>(
        &self,
        x: &Inputs<T>,
        of: &Queries,
        keys: &Range<usize>,
        scores: *mut T,
    ) {
        let (m, n) = (of.rows.len(), keys.len());
        let q = x.q.head(of.batch, of.head, of.rows.start);
        let k = x.k.head(of.batch, of.group, keys.start).transpose();
        // SAFETY: passed on from the caller.
        let all = unsafe {
            self.product(m, n, self.size, q, k, scores, n as isize, false);
            std::slice::from_raw_parts_mut(scores, m * n)
        };
        scaled(all, T::from_f64(self.scale));
        if let Some(mask) = &x.mask {
            let mask = mask.head(of.batch, of.head, of.rows.start);
            for (i, row) in all.chunks_exact_mut(n).enumerate() {
                let at = i as isize * mask.row + keys.start as isize * mask.col;
                // SAFETY: the mask can be read wherever its strides reach.
                unsafe { add_mask(row, mask.ptr.offset(at), mask.col) };
            }
        }
        if self.causal {
            for (row, i) in all.chunks_exact_mut(n).zip(of.rows.clone()) {
                let seen = (i + 1).saturating_sub(keys.start).min(n);
                row[seen..].fill(T::from_f64(f64::NEG_INFINITY));
            }
        }
    }
}

/// # Safety
/// `mask` can be read at `row.len()` elements `step` apart.
unsafe fn add_mask<T: RowFloat>(row: &mut [T], mask: *const T, step: isize) {
    for (j, v) in row.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *v = *v + unsafe { *mask.offset(j as isize * step) };
    }
}

/// Writes the flat result: the output `[batch, queries, heads, width]`, then the logarithm of each
/// row's sum of exponentials `[batch, heads, queries]`.
///
/// # Safety
/// The inputs can be read wherever sizes and strides reach; `out` has room and overlaps none.
pub unsafe fn forward<T: Block + RowFloat>(a: &Attention, x: &Inputs<T>, out: *mut T) {
    let blocks = a.batch * a.heads * a.blocks();
    let work = QUERIES.min(a.queries) * a.keys * (a.size + a.width);
    let out = Out(out);
    pool::run_chunks(blocks, TASK.div_ceil(work.max(1)), |range| {
        let tile = QUERIES * KEYS.min(a.keys);
        let scratch = Scratch::<T>::new((1 + a.dropped.is_some() as usize) * tile);
        let (scores, factors) = (scratch.ptr(), scratch.ptr().wrapping_add(tile));
        for i in range {
            let of = a.block(i);
            // SAFETY: passed on from the caller; each block has its own part of the output.
            unsafe { forward_block(a, x, &of, [scores, factors], out.get()) };
        }
    });
}

/// # Safety
/// As for [`forward`].
unsafe fn forward_block<T: Block + RowFloat>(
    a: &Attention,
    x: &Inputs<T>,
    of: &Queries,
    [scores, factors]: [*mut T; 2],
    out: *mut T,
) {
    let rows = of.rows.len();
    let row = (a.heads * a.width) as isize;
    let mut largest = [T::from_f64(f64::NEG_INFINITY); QUERIES];
    let mut sum = [0.0f64; QUERIES];
    // SAFETY: passed on from the caller.
    unsafe {
        let y = out.add(a.output(of));
        let line = |i: usize| std::slice::from_raw_parts_mut(y.offset(i as isize * row), a.width);
        for keys in a.key_blocks(&of.rows) {
            let n = keys.len();
            a.scores(x, of, &keys, scores);
            let weights = std::slice::from_raw_parts_mut(scores, rows * n);
            let mut fade = [T::default(); QUERIES];
            exponentials(weights, n, &mut largest, &mut sum, &mut fade);
            if keys.start > 0 {
                (0..rows).for_each(|i| scaled(line(i), fade[i]));
            }
            if let Some(dropped) = a.dropped {
                a.factors(dropped, of, &keys, factors);
                times(weights, std::slice::from_raw_parts(factors, rows * n));
            }
            let weights = Matrix::new(scores.cast_const(), n as isize, 1);
            let v = x.v.head(of.batch, of.group, keys.start);
            a.product(rows, a.width, n, weights, v, y, row, keys.start > 0);
        }
        let log = out.add(a.log(of));
        for i in 0..rows {
            let blind = sum[i] == 0.0;
            let scale = if blind { 0.0 } else { 1.0 / sum[i] };
            scaled(line(i), T::from_f64(scale));
            let shift = largest[i].to_f64();
            *log.add(i) = T::from_f64(if blind {
                f64::NEG_INFINITY
            } else {
                shift + sum[i].ln()
            });
        }
    }
}

/// Writes the gradients `dq [batch, queries, heads, size]`, `dk [batch, keys, groups, size]`,
/// `dv [batch, keys, groups, width]` and, if `mask` says so, the mask's
/// `[batch, queries, heads, keys]`, one behind the other. `y` is the flat result, `dy` its gradient.
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
    let dk = a.batch * a.queries * a.heads * a.size;
    let dv = dk + a.batch * a.keys * a.groups * a.size;
    let dmask = mask.then_some(dv + a.batch * a.keys * a.groups * a.width);
    // Blocks of queries that share keys may be handled in parts, each with sums of its own.
    let blocks = repeats * a.blocks();
    let parts = PARTS.div_ceil(units.max(1)).min(blocks).max(1);
    let per_part = blocks.div_ceil(parts).max(1);
    let parts = blocks.div_ceil(per_part).max(1);
    let sums = a.keys * (a.size + a.width);
    let partial = Scratch::<T>::new(if parts > 1 { units * parts * sums } else { 0 });
    let partial = Out(partial.ptr());
    let (out, y, dy) = (Out(out), In(y), In(dy));
    let work = per_part * QUERIES.min(a.queries) * a.keys * (3 * a.size + 2 * a.width);
    pool::run_chunks(units * parts, TASK.div_ceil(work.max(1)), |range| {
        let tile = QUERIES * KEYS.min(a.keys);
        let scratch = Scratch::<T>::new((2 + a.dropped.is_some() as usize) * tile);
        for i in range {
            let (unit, part) = (i / parts, i % parts);
            let (batch, group) = (unit / a.groups, unit % a.groups);
            // SAFETY: passed on from the caller; each part writes rows and sums of its own.
            unsafe {
                let first = batch * a.keys * a.groups + group;
                let sums = if parts > 1 {
                    let at = partial.get().add(i * sums);
                    Sums {
                        dk: at,
                        dv: at.add(a.keys * a.size),
                        rows: [a.size, a.width],
                    }
                } else {
                    Sums {
                        dk: out.get().add(dk + first * a.size),
                        dv: out.get().add(dv + first * a.width),
                        rows: [a.groups * a.size, a.groups * a.width],
                    }
                };
                sums.clear(a);
                for block in part * per_part..blocks.min((part + 1) * per_part) {
                    let head = group * repeats + block / a.blocks();
                    let unit = batch * a.heads + head;
                    let of = a.block(unit * a.blocks() + block % a.blocks());
                    let tiles = [0, 1, 2].map(|i| scratch.ptr().wrapping_add(i * tile));
                    let (given, out) = ((y.get(), dy.get()), out.get());
                    backward_block(a, x, &of, given, &sums, tiles, dmask, out);
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
            let first = batch * a.keys * a.groups + group;
            let mut from = 0;
            for (at, n) in [(dk, a.size), (dv, a.width)] {
                for key in 0..a.keys {
                    for j in 0..n {
                        // SAFETY: every unit writes rows of its own, from sums that are there.
                        unsafe {
                            let p = partial.get().add(unit * parts * sums + from + key * n + j);
                            let sum = (1..parts).fold(*p, |s, part| s + *p.add(part * sums));
                            *out.get().add(at + (first + key * a.groups) * n + j) = sum;
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
    /// There is room for the rows of all keys.
    unsafe fn clear(&self, a: &Attention) {
        for key in 0..a.keys {
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
/// As for [`backward`]; the tiles have room for the weights of a block.
#[allow(clippy::too_many_arguments)]
unsafe fn backward_block<T: Block + RowFloat>(
    a: &Attention,
    x: &Inputs<T>,
    of: &Queries,
    (y, dy): (*const T, *const T),
    sums: &Sums<T>,
    [weights, slopes, factors]: [*mut T; 3],
    dmask: Option<usize>,
    out: *mut T,
) {
    let m = of.rows.len();
    let row = (a.heads * a.width) as isize;
    // SAFETY: passed on from the caller.
    unsafe {
        let (start, log) = (a.output(of), a.log(of));
        let mut shift = [T::default(); QUERIES];
        let mut along = [T::default(); QUERIES];
        for i in 0..m {
            let at = start + i * a.heads * a.width;
            let y_row = std::slice::from_raw_parts(y.add(at), a.width);
            let dy_row = std::slice::from_raw_parts(dy.add(at), a.width);
            let dot = y_row
                .iter()
                .zip(dy_row)
                .fold(0.0, |s, (a, b)| s + a.to_f64() * b.to_f64());
            along[i] = T::from_f64(dot - (*dy.add(log + i)).to_f64());
            let l = (*y.add(log + i)).to_f64();
            // Exponentials of a row that sees nothing are 0.
            shift[i] = T::from_f64(if l == f64::NEG_INFINITY {
                f64::INFINITY
            } else {
                l
            });
        }
        let dy = Matrix::new(dy.add(start), row, 1);
        let q = x.q.head(of.batch, of.head, of.rows.start);
        let dq_row = (a.heads * a.size) as isize;
        let dq = out.add(start / a.width * a.size);
        let seen = a.key_blocks(&of.rows).last().map_or(0, |keys| keys.end);
        for keys in a.key_blocks(&of.rows) {
            let n = keys.len();
            a.scores(x, of, &keys, weights);
            let v = x.v.head(of.batch, of.group, keys.start).transpose();
            a.product(m, n, a.width, dy, v, slopes, n as isize, false);
            let p = std::slice::from_raw_parts_mut(weights, m * n);
            let d = std::slice::from_raw_parts_mut(slopes, m * n);
            let f = match a.dropped {
                None => &[][..],
                Some(dropped) => {
                    a.factors(dropped, of, &keys, factors);
                    std::slice::from_raw_parts(factors, m * n)
                }
            };
            times(d, f);
            back(p, d, n, &shift, &along);
            times(p, f);
            if let Some(start) = dmask {
                for (i, row) in d.chunks_exact(n).enumerate() {
                    let query = of.batch * a.queries + of.rows.start + i;
                    let at = start + (query * a.heads + of.head) * a.keys;
                    let all = std::slice::from_raw_parts_mut(out.add(at), a.keys);
                    all[keys.clone()].copy_from_slice(row);
                    // Keys that none of the rows sees have no block.
                    if keys.end == seen {
                        all[seen..].fill(T::default());
                    }
                }
            }
            scaled(d, T::from_f64(a.scale));
            let tile = |ptr: *mut T| Matrix::new(ptr.cast_const(), n as isize, 1);
            let (weights, slopes) = (tile(weights), tile(slopes));
            let [dk_row, dv_row] = sums.rows.map(|r| r as isize);
            let dk = sums.dk.offset(keys.start as isize * dk_row);
            let dv = sums.dv.offset(keys.start as isize * dv_row);
            a.product(n, a.width, m, weights.transpose(), dy, dv, dv_row, true);
            a.product(n, a.size, m, slopes.transpose(), q, dk, dk_row, true);
            let k = x.k.head(of.batch, of.group, keys.start);
            a.product(m, a.size, n, slopes, k, dq, dq_row, keys.start > 0);
        }
    }
}

simd_dispatch! {
    fn scaled<T: RowFloat>(values: &mut [T], scale: T) {
        for v in values {
            *v = *v * scale;
        }
    }

    /// Multiplies values with factors of their own, as far as there are factors.
    fn times<T: RowFloat>(values: &mut [T], factors: &[T]) {
        for (v, &f) in values.iter_mut().zip(factors) {
            *v = *v * f;
        }
    }

    /// 0 where a number is less than `p`, and what keeps the mean elsewhere.
    fn kept<T: RowFloat>(numbers: &[f32], p: f64, factors: &mut [T]) {
        let (limit, scale) = (p as f32, T::from_f64(1.0 / (1.0 - p)));
        for (f, &u) in factors.iter_mut().zip(numbers) {
            *f = if u < limit { T::default() } else { scale };
        }
    }

    /// Turns rows of `n` scores into exponentials relative to the largest score so far, which is
    /// kept together with their sum; `fade` is what earlier exponentials must be multiplied with.
    fn exponentials<T: RowFloat>(
        scores: &mut [T],
        n: usize,
        largest: &mut [T],
        sum: &mut [f64],
        fade: &mut [T],
    ) {
        let none = T::from_f64(f64::NEG_INFINITY);
        for (i, row) in scores.chunks_exact_mut(n).enumerate() {
            let before = largest[i];
            let here = fold_body::<T::Max>(row);
            // NaN wins, as everywhere.
            let max = if before >= here { before } else { here };
            let shift = if max == none { T::default() } else { max };
            for v in row.iter_mut() {
                *v = *v - shift;
            }
            fade[i] = T::from_f64((before - shift).to_f64().exp());
            largest[i] = max;
        }
        for v in scores.iter_mut() {
            *v = math::exp(*v);
        }
        for (i, row) in scores.chunks_exact(n).enumerate() {
            sum[i] = sum[i] * fade[i].to_f64() + fold_body::<T::Sum>(row);
        }
    }

    /// From scores to weights, and from the weights' gradients to those of the scaled scores.
    fn back<T: RowFloat>(
        weights: &mut [T],
        slopes: &mut [T],
        n: usize,
        shift: &[T],
        along: &[T],
    ) {
        for (i, row) in weights.chunks_exact_mut(n).enumerate() {
            for v in row {
                *v = *v - shift[i];
            }
        }
        for v in weights.iter_mut() {
            *v = math::exp(*v);
        }
        for (i, (p, d)) in weights.chunks_exact(n).zip(slopes.chunks_exact_mut(n)).enumerate() {
            for (d, &p) in d.iter_mut().zip(p) {
                *d = p * (*d - along[i]);
            }
        }
    }
}
