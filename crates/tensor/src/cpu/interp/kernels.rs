//! One SIMD loop per instruction, element type and operand kind.
//!
//! A [`Kernel`] computes `d[i] = op(a[i], b[i], c[i])` for `i < n`. An operand may be a scalar,
//! read once. `d` may be the very address of an operand of the same element size, but may not
//! overlap one otherwise.
//!
//! Registers hold `bool` as bytes 0 and 1, `f16` and `bf16` as `f32` rounded to them, and all
//! other types as themselves.

use crate::DType;
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

// ---------------------------------------------------------------- floats

/// What is done with a group of lanes.
trait Op<E: Float> {
    /// Bytes of one result.
    const OUT: usize;
    /// Groups per turn of the loop.
    const UNROLL: usize;
    /// # Safety
    /// `d` must be writable for `V::N * OUT` bytes.
    unsafe fn emit<V: Lanes<E = E>>(x: V, y: V, z: V, d: *mut u8);
}

struct Drive<E, O, const A: u8, const B: u8, const C: u8>(PhantomData<(E, O)>);

impl<E: Float, O: Op<E>, const A: u8, const B: u8, const C: u8> Body for Drive<E, O, A, B, C> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, b: *const u8, c: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { drive::<E::In<R>, E, O, A, B, C>(n, d, a.cast(), b.cast(), c.cast()) }
    }
}

#[inline(always)]
unsafe fn splat<V: Lanes, const K: u8>(p: *const V::E) -> V {
    match K {
        // SAFETY: the caller's promise: a scalar operand is one element.
        SCALAR => V::splat(unsafe { p.read_unaligned() }),
        _ => V::c(0.0),
    }
}

#[inline(always)]
unsafe fn fetch<V: Lanes, const K: u8>(p: *const V::E, i: usize, splat: V) -> V {
    match K {
        // SAFETY: the caller stays within the operand.
        VECTOR => unsafe { V::load(p.add(i)) },
        _ => splat,
    }
}

#[inline(always)]
unsafe fn drive<V, E, O, const A: u8, const B: u8, const C: u8>(
    n: usize,
    d: *mut u8,
    a: *const E,
    b: *const E,
    c: *const E,
) where
    V: Lanes<E = E>,
    E: Float,
    O: Op<E>,
{
    // SAFETY: all indices stay below n; a group is read whole before any of it is written, so
    // `d` may be an operand.
    unsafe {
        let (sa, sb, sc) = (splat::<V, A>(a), splat::<V, B>(b), splat::<V, C>(c));
        let mut i = 0;
        if O::UNROLL == 4 {
            while i + 4 * V::N <= n {
                let (mut x, mut y, mut z) = ([sa; 4], [sb; 4], [sc; 4]);
                for u in 0..4 {
                    let j = i + u * V::N;
                    x[u] = fetch::<V, A>(a, j, sa);
                    y[u] = fetch::<V, B>(b, j, sb);
                    z[u] = fetch::<V, C>(c, j, sc);
                }
                for u in 0..4 {
                    O::emit(x[u], y[u], z[u], d.add((i + u * V::N) * O::OUT));
                }
                i += 4 * V::N;
            }
        }
        while i + V::N <= n {
            let x = fetch::<V, A>(a, i, sa);
            let y = fetch::<V, B>(b, i, sb);
            let z = fetch::<V, C>(c, i, sc);
            O::emit(x, y, z, d.add(i * O::OUT));
            i += V::N;
        }
        if i < n {
            // The last few lanes through a buffer.
            let (mut x, mut y, mut z) =
                ([E::default(); 16], [E::default(); 16], [E::default(); 16]);
            let mut out = [0u64; 16];
            for j in 0..n - i {
                x[j] = if A == VECTOR {
                    a.add(i + j).read_unaligned()
                } else {
                    E::default()
                };
                y[j] = if B == VECTOR {
                    b.add(i + j).read_unaligned()
                } else {
                    E::default()
                };
                z[j] = if C == VECTOR {
                    c.add(i + j).read_unaligned()
                } else {
                    E::default()
                };
            }
            let x = fetch::<V, A>(x.as_ptr(), 0, sa);
            let y = fetch::<V, B>(y.as_ptr(), 0, sb);
            let z = fetch::<V, C>(z.as_ptr(), 0, sc);
            O::emit(x, y, z, out.as_mut_ptr().cast());
            let bytes = (n - i) * O::OUT;
            std::ptr::copy_nonoverlapping(out.as_ptr().cast::<u8>(), d.add(i * O::OUT), bytes);
        }
    }
}

