//! Element-by-element functions and operators, with PyTorch's broadcasting and promotion.

use crate::dtype::DType;
use crate::node::Inputs;
use crate::prim::{Prim, binary_name};
use crate::shape::Shape;
use crate::tape::{Binary, Scalar, Unary, binary_exists, unary_exists};
use crate::tensor::Tensor;
use std::borrow::Cow;
use std::ops;

/// A Rust number on one side of an operator. Like a Python number beside a PyTorch tensor it does
/// not widen the tensor's type within its category: `f32 tensor * 2.0` stays `f32`, while
/// `i64 tensor * 2.0` becomes `f32`.
pub trait Number: Copy {
    /// The value and whether it is of floating-point kind.
    fn scalar(self) -> Scalar;
}
macro_rules! numbers {
    ($($t:ty => $v:ident),*) => {$(
        impl Number for $t {
            fn scalar(self) -> Scalar { Scalar::$v(self) }
        }
    )*};
}
// One float and one integer type only: so the compiler knows what `x * 2.0` means at once.
numbers!(f64 => F64, i64 => I64);

/// The type of an op on a tensor of `dtype` and a number.
fn promoted(dtype: DType, number: Scalar) -> DType {
    match number {
        Scalar::F64(_) if !dtype.is_float() => DType::F32,
        Scalar::I64(_) if dtype == DType::Bool => DType::I64,
        _ => dtype,
    }
}

/// The least and the greatest value of an integer type.
pub(super) fn integer_range(dtype: DType) -> Option<(i64, i64)> {
    match dtype {
        DType::U8 => Some((0, u8::MAX as i64)),
        DType::I32 => Some((i32::MIN as i64, i32::MAX as i64)),
        DType::I64 => Some((i64::MIN, i64::MAX)),
        _ => None,
    }
}

impl Tensor {
    /// A number as a constant that can stand beside `self`, of the common type.
    fn beside(&self, number: Scalar) -> Tensor {
        let dtype = promoted(self.dtype(), number);
        let scalar = match (number, dtype.is_float()) {
            (Scalar::I64(v), true) => Scalar::F64(v as f64),
            _ => number,
        };
        Tensor::constant(scalar, self.0.shape.clone(), dtype)
    }

    #[track_caller]
    pub(crate) fn unary(&self, op: Unary) -> Tensor {
        if !unary_exists(op, self.dtype()) {
            let name = format!("{op:?}").to_lowercase();
            panic!(
                "{name}: not defined for {0} tensors; use to_dtype first",
                self.dtype()
            );
        }
        Tensor::op(Prim::Unary(op), [self])
    }

    /// A unary function of real numbers: integers become `f32` first.
    #[track_caller]
    fn real(&self, op: Unary) -> Tensor {
        self.to_real().unary(op)
    }

    pub(crate) fn to_real(&self) -> Tensor {
        if self.dtype().is_float() {
            self.clone()
        } else {
            self.to_dtype(DType::F32)
        }
    }

    /// `f` of the tensor as real numbers. Half precision is widened to `f32` around it, so that an
    /// expression of several steps rounds once, as PyTorch's kernels do.
    pub(crate) fn widened(&self, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        let x = self.to_real();
        f(&x.to_dtype(x.dtype().widened())).to_dtype(x.dtype())
    }

