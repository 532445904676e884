//! Reductions over axes, arg-reductions and running sums.

use crate::dtype::DType;
use crate::prim::{AxisList, Prim, ReduceOp, node_axes};
use crate::shape::{Axes, Shape, axis_index};
use crate::tensor::Tensor;

impl Tensor {
    fn reduce(&self, op: ReduceOp, axes: AxisList) -> Tensor {
        if axes.is_empty() {
            return self.clone();
        }
        // Sizes of 1 need no arithmetic.
        if axes.iter().all(|&a| self.shape()[a] == 1) {
            let kept = (0..self.rank()).filter(|d| !axes.contains(d));
            return self.reshape(kept.map(|d| self.shape()[d]).collect::<Shape>());
        }
        Tensor::op(Prim::Reduce(op, node_axes(&axes)), [self])
    }

    /// The axes of a reduction. A tensor without dimensions counts as one of one element, so that
    /// axis 0 or -1 may be named, as in PyTorch.
    #[track_caller]
    fn axes(&self, op: &str, axes: impl Axes) -> AxisList {
        let mut list = axes.resolve(op, self.rank().max(1));
        list.retain(|_| self.rank() > 0);
        list
    }

    /// The shape with the given axes set to 1.
    fn kept(&self, axes: &AxisList) -> Shape {
        let size = |d: usize| {
            if axes.contains(&d) {
                1
            } else {
                self.shape()[d]
            }
        };
        (0..self.rank()).map(size).collect()
    }

    /// Integers and booleans are summed and multiplied as `i64`, as in PyTorch.
    fn to_sum_type(&self) -> Tensor {
        if self.dtype().is_float() {
            self.clone()
        } else {
            self.to_dtype(DType::I64)
        }
    }

    #[track_caller]
    fn extreme(&self, name: &str, op: ReduceOp, axes: AxisList) -> Tensor {
        if axes.iter().any(|&a| self.shape()[a] == 0) {
            panic!(
                "{name}: an axis of {:?} is empty and has no extreme",
                self.shape()
            );
        }
        if self.dtype() == DType::Bool {
            return self
                .to_dtype(DType::U8)
                .reduce(op, axes)
                .to_dtype(DType::Bool);
        }
        self.reduce(op, axes)
    }

    /// The sum over `axes` (`..` for all); booleans and integers give `i64`.
    ///
    /// ```
    /// use fornax_tensor::Tensor;
    /// let x = Tensor::from_vec(vec![1f32, 2., 3., 4.], [2, 2]);
    /// assert_eq!(x.sum(0).to_vec::<f32>(), [4., 6.]);
    /// assert_eq!(x.sum(..).item(), 10.);
    /// ```
    #[track_caller]
    pub fn sum(&self, axes: impl Axes) -> Tensor {
        self.to_sum_type()
            .reduce(ReduceOp::Sum, self.axes("sum", axes))
    }

    /// As [`sum`](Tensor::sum), with the axes kept at size 1.
    #[track_caller]
    pub fn sum_keepdim(&self, axes: impl Axes) -> Tensor {
        let axes = self.axes("sum", axes);
        let shape = self.kept(&axes);
        self.to_sum_type()
            .reduce(ReduceOp::Sum, axes)
            .reshape(shape)
    }

    /// The product over `axes`; booleans and integers give `i64`.
    #[track_caller]
    pub fn prod(&self, axes: impl Axes) -> Tensor {
        self.to_sum_type()
            .reduce(ReduceOp::Prod, self.axes("prod", axes))
    }

    /// The mean over `axes`; NaN for nothing.
    #[track_caller]
    pub fn mean(&self, axes: impl Axes) -> Tensor {
        self.mean_over(self.axes("mean", axes))
    }

    /// As [`mean`](Tensor::mean), with the axes kept at size 1.
    #[track_caller]
    pub fn mean_keepdim(&self, axes: impl Axes) -> Tensor {
        let axes = self.axes("mean", axes);
        let shape = self.kept(&axes);
        self.mean_over(axes).reshape(shape)
    }

    fn mean_over(&self, axes: AxisList) -> Tensor {
        let n: usize = axes.iter().map(|&a| self.shape()[a]).product();
        // A division, not a product with 1/n: exact where the mean is.
        self.widened(|x| x.reduce(ReduceOp::Sum, axes) / n as f64)
    }

    /// The maximum over `axes`; NaN wins; tied elements share the gradient (`torch.amax`).
    ///
    /// # Panics
    /// If one of the axes is empty.
    #[track_caller]
    pub fn max(&self, axes: impl Axes) -> Tensor {
        self.extreme("max", ReduceOp::Max, self.axes("max", axes))
    }

    /// As [`max`](Tensor::max), with the axes kept at size 1.
    #[track_caller]
    pub fn max_keepdim(&self, axes: impl Axes) -> Tensor {
        let axes = self.axes("max", axes);
        let shape = self.kept(&axes);
        self.extreme("max", ReduceOp::Max, axes).reshape(shape)
    }

    /// The minimum over `axes`; NaN wins; tied elements share the gradient (`torch.amin`).
    ///
    /// # Panics
    /// If one of the axes is empty.
    #[track_caller]
    pub fn min(&self, axes: impl Axes) -> Tensor {
        self.extreme("min", ReduceOp::Min, self.axes("min", axes))
    }

