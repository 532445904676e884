//! What an engine is: memory, and kernels compiled from specifications.
//!
//! The planner describes each kernel as a [`KernelSpec`]; the engine turns it once into something
//! that runs, and the plan keeps that. A second engine (a GPU's) implements the same two traits.

use crate::dtype::DType;
use crate::error::Result;
use crate::fast::Fast;
use crate::precision::Precision;
use crate::prim::{Conv, ReduceOp};
use crate::shape::{Layout, Shape};
use crate::tape::{Slots, Tape};
use smallvec::SmallVec;
use std::sync::Arc;

pub use crate::cpu::storage::Storage;

/// An engine: turns specifications into kernels.
pub trait Engine: Send + Sync {
    /// A name for people, such as `cpu (avx512)`.
    fn name(&self) -> String;
    /// Prepares a kernel; done once per plan.
    fn compile(&self, spec: KernelSpec) -> Box<dyn Kernel>;
}

/// A prepared kernel.
pub trait Kernel: Send + Sync {
    /// Runs on the operands in the order that the specification lists them: inputs, the inputs of
    /// the prologue or epilogue, then outputs.
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()>;
}

/// One operand at run time: memory, and the byte where its first element lies. The layout relative
/// to that byte is part of the specification.
#[derive(Clone, Copy)]
pub struct Arg<'a> {
    /// The memory.
    pub storage: &'a Storage,
    /// Where the operand begins, in bytes.
    pub offset: usize,
    /// Whether nothing writes to that memory in this evaluation, nor later without dropping first what
    /// kernels have made of it, which they may keep.
    pub constant: bool,
}

/// An operand's type and layout (offset 0 is the operand's first byte).
#[derive(Clone, Debug)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Sizes and strides; may have an offset of its own.
    pub layout: Layout,
}

/// An elementwise kernel: a tape over the elements of a shape. Its outputs are contiguous.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// The program.
    pub tape: Tape,
    /// The shape iterated over.
    pub shape: Shape,
    /// Layouts of the tape's inputs, all of that shape.
    pub inputs: SmallVec<[Layout; 8]>,
}

/// Elementwise work on the result of another kernel, done range by range while the range is in
/// cache. Input 0 of the tape is that result; the others follow the kernel's own operands.
pub type Epilogue = Option<MapSpec>;

/// Everything an engine must be able to do.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "made once per plan, not worth boxes"
)]
pub enum KernelSpec {
    /// Elementwise: `inputs.. -> outputs..`.
    Map(MapSpec),
    /// Reduction of what a tape yields (its one output) over axes of its shape:
    /// `prologue inputs.., epilogue inputs.. -> result, epilogue outputs..`.
    Reduce {
        /// What is accumulated.
        op: ReduceOp,
        /// The axes that disappear.
        axes: SmallVec<[usize; 6]>,
        /// Elementwise work on the way in, over the shape before the reduction.
        prologue: MapSpec,
        /// Elementwise work on the way out.
        epilogue: Epilogue,
    },
    /// `x -> indices`.
    ArgReduce {
        /// `Max` or `Min`.
        op: ReduceOp,
        /// Along this axis.
        axis: usize,
        /// The input.
        x: Operand,
    },
    /// `x -> y`.
    CumSum {
        /// Along this axis.
        axis: usize,
        /// From the back.
        reverse: bool,
        /// The input.
        x: Operand,
    },
    /// `a, b, epilogue inputs.. -> result, epilogue outputs..`; `a` is `[batch.., m, k]`, `b` is
    /// `[k, n]` or `[batch.., k, n]`.
    MatMul {
        /// Left.
        a: Operand,
        /// Right.
        b: Operand,
        /// How exactly `f32` is multiplied.
        precision: Precision,
        /// Elementwise work on the way out.
        epilogue: Epilogue,
        /// Whether nothing but the epilogue reads the result, which then need not be written.
        alone: bool,
    },
    /// The two given arrays of the convolution (contiguous), `epilogue inputs.. -> result,
    /// epilogue outputs..`.
    Conv {
        /// Face, stride, padding, dilation, groups.
        conv: Arc<Conv>,
        /// Element type.
        dtype: DType,
        /// Shape of the first operand.
        a: Shape,
        /// Shape of the second operand.
        b: Shape,
        /// Shape of the result.
        out: Shape,
        /// Elementwise work on the way out.
        epilogue: Epilogue,
    },
    /// `x, index -> y`.
    Gather {
        /// Along this axis.
        axis: usize,
        /// The table.
        x: Operand,
        /// The indices, of the result's shape.
        index: Operand,
    },
    /// `index, src -> y`, where `y` already holds what is added to.
    ScatterAdd {
        /// Along this axis.
        axis: usize,
        /// The indices, of `src`'s shape.
        index: Operand,
        /// What is added.
        src: Operand,
        /// Shape of the (contiguous) result.
        y: Shape,
    },
    /// `x -> indices`.
    ArgSort {
        /// Along this axis.
        axis: usize,
        /// Largest first.
        descending: bool,
        /// The input.
        x: Operand,
    },
    /// `x -> y`: the same elements under another layout.
    Copy {
        /// From.
        x: Operand,
        /// To.
        y: Layout,
    },
    /// `-> y`: the first scalar slot everywhere.
    Fill {
        /// Element type.
        dtype: DType,
        /// Number of elements.
        numel: usize,
    },
    /// `-> y`: `0, 1, ..`.
    Iota {
        /// Element type.
        dtype: DType,
        /// Number of elements.
        numel: usize,
    },
    /// `inputs.. -> y`; contiguous, but for those that the op reads under any strides.
    Fast {
        /// The op.
        op: Fast,
        /// Element type of the floating-point operands.
        dtype: DType,
        /// The inputs.
        inputs: SmallVec<[Operand; 5]>,
        /// Shape of the result.
        out: Shape,
    },
}

/// Indices that must lie below a size.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexCheck {
    /// The operand that holds them.
    pub operand: usize,
    /// How they are laid out there.
    pub layout: Layout,
    /// What they must stay below.
    pub size: usize,
    /// One more number that is allowed.
    pub besides: Option<i64>,
}

impl KernelSpec {
    /// What the kernel checks of its operands while it runs; if that fails, so does the kernel.
    pub fn checks(&self) -> Option<IndexCheck> {
        let (operand, layout, size, besides) = match self {
            KernelSpec::Gather { axis, x, index } => {
                (1, index.layout.clone(), x.layout.shape[*axis], None)
            }
            KernelSpec::ScatterAdd { axis, index, y, .. } => {
                (0, index.layout.clone(), y[*axis], None)
            }
            KernelSpec::Fast {
                op: Fast::CrossEntropy { ignore_index } | Fast::CrossEntropyGrad { ignore_index },
                inputs,
                ..
            } => {
                let classes = inputs[0].layout.shape[1];
                (1, inputs[1].layout.clone(), classes, Some(*ignore_index))
            }
            _ => return None,
        };
        Some(IndexCheck {
            operand,
            layout,
            size,
            besides,
        })
    }
}

/// The engine of this process.
pub fn engine() -> &'static dyn Engine {
    &crate::cpu::Cpu
}
