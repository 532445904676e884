//! Gather and scatter-add along one axis.

use super::copy::SharedPtr;
use super::pool;
use crate::DType;
use half::{bf16, f16};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An index outside its axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("index {index} is out of range for an axis of size {size}")]
pub struct IndexError {
    /// The first offender, in row-major order.
    pub index: i64,
    /// The size of the axis that it indexes; valid indices are `0..size`.
    pub size: usize,
}

/// The strided source (or index, or target) of an indexed operation.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a, T> {
    /// The element with index 0 everywhere.
    pub ptr: *const T,
    /// Sizes.
    pub shape: &'a [usize],
    /// Steps in elements; 0 repeats, negative walks backwards.
    pub strides: &'a [isize],
}

/// The least number of bytes that is worth a task of its own.
const TASK_BYTES: usize = 1 << 16;

/// Remembers the first (in row-major order) bad index of all tasks.
struct FirstBad(AtomicUsize);

impl FirstBad {
    fn new() -> Self {
        FirstBad(AtomicUsize::new(usize::MAX))
    }
    fn report(&self, linear: usize) {
        self.0.fetch_min(linear, Ordering::Relaxed);
    }
    /// # Safety
    /// `idx` is valid over its shape, which is that of the linear positions reported.
    unsafe fn finish(self, idx: &Strided<'_, i64>, size: usize) -> Result<(), IndexError> {
        match self.0.into_inner() {
            usize::MAX => Ok(()),
            mut linear => {
                let mut at = 0;
                for (&n, &s) in idx.shape.iter().zip(idx.strides).rev() {
                    at += (linear % n) as isize * s;
                    linear /= n;
                }
                // SAFETY: `at` is the position of an index inside the shape.
                let index = unsafe { *idx.ptr.offset(at) };
                Err(IndexError { index, size })
            }
        }
    }
}

/// The index as an offset, if it is one of `0..size`.
#[inline(always)]
fn checked(index: i64, size: usize) -> Option<isize> {
    ((index as u64) < size as u64).then_some(index as isize)
}

/// Dimensions walked together, with up to two strides each, row by row.
struct Rows<'a> {
    shape: &'a [usize],
    strides: [&'a [isize]; 2],
    index: SmallVec<[usize; 6]>,
    at: [isize; 2],
}

impl<'a> Rows<'a> {
    fn new(shape: &'a [usize], strides: [&'a [isize]; 2], mut start: usize) -> Self {
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, shape.len());
        let mut at = [0; 2];
        for (d, &n) in shape.iter().enumerate().rev() {
            index[d] = start % n;
            start /= n;
            for k in 0..2 {
                at[k] += index[d] as isize * strides[k][d];
            }
        }
        Rows {
            shape,
            strides,
            index,
            at,
        }
    }

    #[inline]
    fn step(&mut self) {
        for d in (0..self.shape.len()).rev() {
            self.index[d] += 1;
            for k in 0..2 {
                self.at[k] += self.strides[k][d];
            }
            if self.index[d] < self.shape[d] {
                return;
            }
            for k in 0..2 {
                self.at[k] -= self.strides[k][d] * self.shape[d] as isize;
            }
            self.index[d] = 0;
        }
    }
}

/// How many trailing dimensions form one run: `idx` stands still over them and `strides` walks
/// memory one by one. Dimensions up to `axis` never belong to it.
fn trailing_run(shape: &[usize], axis: usize, idx: &[isize], strides: &[isize]) -> (usize, usize) {
    let (mut d, mut run) = (shape.len(), 1);
    while d > axis + 1 {
        let n = shape[d - 1];
        if n != 1 && (idx[d - 1] != 0 || strides[d - 1] != run as isize) {
            break;
        }
        run *= n;
        d -= 1;
    }
    (d, run)
}

