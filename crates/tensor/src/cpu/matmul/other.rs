//! Products of half-precision floats (through `f32`) and of integers.

use super::{Matrix, Problem, Scalar, Scratch};
use crate::Precision;
use crate::cpu::pool;
use crate::cpu::{After, Runs};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use smallvec::SmallVec;

/// `f16` and `bf16`.
trait Half: Copy + Send + Sync {
    /// What multiplies these numbers exactly.
    const PRECISION: Precision;
    fn widen(src: &[Self], dst: &mut [f32])
    where
        Self: Sized;
    fn narrow(src: &[f32], dst: &mut [Self])
    where
        Self: Sized;
}
macro_rules! half {
    ($($t:ty: $precision:ident)*) => {$(
        impl Half for $t {
            const PRECISION: Precision = Precision::$precision;
            fn widen(src: &[Self], dst: &mut [f32]) {
                src.convert_to_f32_slice(dst);
            }
            fn narrow(src: &[f32], dst: &mut [Self]) {
                dst.convert_from_f32_slice(src);
            }
        }
        impl Scalar for $t {
            unsafe fn product(p: &Problem<Self>, after: After<'_>) {
                // SAFETY: passed on from the caller.
                unsafe { half_product(p, after) }
            }
        }
    )*};
}
half! { f16: Highest bf16: Medium }

/// Copies `rows x cols` of every batch that differs to contiguous `f32`, rows along the direction
/// in which the source is contiguous. Returns the copy, its matrix and its batch strides.
///
/// # Safety
/// `x` must be readable at all of these indices.
unsafe fn widen_all<T: Half>(
    batch: &[usize],
    strides: &[isize],
    x: Matrix<T>,
    rows: usize,
    cols: usize,
) -> (Scratch<f32>, Matrix<f32>, SmallVec<[isize; 4]>) {
    // Walk the operand transposed if its columns are the contiguous direction.
    let flip = x.col != 1 && (x.row == 1 || x.row.unsigned_abs() < x.col.unsigned_abs());
    let (rows, cols, x) = if flip {
        (cols, rows, x.transpose())
    } else {
        (rows, cols, x)
    };
    let distinct = |d: usize| if strides[d] == 0 { 1 } else { batch[d] };
    let count: usize = (0..batch.len()).map(distinct).product();
    let copy = Scratch::<f32>::new(count * rows * cols);
    let base = SendPtr(copy.ptr());
    pool::run(count * rows, |i| {
        let (base, x) = (&base, &x);
        let (mut rest, row) = (i / rows, i % rows);
        let mut src = x.ptr.wrapping_offset(row as isize * x.row);
        for d in (0..batch.len()).rev() {
            src = src.wrapping_offset((rest % distinct(d)) as isize * strides[d]);
            rest /= distinct(d);
        }
        // SAFETY: row `i` of the copy belongs to this task.
        let dst = unsafe { std::slice::from_raw_parts_mut(base.0.add(i * cols), cols) };
        if x.col == 1 {
            // SAFETY: the row is contiguous and readable.
            T::widen(unsafe { std::slice::from_raw_parts(src, cols) }, dst);
        } else {
            for (j, dst) in dst.iter_mut().enumerate() {
                // SAFETY: an element of the operand.
                let one = unsafe { *src.wrapping_offset(j as isize * x.col) };
                T::widen(&[one], std::slice::from_mut(dst));
            }
        }
    });
    let mut step = (rows * cols) as isize;
    let mut new: SmallVec<[isize; 4]> = SmallVec::from_elem(0, batch.len());
    for d in (0..batch.len()).rev() {
        if strides[d] != 0 {
            new[d] = step;
            step *= batch[d] as isize;
        }
    }
    let matrix = Matrix::new(copy.ptr().cast_const(), cols as isize, 1);
    (copy, if flip { matrix.transpose() } else { matrix }, new)
}

struct SendPtr<T>(*mut T);
// SAFETY: tasks write to disjoint parts of what it points to.
unsafe impl<T> Sync for SendPtr<T> {}

unsafe fn half_product<T: Half>(p: &Problem<T>, after: After<'_>) {
    // SAFETY: the operands are readable as the caller vouches.
    let (_hold_a, a, a_batch) = unsafe { widen_all(&p.batch, &p.a_batch, p.a, p.m, p.k) };
    // SAFETY: as above.
    let (_hold_b, b, b_batch) = unsafe { widen_all(&p.batch, &p.b_batch, p.b, p.k, p.n) };
    let wide = Scratch::<f32>::new(p.batches() * p.m * p.n);
    let (src, dst) = (SendPtr(wide.ptr()), SendPtr(p.out));
    let problem = Problem {
        batch: p.batch.clone(),
        a_batch,
        b_batch,
        m: p.m,
        n: p.n,
        k: p.k,
        precision: T::PRECISION,
        a,
        b,
        out: wide.ptr(),
    };
    let round = |runs: Runs| {
        let (src, dst) = (&src, &dst);
        for range in runs.each() {
            // SAFETY: the range is final and, in both blocks, this task's own.
            unsafe {
                T::narrow(
                    std::slice::from_raw_parts(src.0.add(range.start), range.len()),
                    std::slice::from_raw_parts_mut(dst.0.add(range.start), range.len()),
                );
            }
        }
        after(runs);
    };
    // SAFETY: the operands are the contiguous copies made above.
    unsafe { <f32 as Scalar>::product(&problem, After::new(&round)) }
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Scalar for $t {
            unsafe fn product(p: &Problem<Self>, after: After<'_>) {
                pool::run(p.batches() * p.m, |i| {
                    let (a, b) = p.at(i / p.m);
                    let a_row = a.ptr.wrapping_offset((i % p.m) as isize * a.row);
                    // SAFETY: output row `i` belongs to this task.
                    let out = unsafe { std::slice::from_raw_parts_mut(p.out.add(i * p.n), p.n) };
                    out.fill(0);
                    for k in 0..p.k as isize {
                        // SAFETY: an element of the first operand.
                        let x = unsafe { *a_row.wrapping_offset(k * a.col) };
                        let b_row = b.ptr.wrapping_offset(k * b.row);
                        for (j, out) in out.iter_mut().enumerate() {
                            // SAFETY: an element of the second operand.
                            let y = unsafe { *b_row.wrapping_offset(j as isize * b.col) };
                            *out = out.wrapping_add(x.wrapping_mul(y));
                        }
                    }
                    after((i * p.n..(i + 1) * p.n).into());
                });
            }
        }
    )*};
}
integers! { u8 i32 i64 }
