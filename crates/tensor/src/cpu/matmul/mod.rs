//! Batched matrix products over strided operands.
//!
//! [`matmul`] splits the output into blocks by its shape alone and computes each with a fixed order
//! of additions, so that the bits of a result do not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod engine;
#[cfg(target_arch = "x86_64")]
mod few;
mod float;
#[cfg(target_arch = "x86_64")]
mod kernels;
mod other;
#[cfg(target_arch = "x86_64")]
mod tile_rows;
#[cfg(target_arch = "x86_64")]
mod unit;

pub(super) use float::{Block, Left, Right};
#[cfg(target_arch = "x86_64")]
pub(super) use kernels::{
    ImageTile, Kernels, Lanes, PlaneTile, Run, Tile, WeightTile, avx512::transpose_registers,
};

use super::After;
use super::constant::Constant;
use super::storage::Storage;
use crate::{DType, Precision};
use half::{bf16, f16};
use smallvec::SmallVec;

/// The sizes of a product `[batch.., m, k] x [batch.., k, n] -> [batch.., m, n]`.
#[derive(Clone, Copy, Debug)]
pub struct Dims<'a> {
    /// Sizes of the batch dimensions (may be empty), outermost first.
    pub batch: &'a [usize],
    /// Rows of the first operand and of the output.
    pub m: usize,
    /// Columns of the second operand and of the output.
    pub n: usize,
    /// Columns of the first operand, rows of the second.
    pub k: usize,
    /// How exactly `f32` is multiplied; other types are what they are.
    pub precision: Precision,
}

/// One operand: its first element and its strides in elements.
///
/// A stride of 0 repeats (broadcast), a negative one walks backwards; `row` and `col` may be
/// exchanged to transpose.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a, T> {
    /// The element with index 0 everywhere.
    pub ptr: *const T,
    /// Strides of the batch dimensions, as many as [`Dims::batch`] has.
    pub batch: &'a [isize],
    /// Step from one row to the next.
    pub row: isize,
    /// Step from one column to the next.
    pub col: isize,
    /// The memory, if nothing writes to it.
    pub constant: Option<Constant>,
}

/// An element type that has matrix products (all but `bool`).
pub trait Scalar: crate::Element {
    #[doc(hidden)]
    /// # Safety
    /// As [`matmul`]; no size is 0, and `dims` and operands are folded.
    unsafe fn product(p: &Problem<Self>, after: After<'_>)
    where
        Self: Sized;
}

/// A product whose batch dimensions have been merged as far as possible.
#[doc(hidden)]
pub struct Problem<T> {
    batch: SmallVec<[usize; 4]>,
    a_batch: SmallVec<[isize; 4]>,
    b_batch: SmallVec<[isize; 4]>,
    m: usize,
    n: usize,
    k: usize,
    precision: Precision,
    a: Matrix<T>,
    b: Matrix<T>,
    out: *mut T,
}
// SAFETY: the pointers are only read and written through as the caller of `matmul` vouches for.
unsafe impl<T> Sync for Problem<T> {}

/// A strided matrix: element `(i, j)` at `ptr + i * row + j * col`.
#[derive(Debug)]
pub(super) struct Matrix<T> {
    pub ptr: *const T,
    pub row: isize,
    pub col: isize,
    /// The memory, if nothing writes to it.
    pub constant: Option<Constant>,
}
impl<T> Clone for Matrix<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Matrix<T> {}
// SAFETY: only read, by those to whom its maker vouches for the memory; what is kept of a constant
// operand goes before the operand does.
unsafe impl<T> Sync for Matrix<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Matrix<T> {}

impl<T> Matrix<T> {
    pub fn new(ptr: *const T, row: isize, col: isize) -> Self {
        Matrix {
            ptr,
            row,
            col,
            constant: None,
        }
    }

    pub fn transpose(self) -> Self {
        Matrix {
            row: self.col,
            col: self.row,
            ..self
        }
    }
}

impl<T> From<&Operand<'_, T>> for Matrix<T> {
    fn from(x: &Operand<'_, T>) -> Self {
        Matrix {
            ptr: x.ptr,
            row: x.row,
            col: x.col,
            constant: x.constant,
        }
    }
}

/// Writes `a x b` to the contiguous row-major `out`.
///
/// `after` is called for disjoint runs of linear output indices that cover the output, each as
/// soon as its elements are final, from the thread that has just written them. With `k == 0` the
/// output is zero. Half-precision inputs are accumulated in `f32` and rounded once; integers wrap.
///
/// # Safety
/// The operands must be readable at every index that `dims` and their strides reach, `out` must be
/// writable for the whole output and overlap neither of them.
pub unsafe fn matmul<T: Scalar>(
    dims: Dims<'_>,
    a: Operand<'_, T>,
    b: Operand<'_, T>,
    out: *mut T,
    after: After<'_>,
) {
    let len = dims.batch.iter().product::<usize>() * dims.m * dims.n;
    if len == 0 {
        return;
    }
    if dims.k == 0 {
        let zero = T::from_f64(0.0);
        // SAFETY: `out` has `len` elements.
        (0..len).for_each(|i| unsafe { out.add(i).write(zero) });
        return after((0..len).into());
    }
    let p = Problem::fold(dims, a, b, out);
    // SAFETY: passed on from the caller.
    unsafe { T::product(&p, after) }
}

