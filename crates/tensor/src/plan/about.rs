//! What a kernel is in one line, and how much work it does: for traces.

use crate::dtype::DType;
use crate::engine::{Epilogue, KernelSpec, MapSpec, Operand};
use crate::fast::Fast;
use crate::prim::Face;
use crate::shape::{Layout, Shape};
use crate::tape::{Instr, Tape};
use std::fmt::Write;

/// A kernel described for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct About {
    /// Name, sizes, and the elementwise work around the anchor.
    pub label: String,
    /// Multiplications and additions of its contraction; 0 for kernels that only move data.
    pub flops: u64,
    /// Bytes that must be read and written at least, each operand once.
    pub bytes: u64,
}

/// Names of a tape's instructions that a label shows; longer tapes are cut.
const SHOWN: usize = 6;

impl About {
    pub fn new(spec: &KernelSpec) -> About {
        let mut about = About::default();
        match spec {
            KernelSpec::Map(map) => {
                about.name("map", &map.shape, DType::F32);
                about.tape(": ", &map.tape);
                about.bytes += inputs(map, 0) + outputs(map);
            }
            KernelSpec::Reduce {
                op,
                axes,
                prologue,
                epilogue,
            } => {
                let name = format!("reduce {op:?}").to_lowercase();
                about.name(&name, &prologue.shape, DType::F32);
                write!(about.label, " over {axes:?}").expect("strings take everything");
                about.tape(" of ", &prologue.tape);
                about.bytes += inputs(prologue, 0);
                let kept: usize = (0..prologue.shape.len())
                    .filter(|d| !axes.contains(d))
                    .map(|d| prologue.shape[d])
                    .product();
                let dtype = prologue.tape.output_dtypes().next();
                about.finish(kept * dtype.map_or(0, DType::size), epilogue);
            }
            KernelSpec::MatMul { a, b, epilogue, .. } => about.product(a, b, epilogue),
            KernelSpec::Conv {
                conv,
                dtype,
                a,
                b,
                out,
                epilogue,
            } => {
                let (x, w, y, face) = match conv.face {
                    Face::Output => (a, b, out, "conv"),
                    Face::InputGrad => (out, b, a, "conv dx"),
                    Face::WeightGrad => (a, out, b, "conv dw"),
                };
                about.name(face, x, *dtype);
                let (kernel, stride) = (&w[2..], &conv.stride[..]);
                write!(about.label, " {} out {kernel:?}/{stride:?}", w[0]).expect("a string");
                let window: usize = w[1..].iter().product();
                about.flops = 2 * (y.numel() * window) as u64;
                about.bytes += ((a.numel() + b.numel()) * dtype.size()) as u64;
                about.finish(out.numel() * dtype.size(), epilogue);
            }
            KernelSpec::Fast {
                op,
                dtype,
                inputs,
                out,
            } => {
                about.name(op.name(), &inputs[0].layout.shape, *dtype);
                about.flops = contraction(op, inputs);
                about.bytes += inputs.iter().map(operand).sum::<u64>();
                about.bytes += (out.numel() * dtype.size()) as u64;
            }
            KernelSpec::ArgReduce { x, .. } => about.simple("arg_reduce", x, 1),
            KernelSpec::CumSum { x, .. } => about.simple("cumsum", x, 2),
            KernelSpec::ArgSort { x, .. } => about.simple("argsort", x, 2),
            KernelSpec::Copy { x, .. } => about.simple("copy", x, 2),
            KernelSpec::Gather { x, index, .. } => {
                about.name("gather", &index.layout.shape, x.dtype);
                let moved = 2 * index.layout.numel() * x.dtype.size();
                about.bytes += operand(index) + moved as u64;
            }
            KernelSpec::ScatterAdd { index, src, .. } => {
                about.name("scatter_add", &src.layout.shape, src.dtype);
                let moved = 3 * src.layout.numel() * src.dtype.size();
                about.bytes += operand(index) + moved as u64;
            }
            KernelSpec::Fill { dtype, numel } => {
                about.name("fill", &[*numel].into(), *dtype);
                about.bytes += (numel * dtype.size()) as u64;
            }
            KernelSpec::Iota { dtype, numel } => {
                about.name("iota", &[*numel].into(), *dtype);
                about.bytes += (numel * dtype.size()) as u64;
            }
        }
        about
    }

    /// Name and size; `f32` goes without saying.
    fn name(&mut self, name: &str, shape: &Shape, dtype: DType) {
        write!(self.label, "{name} {shape:?}").expect("a string");
        if dtype != DType::F32 {
            write!(self.label, " {dtype}").expect("a string");
        }
    }

    /// One operand, and a result about as large if `passes` is 2.
    fn simple(&mut self, name: &str, x: &Operand, passes: usize) {
        self.name(name, &x.layout.shape, x.dtype);
        self.bytes = operand(x) + ((passes - 1) * x.layout.numel() * x.dtype.size()) as u64;
    }