/// The rounding after an instruction.
pub(super) trait Post<E: Float> {
    fn post<V: Lanes<E = E>>(x: V) -> V;
}
pub(super) struct Exact;
impl<E: Float> Post<E> for Exact {
    #[inline(always)]
    fn post<V: Lanes<E = E>>(x: V) -> V {
        x
    }
}
pub(super) struct ToBf16;
impl Post<f32> for ToBf16 {
    #[inline(always)]
    fn post<V: Lanes<E = f32>>(x: V) -> V {
        math::round_bf16(x)
    }
}
pub(super) struct ToF16;
impl Post<f32> for ToF16 {
    #[inline(always)]
    fn post<V: Lanes<E = f32>>(x: V) -> V {
        math::round_f16(x)
    }
}

/// A function with a float result.
trait ValueOp<E: Float> {
    const UNROLL: usize;
    fn call<V: Lanes<E = E>>(x: V, y: V, z: V) -> V;
}
struct Value<O, P>(PhantomData<(O, P)>);
impl<E: Float, O: ValueOp<E>, P: Post<E>> Op<E> for Value<O, P> {
    const OUT: usize = size_of::<E>();
    const UNROLL: usize = O::UNROLL;
    #[inline(always)]
    unsafe fn emit<V: Lanes<E = E>>(x: V, y: V, z: V, d: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { P::post(O::call(x, y, z)).store(d.cast()) }
    }
}

macro_rules! value_ops {
    ($($Op:ident $unroll:literal |$x:ident, $y:ident| $e:expr;)*) => {$(
        struct $Op;
        impl<E: Float> ValueOp<E> for $Op {
            const UNROLL: usize = $unroll;
            #[inline(always)]
            fn call<V: Lanes<E = E>>($x: V, $y: V, _: V) -> V {
                $e
            }
        }
    )*};
}
value_ops! {
    Same 4 |x, _y| x;
    Neg 4 |x, _y| x.neg();
    Abs 4 |x, _y| x.abs();
    Sign 4 |x, _y| {
        let (zero, one) = (V::c(0.0), V::c(1.0));
        V::select(zero.lt(x), one, zero).sub(V::select(x.lt(zero), one, zero))
    };
    Floor 4 |x, _y| x.floor();
    Ceil 4 |x, _y| x.ceil();
    Round 4 |x, _y| x.round();
    Trunc 4 |x, _y| x.trunc();
    Sqrt 4 |x, _y| x.sqrt();
    Rsqrt 4 |x, _y| V::c(1.0).div(x.sqrt());
    Recip 4 |x, _y| V::c(1.0).div(x);
    Relu 4 |x, _y| V::select(x.lt(V::c(0.0)), V::c(0.0), x);
    Exp 1 |x, _y| E::exp(x);
    Expm1 1 |x, _y| E::expm1(x);
    Log 1 |x, _y| E::log(x);
    Log1p 1 |x, _y| E::log1p(x);
    Sin 1 |x, _y| E::sin(x);
    Cos 1 |x, _y| E::cos(x);
    Tanh 1 |x, _y| E::tanh(x);
    Erf 1 |x, _y| E::erf(x);
    Sigmoid 1 |x, _y| E::sigmoid(x);
    Add 4 |x, y| x.add(y);
    Sub 4 |x, y| x.sub(y);
    Mul 4 |x, y| x.mul(y);
    Div 4 |x, y| x.div(y);
    Max 4 |x, y| V::select(x.ne(x), x, x.greater(y));
    Min 4 |x, y| V::select(x.ne(x), x, x.lesser(y));
    Pow 1 |x, y| E::pow(x, y);
}

