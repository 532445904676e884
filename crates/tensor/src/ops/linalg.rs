//! Matrix products.

use crate::dtype::DType;
use crate::precision::Precision;
use crate::prim::Prim;
use crate::shape::{INFER, Shape};
use crate::tensor::Tensor;

impl Tensor {
    /// The matrix product, with PyTorch's rules: vectors are rows on the left and columns on the
    /// right, leading axes broadcast.
    ///
    /// `[.., m, k] x [.., k, n] -> [.., m, n]`; agrees with `torch.matmul`.
    ///
    /// `f32` is multiplied with the [`Precision`] in force.
    ///
    /// # Panics
    /// If the inner sizes differ, the leading ones do not broadcast, or one side has no dimension.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        self.matmul_with(other, Precision::current())
    }

    /// [`matmul`](Tensor::matmul) with a given precision.
    #[track_caller]
    pub(crate) fn matmul_with(&self, other: &Tensor, precision: Precision) -> Tensor {
        let (a_shape, b_shape) = (self.shape(), other.shape());
        if self.rank() == 0 || other.rank() == 0 {
            panic!("matmul: {a_shape:?} and {b_shape:?}: both sides need a dimension");
        }
        let (a1, b1) = (self.rank() == 1, other.rank() == 1);
        let dtype = self.dtype().promote(other.dtype());
        if dtype == DType::Bool {
            panic!("matmul: not defined for bool; convert with to_dtype");
        }
        let a = if a1 { self.unsqueeze(0) } else { self.clone() }.to_dtype(dtype);
        let b = if b1 {
            other.unsqueeze(1)
        } else {
            other.clone()
        }
        .to_dtype(dtype);
        if a.dim(-1) != b.dim(-2) {
            panic!(
                "matmul: {a_shape:?} x {b_shape:?}: the inner sizes {} and {} differ",
                a.dim(-1),
                b.dim(-2)
            );
        }
        let (a_lead, b_lead) = (&a.shape()[..a.rank() - 2], &b.shape()[..b.rank() - 2]);
        let Some(lead) = Shape::broadcast(a_lead, b_lead) else {
            panic!("matmul: {a_shape:?} x {b_shape:?}: the leading sizes do not broadcast");
        };
        let with = |t: &Tensor| -> Shape {
            lead.iter()
                .chain(&t.shape()[t.rank() - 2..])
                .copied()
                .collect()
        };
        let out = if b.rank() == 2 {
            Tensor::op(Prim::MatMul(precision), [&a, &b])
        } else if b_lead.iter().all(|&s| s == 1) && a.rank() >= b.rank() {
            Tensor::op(
                Prim::MatMul(precision),
                [&a, &b.reshape(&b.shape()[b.rank() - 2..])],
            )
        } else {
            Tensor::op(
                Prim::MatMul(precision),
                [&a.broadcast_to(with(&a)), &b.broadcast_to(with(&b))],
            )
        };
        let out = if a1 { out.squeeze(-2) } else { out };
        if b1 { out.squeeze(-1) } else { out }
    }

    /// `x · weightᵀ + bias`: `x [.., in]`, `weight [out, in]`, `bias [out]` -> `[.., out]`, as
    /// `torch.nn.functional.linear`.
    #[track_caller]
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        if weight.rank() != 2 || self.rank() == 0 || self.dim(-1) != weight.dim(1) {
            panic!(
                "linear: input {:?} and weight {:?}: the last size of the input must be the second of the weight",
                self.shape(),
                weight.shape()
            );
        }
        let y = self.matmul(&weight.t());
        match bias {
            Some(bias) => y + bias,
            None => y,
        }
    }

    /// All leading axes merged: `[.., n] -> [rows, n]`.
    pub(crate) fn rows(&self) -> Tensor {
        let n = self.dim(-1);
        let lead: usize = self.shape()[..self.rank() - 1].iter().product();
        debug_assert_ne!(lead, INFER);
        self.reshape([lead, n])
    }
}
