//! One SIMD loop per instruction, element type and operand kind.
//!
//! A [`Kernel`] computes `d[i] = op(a[i], b[i], c[i])` for `i < n`. An operand may be a scalar,
//! read once. `d` may be the very address of an operand of the same element size, but may not
//! overlap one otherwise.
//!
//! Registers hold `bool` as bytes 0 and 1, `f16` and `bf16` as `f32` rounded to them, and all
//! other types as themselves.

mod conversion;
mod floats;
mod integers;
mod selection;

pub(super) use conversion::{cast, decode, decode_bf16, decode_f16, encode};
#[cfg(test)]
pub(super) use conversion::{encode_bf16, encode_f16};
pub(super) use floats::{Exact, Post, ToBf16, ToF16, binary, unary};
pub(super) use selection::select;

use crate::DType;
use crate::cpu::math::lanes::Several;
use crate::cpu::math::{self, Lanes, Real};
use crate::cpu::simd::Level;
use crate::tape::{Binary, Unary};
use std::marker::PhantomData;

/// `(n, d, a, b, c)`; operands that the operation does not have are ignored.
pub(super) type Kernel = unsafe fn(usize, *mut u8, *const u8, *const u8, *const u8);

/// How a kernel reads an operand.
const NONE: u8 = 0;
const VECTOR: u8 = 1;
const SCALAR: u8 = 2;

/// The registers of an instruction set.
pub(super) trait Registers {
    type F32: Lanes<E = f32>;
    type F64: Lanes<E = f64>;
}

/// An element type and its registers.
pub(super) trait Float: Real {
    type In<R: Registers>: Lanes<E = Self>;
}
impl Float for f32 {
    type In<R: Registers> = R::F32;
}
impl Float for f64 {
    type In<R: Registers> = R::F64;
}

/// What a kernel does, for any instruction set.
pub(super) trait Body {
    /// # Safety
    /// As for a [`Kernel`]: the pointers must be good for `n` elements (scalars: for one).
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, b: *const u8, c: *const u8);
}

pub(super) struct Plain;
impl Registers for Plain {
    type F32 = f32;
    type F64 = f64;
}
unsafe fn plain<B: Body>(n: usize, d: *mut u8, a: *const u8, b: *const u8, c: *const u8) {
    // SAFETY: the caller's promise.
    unsafe { B::run::<Plain>(n, d, a, b, c) }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{Body, Registers};
    use crate::cpu::math::lanes::{F32x8, F32x16, F64x4, F64x8};

    pub struct Avx2;
    impl Registers for Avx2 {
        type F32 = F32x8;
        type F64 = F64x4;
    }
    pub struct Avx512;
    impl Registers for Avx512 {
        type F32 = F32x16;
        type F64 = F64x8;
    }
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    pub unsafe fn avx2<B: Body>(n: usize, d: *mut u8, a: *const u8, b: *const u8, c: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { B::run::<Avx2>(n, d, a, b, c) }
    }
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
    )]
    pub unsafe fn avx512<B: Body>(n: usize, d: *mut u8, a: *const u8, b: *const u8, c: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { B::run::<Avx512>(n, d, a, b, c) }
    }
}

/// The version of a kernel for a level.
pub(super) fn pick<B: Body>(level: Level) -> Kernel {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => x86::avx512::<B>,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => x86::avx2::<B>,
        _ => plain::<B>,
    }
}

/// Copies elements of `size` bytes.
pub(super) fn copy(size: usize) -> Kernel {
    unsafe fn copy<const SIZE: usize>(
        n: usize,
        d: *mut u8,
        a: *const u8,
        _: *const u8,
        _: *const u8,
    ) {
        // SAFETY: the caller's promise; `copy` allows d == a.
        unsafe { std::ptr::copy(a, d, n * SIZE) }
    }
    match size {
        1 => copy::<1>,
        2 => copy::<2>,
        4 => copy::<4>,
        _ => copy::<8>,
    }
}

/// Repeats one element of `size` bytes.
pub(super) fn fill(size: usize) -> Kernel {
    unsafe fn fill<T: Copy>(n: usize, d: *mut u8, a: *const u8, _: *const u8, _: *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = a.cast::<T>().read_unaligned();
            for i in 0..n {
                d.cast::<T>().add(i).write_unaligned(x);
            }
        }
    }
    match size {
        1 => fill::<u8>,
        2 => fill::<u16>,
        4 => fill::<u32>,
        _ => fill::<u64>,
    }
}