/// A comparison, giving bytes.
trait Test<E: Float> {
    fn test<V: Lanes<E = E>>(x: V, y: V) -> V::M;
}
struct Compare<O>(PhantomData<O>);
impl<E: Float, O: Test<E>> Op<E> for Compare<O> {
    const OUT: usize = 1;
    const UNROLL: usize = 4;
    #[inline(always)]
    unsafe fn emit<V: Lanes<E = E>>(x: V, y: V, _: V, d: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { V::store_mask(O::test(x, y), d) }
    }
}
macro_rules! tests {
    ($($Op:ident |$x:ident, $y:ident| $e:expr;)*) => {$(
        struct $Op;
        impl<E: Float> Test<E> for $Op {
            #[inline(always)]
            fn test<V: Lanes<E = E>>($x: V, $y: V) -> V::M {
                $e
            }
        }
    )*};
}
tests! {
    Eq |x, y| x.eq(y);
    Ne |x, y| x.ne(y);
    Lt |x, y| x.lt(y);
    Le |x, y| x.le(y);
    Gt |x, y| y.lt(x);
    Ge |x, y| y.le(x);
}

/// The remainder with the divisor's sign, one element at a time: `fmod` is exact but has no
/// vector instruction.
struct Rem<E, P, const A: u8, const B: u8>(PhantomData<(E, P)>);

macro_rules! float_rem {
    ($t:ty) => {
        impl<P: Post<$t>, const A: u8, const B: u8> Body for Rem<$t, P, A, B> {
            #[inline(always)]
            unsafe fn run<R: Registers>(
                n: usize,
                d: *mut u8,
                a: *const u8,
                b: *const u8,
                _: *const u8,
            ) {
                let (d, a, b) = (d.cast::<$t>(), a.cast::<$t>(), b.cast::<$t>());
                for i in 0..n {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let x = a.add(if A == SCALAR { 0 } else { i }).read_unaligned();
                        let y = b.add(if B == SCALAR { 0 } else { i }).read_unaligned();
                        let r = x % y;
                        let r = if r != 0.0 && (r < 0.0) != (y < 0.0) {
                            r + y
                        } else {
                            r
                        };
                        d.add(i).write_unaligned(P::post(r));
                    }
                }
            }
        }
    };
}
float_rem!(f32);
float_rem!(f64);

/// Picks a kernel for one of the float types; `$P` is the rounding.
macro_rules! float_kernel {
    ($level:expr, $dtype:expr, |$E:ident, $P:ident| $Body:ty) => {
        match $dtype {
            DType::F32 => {
                type $E = f32;
                type $P = Exact;
                pick::<$Body>($level)
            }
            DType::F64 => {
                type $E = f64;
                type $P = Exact;
                pick::<$Body>($level)
            }
            DType::BF16 => {
                type $E = f32;
                type $P = ToBf16;
                pick::<$Body>($level)
            }
            DType::F16 => {
                type $E = f32;
                type $P = ToF16;
                pick::<$Body>($level)
            }
            other => unreachable!("not a float: {other}"),
        }
    };
}

/// The kernel of a unary operation.
pub(super) fn unary(level: Level, op: Unary, dtype: DType) -> Kernel {
    if !dtype.is_float() {
        return int_unary(level, op, dtype);
    }
    macro_rules! table {
        ($($op:ident)*) => {
            match op {
                $(Unary::$op => float_kernel!(level, dtype, |E, P| Drive<E, Value<$op, P>, VECTOR, NONE, NONE>),)*
                Unary::Not => unreachable!("tape checked"),
            }
        };
    }
    table!(Neg Abs Sign Floor Ceil Round Trunc Sqrt Rsqrt Recip Exp Expm1 Log Log1p Sin Cos Tanh Erf Sigmoid Relu)
}

