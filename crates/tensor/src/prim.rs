//! The closed set of primitives. Everything a user calls is written in terms of these; shape
//! inference (here), gradients (`grad.rs`) and lowering (`plan/`) are each one exhaustive `match`.

use crate::dtype::DType;
use crate::fast::Fast;
use crate::precision::Precision;
use crate::shape::Shape;
use crate::tape::{Binary, Key, Scalar, Unary};
use smallvec::SmallVec;
use std::sync::Arc;

/// A short list of axes.
pub type AxisList = SmallVec<[usize; 6]>;

/// The same in bytes, so that nodes stay small.
pub type NodeAxes = SmallVec<[u8; 16]>;

/// # Panics
/// If an axis is beyond the 256th.
pub(crate) fn node_axes(axes: &[usize]) -> NodeAxes {
    let byte = |&a| u8::try_from(a).expect("a tensor has at most 256 axes");
    axes.iter().map(byte).collect()
}

/// As lists elsewhere.
pub(crate) fn axis_list(axes: &NodeAxes) -> AxisList {
    axes.iter().map(|&a| a as usize).collect()
}

/// One operation of the lazy graph.
#[derive(Clone, Debug)]
pub enum Prim {
    // ---- leaves
    /// Elements given from outside.
    Data,
    /// One scalar everywhere.
    Const(Scalar),
    /// `0, 1, .. n-1`, one-dimensional.
    Iota,
    /// Uniform random numbers in `[0, 1)`: a function of the key and the element's index alone.
    Uniform(Key),

    // ---- maps: inputs of one shape, element by element
    /// One-argument scalar function.
    Unary(Unary),
    /// Two-argument scalar function; both inputs have one type.
    Binary(Binary),
    /// `(cond, a, b)`: `a` where `cond`, else `b`.
    Where,
    /// Conversion to the node's type.
    Cast,

    // ---- movement: no arithmetic
    /// The same elements in the same order under another shape.
    Reshape,
    /// Axes reordered: output axis `i` is input axis `axes[i]`.
    Permute(NodeAxes),
    /// Sizes of 1 stretched.
    Broadcast,
    /// Per axis: first index and step (may be negative); lengths are the node's shape.
    Slice(Arc<SliceSpec>),
    /// `(x, src)`: `x` with the elements named by the slice replaced by `src`.
    SliceUpdate(Arc<SliceSpec>),
    /// Inputs joined along an axis.
    Concat(usize),

    // ---- reductions: the axes disappear
    /// Sum, product, maximum or minimum over axes.
    Reduce(ReduceOp, NodeAxes),
    /// Index of the first extreme along an axis, as `i64`.
    ArgReduce(ReduceOp, usize),
    /// Running sum along an axis, from the front or (`reverse`) from the back.
    CumSum {
        /// The axis.
        axis: usize,
        /// Whether to run from the back.
        reverse: bool,
    },

    // ---- contractions
    /// `[.., m, k] x [k, n]` or `[.., m, k] x [.., k, n]` with equal leading sizes.
    MatMul(Precision),
    /// One of the three faces of a convolution.
    Conv(Arc<Conv>),

    // ---- index
    /// `(x, index)`: `out[..i..] = x[..index[..i..]..]` along the axis, as `torch.gather`.
    Gather(usize),
    /// `(x, index, src)`: `x` with `src` added at `index` along the axis, as `torch.scatter_add`.
    ScatterAdd(usize),
    /// Indices that sort along an axis, stable, NaN last.
    ArgSort {
        /// The axis.
        axis: usize,
        /// Largest first.
        descending: bool,
    },

    // ---- meta
    /// The value, but no gradient passes.
    StopGradient,
    /// `(x, after)`: `x`, computed anew once `after` is there; keeps a recomputation from being
    /// merged with the original (gradient checkpointing).
    Barrier,
    /// A named fused op, defined by an expression in the primitives above.
    Fast(Box<Fast>),
}

/// First index and step per axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SliceSpec {
    /// First index taken, per axis.
    pub starts: SmallVec<[usize; 6]>,
    /// Step, per axis; not 0.
    pub steps: SmallVec<[isize; 6]>,
}

/// What a reduction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// Sum; 0 for nothing.
    Sum,
    /// Product; 1 for nothing.
    Prod,
    /// Maximum; NaN wins.
    Max,
    /// Minimum; NaN wins.
    Min,
}

