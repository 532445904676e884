//! Element types and PyTorch's promotion rules.

use half::{bf16, f16};
use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer; the type of indices.
    I64,
    /// IEEE half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    BF16,
    /// Single precision; the default float.
    F32,
    /// Double precision.
    F64,
}

impl DType {
    /// Every element type, in ascending order of promotion.
    pub const ALL: [DType; 8] = [
        DType::Bool,
        DType::U8,
        DType::I32,
        DType::I64,
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::Bool | DType::U8 => 1,
            DType::F16 | DType::BF16 => 2,
            DType::I32 | DType::F32 => 4,
            DType::I64 | DType::F64 => 8,
        }
    }

    /// Whether this is one of the four floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// Whether this is one of the two 16-bit floats.
    pub const fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }

    /// The type that expressions of several steps are computed in, to be rounded once at the end:
    /// `f32` for the 16-bit floats, any other type itself.
    pub const fn widened(self) -> DType {
        if self.is_half() { DType::F32 } else { self }
    }

    /// Whether this is an integer type (`Bool` is not).
    pub const fn is_int(self) -> bool {
        matches!(self, DType::U8 | DType::I32 | DType::I64)
    }

    /// PyTorch's category of a type: bool (0) < integer (1) < float (2).
    pub const fn category(self) -> u8 {
        match self {
            DType::Bool => 0,
            DType::U8 | DType::I32 | DType::I64 => 1,
            _ => 2,
        }
    }

    /// The result type of an op on two tensors that both have at least one dimension.
    ///
    /// The higher category wins; within a category the wider type wins, and `f16` with `bf16`
    /// gives `f32`. Agrees with `torch.promote_types`.
    ///
    /// ```
    /// use fornax_tensor::DType::*;
    /// assert_eq!(I64.promote(F16), F16);
    /// assert_eq!(F16.promote(BF16), F32);
    /// assert_eq!(U8.promote(I32), I32);
    /// ```
    pub fn promote(self, other: DType) -> DType {
        match (self, other) {
            (DType::F16, DType::BF16) | (DType::BF16, DType::F16) => DType::F32,
            _ => self.max(other),
        }
    }

    /// The result type of an op on two tensors, of which some may have no dimension.
    ///
    /// As in `torch.result_type`: a zero-dimensional tensor takes part only if its category is
    /// higher than the other's, so that `f32 vector * f64 scalar tensor` stays `f32`.
    pub fn promote_ranked(self, rank: usize, other: DType, other_rank: usize) -> DType {
        match (rank == 0, other_rank == 0) {
            (false, true) if other.category() <= self.category() => self,
            (true, false) if self.category() <= other.category() => other,
            _ => self.promote(other),
        }
    }

    /// The name PyTorch prints for this type, such as `float32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::Bool => "bool",
            DType::U8 => "uint8",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::F32 => "float32",
            DType::F64 => "float64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that a tensor can hold.
pub trait Element: Copy + Send + Sync + fmt::Debug + PartialEq + PartialOrd + 'static {
    /// The element type this Rust type stands for.
    const DTYPE: DType;
    /// The value as `f64` (exact for all but large `i64`).
    fn to_f64(self) -> f64;
    /// The nearest value of this type (integers saturate, as Rust's `as` does).
    fn from_f64(v: f64) -> Self;
    /// The nearest value of this type (narrower integers wrap, as Rust's `as` does).
    fn from_i64(v: i64) -> Self;
}

macro_rules! element {
    ($($t:ty => $d:ident, |$v:ident| $to:expr, |$w:ident| $from:expr, |$n:ident| $int:expr;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn to_f64(self) -> f64 { let $v = self; $to }
            #[inline(always)]
            fn from_f64($w: f64) -> Self { $from }
            #[inline(always)]
            fn from_i64($n: i64) -> Self { $int }
        }
    )*};
}
element! {
    bool => Bool, |v| v as u8 as f64, |w| w != 0.0, |n| n != 0;
    u8 => U8, |v| v as f64, |w| w as u8, |n| n as u8;
    i32 => I32, |v| v as f64, |w| w as i32, |n| n as i32;
    i64 => I64, |v| v as f64, |w| w as i64, |n| n;
    f16 => F16, |v| v.to_f64(), |w| f16::from_f64(w), |n| f16::from_f64(n as f64);
    bf16 => BF16, |v| v.to_f64(), |w| bf16::from_f64(w), |n| bf16::from_f64(n as f64);
    f32 => F32, |v| v as f64, |w| w as f32, |n| n as f32;
    f64 => F64, |v| v, |w| w, |n| n as f64;
}

/// Runs `$body` with `$T` bound to the Rust type of a [`DType`] value (`bool` as `u8`-sized `bool`).
#[macro_export]
macro_rules! with_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::Bool => {
                type $T = bool;
                $body
            }
            $crate::DType::U8 => {
                type $T = u8;
                $body
            }
            $crate::DType::I32 => {
                type $T = i32;
                $body
            }
            $crate::DType::I64 => {
                type $T = i64;
                $body
            }
            $crate::DType::F16 => {
                type $T = ::half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $T = ::half::bf16;
                $body
            }
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_dim_tensors_do_not_widen_within_a_category() {
        assert_eq!(DType::F32.promote_ranked(1, DType::F64, 0), DType::F32);
        assert_eq!(DType::I32.promote_ranked(2, DType::F64, 0), DType::F64);
        assert_eq!(DType::U8.promote_ranked(0, DType::I64, 0), DType::I64);
        assert_eq!(DType::Bool.promote_ranked(0, DType::U8, 3), DType::U8);
    }
}