    /// As [`min`](Tensor::min), with the axes kept at size 1.
    #[track_caller]
    pub fn min_keepdim(&self, axes: impl Axes) -> Tensor {
        let axes = self.axes("min", axes);
        let shape = self.kept(&axes);
        self.extreme("min", ReduceOp::Min, axes).reshape(shape)
    }

    /// The variance over `axes`: squared distances from the mean, summed and divided by
    /// `n - correction` (PyTorch's default correction is 1).
    #[track_caller]
    pub fn var(&self, axes: impl Axes, correction: usize) -> Tensor {
        let axes = self.axes("var", axes);
        self.widened(|x| x.var_over(axes, correction))
    }

    fn var_over(&self, axes: AxisList, correction: usize) -> Tensor {
        let n: usize = axes.iter().map(|&a| self.shape()[a]).product();
        let centred = self - self.mean_over(axes.clone()).reshape(self.kept(&axes));
        // As in PyTorch, too few elements give NaN (0/0) or infinity, not a panic.
        centred.square().reduce(ReduceOp::Sum, axes) / (n as f64 - correction as f64).max(0.0)
    }

    /// The standard deviation over `axes`: the root of [`var`](Tensor::var); gradient 0 where it
    /// is 0.
    #[track_caller]
    pub fn std(&self, axes: impl Axes, correction: usize) -> Tensor {
        let axes = self.axes("std", axes);
        self.widened(|x| x.var_over(axes, correction).root())
    }

    /// The square root of a sum of squares. Its gradient at 0 is 0, PyTorch's choice among the
    /// subgradients there, not the infinity of the root.
    fn root(&self) -> Tensor {
        let zero = self.eq_scalar(0);
        self.masked_fill(&zero, 1.0).sqrt().masked_fill(&zero, 0.0)
    }

    /// `log(sum(exp(x)))` over `axes`, safe from overflow; minus infinity for nothing.
    #[track_caller]
    pub fn logsumexp(&self, axes: impl Axes) -> Tensor {
        let axes = self.axes("logsumexp", axes);
        self.widened(|x| x.logsumexp_over(axes))
    }

    fn logsumexp_over(&self, axes: AxisList) -> Tensor {
        if axes.iter().any(|&a| self.shape()[a] == 0) {
            return self.exp().reduce(ReduceOp::Sum, axes).log();
        }
        let max = self.detach().reduce(ReduceOp::Max, axes.clone());
        // An infinite maximum must not turn into inf - inf.
        let max = max.is_finite().where_(&max, &max.zeros_like());
        let scaled = (self - max.reshape(self.kept(&axes))).exp();
        scaled.reduce(ReduceOp::Sum, axes).log() + max
    }

    /// The Euclidean norm over `axes`; gradient 0 where it is 0.
    #[track_caller]
    pub fn norm(&self, axes: impl Axes) -> Tensor {
        let axes = self.axes("norm", axes);
        self.widened(|x| x.square().reduce(ReduceOp::Sum, axes).root())
    }

    /// Whether any element over `axes` is not 0.
    #[track_caller]
    pub fn any(&self, axes: impl Axes) -> Tensor {
        self.truth(ReduceOp::Max, self.axes("any", axes))
    }

    /// Whether all elements over `axes` are not 0.
    #[track_caller]
    pub fn all(&self, axes: impl Axes) -> Tensor {
        self.truth(ReduceOp::Min, self.axes("all", axes))
    }

    fn truth(&self, op: ReduceOp, axes: AxisList) -> Tensor {
        let x = self.to_dtype(DType::Bool).to_dtype(DType::U8);
        if x.numel() == 0 {
            // Nothing: none is true, and all are.
            let kept: Shape = (0..x.rank())
                .filter(|d| !axes.contains(d))
                .map(|d| x.shape()[d])
                .collect();
            return Tensor::full(kept, (op == ReduceOp::Min) as u8 as f64, DType::Bool);
        }
        x.reduce(op, axes).to_dtype(DType::Bool)
    }

    /// The index of the first largest element along an axis, as `i64`; NaN counts as largest.
    #[track_caller]
    pub fn argmax(&self, axis: isize) -> Tensor {
        self.arg_extreme("argmax", ReduceOp::Max, axis)
    }

    /// The index of the first smallest element along an axis, as `i64`; NaN counts as smallest.
    #[track_caller]
    pub fn argmin(&self, axis: isize) -> Tensor {
        self.arg_extreme("argmin", ReduceOp::Min, axis)
    }

    #[track_caller]
    fn arg_extreme(&self, name: &str, op: ReduceOp, axis: isize) -> Tensor {
        if self.rank() == 0 {
            return self.unsqueeze(0).arg_extreme(name, op, axis);
        }
        let axis = axis_index(name, axis, self.rank());
        if self.shape()[axis] == 0 {
            panic!("{name}: axis {axis} of {:?} is empty", self.shape());
        }
        let x = if self.dtype() == DType::Bool {
            self.to_dtype(DType::U8)
        } else {
            self.clone()
        };
        Tensor::op(Prim::ArgReduce(op, axis), [&x])
    }

    /// The running sum along an axis; booleans and integers give `i64`.
    #[track_caller]
    pub fn cumsum(&self, axis: isize) -> Tensor {
        if self.rank() == 0 {
            return self.unsqueeze(0).cumsum(axis).reshape(());
        }
        let axis = axis_index("cumsum", axis, self.rank());
        Tensor::op(
            Prim::CumSum {
                axis,
                reverse: false,
            },
            [&self.to_sum_type()],
        )
    }
}
