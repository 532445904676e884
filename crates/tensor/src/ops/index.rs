//! Reading and adding by index, sorting.

use crate::dtype::DType;
use crate::prim::Prim;
use crate::shape::{Shape, axis_index};
use crate::tensor::Tensor;

#[track_caller]
fn check_index(op: &str, index: &Tensor) -> Tensor {
    if !index.dtype().is_int() {
        panic!(
            "{op}: the index is {}, not an integer tensor",
            index.dtype()
        );
    }
    index.to_dtype(DType::I64)
}

impl Tensor {
    /// `out[i][j].. = x[index[i][j]..][j]..` along the axis, as `torch.gather`: the result has the
    /// shape of `index`, which must not exceed that of `x` on the other axes.
    ///
    /// An index outside the axis is an error of the evaluation: [`Tensor::try_eval`].
    #[track_caller]
    pub fn gather(&self, axis: isize, index: &Tensor) -> Tensor {
        let axis = axis_index("gather", axis, self.rank());
        let index = check_index("gather", index);
        let x = self.cut_like("gather", axis, &index);
        Tensor::op(Prim::Gather(axis), [&x, &index])
    }

    /// The leading part of `self` that `index` reaches on the axes other than `axis`.
    #[track_caller]
    fn cut_like(&self, op: &str, axis: usize, index: &Tensor) -> Tensor {
        let fits = index.rank() == self.rank()
            && (0..self.rank()).all(|d| d == axis || index.shape()[d] <= self.shape()[d]);
        if !fits {
            panic!(
                "{op}: index {:?} does not fit {:?} outside axis {axis}",
                index.shape(),
                self.shape()
            );
        }
        (0..self.rank())
            .filter(|&d| d != axis)
            .fold(self.clone(), |x, d| {
                x.narrow(d as isize, 0, index.shape()[d])
            })
    }

    /// The slices of `self` along an axis named by a one-dimensional `index`.
    #[track_caller]
    pub fn index_select(&self, axis: isize, index: &Tensor) -> Tensor {
        let axis = axis_index("index_select", axis, self.rank());
        let index = check_index("index_select", index);
        if index.rank() != 1 {
            panic!(
                "index_select: the index has {} dimensions, not 1",
                index.rank()
            );
        }
        let mut shape = self.0.shape.clone();
        shape.dims_mut()[axis] = index.numel();
        let mut lead = vec![1; self.rank()];
        lead[axis] = index.numel();
        self.gather(axis as isize, &index.reshape(lead).broadcast_to(shape))
    }

    /// Rows of a table: `weight [v, d]`, `index [..]` -> `[.., d]`.
    #[track_caller]
    pub fn embedding(&self, index: &Tensor) -> Tensor {
        if self.rank() != 2 {
            panic!(
                "embedding: the table has shape {:?}, not [rows, width]",
                self.shape()
            );
        }
        let rows = self.index_select(0, &index.reshape([index.numel()]));
        let shape: Shape = index.shape().iter().copied().chain([self.dim(1)]).collect();
        rows.reshape(shape)
    }

    /// `self` with `src` added at `index` along the axis, as `torch.scatter_add`. Indices that
    /// occur more than once add up, always in the same order.
    #[track_caller]
    pub fn scatter_add(&self, axis: isize, index: &Tensor, src: &Tensor) -> Tensor {
        let axis = axis_index("scatter_add", axis, self.rank());
        let index = check_index("scatter_add", index);
        if src.dtype() != self.dtype() {
            panic!("scatter_add: {} is added to {}", src.dtype(), self.dtype());
        }
        let shaped = src.rank() == index.rank()
            && (0..src.rank()).all(|d| index.shape()[d] <= src.shape()[d]);
        if !shaped {
            panic!(
                "scatter_add: index {:?} does not fit src {:?}",
                index.shape(),
                src.shape()
            );
        }
        let src = (0..src.rank()).fold(src.clone(), |s, d| {
            s.narrow(d as isize, 0, index.shape()[d])
        });
        let part = self.cut_like("scatter_add", axis, &index);
        let sum = Tensor::op(Prim::ScatterAdd(axis), [&part, &index, &src]);
        if part.shape() == self.shape() {
            return sum;
        }
        self.slice_update(&vec![0; self.rank()], &sum)
    }

    /// The indices that sort along an axis: stable, NaN last (first when descending), as
    /// `torch.argsort(stable=True)`.
    #[track_caller]
    pub fn argsort(&self, axis: isize, descending: bool) -> Tensor {
        if self.rank() == 0 {
            return self.unsqueeze(0).argsort(axis, descending).reshape(());
        }
        let axis = axis_index("argsort", axis, self.rank());
        Tensor::op(Prim::ArgSort { axis, descending }, [self])
    }

    /// The elements sorted along an axis, and where they came from.
    #[track_caller]
    pub fn sort(&self, axis: isize, descending: bool) -> (Tensor, Tensor) {
        let order = self.argsort(axis, descending);
        if self.rank() == 0 {
            return (self.clone(), order);
        }
        (self.gather(axis, &order), order)
    }

    /// The `k` largest elements along an axis in descending order, and their indices.
    #[track_caller]
    pub fn topk(&self, k: usize, axis: isize) -> (Tensor, Tensor) {
        if k > self.dim(axis) {
            panic!("topk: {k} of an axis of size {}", self.dim(axis));
        }
        let order = self.argsort(axis, true).narrow(axis, 0, k);
        (self.gather(axis, &order), order)
    }

    /// 1 at the index, 0 elsewhere: `[..] -> [.., classes]`. An index outside `0..classes` is an
    /// error of the evaluation.
    #[track_caller]
    pub fn one_hot(&self, classes: usize, dtype: DType) -> Tensor {
        let index = check_index("one_hot", self);
        let all = Tensor::arange(classes, DType::I64);
        // Reading the classes' numbers by index changes nothing, but refuses what is not a class.
        let index = all
            .gather(0, &index.reshape([index.numel()]))
            .reshape(index.shape());
        index.unsqueeze(-1).eq(&all).to_dtype(dtype)
    }
}