    /// Both brought to one type and shape.
    #[track_caller]
    fn aligned<'a>(name: &str, a: &'a Tensor, b: &'a Tensor) -> (Cow<'a, Tensor>, Cow<'a, Tensor>) {
        if a.dtype() == b.dtype() && a.shape() == b.shape() {
            return (Cow::Borrowed(a), Cow::Borrowed(b));
        }
        let dtype = a.dtype().promote_ranked(a.rank(), b.dtype(), b.rank());
        let (a, b) = (a.as_dtype(dtype), b.as_dtype(dtype));
        if a.shape() == b.shape() {
            return (a, b);
        }
        let Some(shape) = Shape::broadcast(a.shape(), b.shape()) else {
            panic!(
                "{name}: shapes {:?} and {:?} do not broadcast",
                a.shape(),
                b.shape()
            );
        };
        let (a, b) = (a.broadcast_to(shape.clone()), b.broadcast_to(shape));
        (Cow::Owned(a), Cow::Owned(b))
    }

    #[track_caller]
    pub(crate) fn binary(&self, op: Binary, other: &Tensor) -> Tensor {
        let (mut a, mut b) = Tensor::aligned(binary_name(op), self, other);
        match op {
            // True division, as Python's.
            Binary::Div if !a.dtype().is_float() => {
                (a, b) = (Cow::Owned(a.to_real()), Cow::Owned(b.to_real()));
            }
            Binary::And | Binary::Or | Binary::Xor => {
                let truth = |x: &Tensor| Cow::Owned(x.to_dtype(DType::Bool));
                (a, b) = (truth(&a), truth(&b));
            }
            Binary::Add | Binary::Mul if a.dtype() == DType::Bool => {
                // PyTorch: + is "or" and * is "and" on booleans.
                let op = if op == Binary::Add {
                    Binary::Or
                } else {
                    Binary::And
                };
                return Tensor::op(Prim::Binary(op), [&a, &b]);
            }
            Binary::Sub if a.dtype() == DType::Bool => {
                panic!("sub: bool tensors have no difference; use logical_xor or to_dtype");
            }
            _ => {}
        }
        if !binary_exists(op, a.dtype()) {
            let (name, dtype) = (binary_name(op), a.dtype());
            panic!("{name}: not defined for {dtype} tensors; use to_dtype first");
        }
        Tensor::op(Prim::Binary(op), [&a, &b])
    }

    #[track_caller]
    fn with_number(&self, op: Binary, number: Scalar) -> Tensor {
        let constant = self.beside(number);
        self.as_dtype(constant.dtype()).binary(op, &constant)
    }

    #[track_caller]
    fn number_with(number: Scalar, op: Binary, x: &Tensor) -> Tensor {
        let constant = x.beside(number);
        constant.binary(op, &x.as_dtype(constant.dtype()))
    }

    /// The value converted to another element type. Floats go to integers towards zero, anything
    /// but 0 is `true`.
    pub fn to_dtype(&self, dtype: DType) -> Tensor {
        if dtype == self.dtype() {
            return self.clone();
        }
        let inputs = Inputs::from_iter([self.clone()]);
        Tensor::from_node(Prim::Cast, inputs, self.0.shape.clone(), dtype)
    }

    /// The same without a clone of what has the type already.
    fn as_dtype(&self, dtype: DType) -> Cow<'_, Tensor> {
        match dtype == self.dtype() {
            true => Cow::Borrowed(self),
            false => Cow::Owned(self.to_dtype(dtype)),
        }
    }

    /// The same value, through which no gradient passes.
    pub fn detach(&self) -> Tensor {
        Tensor::op(Prim::StopGradient, [self])
    }

    /// `x * x`; booleans are squared as `i64`, as in PyTorch.
    pub fn square(&self) -> Tensor {
        if self.dtype() == DType::Bool {
            return self.to_dtype(DType::I64);
        }
        self * self
    }

    /// `x^exponent` for a constant exponent.
    #[track_caller]
    pub fn powf(&self, exponent: f64) -> Tensor {
        let x = self.to_real();
        match exponent {
            1.0 => x,
            2.0 => x.square(),
            3.0 => x.widened(|x| x.square() * x),
            0.5 => x.sqrt(),
            -1.0 => x.recip(),
            -0.5 => x.rsqrt(),
            _ => x.with_number(Binary::Pow, Scalar::F64(exponent)),
        }
    }

    /// `x^y`, element by element.
    #[track_caller]
    pub fn pow(&self, y: &Tensor) -> Tensor {
        self.binary(Binary::Pow, y)
    }

    /// Limited to `[min, max]`; NaN stays. The gradient passes where the value was strictly inside.
    /// Bounds promote as numbers beside an operator do: an integer tensor stays one between two
    /// integers only.
    #[track_caller]
    pub fn clamp(&self, min: impl Number, max: impl Number) -> Tensor {
        let bounds = [min.scalar(), max.scalar()];
        let dtype = bounds
            .iter()
            .fold(self.dtype(), |d, &bound| promoted(d, bound));
        let x = self.to_dtype(dtype);
        // A bound beyond the type's range limits nothing; it must not wrap around into it.
        let [min, max] = bounds.map(|bound| match (bound, integer_range(dtype)) {
            (Scalar::I64(v), Some((low, high))) => x.beside(Scalar::I64(v.clamp(low, high))),
            _ => x.beside(bound),
        });
        // Written with `where` and not with maximum/minimum, whose gradient halves at a tie.
        let x = x.le(&min).where_(&min, &x);
        x.ge(&max).where_(&max, &x)
    }

    /// `a` where the (bool) tensor is true, else `b`.
    ///
    /// # Panics
    /// If `self` is not `Bool`, or the shapes do not broadcast.
    #[track_caller]
    pub fn where_(&self, a: &Tensor, b: &Tensor) -> Tensor {
        if self.dtype() != DType::Bool {
            panic!("where_: the condition is {}, not bool", self.dtype());
        }
        let (a, b) = Tensor::aligned("where_", a, b);
        let Some(shape) = Shape::broadcast(self.shape(), a.shape()) else {
            panic!(
                "where_: shapes {:?} and {:?} do not broadcast",
                self.shape(),
                a.shape()
            );
        };
        let c = self.broadcast_to(shape.clone());
        let (a, b) = (a.broadcast_to(shape.clone()), b.broadcast_to(shape));
        Tensor::op(Prim::Where, [&c, &a, &b])
    }

    /// `value` where `mask` is true, else the tensor's own element.
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Tensor {
        mask.where_(&Tensor::full((), value, self.dtype()), self)
    }

    /// Logical not: true where the element is 0.
    pub fn logical_not(&self) -> Tensor {
        self.to_dtype(DType::Bool).unary(Unary::Not)
    }

    /// -1, 0 or 1; 0 for NaN and booleans themselves, as in PyTorch.
    pub fn sign(&self) -> Tensor {
        if self.dtype() == DType::Bool {
            return self.clone();
        }
        self.unary(Unary::Sign)
    }

    /// True where the element is NaN.
    pub fn is_nan(&self) -> Tensor {
        self.ne(self)
    }

    /// True where the element is neither NaN nor infinite.
    pub fn is_finite(&self) -> Tensor {
        if !self.dtype().is_float() {
            return Tensor::full(self.shape(), 1.0, DType::Bool);
        }
        self.abs().lt_scalar(f64::INFINITY)
    }
}