/// [`matmul`] on untyped pointers; all of `dtype`. Panics on `bool`.
///
/// # Safety
/// As for [`matmul`], with all pointers aligned for `dtype`.
pub unsafe fn matmul_dyn(
    dtype: DType,
    dims: Dims<'_>,
    a: Operand<'_, u8>,
    b: Operand<'_, u8>,
    out: *mut u8,
    after: After<'_>,
) {
    fn typed<T>(x: Operand<'_, u8>) -> Operand<'_, T> {
        Operand {
            ptr: x.ptr.cast(),
            batch: x.batch,
            row: x.row,
            col: x.col,
            constant: x.constant,
        }
    }
    macro_rules! go {
        ($t:ty) => {
            // SAFETY: passed on from the caller.
            unsafe { matmul::<$t>(dims, typed(a), typed(b), out.cast(), after) }
        };
    }
    match dtype {
        DType::Bool => panic!("matmul: not defined for bool"),
        DType::U8 => go!(u8),
        DType::I32 => go!(i32),
        DType::I64 => go!(i64),
        DType::F16 => go!(f16),
        DType::BF16 => go!(bf16),
        DType::F32 => go!(f32),
        DType::F64 => go!(f64),
    }
}

impl<T> Problem<T> {
    /// Merges batch dimensions with each other and, where one operand is shared, with the rows.
    fn fold(dims: Dims<'_>, a: Operand<'_, T>, b: Operand<'_, T>, out: *mut T) -> Self {
        let mut p = Problem {
            batch: SmallVec::new(),
            a_batch: SmallVec::new(),
            b_batch: SmallVec::new(),
            m: dims.m,
            n: dims.n,
            k: dims.k,
            precision: dims.precision,
            a: (&a).into(),
            b: (&b).into(),
            out,
        };
        for d in 0..dims.batch.len() {
            let size = dims.batch[d];
            if size == 1 {
                continue;
            }
            let (sa, sb) = (a.batch[d], b.batch[d]);
            match (
                p.batch.last_mut(),
                p.a_batch.last_mut(),
                p.b_batch.last_mut(),
            ) {
                (Some(last), Some(la), Some(lb))
                    if *la == sa * size as isize && *lb == sb * size as isize =>
                {
                    *last *= size;
                    (*la, *lb) = (sa, sb);
                }
                _ => {
                    p.batch.push(size);
                    p.a_batch.push(sa);
                    p.b_batch.push(sb);
                }
            }
        }
        // `[batch, m, k] x [k, n]` is one product of `batch * m` rows if the rows are evenly spaced.
        while let (Some(&size), Some(&sa), Some(&0)) =
            (p.batch.last(), p.a_batch.last(), p.b_batch.last())
        {
            if p.m != 1 && sa != p.a.row * p.m as isize {
                break;
            }
            if p.m == 1 {
                p.a.row = sa;
            }
            p.m *= size;
            p.batch.pop();
            p.a_batch.pop();
            p.b_batch.pop();
        }
        if !p.batch.is_empty() {
            // Too many matrices to keep forms of.
            (p.a.constant, p.b.constant) = (None, None);
        }
        p
    }

    fn batches(&self) -> usize {
        self.batch.iter().product()
    }

    /// The matrices and the first linear output index of batch `i`.
    fn at(&self, i: usize) -> (Matrix<T>, Matrix<T>) {
        let (mut a, mut b) = (self.a, self.b);
        let mut rest = i;
        for d in (0..self.batch.len()).rev() {
            let at = (rest % self.batch[d]) as isize;
            rest /= self.batch[d];
            a.ptr = a.ptr.wrapping_offset(at * self.a_batch[d]);
            b.ptr = b.ptr.wrapping_offset(at * self.b_batch[d]);
        }
        (a, b)
    }
}

/// A typed, uninitialised block from the cache.
pub(super) struct Scratch<T> {
    storage: Storage,
    _of: std::marker::PhantomData<T>,
}

impl<T: Copy> Scratch<T> {
    pub fn new(len: usize) -> Self {
        Scratch {
            storage: Storage::scratch(len * size_of::<T>()),
            _of: std::marker::PhantomData,
        }
    }
    /// For a form, which may be kept if its operand is constant.
    pub fn of_form(len: usize, constant: Option<Constant>) -> Self {
        if constant.is_none() {
            return Scratch::new(len);
        }
        Scratch {
            storage: Storage::alloc(len * size_of::<T>()),
            _of: std::marker::PhantomData,
        }
    }
    pub fn ptr(&self) -> *mut T {
        self.storage.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests;
