//! The kernels of the fused ops.

use super::{index_error, ptr, start};
use crate::cpu::After;
use crate::cpu::attention::{self, Array, Attention, Inputs};
use crate::cpu::matmul::Block;
use crate::cpu::pool2d::{self, Pooling};
use crate::cpu::rnn::{self, Given, Walk};
use crate::cpu::rows::{self, BatchNormGrad, LayerNormGrad, RowFloat};
use crate::dtype::DType;
use crate::engine::{Arg, Kernel, Operand};
use crate::error::Result;
use crate::fast::{Attend, Dropped, Fast, Recur, Window};
use crate::shape::Shape;
use crate::tape::Slots;
use smallvec::SmallVec;
use std::marker::PhantomData;

/// The kernel of a fused op for operands of `dtype`.
pub(super) fn compile(
    op: Fast,
    dtype: DType,
    inputs: SmallVec<[Operand; 5]>,
    out: Shape,
) -> Box<dyn Kernel> {
    match dtype {
        DType::F32 => Box::new(Fused::<f32> {
            op,
            inputs,
            out,
            element: PhantomData,
        }),
        DType::F64 => Box::new(Fused::<f64> {
            op,
            inputs,
            out,
            element: PhantomData,
        }),
        other => unreachable!("fused ops are widened from {other} before they get here"),
    }
}

struct Fused<T> {
    op: Fast,
    inputs: SmallVec<[Operand; 5]>,
    out: Shape,
    element: PhantomData<fn() -> T>,
}

/// The operands of one run as slices.
struct Operands<'a, T> {
    kernel: &'a Fused<T>,
    args: &'a [Arg<'a>],
}

impl<'a, T: RowFloat + Block> Operands<'a, T> {
    /// Input `i`.
    fn read(&self, i: usize) -> &'a [T] {
        self.read_as(i)
    }

    fn read_as<U>(&self, i: usize) -> &'a [U] {
        let n = self.kernel.inputs[i].layout.numel();
        // SAFETY: the planner's operands of fused ops are contiguous, aligned and of this shape.
        unsafe { std::slice::from_raw_parts(ptr(&self.args[i]).cast(), n) }
    }

    /// The result, which shares no memory with the inputs.
    fn write(&self) -> &'a mut [T] {
        let n = self.kernel.out.numel();
        let last = self.args.last().expect("a kernel has a result");
        // SAFETY: as above; a fused op's result is memory of its own.
        unsafe { std::slice::from_raw_parts_mut(ptr(last).cast(), n) }
    }
}