macro_rules! unary_ops {
    ($($(#[$doc:meta])* $name:ident $kind:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self) -> Tensor { self.$kind(Unary::$op) }
        )*}
    };
}
unary_ops! {
    /// Absolute value.
    abs unary Abs;
    /// The largest integer not above.
    floor unary Floor;
    /// The smallest integer not below.
    ceil unary Ceil;
    /// The nearest integer, halves to even.
    round unary Round;
    /// The integer part.
    trunc unary Trunc;
    /// `max(x, 0)`; NaN stays; gradient 0 at 0.
    relu unary Relu;
    /// Square root.
    sqrt real Sqrt;
    /// `1 / sqrt(x)`.
    rsqrt real Rsqrt;
    /// `1 / x`.
    recip real Recip;
    /// Exponential.
    exp real Exp;
    /// `exp(x) - 1`, accurate near 0.
    expm1 real Expm1;
    /// Natural logarithm.
    log real Log;
    /// `log(1 + x)`, accurate near 0.
    log1p real Log1p;
    /// Sine.
    sin real Sin;
    /// Cosine.
    cos real Cos;
    /// Hyperbolic tangent.
    tanh real Tanh;
    /// The error function.
    erf real Erf;
    /// `1 / (1 + exp(-x))`.
    sigmoid real Sigmoid;
}

macro_rules! binary_ops {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self, other: &Tensor) -> Tensor { self.binary(Binary::$op, other) }
        )*}
    };
}
binary_ops! {
    /// The larger; NaN wins; the gradient is halved at a tie.
    maximum Max;
    /// The smaller; NaN wins; the gradient is halved at a tie.
    minimum Min;
    /// Equal, as `Bool`.
    eq Eq;
    /// Not equal, as `Bool`.
    ne Ne;
    /// Less, as `Bool`.
    lt Lt;
    /// Less or equal, as `Bool`.
    le Le;
    /// Greater, as `Bool`.
    gt Gt;
    /// Greater or equal, as `Bool`.
    ge Ge;
    /// Both not 0.
    logical_and And;
    /// One of them not 0.
    logical_or Or;
    /// Exactly one of them not 0.
    logical_xor Xor;
}

macro_rules! compare_scalar {
    ($($(#[$doc:meta])* $name:ident $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self, value: impl Number) -> Tensor {
                self.with_number(Binary::$op, value.scalar())
            }
        )*}
    };
}
compare_scalar! {
    /// Equal to a number, as `Bool`.
    eq_scalar Eq;
    /// Not equal to a number, as `Bool`.
    ne_scalar Ne;
    /// Less than a number, as `Bool`.
    lt_scalar Lt;
    /// Less than or equal to a number, as `Bool`.
    le_scalar Le;
    /// Greater than a number, as `Bool`.
    gt_scalar Gt;
    /// Greater than or equal to a number, as `Bool`.
    ge_scalar Ge;
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        operators!(@pair $trait $method $op; Tensor, Tensor);
        operators!(@pair $trait $method $op; Tensor, &Tensor);
        operators!(@pair $trait $method $op; &Tensor, Tensor);
        operators!(@pair $trait $method $op; &Tensor, &Tensor);
        operators!(@number $trait $method $op; f64 i64);
    )*};
    (@pair $trait:ident $method:ident $op:ident; $a:ty, $b:ty) => {
        impl ops::$trait<$b> for $a {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: $b) -> Tensor { self.binary(Binary::$op, &other) }
        }
    };
    (@number $trait:ident $method:ident $op:ident; $($t:ty)*) => {$(
        operators!(@right $trait $method $op; Tensor, $t);
        operators!(@right $trait $method $op; &Tensor, $t);
        operators!(@left $trait $method $op; $t, Tensor);
        operators!(@left $trait $method $op; $t, &Tensor);
    )*};
    (@right $trait:ident $method:ident $op:ident; $a:ty, $t:ty) => {
        impl ops::$trait<$t> for $a {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, number: $t) -> Tensor {
                self.with_number(Binary::$op, number.scalar())
            }
        }
    };
    (@left $trait:ident $method:ident $op:ident; $t:ty, $a:ty) => {
        impl ops::$trait<$a> for $t {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, x: $a) -> Tensor {
                Tensor::number_with(self.scalar(), Binary::$op, &x)
            }
        }
    };
}
operators! {
    Add add Add;
    Sub sub Sub;
    Mul mul Mul;
    Div div Div;
    Rem rem Rem;
}

impl ops::Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        if self.dtype() == DType::Bool {
            panic!("neg: bool tensors have no negative; use logical_not");
        }
        self.unary(Unary::Neg)
    }
}
impl ops::Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        -&self
    }
}
