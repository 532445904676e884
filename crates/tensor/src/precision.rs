//! How exactly products of `f32` are computed.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// How exactly matrix products, convolutions, attention and recurrent ops of `f32` are computed; the
/// terms of PyTorch's `torch.set_float32_matmul_precision` and of JAX. Inputs and results are `f32`
/// whichever is chosen.
///
/// It is an attribute of each op, taken when the op is noted down: from the innermost
/// [`with_precision`], else from [`set_precision`]. Gradients have the precision of their op.
///
/// The lower ones are faster on processors that multiply `bf16`: `Medium` up to twice as fast as `f32`
/// with AVX-512's dot products (`avx512bf16`), all of them with the matrix unit AMX. Where there is
/// neither, all are `Highest`. So are, everywhere, small products that `f32` does as fast, and attention
/// at `High`.
///
/// ```
/// use fornax_tensor::{DType, Precision, Tensor, with_precision};
/// let a = Tensor::randn([64, 64], DType::F32);
/// let quick = with_precision(Precision::Medium, || a.matmul(&a));
/// let exact = a.matmul(&a);
/// assert!((quick - exact).abs().max(..).item() < 0.5);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// Factors rounded to `bf16` (8 significant bits), sums in `f32`: a relative error of 2^-8 per
    /// factor.
    Medium,
    /// Factors as two `bf16` numbers each (16 bits): some 2^-16.
    High,
    /// No less exact than a product in `f32`. The default.
    #[default]
    Highest,
}

impl Precision {
    /// All of them, the most exact first.
    pub const ALL: [Precision; 3] = [Precision::Highest, Precision::High, Precision::Medium];

    /// What ops noted down now on this thread are computed with.
    pub fn current() -> Precision {
        SCOPE
            .get()
            .unwrap_or(match DEFAULT.load(Ordering::Relaxed) {
                0 => Precision::Highest,
                1 => Precision::High,
                _ => Precision::Medium,
            })
    }
}

static DEFAULT: AtomicU8 = AtomicU8::new(0);

thread_local! {
    static SCOPE: Cell<Option<Precision>> = const { Cell::new(None) };
}

/// The precision of all ops that are noted down from now on outside of [`with_precision`], on every
/// thread.
pub fn set_precision(precision: Precision) {
    let code = Precision::ALL.iter().position(|&p| p == precision);
    DEFAULT.store(code.expect("one of all") as u8, Ordering::Relaxed);
}

/// Notes down the ops of `f` with this precision, on this thread.
pub fn with_precision<R>(precision: Precision, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Precision>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPE.set(self.0);
        }
    }
    let _restore = Restore(SCOPE.replace(Some(precision)));
    f()
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Medium => "medium",
            Precision::High => "high",
            Precision::Highest => "highest",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(s: &str) -> Result<Precision, String> {
        let all = Precision::ALL;
        let found = all.into_iter().find(|p| p.to_string() == s);
        found.ok_or_else(|| {
            format!("no precision is called {s:?}; there are highest, high and medium")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        assert_eq!(Precision::current(), Precision::Highest);
        with_precision(Precision::Medium, || {
            with_precision(Precision::High, || {
                assert_eq!(Precision::current(), Precision::High);
            });
            assert_eq!(Precision::current(), Precision::Medium);
        });
        assert_eq!(Precision::current(), Precision::Highest);
    }

    #[test]
    fn names_are_read_back() {
        for p in Precision::ALL {
            assert_eq!(p.to_string().parse(), Ok(p));
        }
        assert!("bf16".parse::<Precision>().is_err());
    }
}
