//! Movement: the same elements seen under another shape, order or selection.

use crate::dtype::DType;
use crate::prim::{AxisList, Prim, SliceSpec, node_axes};
use crate::shape::{Axes, INFER, Shape, axis_index};
use crate::tensor::Tensor;
use smallvec::SmallVec;
use std::sync::Arc;

impl Tensor {
    /// The same elements in row-major order under another shape; one size may be
    /// [`INFER`](crate::INFER).
    ///
    /// ```
    /// use fornax_tensor::{DType, Tensor, INFER};
    /// assert_eq!(Tensor::arange(12, DType::F32).reshape([3, INFER]).shape(), [3, 4]);
    /// ```
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let mut shape = shape.into();
        let asked = shape.clone();
        if let Some(at) = shape.iter().position(|&s| s == INFER) {
            let known: usize = shape.iter().filter(|&&s| s != INFER).product();
            let fits = known > 0 && self.numel().is_multiple_of(known);
            if !fits || shape.iter().filter(|&&s| s == INFER).count() > 1 {
                let shown: Vec<_> = (asked.iter())
                    .map(|&s| {
                        if s == INFER {
                            "INFER".into()
                        } else {
                            s.to_string()
                        }
                    })
                    .collect();
                let shown = shown.join(", ");
                panic!("reshape: {:?} has no unique form [{shown}]", self.shape());
            }
            shape.dims_mut()[at] = self.numel() / known;
        }
        if shape.numel() != self.numel() {
            panic!(
                "reshape: {:?} has {} elements, {shape:?} has {}",
                self.shape(),
                self.numel(),
                shape.numel()
            );
        }
        if shape == self.0.shape {
            return self.clone();
        }
        Tensor::op_shaped(Prim::Reshape, [self], shape)
    }

    /// The axes from `start` to `end` (both included) as one.
    #[track_caller]
    pub fn flatten(&self, start: isize, end: isize) -> Tensor {
        if self.rank() == 0 {
            return self.reshape([1]);
        }
        let (a, b) = (
            axis_index("flatten", start, self.rank()),
            axis_index("flatten", end, self.rank()),
        );
        if a > b {
            panic!("flatten: the first axis {start} lies behind the last {end}");
        }
        let shape = self.shape();
        let merged: usize = shape[a..=b].iter().product();
        let sizes = shape[..a].iter().chain([&merged]).chain(&shape[b + 1..]);
        self.reshape(sizes.copied().collect::<Shape>())
    }

    /// Axes reordered: output axis `i` is input axis `axes[i]`.
    #[track_caller]
    pub fn permute(&self, axes: impl AsRef<[isize]>) -> Tensor {
        let axes = axes.as_ref();
        let list: AxisList = axes
            .iter()
            .map(|&a| axis_index("permute", a, self.rank()))
            .collect();
        let mut seen = list.clone();
        seen.sort_unstable();
        if !seen.iter().copied().eq(0..self.rank()) {
            panic!(
                "permute: {axes:?} is not an order of the {} axes",
                self.rank()
            );
        }
        if list.iter().copied().eq(0..self.rank()) {
            return self.clone();
        }
        Tensor::op(Prim::Permute(node_axes(&list)), [self])
    }

    /// Two axes swapped.
    #[track_caller]
    pub fn transpose(&self, a: isize, b: isize) -> Tensor {
        let mut order: Vec<isize> = (0..self.rank() as isize).collect();
        let (a, b) = (
            axis_index("transpose", a, self.rank()),
            axis_index("transpose", b, self.rank()),
        );
        order.swap(a, b);
        self.permute(order)
    }

    /// The last two axes swapped.
    #[track_caller]
    pub fn t(&self) -> Tensor {
        if self.rank() < 2 {
            self.clone()
        } else {
            self.transpose(-2, -1)
        }
    }

    /// An axis of size 1 removed; other sizes stay as they are.
    #[track_caller]
    pub fn squeeze(&self, axis: isize) -> Tensor {
        let axis = axis_index("squeeze", axis, self.rank());
        if self.shape()[axis] != 1 {
            return self.clone();
        }
        let mut shape = self.0.shape.clone();
        shape.dims_mut().remove(axis);
        self.reshape(shape)
    }

    /// An axis of size 1 inserted before `axis` (of the result).
    #[track_caller]
    pub fn unsqueeze(&self, axis: isize) -> Tensor {
        let axis = axis_index("unsqueeze", axis, self.rank() + 1);
        let mut shape = self.0.shape.clone();
        shape.dims_mut().insert(axis, 1);
        self.reshape(shape)
    }

    /// Sizes of 1 stretched, and leading axes added, to `shape`; costs no memory.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        if shape == self.0.shape {
            return self.clone();
        }
        if Shape::broadcast(self.shape(), &shape).as_ref() != Some(&shape) {
            panic!(
                "broadcast_to: {:?} does not stretch to {shape:?}",
                self.shape()
            );
        }
        let lead: Shape = std::iter::repeat_n(1, shape.len() - self.rank())
            .chain(self.shape().iter().copied())
            .collect();
        Tensor::op_shaped(Prim::Broadcast, [&self.reshape(lead)], shape)
    }

    /// Elements `start, start + step, ..` before `end` along an axis, as Python's
    /// `x[start:end:step]`: negative positions count from the end and are then limited to what
    /// exists; for a negative step `end = isize::MIN` means "through the first".
    #[track_caller]
    pub fn slice(&self, axis: isize, start: isize, end: isize, step: isize) -> Tensor {
        let axis = axis_index("slice", axis, self.rank());
        if step == 0 {
            panic!("slice: the step is 0");
        }
        let size = self.shape()[axis] as isize;
        let limit = |v: isize, low: isize, high: isize| {
            let v = if v < 0 { v.saturating_add(size) } else { v };
            v.clamp(low, high)
        };
        let (start, len) = if step > 0 {
            let (start, end) = (limit(start, 0, size), limit(end, 0, size));
            (start, (end - start + step - 1).div_euclid(step).max(0))
        } else {
            let start = limit(start, -1, size - 1);
            let end = if end == isize::MIN {
                -1
            } else {
                limit(end, -1, size - 1)
            };
            (start, (start - end - step - 1).div_euclid(-step).max(0))
        };
        if (start, len, step) == (0, size, 1) {
            return self.clone();
        }
        let mut spec = SliceSpec {
            starts: SmallVec::from_elem(0, self.rank()),
            steps: SmallVec::from_elem(1, self.rank()),
        };
        spec.starts[axis] = if len == 0 { 0 } else { start as usize };
        spec.steps[axis] = step;
        let mut shape = self.0.shape.clone();
        shape.dims_mut()[axis] = len as usize;
        Tensor::op_shaped(Prim::Slice(Arc::new(spec)), [self], shape)
    }

    /// `len` elements from `start` along an axis.
    #[track_caller]
    pub fn narrow(&self, axis: isize, start: usize, len: usize) -> Tensor {
        let size = self.dim(axis);
        if start > size || len > size - start {
            panic!("narrow: {len} elements from {start} lie outside an axis of size {size}");
        }
        self.slice(axis, start as isize, (start + len) as isize, 1)
    }

    /// One index along an axis, which disappears.
    #[track_caller]
    pub fn select(&self, axis: isize, index: isize) -> Tensor {
        let size = self.dim(axis);
        let at = if index < 0 {
            index + size as isize
        } else {
            index
        };
        if at < 0 || at >= size as isize {
            panic!("select: index {index} is out of range for an axis of size {size}");
        }
        let axis = axis_index("select", axis, self.rank());
        self.narrow(axis as isize, at as usize, 1)
            .squeeze(axis as isize)
    }

    /// Axes in reverse order of index.
    #[track_caller]
    pub fn flip(&self, axes: impl Axes) -> Tensor {
        let axes = axes.resolve("flip", self.rank());
        axes.iter().fold(self.clone(), |x, &a| {
            x.slice(a as isize, -1, isize::MIN, -1)
        })
    }

    /// `(before, after)` elements of `value` added around each axis.
    #[track_caller]
    pub fn pad(&self, pads: &[(usize, usize)], value: f64) -> Tensor {
        if pads.len() != self.rank() {
            panic!(
                "pad: {} pairs for a tensor of {} dimensions",
                pads.len(),
                self.rank()
            );
        }
        if pads.iter().all(|&p| p == (0, 0)) {
            return self.clone();
        }
        let shape: Shape = self
            .shape()
            .iter()
            .zip(pads)
            .map(|(&s, &(lo, hi))| lo + s + hi)
            .collect();
        let spec = SliceSpec {
            starts: pads.iter().map(|p| p.0).collect(),
            steps: SmallVec::from_elem(1, self.rank()),
        };
        let around = Tensor::full(shape, value, self.dtype());
        Tensor::op(Prim::SliceUpdate(Arc::new(spec)), [&around, self])
    }

    /// The tensor with `src` in place of the elements from `starts` on (step 1).
    #[track_caller]
    pub fn slice_update(&self, starts: &[usize], src: &Tensor) -> Tensor {
        let inside = starts.len() == self.rank()
            && src.rank() == self.rank()
            && (0..self.rank()).all(|d| starts[d] + src.shape()[d] <= self.shape()[d]);
        if !inside || src.dtype() != self.dtype() {
            panic!(
                "slice_update: {} {:?} at {starts:?} does not lie inside {} {:?}",
                src.dtype(),
                src.shape(),
                self.dtype(),
                self.shape()
            );
        }
        let spec = SliceSpec {
            starts: starts.iter().copied().collect(),
            steps: SmallVec::from_elem(1, self.rank()),
        };
        Tensor::op(Prim::SliceUpdate(Arc::new(spec)), [self, src])
    }

    /// Tensors joined along an axis; types are promoted.
    #[track_caller]
    pub fn cat(tensors: &[Tensor], axis: isize) -> Tensor {
        let Some(first) = tensors.first() else {
            panic!("cat: no tensors given")
        };
        let axis = axis_index("cat", axis, first.rank());
        let dtype = tensors
            .iter()
            .fold(first.dtype(), |d, t| d.promote(t.dtype()));
        for t in tensors {
            let same = t.rank() == first.rank()
                && (0..t.rank()).all(|d| d == axis || t.shape()[d] == first.shape()[d]);
            if !same {
                panic!(
                    "cat: {:?} and {:?} differ outside axis {axis}",
                    first.shape(),
                    t.shape()
                );
            }
        }
        if tensors.len() == 1 {
            return first.clone();
        }
        let tensors: Vec<Tensor> = tensors.iter().map(|t| t.to_dtype(dtype)).collect();
        let described: Vec<_> = tensors.iter().map(|t| (&t.0.shape, dtype)).collect();
        let (shape, dtype) = Prim::Concat(axis).infer(&described);
        Tensor::from_node(Prim::Concat(axis), tensors.into(), shape, dtype)
    }

    /// Tensors of one shape joined along a new axis.
    #[track_caller]
    pub fn stack(tensors: &[Tensor], axis: isize) -> Tensor {
        let parts: Vec<Tensor> = tensors.iter().map(|t| t.unsqueeze(axis)).collect();
        if let Some(t) = tensors.iter().find(|t| t.shape() != tensors[0].shape()) {
            panic!(
                "stack: shapes {:?} and {:?} differ",
                tensors[0].shape(),
                t.shape()
            );
        }
        Tensor::cat(&parts, axis)
    }

    /// Pieces of `size` along an axis; the last may be smaller.
    #[track_caller]
    pub fn split(&self, size: usize, axis: isize) -> Vec<Tensor> {
        if size == 0 {
            panic!("split: the size is 0");
        }
        let n = self.dim(axis);
        let piece = |start: usize| self.narrow(axis, start, size.min(n - start));
        if n == 0 {
            vec![self.clone()]
        } else {
            (0..n).step_by(size).map(piece).collect()
        }
    }

    /// At most `n` pieces of equal size (but for the last) along an axis.
    #[track_caller]
    pub fn chunk(&self, n: usize, axis: isize) -> Vec<Tensor> {
        self.split(self.dim(axis).div_ceil(n.max(1)).max(1), axis)
    }

    /// The tensor repeated `times[i]` times along each axis, as `torch.Tensor.repeat`.
    #[track_caller]
    pub fn repeat(&self, times: &[usize]) -> Tensor {
        if times.len() < self.rank() {
            panic!(
                "repeat: {} counts for a tensor of {} dimensions",
                times.len(),
                self.rank()
            );
        }
        let lead = times.len() - self.rank();
        let sizes: Vec<usize> = std::iter::repeat_n(1, lead)
            .chain(self.shape().iter().copied())
            .collect();
        let apart: Shape = sizes.iter().flat_map(|&s| [1, s]).collect();
        let wide: Shape = sizes
            .iter()
            .zip(times)
            .flat_map(|(&s, &t)| [t, s])
            .collect();
        let joined: Shape = sizes.iter().zip(times).map(|(&s, &t)| s * t).collect();
        self.reshape(apart).broadcast_to(wide).reshape(joined)
    }

    /// The elements on and below a diagonal of the last two axes, 0 elsewhere; `diagonal` 0 is
    /// the main one, positive ones lie above.
    #[track_caller]
    pub fn tril(&self, diagonal: isize) -> Tensor {
        self.triangle("tril", diagonal, |distance, d| distance.le_scalar(d))
    }

    /// The elements on and above a diagonal of the last two axes, 0 elsewhere.
    #[track_caller]
    pub fn triu(&self, diagonal: isize) -> Tensor {
        self.triangle("triu", diagonal, |distance, d| distance.ge_scalar(d))
    }

    #[track_caller]
    fn triangle(&self, op: &str, d: isize, keep: impl Fn(Tensor, i64) -> Tensor) -> Tensor {
        if self.rank() < 2 {
            panic!(
                "{op}: needs at least two dimensions, got {:?}",
                self.shape()
            );
        }
        let row = Tensor::arange(self.dim(-2), DType::I64).unsqueeze(1);
        let column = Tensor::arange(self.dim(-1), DType::I64).unsqueeze(0);
        keep(column - row, d as i64).where_(self, &Tensor::full((), 0.0, self.dtype()))
    }
}
