//! Hand-written kernels for the ops that walk each row (or channel) a few times: softmax,
//! cross-entropy, layer norm and batch norm, with their gradients.
//!
//! A row stays in the L1 or L2 cache between its passes. All are generic over `f32` and `f64`;
//! sums over a row go from lanes of the element type into `f64`. The rows are cut among tasks by
//! shape alone.

mod batch_norm;
mod cross_entropy;
mod layer_norm;
mod softmax;
#[cfg(test)]
mod tests;

pub use batch_norm::{BatchNormGrad, batch_norm_apply, batch_norm_grad, batch_norm_stats};
pub use cross_entropy::{cross_entropy, cross_entropy_grad};
pub use layer_norm::{LayerNormGrad, layer_norm, layer_norm_grad};
pub use softmax::{log_softmax, log_softmax_grad, softmax, softmax_grad};

use super::math::{Lanes, Real};
use super::pool;
use super::reduce::kernel::{self, DEPTH, Kernel, LANES, WIDE};
use crate::Element;
use std::marker::PhantomData;
use std::ops::{Add, Mul, Range, Sub};

/// The element types of the row kernels: `f32` and `f64`.
pub trait RowFloat:
    Element
    + Real
    + Lanes<E = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Default
{
    /// The kernel that sums elements.
    type Sum: Kernel<In = Self, Lane = Self, Wide = f64>;
    /// The kernel that finds the largest element.
    type Max: Kernel<In = Self, Lane = Self, Wide = Self>;
}
impl RowFloat for f32 {
    type Sum = kernel::SumF32;
    type Max = kernel::MaxF32;
}
impl RowFloat for f64 {
    type Sum = kernel::SumF64;
    type Max = kernel::MaxF64;
}

/// The least number of elements that is worth a task of its own.
const TASK: usize = 1 << 14;
/// Short rows are handled in groups of about this many elements, which stay in L1, so that
/// elementwise passes run over many rows at once.
const GROUP: usize = 2048;
/// Sums over rows are taken in at most this many parts, merged in order.
const PARTS: usize = 64;

/// A mutable slice that tasks take disjoint parts of.
pub(super) struct Shared<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}
// SAFETY: parts are handed out only by `part`, whose callers keep them disjoint.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Shared {
            ptr: slice.as_mut_ptr(),
            len: slice.len(),
            life: PhantomData,
        }
    }
    /// # Safety
    /// Parts that are alive at the same time must not overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice, and alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}

/// Calls `f` with groups of rows of `n` elements, in parallel.
fn for_groups(rows: usize, n: usize, f: impl Fn(Range<usize>) + Sync) {
    if rows == 0 || n == 0 {
        return;
    }
    let group = (GROUP / n).max(1);
    let per_task = (TASK / n).next_multiple_of(group).max(group);
    pool::run_chunks(rows, per_task, |task| {
        let mut start = task.start;
        while start < task.end {
            let end = task.end.min(start + group);
            f(start..end);
            start = end;
        }
    });
}

/// The number of rows of `n` elements in `x`.
#[track_caller]
fn row_count<T>(x: &[T], n: usize) -> usize {
    match n {
        0 => 0,
        _ => {
            assert!(
                x.len().is_multiple_of(n),
                "{} elements are no rows of {n}",
                x.len()
            );
            x.len() / n
        }
    }
}

/// The sum of `f(a[i], b[i])`, for use inside a dispatched function.
#[inline(always)]
pub(super) fn sum2<T: RowFloat>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> f64 {
    let zero = T::default();
    let (a64, a_rest) = a.as_chunks::<LANES>();
    let (b64, b_rest) = b[..a.len()].as_chunks::<LANES>();
    let mut result = 0.0;
    if !a64.is_empty() {
        let mut wide = [0.0f64; WIDE];
        for (a, b) in a64.chunks(DEPTH).zip(b64.chunks(DEPTH)) {
            let mut lanes = [zero; LANES];
            for (a, b) in a.iter().zip(b) {
                for i in 0..LANES {
                    lanes[i] = lanes[i] + f(a[i], b[i]);
                }
            }
            let lanes: [T; WIDE] = kernel::joined(lanes, |a, b| a + b);
            for i in 0..WIDE {
                wide[i] += lanes[i].to_f64();
            }
        }
        result = kernel::tree(wide, |a, b| a + b);
    }
    let (a8, a_rest) = a_rest.as_chunks::<8>();
    let (b8, b_rest) = b_rest.as_chunks::<8>();
    if !a8.is_empty() {
        let mut lanes = [zero; 8];
        for (a, b) in a8.iter().zip(b8) {
            for i in 0..8 {
                lanes[i] = lanes[i] + f(a[i], b[i]);
            }
        }
        result += kernel::tree(lanes, |a, b| a + b).to_f64();
    }
    let rest = a_rest
        .iter()
        .zip(b_rest)
        .fold(zero, |s, (&a, &b)| s + f(a, b));
    result + rest.to_f64()
}
