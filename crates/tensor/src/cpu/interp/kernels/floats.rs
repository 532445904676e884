//! Functions and comparisons of floating-point numbers.

use super::integers::{int_binary, int_unary};
use super::*;

/// What is done with a group of lanes.
pub(super) trait Op<E: Float> {
    /// Bytes of one result.
    const OUT: usize;
    /// Groups per turn of the loop, 1 or 4: as many as hide the time until a result is there, and
    /// no more than registers are for.
    const UNROLL: usize;
    /// # Safety
    /// `d` must be writable for `V::N * OUT` bytes.
    unsafe fn emit<V: Lanes<E = E>>(x: V, y: V, z: V, d: *mut u8);
}

pub(super) struct Drive<E, O, const A: u8, const B: u8, const C: u8>(PhantomData<(E, O)>);

impl<E: Float, O: Op<E>, const A: u8, const B: u8, const C: u8> Body for Drive<E, O, A, B, C> {
    #[inline(always)]
    unsafe fn run<R: Registers>(n: usize, d: *mut u8, a: *const u8, b: *const u8, c: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { drive::<E::In<R>, E, O, A, B, C>(n, d, a.cast(), b.cast(), c.cast()) }
    }
}

#[inline(always)]
pub(super) unsafe fn splat<V: Lanes, const K: u8>(p: *const V::E) -> V {
    match K {
        // SAFETY: the caller's promise: a scalar operand is one element.
        SCALAR => V::splat(unsafe { p.read_unaligned() }),
        _ => V::c(0.0),
    }
}

#[inline(always)]
pub(super) unsafe fn fetch<V: Lanes, const K: u8>(p: *const V::E, i: usize, splat: V) -> V {
    match K {
        // SAFETY: the caller stays within the operand.
        VECTOR => unsafe { V::load(p.add(i)) },
        _ => splat,
    }
}

/// Whole groups from index `i` on; returns the index behind them.
///
/// # Safety
/// As for a [`Kernel`]; a scalar operand is not part of `d`.
#[inline(always)]
unsafe fn groups<V, E, O, const A: u8, const B: u8, const C: u8>(
    mut i: usize,
    n: usize,
    d: *mut u8,
    a: *const E,
    b: *const E,
    c: *const E,
) -> usize
where
    V: Lanes<E = E>,
    E: Float,
    O: Op<E>,
{
    // SAFETY: the caller's promise; all indices stay below n.
    unsafe {
        let (sa, sb, sc) = (splat::<V, A>(a), splat::<V, B>(b), splat::<V, C>(c));
        while i + V::N <= n {
            let x = fetch::<V, A>(a, i, sa);
            let y = fetch::<V, B>(b, i, sb);
            let z = fetch::<V, C>(c, i, sc);
            O::emit(x, y, z, d.add(i * O::OUT));
            i += V::N;
        }
    }
    i
}

#[inline(always)]
pub(super) unsafe fn drive<V, E, O, const A: u8, const B: u8, const C: u8>(
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
        let mut i = 0;
        if O::UNROLL == 4 {
            i = groups::<Several<V, 4>, E, O, A, B, C>(i, n, d, a, b, c);
        }
        i = groups::<V, E, O, A, B, C>(i, n, d, a, b, c);
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
            let x = fetch::<V, A>(x.as_ptr(), 0, splat::<V, A>(a));
            let y = fetch::<V, B>(y.as_ptr(), 0, splat::<V, B>(b));
            let z = fetch::<V, C>(z.as_ptr(), 0, splat::<V, C>(c));
            O::emit(x, y, z, out.as_mut_ptr().cast());
            let bytes = (n - i) * O::OUT;
            std::ptr::copy_nonoverlapping(out.as_ptr().cast::<u8>(), d.add(i * O::OUT), bytes);
        }
    }
}

/// The rounding after an instruction.
pub(in crate::cpu::interp) trait Post<E: Float> {
    fn post<V: Lanes<E = E>>(x: V) -> V;
}
pub(in crate::cpu::interp) struct Exact;
impl<E: Float> Post<E> for Exact {
    #[inline(always)]
    fn post<V: Lanes<E = E>>(x: V) -> V {
        x
    }
}
pub(in crate::cpu::interp) struct ToBf16;
impl Post<f32> for ToBf16 {
    #[inline(always)]
    fn post<V: Lanes<E = f32>>(x: V) -> V {
        math::round_bf16(x)
    }
}
pub(in crate::cpu::interp) struct ToF16;
impl Post<f32> for ToF16 {
    #[inline(always)]
    fn post<V: Lanes<E = f32>>(x: V) -> V {
        math::round_f16(x)
    }
}

/// A function with a float result.
pub(super) trait ValueOp<E: Float> {
    const UNROLL: usize;
    fn call<V: Lanes<E = E>>(x: V, y: V, z: V) -> V;
}
pub(super) struct Value<O, P>(PhantomData<(O, P)>);
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
        pub(in crate::cpu::interp::kernels) struct $Op;
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
    Exp 4 |x, _y| E::exp(x);
    Expm1 4 |x, _y| E::expm1(x);
    Log 1 |x, _y| E::log(x);
    Log1p 1 |x, _y| E::log1p(x);
    Sin 1 |x, _y| E::sin(x);
    Cos 1 |x, _y| E::cos(x);
    Tanh 4 |x, _y| E::tanh(x);
    Erf 4 |x, _y| E::erf(x);
    Sigmoid 4 |x, _y| E::sigmoid(x);
    Add 4 |x, y| x.add(y);
    Sub 4 |x, y| x.sub(y);
    Mul 4 |x, y| x.mul(y);
    Div 4 |x, y| x.div(y);
    Max 4 |x, y| V::select(x.ne(x), x, x.greater(y));
    Min 4 |x, y| V::select(x.ne(x), x, x.lesser(y));
    Pow 1 |x, y| E::pow(x, y);
}

/// A comparison, giving bytes.
pub(super) trait Test<E: Float> {
    fn test<V: Lanes<E = E>>(x: V, y: V) -> V::M;
}
pub(super) struct Compare<O>(PhantomData<O>);
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
        pub(in crate::cpu::interp::kernels) struct $Op;
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
pub(super) struct Rem<E, P, const A: u8, const B: u8>(PhantomData<(E, P)>);

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
pub(in crate::cpu::interp) fn unary(level: Level, op: Unary, dtype: DType) -> Kernel {
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
pub(in crate::cpu::interp) fn binary(
    level: Level,
    op: Binary,
    dtype: DType,
    scalar: [bool; 2],
) -> Option<Kernel> {
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