/// Which of the three arrays of a convolution is computed from the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Face {
    /// `(x, w) -> y`
    Output,
    /// `(dy, w) -> dx`
    InputGrad,
    /// `(x, dy) -> dw`
    WeightGrad,
}

/// A convolution `x [N, C, spatial..] * w [O, C/groups, kernel..] -> y [N, O, spatial..]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// What is computed.
    pub face: Face,
    /// Step of the window, per spatial axis.
    pub stride: AxisList,
    /// Zeros before and after, per spatial axis.
    pub padding: SmallVec<[(usize, usize); 3]>,
    /// Distance between the window's elements, per spatial axis.
    pub dilation: AxisList,
    /// Channel groups.
    pub groups: usize,
    /// How exactly `f32` is multiplied.
    pub precision: Precision,
}

/// The name of the public op.
pub(crate) fn binary_name(op: Binary) -> &'static str {
    match op {
        Binary::Add => "add",
        Binary::Sub => "sub",
        Binary::Mul => "mul",
        Binary::Div => "div",
        Binary::Rem => "rem",
        Binary::Pow => "pow",
        Binary::Max => "maximum",
        Binary::Min => "minimum",
        Binary::And => "logical_and",
        Binary::Or => "logical_or",
        Binary::Xor => "logical_xor",
        Binary::Eq => "eq",
        Binary::Ne => "ne",
        Binary::Lt => "lt",
        Binary::Le => "le",
        Binary::Gt => "gt",
        Binary::Ge => "ge",
    }
}

impl Prim {
    /// Whether the op works element by element (and so can be part of a tape).
    pub fn is_map(&self) -> bool {
        matches!(
            self,
            Prim::Unary(_) | Prim::Binary(_) | Prim::Where | Prim::Cast | Prim::Uniform(_)
        )
    }