/// The kernel of a binary operation on `dtype`, of which one operand may be a scalar. `None`: only
/// vectors will do.
pub(super) fn binary(level: Level, op: Binary, dtype: DType, scalar: [bool; 2]) -> Option<Kernel> {
    if !dtype.is_float() {
        return (scalar == [false; 2]).then(|| int_binary(level, op, dtype));
    }
    // Comparisons of rounded values need no rounding.
    let compared = if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    };
    macro_rules! table {
        ($A:ident $B:ident) => {
            table!($A $B; Add Sub Mul Div Pow Max Min; Eq Ne Lt Le Gt Ge)
        };
        ($A:ident $B:ident; $($op:ident)*; $($test:ident)*) => {
            match op {
                $(Binary::$op => float_kernel!(level, dtype, |E, P| Drive<E, Value<$op, P>, $A, $B, NONE>),)*
                $(Binary::$test => match compared {
                    DType::F64 => pick::<Drive<f64, Compare<$test>, $A, $B, NONE>>(level),
                    _ => pick::<Drive<f32, Compare<$test>, $A, $B, NONE>>(level),
                },)*
                Binary::Rem => float_kernel!(level, dtype, |E, P| Rem<E, P, $A, $B>),
                Binary::And | Binary::Or | Binary::Xor => unreachable!("tape checked"),
            }
        };
    }
    Some(match scalar {
        [false, false] => table!(VECTOR VECTOR),
        [false, true] => table!(VECTOR SCALAR),
        [true, false] => table!(SCALAR VECTOR),
        [true, true] => return None,
    })
}

// ---------------------------------------------------------------- selection

struct Select<E, const A: u8, const B: u8>(PhantomData<E>);

impl<E: Float, const A: u8, const B: u8> Body for Select<E, A, B> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, c: *const u8, a: *const u8, b: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { select_lanes::<E::In<R>, E, A, B>(n, d.cast(), c, a.cast(), b.cast()) }
    }
}

#[inline(always)]
unsafe fn select_lanes<V: Lanes<E = E>, E: Float, const A: u8, const B: u8>(
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

struct SelectBytes;
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
pub(super) fn select(level: Level, size: usize, scalar: [bool; 2]) -> Option<Kernel> {
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

// ---------------------------------------------------------------- integers and bools

/// `O` on plain elements, vectorised by the compiler where it can be.
struct Scalars<T, D, O>(PhantomData<(T, D, O)>);
trait ScalarOp<T, D> {
    fn call(x: T, y: T) -> D;
}
impl<T: Copy, D, O: ScalarOp<T, D>> Body for Scalars<T, D, O> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, b: *const u8, _: *const u8) {
        let (d, a, b) = (d.cast::<D>(), a.cast::<T>(), b.cast::<T>());
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                d.add(i).write_unaligned(O::call(
                    a.add(i).read_unaligned(),
                    b.add(i).read_unaligned(),
                ))
            }
        }
    }
}

macro_rules! scalar_ops {
    ($T:ty => $D:ty; $($Op:ident |$x:ident, $y:ident| $e:expr;)*) => {$(
        impl ScalarOp<$T, $D> for $Op {
            #[inline(always)]
            #[allow(unused_comparisons, clippy::absurd_extreme_comparisons)]
            fn call($x: $T, $y: $T) -> $D {
                $e
            }
        }
    )*};
}
struct And;
struct Or;
struct Xor;
struct Not;
struct IntRem;

