//! Convolutions over one or two spatial axes, channels first as in PyTorch.

use crate::node::Inputs;
use crate::precision::Precision;
use crate::prim::{AxisList, Conv, Face, Prim};
use crate::shape::Shape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Options of a convolution, with PyTorch's defaults: stride 1, padding 0, dilation 1, groups 1.
/// A single number holds for every spatial axis.
///
/// ```
/// use fornax_tensor::{ConvSpec, DType, Tensor};
/// let (x, w) = (Tensor::ones([1, 3, 8, 8], DType::F32), Tensor::ones([4, 3, 3, 3], DType::F32));
/// let y = x.conv2d(&w, None, &ConvSpec::new().stride(2).padding(1));
/// assert_eq!(y.shape(), [1, 4, 4, 4]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    stride: AxisList,
    padding: AxisList,
    dilation: AxisList,
    output_padding: AxisList,
    groups: usize,
}

impl Default for ConvSpec {
    fn default() -> Self {
        let all = |v| AxisList::from_slice(&[v]);
        ConvSpec {
            stride: all(1),
            padding: all(0),
            dilation: all(1),
            output_padding: all(0),
            groups: 1,
        }
    }
}

impl ConvSpec {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }
    /// Step of the window, per spatial axis.
    pub fn stride(mut self, stride: impl Into<Shape>) -> Self {
        self.stride = stride.into().iter().copied().collect();
        self
    }
    /// Zeros on both sides, per spatial axis.
    pub fn padding(mut self, padding: impl Into<Shape>) -> Self {
        self.padding = padding.into().iter().copied().collect();
        self
    }
    /// Distance between the window's elements, per spatial axis.
    pub fn dilation(mut self, dilation: impl Into<Shape>) -> Self {
        self.dilation = dilation.into().iter().copied().collect();
        self
    }
    /// Transposed convolutions only: sizes added on one side of the output.
    pub fn output_padding(mut self, padding: impl Into<Shape>) -> Self {
        self.output_padding = padding.into().iter().copied().collect();
        self
    }
    /// Channel groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    #[track_caller]
    fn resolve(&self, op: &str, spatial: usize) -> Conv {
        let per_axis = |name: &str, list: &AxisList| -> AxisList {
            match list.len() {
                1 => AxisList::from_elem(list[0], spatial),
                n if n == spatial => list.clone(),
                n => panic!("{op}: {name} has {n} values for {spatial} spatial axes"),
            }
        };
        let positive = |name: &str, list: AxisList| {
            if list.contains(&0) {
                panic!("{op}: {name} must be at least 1");
            }
            list
        };
        let padding = per_axis("padding", &self.padding);
        if self.groups == 0 {
            panic!("{op}: groups must be at least 1");
        }
        Conv {
            face: Face::Output,
            stride: positive("stride", per_axis("stride", &self.stride)),
            padding: padding.iter().map(|&p| (p, p)).collect(),
            dilation: positive("dilation", per_axis("dilation", &self.dilation)),
            groups: self.groups,
            precision: Precision::current(),
        }
    }
}

impl Tensor {
    /// A face of a convolution; `shape` is that of the result.
    pub(crate) fn conv_face(
        conv: &Conv,
        face: Face,
        a: &Tensor,
        b: &Tensor,
        shape: &[usize],
    ) -> Tensor {
        let conv = Arc::new(Conv {
            face,
            ..conv.clone()
        });
        let inputs = Inputs::from_iter([a.clone(), b.clone()]);
        Tensor::from_node(Prim::Conv(conv), inputs, Shape::from(shape), a.dtype())
    }

    #[track_caller]
    fn add_channels(self, op: &str, bias: Option<&Tensor>) -> Tensor {
        let Some(bias) = bias else { return self };
        if bias.shape() != [self.shape()[1]] {
            panic!(
                "{op}: bias {:?} for {} output channels",
                bias.shape(),
                self.shape()[1]
            );
        }
        let spread = crate::fast::channelwise(bias, &self);
        self + spread
    }

