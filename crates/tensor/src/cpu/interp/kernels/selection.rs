//! One of two values, by a third.

use super::floats::{fetch, splat};
use super::*;

pub(super) struct Select<E, const A: u8, const B: u8>(PhantomData<E>);

impl<E: Float, const A: u8, const B: u8> Body for Select<E, A, B> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, c: *const u8, a: *const u8, b: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { select_lanes::<E::In<R>, E, A, B>(n, d.cast(), c, a.cast(), b.cast()) }
    }
}

#[inline(always)]
pub(super) unsafe fn select_lanes<V: Lanes<E = E>, E: Float, const A: u8, const B: u8>(
    n: usize,
    d: *mut E,
    c: *const u8,
    a: *const E,
    b: *const E,
) {
    // SAFETY: all indices stay below n.
    unsafe {
        let (sa, sb) = (splat::<V, A>(a), splat::<V, B>(b));
        let mut i = 0;
        while i + V::N <= n {
            let (x, y) = (fetch::<V, A>(a, i, sa), fetch::<V, B>(b, i, sb));
            V::select(V::load_mask(c.add(i)), x, y).store(d.add(i));
            i += V::N;
        }
        while i < n {
            let p = match *c.add(i) != 0 {
                true => a.add(if A == SCALAR { 0 } else { i }),
                false => b.add(if B == SCALAR { 0 } else { i }),
            };
            d.add(i).write_unaligned(p.read_unaligned());
            i += 1;
        }
    }
}

pub(super) struct SelectBytes;
impl Body for SelectBytes {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, c: *const u8, a: *const u8, b: *const u8) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                let mask = 0u8.wrapping_sub((*c.add(i) != 0) as u8);
                *d.add(i) = (*a.add(i) & mask) | (*b.add(i) & !mask);
            }
        }
    }
}

/// `d = if c { a } else { b }` (in this order of operands) for elements of `size` bytes in
/// registers; moves bits. `None`: only vectors will do.
pub(in crate::cpu::interp) fn select(
    level: Level,
    size: usize,
    scalar: [bool; 2],
) -> Option<Kernel> {
    macro_rules! table {
        ($E:ty) => {
            match scalar {
                [false, false] => pick::<Select<$E, VECTOR, VECTOR>>(level),
                [false, true] => pick::<Select<$E, VECTOR, SCALAR>>(level),
                [true, false] => pick::<Select<$E, SCALAR, VECTOR>>(level),
                [true, true] => pick::<Select<$E, SCALAR, SCALAR>>(level),
            }
        };
    }
    match size {
        8 => Some(table!(f64)),
        4 => Some(table!(f32)),
        _ => (scalar == [false; 2]).then(|| pick::<SelectBytes>(level)),
    }
}