macro_rules! int_ops {
    ($T:ident, |$a:ident| $abs:expr, |$s:ident| $sign:expr, |$p:ident, $q:ident| $rem:expr) => {
        scalar_ops! { $T => $T;
            Same |x, _y| x;
            Neg |x, _y| x.wrapping_neg();
            Abs |$a, _y| $abs;
            Sign |$s, _y| $sign;
            Relu |x, _y| x.max(0);
            Not |x, _y| !x;
            Add |x, y| x.wrapping_add(y);
            Sub |x, y| x.wrapping_sub(y);
            Mul |x, y| x.wrapping_mul(y);
            Div |x, y| if y == 0 { 0 } else { x.wrapping_div(y) };
            IntRem |$p, $q| $rem;
            Max |x, y| x.max(y);
            Min |x, y| x.min(y);
            And |x, y| x & y;
            Or |x, y| x | y;
            Xor |x, y| x ^ y;
            Pow |x, y| {
                if y < 0 {
                    // 1 / x^-y, truncated.
                    if x == 1 { 1 } else if x.wrapping_add(1) == 0 { if y & 1 == 0 { 1 } else { x } } else { 0 }
                } else {
                    let (mut base, mut e, mut r) = (x, y, 1 as $T);
                    while e != 0 {
                        if e & 1 == 1 {
                            r = r.wrapping_mul(base);
                        }
                        base = base.wrapping_mul(base);
                        e >>= 1;
                    }
                    r
                }
            };
        }
        scalar_ops! { $T => u8;
            Eq |x, y| (x == y) as u8;
            Ne |x, y| (x != y) as u8;
            Lt |x, y| (x < y) as u8;
            Le |x, y| (x <= y) as u8;
            Gt |x, y| (x > y) as u8;
            Ge |x, y| (x >= y) as u8;
        }
    };
}
macro_rules! signed_rem {
    ($x:ident, $y:ident) => {{
        if $y == 0 {
            0
        } else {
            let r = $x.wrapping_rem($y);
            if r != 0 && (r < 0) != ($y < 0) {
                r + $y
            } else {
                r
            }
        }
    }};
}
int_ops!(
    i32,
    |x| x.wrapping_abs(),
    |x| x.signum(),
    |x, y| signed_rem!(x, y)
);
int_ops!(
    i64,
    |x| x.wrapping_abs(),
    |x| x.signum(),
    |x, y| signed_rem!(x, y)
);
// u8 compares and computes as u8; the comparison ops of `u8 => u8` come from the same macro.
macro_rules! byte_ops {
    () => {
        scalar_ops! { u8 => u8;
            Same |x, _y| x;
            Neg |x, _y| x.wrapping_neg();
            Sign |x, _y| (x != 0) as u8;
            Not |x, _y| !x;
            Add |x, y| x.wrapping_add(y);
            Sub |x, y| x.wrapping_sub(y);
            Mul |x, y| x.wrapping_mul(y);
            Div |x, y| if y == 0 { 0 } else { x / y };
            IntRem |x, y| if y == 0 { 0 } else { x % y };
            Max |x, y| x.max(y);
            Min |x, y| x.min(y);
            And |x, y| x & y;
            Or |x, y| x | y;
            Xor |x, y| x ^ y;
            Eq |x, y| (x == y) as u8;
            Ne |x, y| (x != y) as u8;
            Lt |x, y| (x < y) as u8;
            Le |x, y| (x <= y) as u8;
            Gt |x, y| (x > y) as u8;
            Ge |x, y| (x >= y) as u8;
            Pow |x, y| {
                let (mut base, mut e, mut r) = (x, y, 1u8);
                while e != 0 {
                    if e & 1 == 1 {
                        r = r.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    e >>= 1;
                }
                r
            };
        }
    };
}
byte_ops!();
/// Not on bools.
struct Flip;
scalar_ops! { u8 => u8; Flip |x, _y| x ^ 1; }

fn int_unary(level: Level, op: Unary, dtype: DType) -> Kernel {
    macro_rules! of {
        ($Op:ident) => {
            match dtype {
                DType::I32 => pick::<Scalars<i32, i32, $Op>>(level),
                DType::I64 => pick::<Scalars<i64, i64, $Op>>(level),
                _ => pick::<Scalars<u8, u8, $Op>>(level),
            }
        };
    }
    let byte = dtype.size() == 1;
    match op {
        Unary::Not if dtype == DType::Bool => pick::<Scalars<u8, u8, Flip>>(level),
        Unary::Not => of!(Not),
        Unary::Neg => of!(Neg),
        Unary::Sign => of!(Sign),
        Unary::Abs if dtype == DType::I32 => pick::<Scalars<i32, i32, Abs>>(level),
        Unary::Abs if dtype == DType::I64 => pick::<Scalars<i64, i64, Abs>>(level),
        Unary::Relu if dtype == DType::I32 => pick::<Scalars<i32, i32, Relu>>(level),
        Unary::Relu if dtype == DType::I64 => pick::<Scalars<i64, i64, Relu>>(level),
        Unary::Abs | Unary::Relu if byte => of!(Same),
        Unary::Floor | Unary::Ceil | Unary::Round | Unary::Trunc => of!(Same),
        other => unreachable!("tape checked: {other:?} of {dtype}"),
    }
}

fn int_binary(level: Level, op: Binary, dtype: DType) -> Kernel {
    // On bools, sums are "or" and products are "and", as maxima and minima are already.
    let op = match op {
        Binary::Add if dtype == DType::Bool => Binary::Or,
        Binary::Mul if dtype == DType::Bool => Binary::And,
        op => op,
    };
    macro_rules! table {
        ($($op:ident $Op:ident),*; $($test:ident)*) => {
            match (op, dtype) {
                $((Binary::$op, DType::I32) => pick::<Scalars<i32, i32, $Op>>(level),)*
                $((Binary::$op, DType::I64) => pick::<Scalars<i64, i64, $Op>>(level),)*
                $((Binary::$op, _) => pick::<Scalars<u8, u8, $Op>>(level),)*
                $((Binary::$test, DType::I32) => pick::<Scalars<i32, u8, $test>>(level),)*
                $((Binary::$test, DType::I64) => pick::<Scalars<i64, u8, $test>>(level),)*
                $((Binary::$test, _) => pick::<Scalars<u8, u8, $test>>(level),)*
            }
        };
    }
    table!(Add Add, Sub Sub, Mul Mul, Div Div, Rem IntRem, Pow Pow, Max Max, Min Min, And And, Or Or, Xor Xor;
        Eq Ne Lt Le Gt Ge)
}

// ---------------------------------------------------------------- conversions

struct Convert<S, D, P>(PhantomData<(S, D, P)>);
/// A value of this register type converted to another.
trait To<D> {
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
trait Finish<D> {
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
struct IsNonZero<S>(PhantomData<S>);
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
pub(super) fn cast(level: Level, from: DType, to: DType) -> Kernel {
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
pub(super) fn encode_bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}
#[inline(always)]
pub(super) fn decode_bf16(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}
/// The 16 bits of an `f32` that is already rounded to `f16`.
#[inline(always)]
pub(super) fn encode_f16(x: f32) -> u16 {
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
pub(super) fn decode_f16(h: u16) -> f32 {
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

struct Recode<const ENCODE: bool, const BF16: bool>;
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
pub(super) fn encode(level: Level, dtype: DType) -> Kernel {
    match dtype {
        DType::BF16 => pick::<Recode<true, true>>(level),
        _ => pick::<Recode<true, false>>(level),
    }
}

/// From memory of a half type to a register.
pub(super) fn decode(level: Level, dtype: DType) -> Kernel {
    match dtype {
        DType::BF16 => pick::<Recode<false, true>>(level),
        _ => pick::<Recode<false, false>>(level),
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
