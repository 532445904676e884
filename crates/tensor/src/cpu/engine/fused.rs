//! Kernels that carry tapes: maps, and anchors with an elementwise epilogue.

use super::{Arg, ptr, start};
use crate::cpu::constant::Constant;
use crate::cpu::conv::{self, ConvShape, Planned};
use crate::cpu::interp::Program;
use crate::cpu::matmul;
use crate::cpu::reduce::ReducePlan;
use crate::cpu::storage::cache_cap;
use crate::cpu::{After, Runs};
use crate::dtype::DType;
use crate::engine::{Kernel, MapSpec, Operand};
use crate::error::Result;
use crate::precision::Precision;
use crate::prim::{Conv, Face, ReduceOp};
use crate::shape::Shape;
use crate::tape::Slots;
use smallvec::SmallVec;

type Inputs = SmallVec<[*const u8; 8]>;
type Outputs = SmallVec<[*mut u8; 4]>;

fn program(spec: &MapSpec) -> Program {
    Program::new(&spec.tape, &spec.shape, &spec.inputs)
}

fn inputs(args: &[Arg<'_>]) -> Inputs {
    args.iter().map(|a| ptr(a).cast_const()).collect()
}

fn outputs(args: &[Arg<'_>]) -> Outputs {
    args.iter().map(ptr).collect()
}

/// An elementwise kernel.
pub(super) struct Map {
    program: Program,
    inputs: usize,
}

impl Map {
    pub fn new(spec: &MapSpec) -> Map {
        Map {
            program: program(spec),
            inputs: spec.inputs.len(),
        }
    }
}

impl Kernel for Map {
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()> {
        let (read, written) = args.split_at(self.inputs);
        // SAFETY: the planner's operands cover the layouts; an output shares memory only with an
        // input that is read in step with it.
        unsafe {
            self.program
                .run_map_parallel(&inputs(read), &outputs(written), slots)
        };
        Ok(())
    }
}

/// Elementwise work on each finished part of an anchor's result.
struct Epilogue {
    program: Program,
    /// Inputs besides the anchor's result.
    inputs: usize,
    /// Whether the result may lie anywhere, since nothing else reads it.
    alone: bool,
}

impl Epilogue {
    fn new(spec: Option<&MapSpec>) -> Option<Epilogue> {
        spec.map(|spec| Epilogue {
            program: program(spec),
            inputs: spec.inputs.len() - 1,
            alone: false,
        })
    }

    /// Alone with the result, if `alone` says so.
    fn alone(self, alone: bool) -> Epilogue {
        Epilogue {
            alone: alone && self.program.reads_in_step(0),
            ..self
        }
    }
}

/// Splits `args` behind the anchor's own operands, and calls `anchor` with the result's address
/// and what to do with each finished part.
fn with_epilogue(
    epilogue: &Option<Epilogue>,
    args: &[Arg<'_>],
    slots: &Slots<'_>,
    anchor: impl FnOnce(*mut u8, After<'_>),
) {
    let Some(epilogue) = epilogue else {
        return anchor(ptr(&args[0]), After::none());
    };
    let (read, written) = args.split_at(epilogue.inputs);
    let result = ptr(&written[0]);
    let mut from: Inputs = SmallVec::from_slice(&[result.cast_const()]);
    from.extend(inputs(read));
    /// Addresses shared between the pool's threads.
    struct Shared(Inputs, Outputs);
    // SAFETY: tasks read anywhere but write disjoint parts.
    unsafe impl Sync for Shared {}
    let shared = Shared(from, outputs(&written[1..]));
    let shared = &shared;
    let call = |runs: Runs| {
        // SAFETY: as for `Map`; the anchor has finished these elements and calls for them once.
        unsafe { epilogue.program.run_map(runs, &shared.0, &shared.1, slots) }
    };
    // What lies where the epilogue writes is in the cache anyway.
    let alone = epilogue.alone && !shared.1.contains(&result);
    anchor(result, After::new(&call).alone(alone));
}

/// A reduction of what a tape yields.
pub(super) struct Reduce {
    plan: ReducePlan,
    inputs: usize,
    epilogue: Option<Epilogue>,
}

impl Reduce {
    pub fn new(
        op: ReduceOp,
        axes: &[usize],
        prologue: &MapSpec,
        epilogue: Option<&MapSpec>,
    ) -> Self {
        Reduce {
            plan: ReducePlan::new(op, &prologue.tape, &prologue.shape, &prologue.inputs, axes),
            inputs: prologue.inputs.len(),
            epilogue: Epilogue::new(epilogue),
        }
    }
}

impl Kernel for Reduce {
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()> {
        let (read, rest) = args.split_at(self.inputs);
        with_epilogue(&self.epilogue, rest, slots, |out, after| {
            // SAFETY: the planner's operands cover the layouts; the result is new memory.
            unsafe { self.plan.run(&inputs(read), out, slots, after) };
        });
        Ok(())
    }
}

/// The memory of a second operand of so many bytes, weights as a rule, if forms of it may be kept:
/// not if it is larger than its memory (repeated, that is), or the forms than what may be kept.
fn constant(a: &Arg<'_>, bytes: usize) -> Option<Constant> {
    let suits = bytes <= a.storage.len() && bytes <= cache_cap() / 2;
    // SAFETY: the operand lives, and stays as it is, for as long as the kernel runs; before anything
    // writes to it later, its forms are dropped.
    (a.constant && suits).then(|| unsafe { Constant::new(a.storage) })
}

/// A matrix product.
pub(super) struct MatMul {
    a: Operand,
    b: Operand,
    precision: Precision,
    epilogue: Option<Epilogue>,
}

impl MatMul {
    pub fn new(
        a: Operand,
        b: Operand,
        precision: Precision,
        epilogue: Option<&MapSpec>,
        alone: bool,
    ) -> MatMul {
        MatMul {
            a,
            b,
            precision,
            epilogue: Epilogue::new(epilogue).map(|e| e.alone(alone)),
        }
    }
}

impl Kernel for MatMul {
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()> {
        let (a, b) = (&self.a.layout, &self.b.layout);
        let (ra, rb) = (a.shape.len() - 2, b.shape.len() - 2);
        let repeated: SmallVec<[isize; 6]> = SmallVec::from_elem(0, ra);
        let b_batch: &[isize] = if rb == ra {
            &b.strides[..rb]
        } else {
            &repeated
        };
        let dims = matmul::Dims {
            batch: &a.shape[..ra],
            m: a.shape[ra],
            k: a.shape[ra + 1],
            n: b.shape[rb + 1],
            precision: self.precision,
        };
        let left = matmul::Operand {
            ptr: start(&args[0], &self.a),
            batch: &a.strides[..ra],
            row: a.strides[ra],
            col: a.strides[ra + 1],
            constant: None,
        };
        let right = matmul::Operand {
            ptr: start(&args[1], &self.b),
            batch: b_batch,
            row: b.strides[rb],
            col: b.strides[rb + 1],
            constant: constant(&args[1], b.shape.numel() * self.b.dtype.size()),
        };
        with_epilogue(&self.epilogue, &args[2..], slots, |out, after| {
            // SAFETY: the planner's operands cover their layouts; the result is new memory.
            unsafe { matmul::matmul_dyn(self.a.dtype, dims, left, right, out, after) };
        });
        Ok(())
    }
}

/// A face of a convolution.
pub(super) struct Convolution {
    dtype: DType,
    /// Bytes of the second operand.
    weights: usize,
    plan: Planned,
    epilogue: Option<Epilogue>,
}

impl Convolution {
    pub fn new(
        c: &Conv,
        dtype: DType,
        a: &Shape,
        b: &Shape,
        out: &Shape,
        epilogue: Option<&MapSpec>,
    ) -> Self {
        // Whatever the face computes, these are the input, the weight and the output.
        let (x, w, y) = match c.face {
            Face::Output => (a, b, out),
            Face::InputGrad => (out, b, a),
            Face::WeightGrad => (a, out, b),
        };
        // One spatial axis is two with a height of 1.
        let two = |values: &[usize], default: usize| match values {
            [w] => [default, *w],
            [h, w] => [*h, *w],
            _ => unreachable!("one or two spatial axes"),
        };
        let padding = match c.padding.as_slice() {
            [w] => [(0, 0), *w],
            [h, w] => [*h, *w],
            _ => unreachable!("one or two spatial axes"),
        };
        let shape = ConvShape {
            batch: x[0],
            in_channels: x[1],
            out_channels: w[0],
            groups: c.groups,
            input: two(&x[2..], 1),
            kernel: two(&w[2..], 1),
            stride: two(&c.stride, 1),
            padding,
            dilation: two(&c.dilation, 1),
            precision: c.precision,
        };
        debug_assert_eq!(shape.output(), two(&y[2..], 1));
        Convolution {
            dtype,
            weights: b.numel() * dtype.size(),
            plan: Planned::new(dtype, c.face, &shape),
            epilogue: Epilogue::new(epilogue),
        }
    }
}

impl Kernel for Convolution {
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()> {
        let (a, b) = (ptr(&args[0]), ptr(&args[1]));
        let constant = constant(&args[1], self.weights);
        with_epilogue(&self.epilogue, &args[2..], slots, |out, after| {
            // SAFETY: the planner's operands are contiguous and have the shapes given; the result
            // is new memory.
            unsafe { conv::conv_dyn(self.dtype, &self.plan, a, b, constant, out, after) };
        });
        Ok(())
    }
}