/// `out[i, .., k] = src[i, .., idx[i, .., k], .., k]`: `torch.gather` along `axis`.
///
/// The output is contiguous with the shape of `idx`, whose sizes are at most those of `src` off
/// the axis. Selecting whole rows (an embedding, `index_select`) is the same with an index that is
/// broadcast (stride 0) over the dimensions after the axis; those rows are copied as runs.
/// `size` is the bytes of one element: 1, 2, 4 or 8. An index outside the axis gives an error and
/// leaves the output unspecified.
///
/// # Safety
/// Source and index must be readable over their shapes (the source for every valid index), the
/// output writable for `idx`'s number of elements, all aligned; the output overlaps neither.
pub unsafe fn gather(
    size: usize,
    axis: usize,
    src: Strided<'_, u8>,
    idx: Strided<'_, i64>,
    out: *mut u8,
) -> Result<(), IndexError> {
    // SAFETY: passed on to the caller.
    unsafe {
        match size {
            1 => gather_typed::<u8>(axis, src, idx, out),
            2 => gather_typed::<u16>(axis, src, idx, out.cast()),
            4 => gather_typed::<u32>(axis, src, idx, out.cast()),
            8 => gather_typed::<u64>(axis, src, idx, out.cast()),
            _ => unreachable!("an element has 1, 2, 4 or 8 bytes, not {size}"),
        }
    }
}

unsafe fn gather_typed<T: Copy>(
    axis: usize,
    src: Strided<'_, u8>,
    idx: Strided<'_, i64>,
    out: *mut T,
) -> Result<(), IndexError> {
    let shape = idx.shape;
    if shape.contains(&0) {
        return Ok(());
    }
    let (outer, run) = trailing_run(shape, axis, idx.strides, src.strides);
    let axis_size = src.shape[axis];
    let axis_stride = src.strides[axis];
    // Off the axis the source moves with the output; along it, only by the index.
    let mut moves: SmallVec<[isize; 6]> = SmallVec::from_slice(src.strides);
    moves[axis] = 0;
    // The last outer dimension is the inner loop.
    let (rows_shape, len) = match outer {
        0 => (&shape[..0], 1),
        _ => (&shape[..outer - 1], shape[outer - 1]),
    };
    let last = outer.wrapping_sub(1);
    let (idx_step, src_step) = if outer == 0 {
        (0, 0)
    } else {
        (idx.strides[last], moves[last])
    };
    let rows: usize = rows_shape.iter().product();
    let task = (TASK_BYTES / size_of::<T>() / run).max(1);
    let piece = len.min(task);
    let pieces = len.div_ceil(piece);
    let units = rows * pieces;
    let per_task = (task / piece).max(1);
    let bad = FirstBad::new();
    let (src_ptr, idx_ptr) = (
        SharedPtr(src.ptr.cast_mut().cast::<T>()),
        SharedPtr(idx.ptr.cast_mut()),
    );
    let out = SharedPtr(out);
    let one_task = |t: usize| {
        let units = t * per_task..((t + 1) * per_task).min(units);
        let mut walk = Rows::new(
            rows_shape,
            [&idx.strides[..rows_shape.len()], &moves[..rows_shape.len()]],
            units.start / pieces,
        );
        for u in units {
            let from = (u % pieces) * piece;
            let n = piece.min(len - from);
            let linear = (u / pieces) * len + from;
            let ip = idx_ptr.at(walk.at[0] + from as isize * idx_step);
            let sp = src_ptr.at(walk.at[1] + from as isize * src_step);
            let op = out.at((linear * run) as isize);
            for i in 0..n {
                // SAFETY: (walk, from + i) is inside the index's shape, and a checked index is
                // inside the source's axis; units write disjoint parts of the output.
                unsafe {
                    let Some(j) = checked(*ip.offset(i as isize * idx_step), axis_size) else {
                        bad.report((linear + i) * run);
                        continue;
                    };
                    let s = sp.offset(i as isize * src_step + j * axis_stride);
                    if run == 1 {
                        *op.add(i) = *s;
                    } else {
                        std::ptr::copy_nonoverlapping(s, op.add(i * run), run);
                    }
                }
            }
            if (u + 1) % pieces == 0 {
                walk.step();
            }
        }
    };
    pool::run(units.div_ceil(per_task), one_task);
    // SAFETY: reported positions are inside the index's shape.
    unsafe { bad.finish(&idx, axis_size) }
}

