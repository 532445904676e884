//! The CPU engine: every kernel specification bound to the function that runs it.

use super::{copy, index, matmul, naive, sort};
use crate::dtype::DType;
use crate::engine::{Arg, Engine, Kernel, KernelSpec, MapSpec, Operand};
use crate::error::{Error, Result};
use crate::tape::Slots;
use smallvec::SmallVec;
use std::ops::Range;

/// The engine of this machine's processor.
pub struct Cpu;

impl Engine for Cpu {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn compile(&self, spec: KernelSpec) -> Box<dyn Kernel> {
        Box::new(Naive(spec))
    }
}

struct Naive(KernelSpec);

fn ptr(a: &Arg<'_>) -> *mut u8 {
    a.storage.as_ptr().wrapping_add(a.offset)
}
fn start(a: &Arg<'_>, x: &Operand) -> *const u8 {
    ptr(a).wrapping_add(x.layout.offset * x.dtype.size())
}

fn map(
    spec: &MapSpec,
    first: Option<*const u8>,
    args: &[Arg<'_>],
    outs: &[Arg<'_>],
    slots: &Slots<'_>,
    range: Range<usize>,
) {
    let inputs: Vec<*const u8> = first
        .into_iter()
        .chain(args.iter().map(|a| ptr(a) as *const u8))
        .collect();
    for i in range {
        let r = naive::run(&spec.tape, &spec.inputs, &inputs, slots, i);
        for (k, v) in r.iter().enumerate() {
            naive::store(
                spec.tape.dtypes[spec.tape.outputs[k] as usize],
                ptr(&outs[k]),
                i,
                *v,
            );
        }
    }
}

fn index_error(op: &'static str, e: index::IndexError) -> Error {
    Error::Index {
        op,
        index: e.index,
        size: e.size,
    }
}

impl Kernel for Naive {
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()> {
        match &self.0 {
            KernelSpec::Map(spec) => {
                let n = spec.inputs.len();
                map(spec, None, &args[..n], &args[n..], slots, 0..spec.numel);
            }
            KernelSpec::Reduce {
                op,
                shape,
                axes,
                prologue,
                epilogue,
            } => {
                use crate::prim::ReduceOp::*;
                let n = prologue.inputs.len();
                let e = epilogue.as_ref().map_or(0, |e| e.inputs.len() - 1);
                let inputs: Vec<*const u8> =
                    args[..n].iter().map(|a| ptr(a) as *const u8).collect();
                let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).collect();
                let numel: usize = kept.iter().map(|&d| shape[d]).product();
                let init = match op {
                    Sum => 0.0,
                    Prod => 1.0,
                    Max => f64::NEG_INFINITY,
                    Min => f64::INFINITY,
                };
                let mut acc = vec![init; numel];
                for i in 0..shape.numel() {
                    let v = naive::run(&prologue.tape, &prologue.inputs, &inputs, slots, i)[0];
                    let mut rest = i;
                    let mut idx = vec![0; shape.len()];
                    for d in (0..shape.len()).rev() {
                        idx[d] = rest % shape[d];
                        rest /= shape[d];
                    }
                    let o = kept.iter().fold(0, |o, &d| o * shape[d] + idx[d]);
                    let a = &mut acc[o];
                    *a = match op {
                        Sum => *a + v,
                        Prod => *a * v,
                        Max => {
                            if v.is_nan() || v > *a {
                                v
                            } else {
                                *a
                            }
                        }
                        Min => {
                            if v.is_nan() || v < *a {
                                v
                            } else {
                                *a
                            }
                        }
                    };
                }
                let dtype = prologue.tape.dtypes[prologue.tape.outputs[0] as usize];
                let out = ptr(&args[n + e]);
                acc.iter()
                    .enumerate()
                    .for_each(|(i, &v)| naive::store(dtype, out, i, v));
                if let Some(spec) = epilogue {
                    map(
                        spec,
                        Some(out),
                        &args[n..n + e],
                        &args[n + e + 1..],
                        slots,
                        0..numel,
                    );
                }
            }
            KernelSpec::ArgReduce { op, axis, x } => {
                let shape = &x.layout.shape;
                let inner: usize = shape[axis + 1..].iter().product();
                let outer: usize = shape[..*axis].iter().product();
                let p = ptr(&args[0]);
                for o in 0..outer {
                    for i in 0..inner {
                        let mut best = (0usize, f64::NAN, true);
                        for k in 0..shape[*axis] {
                            let v = naive::load(
                                x.dtype,
                                p,
                                naive::element(&x.layout, (o * shape[*axis] + k) * inner + i),
                            );
                            let better = best.2
                                || (!best.1.is_nan()
                                    && (v.is_nan()
                                        || if *op == crate::prim::ReduceOp::Max {
                                            v > best.1
                                        } else {
                                            v < best.1
                                        }));
                            if better {
                                best = (k, v, false);
                            }
                        }
                        naive::store(DType::I64, ptr(&args[1]), o * inner + i, best.0 as f64);
                    }
                }
            }
            KernelSpec::CumSum { axis, reverse, x } => {
                let shape = &x.layout.shape;
                let inner: usize = shape[axis + 1..].iter().product();
                let outer: usize = shape[..*axis].iter().product();
                let n = shape[*axis];
                for o in 0..outer {
                    for i in 0..inner {
                        let mut s = 0.0;
                        for k in 0..n {
                            let k = if *reverse { n - 1 - k } else { k };
                            let at = (o * n + k) * inner + i;
                            s += naive::load(x.dtype, ptr(&args[0]), naive::element(&x.layout, at));
                            naive::store(x.dtype, ptr(&args[1]), at, s);
                        }
                    }
                }
            }
            KernelSpec::MatMul { a, b, epilogue } => {
                let (ra, rb) = (a.layout.shape.len(), b.layout.shape.len());
                let batch = &a.layout.shape[..ra - 2];
                let zero: SmallVec<[isize; 6]> = SmallVec::from_elem(0, batch.len());
                let operand = |arg: &Arg<'_>, x: &Operand| start(arg, x);
                let dims = matmul::Dims {
                    batch,
                    m: a.layout.shape[ra - 2],
                    k: a.layout.shape[ra - 1],
                    n: b.layout.shape[rb - 1],
                };
                let left = matmul::Operand {
                    ptr: operand(&args[0], a),
                    batch: &a.layout.strides[..ra - 2],
                    row: a.layout.strides[ra - 2],
                    col: a.layout.strides[ra - 1],
                };
                let bb: &[isize] = if rb == 2 {
                    &zero
                } else {
                    &b.layout.strides[..rb - 2]
                };
                let right = matmul::Operand {
                    ptr: operand(&args[1], b),
                    batch: bb,
                    row: b.layout.strides[rb - 2],
                    col: b.layout.strides[rb - 1],
                };
                let e = epilogue.as_ref().map_or(0, |e| e.inputs.len() - 1);
                let out = ptr(&args[2 + e]);
                // SAFETY: the planner gives operands that cover their layouts.
                unsafe { matmul::matmul_dyn(a.dtype, dims, left, right, out, &|_| {}) };
                if let Some(spec) = epilogue {
                    map(
                        spec,
                        Some(out),
                        &args[2..2 + e],
                        &args[3 + e..],
                        slots,
                        0..spec.numel,
                    );
                }
            }
            KernelSpec::Gather { axis, x, index } => {
                let src = index::Strided {
                    ptr: start(&args[0], x),
                    shape: &x.layout.shape,
                    strides: &x.layout.strides,
                };
                let idx = index::Strided {
                    ptr: start(&args[1], index) as *const i64,
                    shape: &index.layout.shape,
                    strides: &index.layout.strides,
                };
                // SAFETY: as above.
                unsafe { index::gather(x.dtype.size(), *axis, src, idx, ptr(&args[2])) }
                    .map_err(|e| index_error("gather", e))?;
            }
            KernelSpec::ScatterAdd {
                axis,
                index,
                src,
                y,
            } => {
                let idx = index::Strided {
                    ptr: start(&args[0], index) as *const i64,
                    shape: &index.layout.shape,
                    strides: &index.layout.strides,
                };
                let from = index::Strided {
                    ptr: start(&args[1], src),
                    shape: &src.layout.shape,
                    strides: &src.layout.strides,
                };
                // SAFETY: as above.
                unsafe { index::scatter_add(src.dtype, *axis, from, idx, ptr(&args[2]), y) }
                    .map_err(|e| index_error("scatter_add", e))?;
            }
            KernelSpec::Copy { x, y } => {
                let to = ptr(&args[1]).wrapping_add(y.offset * x.dtype.size());
                // SAFETY: as above.
                unsafe {
                    copy::copy(
                        x.dtype.size(),
                        &x.layout.shape,
                        start(&args[0], x),
                        &x.layout.strides,
                        to,
                        &y.strides,
                    )
                };
            }
            KernelSpec::Fill { dtype, numel } => {
                (0..*numel).for_each(|i| {
                    naive::store(*dtype, ptr(&args[0]), i, slots.scalars[0].to_f64())
                });
            }
            KernelSpec::Iota { dtype, numel } => {
                (0..*numel).for_each(|i| naive::store(*dtype, ptr(&args[0]), i, i as f64))
            }
            KernelSpec::ArgSort {
                axis,
                descending,
                x,
            } => {
                let shape = &x.layout.shape;
                let spec = sort::SortSpec {
                    outer: shape[..*axis].iter().product(),
                    n: shape[*axis],
                    inner: shape[axis + 1..].iter().product(),
                    take: shape[*axis],
                    descending: *descending,
                };
                let bytes = shape.numel() * x.dtype.size();
                let packed = crate::engine::Storage::alloc(bytes);
                let values = crate::engine::Storage::alloc(bytes);
                // SAFETY: as above.
                unsafe {
                    copy::copy(
                        x.dtype.size(),
                        shape,
                        start(&args[0], x),
                        &x.layout.strides,
                        packed.as_ptr(),
                        &shape.contiguous_strides(),
                    );
                    sort::sort(
                        x.dtype,
                        spec,
                        packed.as_ptr(),
                        values.as_ptr(),
                        ptr(&args[1]) as *mut i64,
                    );
                }
            }
            KernelSpec::Conv { .. } | KernelSpec::Fast { .. } => unimplemented!(),
        }
        Ok(())
    }
}