    fn product(&mut self, a: &Operand, b: &Operand, epilogue: &Epilogue) {
        let (left, right) = (&a.layout.shape, &b.layout.shape);
        let (ra, rb) = (left.len() - 2, right.len() - 2);
        let batch: usize = left[..ra].iter().product();
        let [m, k, n] = [left[ra], left[ra + 1], right[rb + 1]];
        // As BLAS says it: `t` where the operand lies transposed.
        let turned = |l: &Layout, r: usize| if l.strides[r + 1] == 1 { 'n' } else { 't' };
        self.label.push_str("matmul ");
        if batch > 1 {
            write!(self.label, "{batch} of ").expect("a string");
        }
        let turns = [turned(&a.layout, ra), turned(&b.layout, rb)];
        write!(self.label, "{m}x{k}x{n} {}{}", turns[0], turns[1]).expect("a string");
        if a.dtype != DType::F32 {
            write!(self.label, " {}", a.dtype).expect("a string");
        }
        self.flops = 2 * (batch * m * n * k) as u64;
        self.bytes += operand(a) + operand(b);
        self.finish(batch * m * n * a.dtype.size(), epilogue);
    }

    /// What an anchor does with its result of so many bytes. A result that an epilogue takes up
    /// is mostly not written.
    fn finish(&mut self, result: usize, epilogue: &Epilogue) {
        match epilogue {
            None => self.bytes += result as u64,
            Some(map) => {
                self.tape(" then ", &map.tape);
                self.bytes += inputs(map, 1) + outputs(map);
            }
        }
    }

    /// The names of a tape's instructions, if it does anything.
    fn tape(&mut self, before: &str, tape: &Tape) {
        let names: Vec<String> = tape.instrs.iter().filter_map(name_of).collect();
        if names.is_empty() {
            return;
        }
        let shown = names[..names.len().min(SHOWN)].join(" ");
        write!(self.label, "{before}{shown}").expect("a string");
        if names.len() > SHOWN {
            write!(self.label, " .. {} in all", names.len()).expect("a string");
        }
    }
}

fn name_of(instr: &Instr) -> Option<String> {
    let name = match instr {
        Instr::Load(_) | Instr::Const(_) => return None,
        Instr::Uniform(_) => "uniform".into(),
        Instr::Unary(op, _) => format!("{op:?}").to_lowercase(),
        Instr::Binary(op, ..) => format!("{op:?}").to_lowercase(),
        Instr::Where(..) => "where".into(),
        Instr::Cast(_) => "cast".into(),
    };
    Some(name)
}

/// The bytes of the elements that a layout reaches, each once.
fn reached(layout: &Layout, dtype: DType) -> u64 {
    let sizes = layout.shape.iter().zip(&layout.strides);
    let distinct = sizes.map(|(&size, &stride)| if stride == 0 { size.min(1) } else { size });
    (distinct.product::<usize>() * dtype.size()) as u64
}

fn operand(x: &Operand) -> u64 {
    reached(&x.layout, x.dtype)
}

fn inputs(map: &MapSpec, skip: usize) -> u64 {
    let pairs = map.inputs.iter().zip(&map.tape.inputs).skip(skip);
    pairs.map(|(layout, &dtype)| reached(layout, dtype)).sum()
}

fn outputs(map: &MapSpec) -> u64 {
    let sizes = map.tape.output_dtypes().map(DType::size);
    (sizes.sum::<usize>() * map.shape.numel()) as u64
}

/// The multiplications and additions of a fused op's products.
fn contraction(op: &Fast, inputs: &[Operand]) -> u64 {
    let a = match op {
        Fast::Attention(a) | Fast::AttentionGrad { of: a, .. } => a,
        Fast::Recurrent(_) | Fast::RecurrentGrad(_) => {
            // Every row of every time step times the recurrent weights.
            let [x, weight] = [0, 1].map(|i| &inputs[i].layout.shape);
            return 2 * (x[0] * x[1] * weight.numel()) as u64;
        }
        _ => return 0,
    };
    let [q, k, v] = [0, 1, 2].map(|i| &inputs[i].layout.shape);
    // Scores and output; the backward pass computes the scores again.
    let width = match op {
        Fast::Attention(_) => q[3] + v[3],
        _ => 3 * q[3] + 2 * v[3],
    };
    let all = 2 * (q[0] * q[1] * q[2] * k[2] * width) as u64;
    if a.causal { all / 2 } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Precision;

    fn matrix(rows: usize, cols: usize) -> Operand {
        Operand {
            dtype: DType::F32,
            layout: Layout::contiguous([rows, cols]),
        }
    }

    #[test]
    fn a_product_counts_its_work() {
        let mut b = matrix(30, 20);
        b.layout = b.layout.permute(&[1, 0]);
        let a = matrix(10, 20);
        let about = About::new(&KernelSpec::MatMul {
            a,
            b,
            precision: Precision::Highest,
            epilogue: None,
            alone: false,
        });
        assert_eq!(about.label, "matmul 10x20x30 nt");
        assert_eq!(about.flops, 12_000);
        assert_eq!(about.bytes, 4 * (200 + 600 + 300));
    }

    #[test]
    fn what_is_repeated_is_read_once() {
        let row = Layout::contiguous([1, 20]).broadcast_to(&[10, 20].into());
        assert_eq!(reached(&row, DType::BF16), 40);
        assert_eq!(reached(&Layout::contiguous([0, 3]), DType::F32), 0);
    }
}