    #[track_caller]
    fn conv(
        &self,
        op: &str,
        spatial: usize,
        w: &Tensor,
        bias: Option<&Tensor>,
        spec: &ConvSpec,
    ) -> Tensor {
        let conv = spec.resolve(op, spatial);
        let (x, w) = same_type(op, self, w);
        check_ranks(op, spatial, &x, &w);
        let (xs, ws, g) = (x.shape(), w.shape(), conv.groups);
        if xs[1] != ws[1] * g || !ws[0].is_multiple_of(g) {
            panic!(
                "{op}: input {xs:?}, weight {ws:?}, groups {g}: the input needs {} channels and the {} outputs must divide into the groups",
                ws[1] * g,
                ws[0]
            );
        }
        let mut shape = Shape::from([xs[0], ws[0]]);
        for i in 0..spatial {
            let (lo, hi) = conv.padding[i];
            let reach = conv.dilation[i] * ws[2 + i].saturating_sub(1) + 1;
            let Some(room) = (xs[2 + i] + lo + hi).checked_sub(reach) else {
                panic!("{op}: the window {ws:?} does not fit into the padded input {xs:?}");
            };
            shape.dims_mut().push(room / conv.stride[i] + 1);
        }
        Tensor::conv_face(&conv, Face::Output, &x, &w, &shape).add_channels(op, bias)
    }

    #[track_caller]
    fn conv_transpose(
        &self,
        op: &str,
        spatial: usize,
        w: &Tensor,
        bias: Option<&Tensor>,
        spec: &ConvSpec,
    ) -> Tensor {
        let conv = spec.resolve(op, spatial);
        let (x, w) = same_type(op, self, w);
        check_ranks(op, spatial, &x, &w);
        let (xs, ws, g) = (x.shape(), w.shape(), conv.groups);
        if xs[1] != ws[0] || !xs[1].is_multiple_of(g) {
            panic!(
                "{op}: input {xs:?}, weight {ws:?}, groups {g}: the weight is [in, out / groups, kernel..]"
            );
        }
        let mut shape = Shape::from([xs[0], ws[1] * g]);
        for i in 0..spatial {
            let extra = *spec
                .output_padding
                .get(i)
                .unwrap_or(&spec.output_padding[0]);
            if extra >= conv.stride[i].max(conv.dilation[i]) {
                panic!("{op}: output_padding {extra} must be smaller than stride or dilation");
            }
            let grown = (xs[2 + i].saturating_sub(1)) * conv.stride[i]
                + conv.dilation[i] * (ws[2 + i].saturating_sub(1))
                + 1
                + extra;
            let (lo, hi) = conv.padding[i];
            let Some(size) = grown.checked_sub(lo + hi) else {
                panic!("{op}: padding {lo} leaves nothing of an output of {grown}");
            };
            shape.dims_mut().push(size);
        }
        Tensor::conv_face(&conv, Face::InputGrad, &x, &w, &shape).add_channels(op, bias)
    }

    /// `x [n, in, length]`, `weight [out, in / groups, kernel]`, `bias [out]` -> `[n, out, length']`.
    #[track_caller]
    pub fn conv1d(&self, weight: &Tensor, bias: Option<&Tensor>, spec: &ConvSpec) -> Tensor {
        self.conv("conv1d", 1, weight, bias, spec)
    }

    /// `x [n, in, h, w]`, `weight [out, in / groups, kh, kw]`, `bias [out]` -> `[n, out, h', w']`.
    #[track_caller]
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, spec: &ConvSpec) -> Tensor {
        self.conv("conv2d", 2, weight, bias, spec)
    }

    /// `x [n, in, length]`, `weight [in, out / groups, kernel]` -> `[n, out, length']`.
    #[track_caller]
    pub fn conv_transpose1d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        spec: &ConvSpec,
    ) -> Tensor {
        self.conv_transpose("conv_transpose1d", 1, weight, bias, spec)
    }

    /// `x [n, in, h, w]`, `weight [in, out / groups, kh, kw]` -> `[n, out, h', w']`.
    #[track_caller]
    pub fn conv_transpose2d(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        spec: &ConvSpec,
    ) -> Tensor {
        self.conv_transpose("conv_transpose2d", 2, weight, bias, spec)
    }
}

#[track_caller]
fn same_type(op: &str, x: &Tensor, w: &Tensor) -> (Tensor, Tensor) {
    let dtype = x.dtype().promote(w.dtype());
    if !dtype.is_float() {
        panic!(
            "{op}: needs floating-point tensors, got {} and {}",
            x.dtype(),
            w.dtype()
        );
    }
    (x.to_dtype(dtype), w.to_dtype(dtype))
}

#[track_caller]
fn check_ranks(op: &str, spatial: usize, x: &Tensor, w: &Tensor) {
    if x.rank() != spatial + 2 || w.rank() != spatial + 2 {
        panic!(
            "{op}: input {:?} and weight {:?} must have {} dimensions",
            x.shape(),
            w.shape(),
            spatial + 2
        );
    }
}
