//! The CPU engine: every kernel specification bound to the function that runs it.

mod fast;
mod fused;

use super::{arg_reduce, copy, index, scan, simd, sort};
use crate::dtype::DType;
use crate::engine::{Arg, Engine, Kernel, KernelSpec, Operand, Storage};
use crate::error::{Error, Result};
use crate::prim::ReduceOp;
use crate::shape::{Layout, Shape};
use crate::tape::Slots;
use crate::with_dtype;

/// The engine of this machine's processor.
pub struct Cpu;

impl Engine for Cpu {
    fn name(&self) -> String {
        format!("cpu ({:?})", simd::level()).to_lowercase()
    }

    fn compile(&self, spec: KernelSpec) -> Box<dyn Kernel> {
        match spec {
            KernelSpec::Map(spec) => Box::new(fused::Map::new(&spec)),
            KernelSpec::Reduce {
                op,
                axes,
                prologue,
                epilogue,
            } => Box::new(fused::Reduce::new(op, &axes, &prologue, epilogue.as_ref())),
            KernelSpec::MatMul {
                a,
                b,
                precision,
                epilogue,
                alone,
            } => Box::new(fused::MatMul::new(
                a,
                b,
                precision,
                epilogue.as_ref(),
                alone,
            )),
            KernelSpec::Conv {
                conv,
                dtype,
                a,
                b,
                out,
                epilogue,
            } => Box::new(fused::Convolution::new(
                &conv,
                dtype,
                &a,
                &b,
                &out,
                epilogue.as_ref(),
            )),
            KernelSpec::Fast {
                op,
                dtype,
                inputs,
                out,
            } => fast::compile(op, dtype, inputs, out),
            KernelSpec::ArgReduce { op, axis, x } => Box::new(ArgReduce {
                largest: op == ReduceOp::Max,
                axis,
                x,
            }),
            KernelSpec::CumSum { axis, reverse, x } => Box::new(CumSum { axis, reverse, x }),
            KernelSpec::ArgSort {
                axis,
                descending,
                x,
            } => Box::new(ArgSort {
                axis,
                descending,
                x,
            }),
            KernelSpec::Gather { axis, x, index } => Box::new(Gather { axis, x, index }),
            KernelSpec::ScatterAdd {
                axis,
                index,
                src,
                y,
            } => Box::new(ScatterAdd {
                axis,
                index,
                src,
                y,
            }),
            KernelSpec::Copy { x, y } => Box::new(Copy { x, y }),
            KernelSpec::Fill { dtype, numel } => Box::new(Fill { dtype, numel }),
            KernelSpec::Iota { dtype, numel } => Box::new(Iota { dtype, numel }),
        }
    }
}

/// The first byte of an operand.
fn ptr(a: &Arg<'_>) -> *mut u8 {
    a.storage.as_ptr().wrapping_add(a.offset)
}

/// The element with index 0 everywhere of an operand with a layout.
fn start(a: &Arg<'_>, x: &Operand) -> *const u8 {
    ptr(a).wrapping_add(x.layout.offset * x.dtype.size())
}

fn strided<'a, T>(a: &Arg<'_>, x: &'a Operand) -> index::Strided<'a, T> {
    index::Strided {
        ptr: start(a, x).cast(),
        shape: &x.layout.shape,
        strides: &x.layout.strides,
    }
}

fn index_error(op: &'static str, e: index::IndexError) -> Error {
    Error::Index {
        op,
        index: e.index,
        size: e.size,
    }
}

/// The sizes before and after an axis multiplied up.
fn around(shape: &[usize], axis: usize) -> (usize, usize) {
    (
        shape[..axis].iter().product(),
        shape[axis + 1..].iter().product(),
    )
}

/// An operand as contiguous memory: its own, or a copy's.
struct Packed {
    /// Keeps the copy alive.
    _copy: Option<Storage>,
    ptr: *const u8,
}

fn packed(a: &Arg<'_>, x: &Operand) -> Packed {
    let from = start(a, x);
    if x.layout.is_contiguous() {
        return Packed {
            _copy: None,
            ptr: from,
        };
    }
    let (size, shape) = (x.dtype.size(), &x.layout.shape);
    let copy = Storage::scratch(shape.numel() * size);
    // SAFETY: the planner's operands cover their layouts; the copy is as large as the shape.
    unsafe {
        copy::copy(
            size,
            shape,
            from,
            &x.layout.strides,
            copy.as_ptr(),
            &shape.contiguous_strides(),
        );
    }
    Packed {
        ptr: copy.as_ptr(),
        _copy: Some(copy),
    }
}