/// `out[.., idx[i], ..] += src[.., i, ..]`: `torch.scatter_add_` along `axis`, in place.
///
/// `src` and `idx` have one shape (an index that is the same for whole rows has stride 0 there);
/// `out` is contiguous with shape `out_shape`, whose sizes off the axis are at least those of
/// `idx`. Contributions to one element are added in the order of their index along the axis, by
/// one task, so the bits are the same at any thread count. Additions happen in the given type,
/// integers wrap, and `Bool` is "or". An index outside the axis gives an error and leaves the
/// output unspecified.
///
/// # Safety
/// Source and index must be readable over their shapes and the output writable, all aligned to
/// their types; the output overlaps neither.
pub unsafe fn scatter_add(
    dtype: DType,
    axis: usize,
    src: Strided<'_, u8>,
    idx: Strided<'_, i64>,
    out: *mut u8,
    out_shape: &[usize],
) -> Result<(), IndexError> {
    macro_rules! typed {
        ($t:ty, $add:expr) => {{
            let ptr = src.ptr.cast::<$t>();
            let src = Strided {
                ptr,
                shape: src.shape,
                strides: src.strides,
            };
            // SAFETY: passed on to the caller.
            unsafe { scatter_typed::<$t>(axis, src, idx, out.cast(), out_shape, $add) }
        }};
    }
    match dtype {
        DType::Bool => typed!(u8, |a, b| a | b),
        DType::U8 => typed!(u8, u8::wrapping_add),
        DType::I32 => typed!(i32, i32::wrapping_add),
        DType::I64 => typed!(i64, i64::wrapping_add),
        DType::F16 => typed!(f16, |a, b| a + b),
        DType::BF16 => typed!(bf16, |a, b| a + b),
        DType::F32 => typed!(f32, |a, b| a + b),
        DType::F64 => typed!(f64, |a, b| a + b),
    }
}

/// Rows of a scatter are cut in strips of this many bytes: enough for the prefetcher, few enough
/// to share an embedding's columns between threads.
const STRIP_BYTES: usize = 512;

/// A long single column (a histogram) is cut into this many ranges of the output.
const BUCKETS: usize = 4;