impl<T: RowFloat + Block> Kernel for Fused<T> {
    fn run(&self, args: &[Arg<'_>], slots: &Slots<'_>) -> Result<()> {
        let io = Operands { kernel: self, args };
        let x = &self.inputs[0].layout.shape;
        let last = x.last().copied().unwrap_or(1);
        let out = io.write();
        match &self.op {
            Fast::Softmax { log: false } => rows::softmax(io.read(0), last, out),
            Fast::Softmax { log: true } => rows::log_softmax(io.read(0), last, out),
            Fast::SoftmaxGrad { log: false } => {
                rows::softmax_grad(io.read(0), io.read(1), last, out)
            }
            Fast::SoftmaxGrad { log: true } => {
                rows::log_softmax_grad(io.read(0), io.read(1), last, out)
            }
            Fast::CrossEntropy { ignore_index } => {
                return rows::cross_entropy(io.read(0), last, io.read_as(1), *ignore_index, out)
                    .map_err(|e| index_error("cross_entropy", e));
            }
            Fast::CrossEntropyGrad { ignore_index } => {
                let (target, dloss) = (io.read_as(1), io.read(2));
                return rows::cross_entropy_grad(
                    io.read(0),
                    last,
                    target,
                    *ignore_index,
                    dloss,
                    out,
                )
                .map_err(|e| index_error("cross_entropy", e));
            }
            Fast::LayerNorm { eps } => {
                let (weight, bias) = (Some(io.read(1)), Some(io.read(2)));
                rows::layer_norm(io.read(0), last, weight, bias, *eps, out)
            }
            Fast::LayerNormGrad { eps } => {
                let (dx, sums) = out.split_at_mut(x.numel());
                let (dweight, dbias) = sums.split_at_mut(last);
                let to = LayerNormGrad {
                    dx: Some(dx),
                    dweight: Some(dweight),
                    dbias: Some(dbias),
                };
                rows::layer_norm_grad(io.read(0), last, Some(io.read(1)), *eps, io.read(2), to)
            }
            Fast::BatchNorm { eps } => {
                let inner = x[2..].iter().product();
                let scale: Vec<T> = scaled(io.read(2), io.read(3), *eps);
                rows::batch_norm_apply(io.read(0), inner, io.read(1), &scale, io.read(4), out)
            }
            Fast::BatchNormGrad { eps } => {
                let inner = x[2..].iter().product();
                let one = vec![T::from_f64(1.0); x[1]];
                let rstd: Vec<T> = scaled(io.read(2), &one, *eps);
                let (dx, sums) = out.split_at_mut(x.numel());
                let (dweight, dbias) = sums.split_at_mut(x[1]);
                let to = BatchNormGrad {
                    dx: Some(dx),
                    dweight: Some(dweight),
                    dbias: Some(dbias),
                };
                let weight = Some(io.read(3));
                rows::batch_norm_grad(io.read(0), inner, io.read(1), &rstd, weight, io.read(4), to)
            }
            Fast::MaxPool(w) => self.pool(Pooling::Max, w, args, Some(0), None),
            Fast::MaxPoolGrad(w) => self.pool(Pooling::MaxGrad, w, args, Some(0), Some(1)),
            Fast::AvgPool(w) => self.pool(Pooling::Avg, w, args, Some(0), None),
            Fast::Attention(a) => {
                let (sizes, inputs) = self.attention(a, args, slots);
                // SAFETY: the planner's operands cover their layouts; the result is new memory.
                unsafe { attention::forward(&sizes, &inputs, out.as_mut_ptr()) };
            }
            Fast::AttentionGrad { of, mask } => {
                let (sizes, inputs) = self.attention(of, args, slots);
                let k = 3 + of.masked as usize;
                let (y, dy) = (io.read(k).as_ptr(), io.read(k + 1).as_ptr());
                // SAFETY: as above.
                unsafe { attention::backward(&sizes, &inputs, y, dy, *mask, out.as_mut_ptr()) };
            }
            Fast::Recurrent(r) => {
                let (walk, inputs) = self.recurrent(r, &io);
                rnn::forward(&walk, &inputs, out);
            }
            Fast::RecurrentGrad(r) => {
                let (walk, inputs) = self.recurrent(r, &io);
                let next = 4 + r.cell.has_memory() as usize + r.masked as usize;
                let given = Given {
                    flat: io.read(next),
                    dout: io.read(next + 1),
                    dcell: match r.cell.has_memory() {
                        true => io.read(next + 2),
                        false => &[],
                    },
                };
                rnn::backward(&walk, &inputs, &given, out);
            }
            Fast::AvgPoolGrad(w, _) => self.pool(Pooling::AvgGrad, w, args, None, Some(0)),
        }
        Ok(())
    }
}

/// `weight / sqrt(var + eps)`, per channel.
fn scaled<T: RowFloat>(var: &[T], weight: &[T], eps: f64) -> Vec<T> {
    let one = |(v, w): (&T, &T)| T::from_f64(w.to_f64() / (v.to_f64() + eps).sqrt());
    var.iter().zip(weight).map(one).collect()
}

impl<T: RowFloat + Block> Fused<T> {
    /// Sizes and inputs of an attention.
    fn attention(&self, a: &Attend, args: &[Arg<'_>], slots: &Slots<'_>) -> (Attention, Inputs<T>) {
        let array = |i: usize| {
            let x = &self.inputs[i];
            Array {
                ptr: start(&args[i], x).cast(),
                strides: x.layout.strides[..].try_into().expect("four axes"),
            }
        };
        let [q, k, v] = [0, 1, 2].map(|i| &self.inputs[i].layout.shape);
        let sizes = Attention {
            batch: q[0],
            heads: q[1],
            groups: k[1],
            queries: q[2],
            keys: k[2],
            size: q[3],
            width: v[3],
            scale: a.scale,
            causal: a.causal,
            dropped: a.dropped.map(|d| Dropped {
                key: slots.keys[0],
                ..d
            }),
            precision: a.precision,
        };
        let inputs = Inputs {
            q: array(0),
            k: array(1),
            v: array(2),
            mask: a.masked.then(|| array(3)),
        };
        (sizes, inputs)
    }

    /// Sizes and inputs of a recurrent layer.
    fn recurrent<'a>(&self, r: &Recur, io: &Operands<'a, T>) -> (Walk, rnn::Inputs<'a, T>) {
        let (x, h0) = (&self.inputs[0].layout.shape, &self.inputs[3].layout.shape);
        let walk = Walk {
            recur: *r,
            steps: x[0],
            batch: x[1],
            hidden: h0[1],
        };
        let inputs = rnn::Inputs {
            x: io.read(0),
            weight: io.read(1),
            bias: io.read(2),
            h0: io.read(3),
            c0: match r.cell.has_memory() {
                true => io.read(4),
                false => &[],
            },
            mask: r.mask().map(|i| io.read(i)),
        };
        (walk, inputs)
    }

    /// A pooling with the input and the output's gradient at the given operands.
    fn pool(
        &self,
        what: Pooling,
        w: &Window,
        args: &[Arg<'_>],
        x: Option<usize>,
        dy: Option<usize>,
    ) {
        let wide = if what == Pooling::AvgGrad {
            &self.out
        } else {
            &self.inputs[0].layout.shape
        };
        let lead = wide.len() - 2;
        let planes = wide[..lead].iter().product();
        let size = [wide[lead], wide[lead + 1]];
        let at = |i: Option<usize>| i.map_or(std::ptr::null(), |i| ptr(&args[i]).cast_const());
        let out = ptr(args.last().expect("a kernel has a result"));
        // SAFETY: the planner's operands are contiguous and of the op's shapes.
        unsafe {
            pool2d::pool2d_dyn(
                T::DTYPE,
                what,
                w,
                planes,
                size,
                at(x),
                at(dy),
                out,
                After::none(),
            )
        };
    }
}
