//! Integers and bools.

use super::floats::*;
use super::*;

/// `O` on plain elements, vectorised by the compiler where it can be.
pub(super) struct Scalars<T, D, O>(PhantomData<(T, D, O)>);
pub(super) trait ScalarOp<T, D> {
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
pub(super) struct And;
pub(super) struct Or;
pub(super) struct Xor;
pub(super) struct Not;
pub(super) struct IntRem;

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
pub(super) struct Flip;
scalar_ops! { u8 => u8; Flip |x, _y| x ^ 1; }

pub(super) fn int_unary(level: Level, op: Unary, dtype: DType) -> Kernel {
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

pub(super) fn int_binary(level: Level, op: Binary, dtype: DType) -> Kernel {
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