unsafe fn scatter_typed<T: Copy>(
    axis: usize,
    src: Strided<'_, T>,
    idx: Strided<'_, i64>,
    out: *mut T,
    out_shape: &[usize],
    add: impl Fn(T, T) -> T + Sync,
) -> Result<(), IndexError> {
    let shape = idx.shape;
    if shape.contains(&0) {
        return Ok(());
    }
    let out_strides = crate::Shape::from(out_shape).contiguous_strides();
    let (axis_len, axis_size) = (shape[axis], out_shape[axis]);
    let (idx_axis, src_axis, out_axis) = (idx.strides[axis], src.strides[axis], out_strides[axis]);
    // One unit = one position of all dimensions but the axis and the trailing run.
    let joint: SmallVec<[isize; 6]> = (0..shape.len())
        .map(|d| {
            if src.strides[d] == out_strides[d] {
                out_strides[d]
            } else {
                isize::MIN
            }
        })
        .collect();
    let (outer, run) = trailing_run(shape, axis, idx.strides, &joint);
    let dims: SmallVec<[usize; 6]> = (0..outer).filter(|&d| d != axis).collect();
    let pick = |s: &[isize]| -> SmallVec<[isize; 6]> { dims.iter().map(|&d| s[d]).collect() };
    let unit_shape: SmallVec<[usize; 6]> = dims.iter().map(|&d| shape[d]).collect();
    let (idx_moves, src_moves, out_moves) =
        (pick(idx.strides), pick(src.strides), pick(&out_strides));
    let columns: usize = unit_shape.iter().product();
    let bad = FirstBad::new();
    let lin_strides = crate::Shape::from(shape).contiguous_strides();
    let (lin_axis, lin_moves) = (lin_strides[axis], pick(&lin_strides));
    let (src_ptr, idx_ptr) = (SharedPtr(src.ptr.cast_mut()), SharedPtr(idx.ptr.cast_mut()));
    let out = SharedPtr(out);

    // Strips of the run, and for one lone column, ranges of the output's axis.
    let strip = (STRIP_BYTES / size_of::<T>()).min(run);
    let strips = run.div_ceil(strip);
    let lone = columns * strips == 1 && axis_len * run * size_of::<T>() >= TASK_BYTES;
    let buckets = if lone {
        BUCKETS.min(axis_size).max(1)
    } else {
        1
    };
    let units = columns * strips * buckets;
    let per_task = (TASK_BYTES / (axis_len * strip * size_of::<T>())).max(1);

    let one_task = |t: usize| {
        for u in t * per_task..((t + 1) * per_task).min(units) {
            let bucket = u % buckets;
            let keep = bucket * axis_size / buckets..(bucket + 1) * axis_size / buckets;
            let from = (u / buckets % strips) * strip;
            let n = strip.min(run - from);
            let mut column = u / buckets / strips;
            let (mut i0, mut s0, mut o0, mut l0) = (0isize, from as isize, from as isize, 0);
            for (d, &size) in unit_shape.iter().enumerate().rev() {
                let i = (column % size) as isize;
                column /= size;
                i0 += i * idx_moves[d];
                s0 += i * src_moves[d];
                o0 += i * out_moves[d];
                l0 += i * lin_moves[d];
            }
            let (ip, sp, op) = (idx_ptr.at(i0), src_ptr.at(s0), out.at(o0));
            for r in 0..axis_len as isize {
                // SAFETY: (unit, r) is inside the index's and source's shape, a checked index
                // inside the output's axis; each output element belongs to one unit.
                unsafe {
                    let Some(j) = checked(*ip.offset(r * idx_axis), axis_size) else {
                        bad.report((l0 + r * lin_axis) as usize);
                        continue;
                    };
                    if buckets > 1 && !keep.contains(&(j as usize)) {
                        continue;
                    }
                    let s = sp.offset(r * src_axis);
                    let d = op.offset(j * out_axis);
                    for c in 0..n {
                        *d.add(c) = add(*d.add(c), *s.add(c));
                    }
                }
            }
        }
    };
    pool::run(units.div_ceil(per_task), one_task);
    // SAFETY: reported positions are inside the index's shape.
    unsafe { bad.finish(&idx, axis_size) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Shape};

    fn noise(n: usize, seed: u64) -> Vec<u64> {
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x
            })
            .collect()
    }

    fn offset(
        l: &Layout,
        mut linear: usize,
        axis: Option<(usize, usize)>,
        shape: &[usize],
    ) -> usize {
        let mut at = l.offset as isize;
        for d in (0..shape.len()).rev() {
            let mut i = linear % shape[d];
            linear /= shape[d];
            if let Some((a, j)) = axis
                && a == d
            {
                i = j;
            }
            at += i as isize * l.strides[d];
        }
        at as usize
    }

    fn strided<'a, T>(data: &[T], l: &'a Layout) -> Strided<'a, T> {
        Strided {
            ptr: data[l.offset..].as_ptr(),
            shape: &l.shape,
            strides: &l.strides,
        }
    }

    fn bytes<'a, T>(s: Strided<'a, T>) -> Strided<'a, u8> {
        Strided {
            ptr: s.ptr.cast(),
            shape: s.shape,
            strides: s.strides,
        }
    }

    /// (source layout, index layout, axis)
    fn cases() -> Vec<(Layout, Layout, usize)> {
        let c = |s: &[usize]| Layout::contiguous(s);
        vec![
            (c(&[7]), c(&[5]), 0),
            (c(&[7]), c(&[0]), 0),
            (c(&[1]), c(&[90_000]), 0),
            (c(&[9, 6]), c(&[4, 6]), 0),
            (c(&[9, 6]), c(&[9, 11]), 1),
            (c(&[9, 6]), c(&[2, 3]), 1),
            (c(&[5, 4, 3]), c(&[5, 8, 3]), 1),
            (c(&[4, 5, 3]).permute(&[1, 0, 2]), c(&[5, 8, 3]), 1),
            (c(&[3, 5, 4]).permute(&[1, 2, 0]), c(&[5, 8, 3]), 1),
            // Rows by a one-dimensional index.
            (
                c(&[50, 33]),
                c(&[700, 1]).broadcast_to(&Shape::from([700, 33])),
                0,
            ),
            (
                c(&[3, 50, 300]),
                c(&[60, 1]).broadcast_to(&Shape::from([3, 60, 300])),
                1,
            ),
            (
                c(&[50, 64]).permute(&[1, 0]),
                c(&[70, 1]).broadcast_to(&Shape::from([70, 50])),
                0,
            ),
            (
                c(&[6, 50]).slice(1, 49, 50, -1),
                c(&[30]).broadcast_to(&Shape::from([6, 30])),
                1,
            ),
        ]
    }

    #[test]
    fn gather_agrees_with_a_plain_walk() {
        for (src, idx, axis) in cases() {
            let data: Vec<f32> = (0..src.numel()).map(|i| i as f32).collect();
            let index: Vec<i64> = noise(idx.numel().max(1), 3)
                .iter()
                .map(|r| (r % src.shape[axis] as u64) as i64)
                .collect();
            let n = idx.numel();
            let mut out = vec![-1f32; n];
            // SAFETY: layouts and buffers match.
            let res = unsafe {
                gather(
                    4,
                    axis,
                    bytes(strided(&data, &src)),
                    strided(&index, &idx),
                    out.as_mut_ptr().cast(),
                )
            };
            assert_eq!(res, Ok(()));
            for (l, got) in out.iter().enumerate() {
                let j = index[offset(&idx, l, None, &idx.shape)] as usize;
                assert_eq!(*got, data[offset(&src, l, Some((axis, j)), &idx.shape)]);
            }
        }
    }

    #[test]
    fn scatter_add_agrees_with_a_plain_walk() {
        for (out_l, idx, axis) in cases() {
            let out_shape: Vec<usize> = out_l.shape.to_vec();
            let out_l = Layout::contiguous(&out_shape[..]);
            let index: Vec<i64> = noise(idx.numel().max(1), 5)
                .iter()
                .map(|r| (r % out_shape[axis] as u64) as i64)
                .collect();
            for transposed in [false, true] {
                let rank = idx.shape.len();
                let order: Vec<usize> = if transposed {
                    (0..rank).rev().collect()
                } else {
                    (0..rank).collect()
                };
                let sizes: Vec<usize> = order.iter().map(|&d| idx.shape[d]).collect();
                let src = Layout::contiguous(sizes).permute(&order);
                let data: Vec<f32> = noise(idx.numel().max(1), 7)
                    .iter()
                    .map(|r| (r % 1000) as f32 / 7.0)
                    .collect();
                let mut want = vec![1f32; out_l.numel()];
                for l in 0..idx.numel() {
                    let j = index[offset(&idx, l, None, &idx.shape)] as usize;
                    want[offset(&out_l, l, Some((axis, j)), &idx.shape)] +=
                        data[offset(&src, l, None, &idx.shape)];
                }
                for threads in [1, 2] {
                    pool::set_threads(threads);
                    let mut out = vec![1f32; out_l.numel()];
                    // SAFETY: layouts and buffers match.
                    let res = unsafe {
                        scatter_add(
                            DType::F32,
                            axis,
                            bytes(strided(&data, &src)),
                            strided(&index, &idx),
                            out.as_mut_ptr().cast(),
                            &out_shape,
                        )
                    };
                    assert_eq!(res, Ok(()));
                    // The order of additions is fixed: equal to the last bit.
                    assert_eq!(out, want, "{out_shape:?} {idx:?} axis {axis}");
                }
            }
        }
    }

    #[test]
    fn bad_indices_are_named() {
        let data = [0f32; 12];
        let (src, idx) = (Layout::contiguous([4, 3]), Layout::contiguous([3, 3]));
        for (bad, at) in [(4i64, 5), (-1, 0), (i64::MIN, 8)] {
            let mut index = [1i64; 9];
            index[8] = 77;
            index[at] = bad;
            let mut out = [0f32; 12];
            let want = Err(IndexError {
                index: bad,
                size: 4,
            });
            // SAFETY: layouts and buffers match.
            unsafe {
                let (s, i) = (bytes(strided(&data, &src)), strided(&index, &idx));
                assert_eq!(gather(4, 0, s, i, out.as_mut_ptr().cast()), want);
                let o = out.as_mut_ptr().cast();
                assert_eq!(
                    scatter_add(DType::F32, 0, bytes(strided(&data, &idx)), i, o, &[4, 3]),
                    want
                );
            }
        }
        // A source without elements has no valid index.
        let (src, idx) = (Layout::contiguous([0, 3]), Layout::contiguous([1, 3]));
        let mut out = [0f32; 3];
        // SAFETY: nothing is read but the index.
        let res = unsafe {
            gather(
                4,
                0,
                bytes(strided(&data, &src)),
                strided(&[0, 0, 0], &idx),
                out.as_mut_ptr().cast(),
            )
        };
        assert_eq!(res, Err(IndexError { index: 0, size: 0 }));
    }
}