    /// A short name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Prim::Data => "data",
            Prim::Const(_) => "const",
            Prim::Iota => "arange",
            Prim::Uniform(_) => "rand",
            Prim::Unary(_) => "unary",
            Prim::Binary(op) => binary_name(*op),
            Prim::Where => "where",
            Prim::Cast => "to_dtype",
            Prim::Reshape => "reshape",
            Prim::Permute(_) => "permute",
            Prim::Broadcast => "broadcast_to",
            Prim::Slice(_) => "slice",
            Prim::SliceUpdate(_) => "slice_update",
            Prim::Concat(_) => "cat",
            Prim::Reduce(ReduceOp::Sum, _) => "sum",
            Prim::Reduce(ReduceOp::Prod, _) => "prod",
            Prim::Reduce(ReduceOp::Max, _) => "max",
            Prim::Reduce(ReduceOp::Min, _) => "min",
            Prim::ArgReduce(ReduceOp::Min, _) => "argmin",
            Prim::ArgReduce(..) => "argmax",
            Prim::CumSum { .. } => "cumsum",
            Prim::MatMul(_) => "matmul",
            Prim::Conv(_) => "conv",
            Prim::Gather(_) => "gather",
            Prim::ScatterAdd(_) => "scatter_add",
            Prim::ArgSort { .. } => "argsort",
            Prim::StopGradient => "detach",
            Prim::Barrier => "barrier",
            Prim::Fast(f) => f.name(),
        }
    }

    /// What its random numbers are a function of, if it makes any.
    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Prim::Uniform(key) => Some(*key),
            Prim::Fast(op) => op.key(),
            _ => None,
        }
    }

    /// Feeds everything that shapes a plan to `h`. Values that may change from step to step
    /// (scalar constants, random keys) stay out: they are run-time slots.
    pub(crate) fn hash(&self, h: &mut impl FnMut(u64)) {
        let tag = |h: &mut dyn FnMut(u64), kind: u64, detail: u64| h(kind << 32 | detail);
        let axes = |h: &mut dyn FnMut(u64), a: &[usize]| a.iter().for_each(|&x| h(x as u64));
        match self {
            Prim::Data => tag(h, 1, 0),
            Prim::Const(_) => tag(h, 2, 0),
            Prim::Iota => tag(h, 3, 0),
            Prim::Uniform(_) => tag(h, 4, 0),
            Prim::Unary(op) => tag(h, 5, *op as u64),
            Prim::Binary(op) => tag(h, 6, *op as u64),
            Prim::Where => tag(h, 7, 0),
            Prim::Cast => tag(h, 8, 0),
            Prim::Reshape => tag(h, 9, 0),
            Prim::Permute(a) => {
                tag(h, 10, a.len() as u64);
                axes(h, &axis_list(a));
            }
            Prim::Broadcast => tag(h, 11, 0),
            Prim::Slice(s) | Prim::SliceUpdate(s) => {
                let kind = if matches!(self, Prim::Slice(_)) {
                    12
                } else {
                    13
                };
                tag(h, kind, s.starts.len() as u64);
                axes(h, &s.starts);
                s.steps.iter().for_each(|&x| h(x as u64));
            }
            Prim::Concat(a) => tag(h, 14, *a as u64),
            Prim::Reduce(op, a) => {
                tag(h, 15, (*op as u64) << 16 | a.len() as u64);
                axes(h, &axis_list(a));
            }
            Prim::ArgReduce(op, a) => tag(h, 16, (*op as u64) << 16 | *a as u64),
            Prim::CumSum { axis, reverse } => tag(h, 17, (*reverse as u64) << 16 | *axis as u64),
            Prim::MatMul(precision) => tag(h, 18, *precision as u64),
            Prim::Conv(c) => {
                tag(h, 19, (c.face as u64) << 16 | c.stride.len() as u64);
                axes(h, &c.stride);
                axes(h, &c.dilation);
                c.padding.iter().for_each(|&(lo, hi)| {
                    h(lo as u64);
                    h(hi as u64)
                });
                h((c.groups as u64) << 2 | c.precision as u64);
            }
            Prim::Gather(a) => tag(h, 20, *a as u64),
            Prim::ScatterAdd(a) => tag(h, 21, *a as u64),
            Prim::ArgSort { axis, descending } => {
                tag(h, 22, (*descending as u64) << 16 | *axis as u64)
            }
            Prim::StopGradient => tag(h, 23, 0),
            Prim::Barrier => tag(h, 24, 0),
            Prim::Fast(f) => {
                tag(h, 25, 0);
                f.hash(h);
            }
        }
    }

    /// The shape and element type of the result, for the primitives that determine them from
    /// their inputs. Movement, casts and leaves are given theirs by the caller.
    ///
    /// The public ops check their arguments first and speak the user's language; what is wrong
    /// here is a mistake inside this crate.
    pub(crate) fn infer(&self, inputs: &[(&Shape, DType)]) -> (Shape, DType) {
        let same = || inputs[0].0.clone();
        match self {
            Prim::Unary(_) => (same(), inputs[0].1),
            Prim::Binary(op) => {
                debug_assert_eq!(inputs[0], inputs[1], "{}", self.name());
                (
                    same(),
                    if op.is_comparison() {
                        DType::Bool
                    } else {
                        inputs[0].1
                    },
                )
            }
            Prim::Where => {
                debug_assert_eq!(inputs[1], inputs[2]);
                (same(), inputs[1].1)
            }
            Prim::SliceUpdate(_) | Prim::StopGradient | Prim::Barrier | Prim::ScatterAdd(_) => {
                (same(), inputs[0].1)
            }
            Prim::CumSum { .. } => (same(), inputs[0].1),
            Prim::ArgSort { .. } => (same(), DType::I64),
            Prim::Permute(axes) => {
                let sizes = axes.iter().map(|&a| inputs[0].0[a as usize]);
                (sizes.collect(), inputs[0].1)
            }
            Prim::Concat(axis) => {
                let mut shape = same();
                shape.dims_mut()[*axis] = inputs.iter().map(|i| i.0[*axis]).sum();
                (shape, inputs[0].1)
            }
            Prim::Reduce(_, axes) => {
                let axes = axis_list(axes);
                let kept = (0..inputs[0].0.len()).filter(|d| !axes.contains(d));
                (kept.map(|d| inputs[0].0[d]).collect(), inputs[0].1)
            }
            Prim::ArgReduce(_, axis) => {
                let mut shape = same();
                shape.dims_mut().remove(*axis);
                (shape, DType::I64)
            }
            Prim::MatMul(_) => {
                let mut shape = same();
                let rank = shape.len();
                shape.dims_mut()[rank - 1] = inputs[1].0[inputs[1].0.len() - 1];
                (shape, inputs[0].1)
            }
            Prim::Gather(_) => (inputs[1].0.clone(), inputs[0].1),
            Prim::Fast(f) => f.infer(inputs),
            Prim::Data
            | Prim::Const(_)
            | Prim::Iota
            | Prim::Uniform(_)
            | Prim::Cast
            | Prim::Reshape
            | Prim::Broadcast
            | Prim::Slice(_)
            | Prim::Conv(_) => unreachable!("the caller gives the shape of {}", self.name()),
        }
    }
}
