//! Vector mathematics.
//!
//! Each function is branch-free arithmetic over [`Lanes`] and gives the same bits on every
//! instruction set (wherever a fused multiply-add is wanted, it is written). Measured errors, in
//! units in the last place over every 97th `f32`: at most 2 (see the tests, which assert it).
//! Subnormal results may be zero and subnormal arguments may count as zero (`cpu::simd`).
//!
//! Other kernels use the scalar functions [`exp`], [`tanh`], ...: they are `#[inline(always)]`,
//! so a plain loop over them inside [`simd_dispatch!`](crate::simd_dispatch) is vectorised (except
//! [`sin`] and [`cos`], whose huge arguments branch).

mod double;
pub mod lanes;
mod single;

pub use lanes::Lanes;

/// The functions of one element type, over any [`Lanes`] of it.
#[allow(missing_docs)]
pub trait Real: Copy + Default {
    fn exp<V: Lanes<E = Self>>(x: V) -> V;
    fn expm1<V: Lanes<E = Self>>(x: V) -> V;
    fn log<V: Lanes<E = Self>>(x: V) -> V;
    fn log1p<V: Lanes<E = Self>>(x: V) -> V;
    fn sin<V: Lanes<E = Self>>(x: V) -> V;
    fn cos<V: Lanes<E = Self>>(x: V) -> V;
    fn tanh<V: Lanes<E = Self>>(x: V) -> V;
    fn sigmoid<V: Lanes<E = Self>>(x: V) -> V;
    fn erf<V: Lanes<E = Self>>(x: V) -> V;
    fn pow<V: Lanes<E = Self>>(x: V, y: V) -> V;
}

macro_rules! scalar_functions {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<T: Real + Lanes<E = T>>(x: T) -> T {
            T::$name(x)
        }
    )*};
}
scalar_functions! {
    /// e^x.
    exp
    /// e^x - 1, accurate near 0.
    expm1
    /// Natural logarithm.
    log
    /// log(1 + x), accurate near 0.
    log1p
    /// Sine of radians.
    sin
    /// Cosine of radians.
    cos
    /// Hyperbolic tangent.
    tanh
    /// 1 / (1 + e^-x).
    sigmoid
    /// The error function.
    erf
}

/// C's `pow`.
#[inline(always)]
pub fn pow<T: Real + Lanes<E = T>>(x: T, y: T) -> T {
    T::pow(x, y)
}

/// c[0] + c[1] x + c[2] x^2 + ...
#[inline(always)]
fn horner<V: Lanes, const N: usize>(x: V, c: &[f64; N]) -> V {
    let mut y = V::c(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        y = y.fma(x, V::c(c[i]));
    }
    y
}

/// To the nearest `bf16` (ties to even), kept as `f32`.
#[inline(always)]
pub fn round_bf16<V: Lanes<E = f32>>(x: V) -> V {
    let odd = x.shr::<16>().and(V::bits(1));
    let y = x.iadd(odd.iadd(V::bits(0x7fff))).and(V::bits(0xffff0000));
    V::select(x.ne(x), V::c(f64::NAN), y)
}

/// To the nearest `f16` (ties to even, subnormals kept, overflow to infinity), kept as `f32`.
#[inline(always)]
pub fn round_f16<V: Lanes<E = f32>>(x: V) -> V {
    let a = x.abs();
    // Adding 2^13 times the leading power of two (at least 2^-14) leaves 10 bits after it.
    let power = a.and(V::bits(0x7f800000)).greater(V::c(6.103515625e-5));
    let c = power.mul(V::c(8192.0));
    let y = a.add(c).sub(c);
    x.sign_onto(V::select(
        a.lt(V::c(65520.0)),
        y,
        a.add(V::c(f64::INFINITY)),
    ))
}

#[cfg(test)]
mod tests;
