//! Pooling over the last one or two axes.

use crate::fast::{Fast, Window};
use crate::tensor::Tensor;

#[track_caller]
fn window(
    op: &str,
    x: &Tensor,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    include: bool,
) -> Window {
    if x.rank() < 2 || !x.dtype().is_float() {
        panic!(
            "{op}: needs a floating-point [.., h, w], got {} {:?}",
            x.dtype(),
            x.shape()
        );
    }
    let w = Window {
        kernel,
        stride,
        padding,
        count_include_pad: include,
    };
    for i in 0..2 {
        if kernel[i] == 0 || stride[i] == 0 || 2 * padding[i] > kernel[i] {
            panic!(
                "{op}: kernel {kernel:?}, stride {stride:?}, padding {padding:?}: sizes must be at least 1 and padding at most half the kernel"
            );
        }
        let size = x.dim(i as isize - 2);
        if w.out_size(i, size) == 0 {
            panic!(
                "{op}: the window {kernel:?} does not fit into {:?}",
                x.shape()
            );
        }
    }
    w
}

impl Tensor {
    /// Maximum over windows of the last two axes: `[.., h, w] -> [.., h', w']`. NaN wins; of equal
    /// elements the first gets the gradient.
    #[track_caller]
    pub fn max_pool2d(
        &self,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Tensor {
        let w = window("max_pool2d", self, kernel, stride, padding, true);
        Fast::MaxPool(w).call(&[self])
    }

    /// Mean over windows of the last two axes; `count_include_pad` says whether padding counts
    /// as zeros (PyTorch's default) or not at all.
    #[track_caller]
    pub fn avg_pool2d(
        &self,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        count_include_pad: bool,
    ) -> Tensor {
        let w = window(
            "avg_pool2d",
            self,
            kernel,
            stride,
            padding,
            count_include_pad,
        );
        Fast::AvgPool(w).call(&[self])
    }

    /// [`max_pool2d`](Tensor::max_pool2d) over the last axis alone.
    #[track_caller]
    pub fn max_pool1d(&self, kernel: usize, stride: usize, padding: usize) -> Tensor {
        let x = self.unsqueeze(-2);
        x.max_pool2d([1, kernel], [1, stride], [0, padding])
            .squeeze(-2)
    }

    /// [`avg_pool2d`](Tensor::avg_pool2d) over the last axis alone.
    #[track_caller]
    pub fn avg_pool1d(
        &self,
        kernel: usize,
        stride: usize,
        padding: usize,
        count_include_pad: bool,
    ) -> Tensor {
        let x = self.unsqueeze(-2);
        x.avg_pool2d([1, kernel], [1, stride], [0, padding], count_include_pad)
            .squeeze(-2)
    }

    /// Mean over a grid of `out` cells that cover the last two axes, as
    /// `torch.nn.AdaptiveAvgPool2d`: cell `i` of `n` spans `floor(i*s/n) .. ceil((i+1)*s/n)`.
    #[track_caller]
    pub fn adaptive_avg_pool2d(&self, out: [usize; 2]) -> Tensor {
        self.adaptive("adaptive_avg_pool2d", out, |x, axis| x.mean_keepdim(axis))
    }

    /// Maximum over a grid of `out` cells that cover the last two axes.
    #[track_caller]
    pub fn adaptive_max_pool2d(&self, out: [usize; 2]) -> Tensor {
        let size = [self.dim(-2), self.dim(-1)];
        if let Some(kernel) = even_cells(size, out) {
            return self.max_pool2d(kernel, kernel, [0, 0]);
        }
        // Cell by cell, so that the first of equal elements gets the gradient, as in PyTorch.
        let rows: Vec<Tensor> = (0..out[0])
            .map(|r| {
                let (top, bottom) = cell(r, size[0], out[0]);
                let band = self.narrow(-2, top, bottom - top);
                let cells: Vec<Tensor> = (0..out[1])
                    .map(|c| {
                        let (left, right) = cell(c, size[1], out[1]);
                        let kernel = [bottom - top, right - left];
                        band.narrow(-1, left, kernel[1])
                            .max_pool2d(kernel, kernel, [0, 0])
                    })
                    .collect();
                Tensor::cat(&cells, -1)
            })
            .collect();
        Tensor::cat(&rows, -2)
    }

    #[track_caller]
    fn adaptive(
        &self,
        op: &str,
        out: [usize; 2],
        reduce: impl Fn(&Tensor, isize) -> Tensor,
    ) -> Tensor {
        if self.rank() < 2 || out.contains(&0) {
            panic!(
                "{op}: cannot cover {:?} with a grid of {out:?}",
                self.shape()
            );
        }
        let size = [self.dim(-2), self.dim(-1)];
        if let Some(kernel) = even_cells(size, out) {
            return self.avg_pool2d(kernel, kernel, [0, 0], true);
        }
        let mut x = self.clone();
        for (axis, (&size, &n)) in [-2, -1].into_iter().zip(size.iter().zip(&out)) {
            let cells: Vec<Tensor> = (0..n)
                .map(|i| {
                    let (from, to) = cell(i, size, n);
                    reduce(&x.narrow(axis, from, to - from), axis)
                })
                .collect();
            x = Tensor::cat(&cells, axis);
        }
        x
    }
}

/// The range of cell `i` of `n` over `size` elements.
fn cell(i: usize, size: usize, n: usize) -> (usize, usize) {
    (i * size / n, ((i + 1) * size).div_ceil(n))
}

/// The cell's size if all cells are alike and do not overlap.
fn even_cells(size: [usize; 2], out: [usize; 2]) -> Option<[usize; 2]> {
    let even = (0..2).all(|i| size[i] > 0 && out[i] > 0 && size[i].is_multiple_of(out[i]));
    even.then(|| [size[0] / out[0], size[1] / out[1]])
}
