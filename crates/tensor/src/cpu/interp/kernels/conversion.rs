//! Between element types, and between memory and registers.

use super::floats::{Drive, Same, Value};
use super::*;

pub(super) struct Convert<S, D, P>(PhantomData<(S, D, P)>);
/// A value of this register type converted to another.
pub(super) trait To<D> {
    fn to(self) -> D;
}
macro_rules! to {
    ($($S:ty => $($D:ty)*;)*) => {$($(
        impl To<$D> for $S {
            #[inline(always)]
            fn to(self) -> $D {
                self as $D
            }
        }
    )*)*};
}
to! {
    u8 => u8 i32 i64 f32 f64;
    i32 => u8 i32 i64 f32 f64;
    i64 => u8 i32 i64 f32 f64;
    f32 => u8 i32 i64 f32 f64;
    f64 => u8 i32 i64 f32 f64;
}
/// The rounding after a conversion, for any type.
pub(super) trait Finish<D> {
    fn finish(x: D) -> D;
}
impl<D> Finish<D> for Exact {
    #[inline(always)]
    fn finish(x: D) -> D {
        x
    }
}
impl Finish<f32> for ToBf16 {
    #[inline(always)]
    fn finish(x: f32) -> f32 {
        math::round_bf16(x)
    }
}
impl Finish<f32> for ToF16 {
    #[inline(always)]
    fn finish(x: f32) -> f32 {
        math::round_f16(x)
    }
}
impl<S: To<D> + Copy, D, P: Finish<D>> Body for Convert<S, D, P> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, _: *const u8, _: *const u8) {
        let (d, a) = (d.cast::<D>(), a.cast::<S>());
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                d.add(i)
                    .write_unaligned(P::finish(a.add(i).read_unaligned().to()))
            }
        }
    }
}
/// Anything to bool.
pub(super) struct IsNonZero<S>(PhantomData<S>);
impl<S: PartialEq + Default + Copy> Body for IsNonZero<S> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, _: *const u8, _: *const u8) {
        let a = a.cast::<S>();
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe { *d.add(i) = (a.add(i).read_unaligned() != S::default()) as u8 }
        }
    }
}

/// The conversion between two types as registers hold them.
pub(in crate::cpu::interp) fn cast(level: Level, from: DType, to: DType) -> Kernel {
    macro_rules! from {
        ($S:ty) => {
            match to {
                DType::Bool => pick::<IsNonZero<$S>>(level),
                DType::U8 => pick::<Convert<$S, u8, Exact>>(level),
                DType::I32 => pick::<Convert<$S, i32, Exact>>(level),
                DType::I64 => pick::<Convert<$S, i64, Exact>>(level),
                DType::F16 => pick::<Convert<$S, f32, ToF16>>(level),
                DType::BF16 => pick::<Convert<$S, f32, ToBf16>>(level),
                DType::F32 => pick::<Convert<$S, f32, Exact>>(level),
                DType::F64 => pick::<Convert<$S, f64, Exact>>(level),
            }
        };
    }
    match from {
        DType::Bool | DType::U8 => from!(u8),
        DType::I32 => from!(i32),
        DType::I64 => from!(i64),
        DType::F64 => from!(f64),
        DType::F32 if to == DType::BF16 => {
            pick::<Drive<f32, Value<Same, ToBf16>, VECTOR, NONE, NONE>>(level)
        }
        DType::F32 if to == DType::F16 => {
            pick::<Drive<f32, Value<Same, ToF16>, VECTOR, NONE, NONE>>(level)
        }
        DType::F16 | DType::BF16 | DType::F32 => from!(f32),
    }
}

/// The 16 bits of an `f32` that is already rounded to `bf16`.
#[inline(always)]
pub(in crate::cpu::interp) fn encode_bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}
#[inline(always)]
pub(in crate::cpu::interp) fn decode_bf16(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}
/// The 16 bits of an `f32` that is already rounded to `f16`.
#[inline(always)]
pub(in crate::cpu::interp) fn encode_f16(x: f32) -> u16 {
    let b = x.to_bits();
    let (sign, a) = (((b >> 16) & 0x8000) as u16, b & 0x7fff_ffff);
    let normal = (a.wrapping_sub(112 << 23) >> 13) as u16;
    let tiny = (f32::from_bits(a) * 16777216.0) as i32 as u16;
    let special = if a > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    sign | if a >= 0x4780_0000 {
        special
    } else if a < 0x3880_0000 {
        tiny
    } else {
        normal
    }
}
#[inline(always)]
pub(in crate::cpu::interp) fn decode_f16(h: u16) -> f32 {
    let h = h as u32;
    let (sign, a) = ((h & 0x8000) << 16, h & 0x7fff);
    let normal = (a << 13) + (112 << 23);
    // Exact in f32, and never subnormal there.
    let tiny = (a as i32 as f32 * 5.9604645e-8).to_bits();
    let special = (a << 13) | 0x7f80_0000;
    f32::from_bits(
        sign | if a >= 0x7c00 {
            special
        } else if a < 0x400 {
            tiny
        } else {
            normal
        },
    )
}

pub(super) struct Recode<const ENCODE: bool, const BF16: bool>;
impl<const ENCODE: bool, const BF16: bool> Body for Recode<ENCODE, BF16> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, _: *const u8, _: *const u8) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                if ENCODE {
                    let x = a.cast::<f32>().add(i).read_unaligned();
                    let h = if BF16 { encode_bf16(x) } else { encode_f16(x) };
                    d.cast::<u16>().add(i).write_unaligned(h);
                } else {
                    let h = a.cast::<u16>().add(i).read_unaligned();
                    let x = if BF16 { decode_bf16(h) } else { decode_f16(h) };
                    d.cast::<f32>().add(i).write_unaligned(x);
                }
            }
        }
    }
}

/// From a register to memory of a half type.
pub(in crate::cpu::interp) fn encode(level: Level, dtype: DType) -> Kernel {
    match dtype {
        DType::BF16 => pick::<Recode<true, true>>(level),
        _ => pick::<Recode<true, false>>(level),
    }
}

/// From memory of a half type to a register.
pub(in crate::cpu::interp) fn decode(level: Level, dtype: DType) -> Kernel {
    match dtype {
        DType::BF16 => pick::<Recode<false, true>>(level),
        _ => pick::<Recode<false, false>>(level),
    }
}