struct ArgReduce {
    largest: bool,
    axis: usize,
    x: Operand,
}
impl Kernel for ArgReduce {
    fn run(&self, args: &[Arg<'_>], _: &Slots<'_>) -> Result<()> {
        let x = strided(&args[0], &self.x);
        // SAFETY: the planner's operands cover their layouts, and its results their shapes.
        unsafe {
            arg_reduce::arg_reduce(
                self.largest,
                self.x.dtype,
                self.axis,
                x,
                ptr(&args[1]).cast(),
            )
        };
        Ok(())
    }
}

struct CumSum {
    axis: usize,
    reverse: bool,
    x: Operand,
}
impl Kernel for CumSum {
    fn run(&self, args: &[Arg<'_>], _: &Slots<'_>) -> Result<()> {
        let shape = &self.x.layout.shape;
        let (outer, inner) = around(shape, self.axis);
        let spec = scan::ScanSpec {
            outer,
            n: shape[self.axis],
            inner,
            reverse: self.reverse,
        };
        let x = packed(&args[0], &self.x);
        // SAFETY: `x` is contiguous over the shape; so is the result.
        unsafe { scan::scan(scan::Scan::Sum, self.x.dtype, spec, x.ptr, ptr(&args[1])) };
        Ok(())
    }
}

struct ArgSort {
    axis: usize,
    descending: bool,
    x: Operand,
}
impl Kernel for ArgSort {
    fn run(&self, args: &[Arg<'_>], _: &Slots<'_>) -> Result<()> {
        let shape = &self.x.layout.shape;
        let (outer, inner) = around(shape, self.axis);
        let n = shape[self.axis];
        let spec = sort::SortSpec {
            outer,
            n,
            inner,
            take: n,
            descending: self.descending,
        };
        let x = packed(&args[0], &self.x);
        let values = Storage::scratch(shape.numel() * self.x.dtype.size());
        // SAFETY: all three are contiguous over the shape.
        unsafe {
            sort::sort(
                self.x.dtype,
                spec,
                x.ptr,
                values.as_ptr(),
                ptr(&args[1]).cast(),
            )
        };
        Ok(())
    }
}

struct Gather {
    axis: usize,
    x: Operand,
    index: Operand,
}
impl Kernel for Gather {
    fn run(&self, args: &[Arg<'_>], _: &Slots<'_>) -> Result<()> {
        let (x, index) = (strided(&args[0], &self.x), strided(&args[1], &self.index));
        // SAFETY: the planner's operands cover their layouts; indices are checked.
        unsafe { index::gather(self.x.dtype.size(), self.axis, x, index, ptr(&args[2])) }
            .map_err(|e| index_error("gather", e))
    }
}

struct ScatterAdd {
    axis: usize,
    index: Operand,
    src: Operand,
    y: Shape,
}
impl Kernel for ScatterAdd {
    fn run(&self, args: &[Arg<'_>], _: &Slots<'_>) -> Result<()> {
        let (index, src) = (strided(&args[0], &self.index), strided(&args[1], &self.src));
        let out = ptr(&args[2]);
        // SAFETY: the planner's operands cover their layouts; indices are checked.
        unsafe { index::scatter_add(self.src.dtype, self.axis, src, index, out, &self.y) }
            .map_err(|e| index_error("scatter_add", e))
    }
}

struct Copy {
    x: Operand,
    y: Layout,
}
impl Kernel for Copy {
    fn run(&self, args: &[Arg<'_>], _: &Slots<'_>) -> Result<()> {
        let (size, x, y) = (self.x.dtype.size(), &self.x.layout, &self.y);
        let to = ptr(&args[1]).wrapping_add(y.offset * size);
        // SAFETY: both layouts have one shape and lie within their operands.
        unsafe {
            copy::copy(
                size,
                &x.shape,
                start(&args[0], &self.x),
                &x.strides,
                to,
                &y.strides,
            )
        };
        Ok(())
    }
}

struct Fill {
    dtype: DType,
    numel: usize,
}
impl Kernel for Fill {
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()> {
        let value = slots.scalars[0];
        let mut bytes = [0u8; 8];
        let size = self.dtype.size();
        with_dtype!(self.dtype, T => {
            // SAFETY: every element type is plain bytes, at most 8 of them.
            unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value.to::<T>()) }
        });
        // SAFETY: the result has `numel` elements.
        unsafe { copy::fill(&bytes[..size], &[self.numel], ptr(&args[0]), &[1]) };
        Ok(())
    }
}

struct Iota {
    dtype: DType,
    numel: usize,
}
impl Kernel for Iota {
    fn run(&self, args: &[Arg<'_>], _: &Slots<'_>) -> Result<()> {
        let out = ptr(&args[0]);
        with_dtype!(self.dtype, T => {
            for i in 0..self.numel {
                // SAFETY: the result has `numel` elements.
                unsafe { out.cast::<T>().add(i).write(<T as crate::Element>::from_f64(i as f64)) };
            }
        });
        Ok(())
    }
}
