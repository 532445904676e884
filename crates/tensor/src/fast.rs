//! Named fused ops. Each is defined by an expression in other ops; the engine has a kernel for it
//! because one pass over memory beats several. The definition is the truth: a test over
//! [`Fast::registry`] asserts that kernel and definition agree, in value and in gradient.
//!
//! GELU, dropout and the other elementwise functions need no entry here: as chains of maps they
//! are fused by the planner into one kernel already.

pub(crate) mod attention;
pub(crate) mod rnn;

pub use attention::{Attend, Dropped, side_by_side};
pub use rnn::{Cell, Recur};

use crate::dtype::DType;
use crate::grad::vjp_of;
use crate::precision::Precision;
use crate::prim::Prim;
use crate::shape::Shape;
use crate::tape::Key;
use crate::tensor::Tensor;

/// A fused op and its options. All work on `f32` and `f64`; half precision is widened around them.
#[derive(Clone, Debug, PartialEq)]
pub enum Fast {
    /// `[x] -> softmax` (or its logarithm) along the last axis.
    Softmax {
        /// Whether the logarithm is meant.
        log: bool,
    },
    /// `[y, dy] -> dx` of [`Fast::Softmax`].
    SoftmaxGrad {
        /// Whether the logarithm is meant.
        log: bool,
    },
    /// `[logits [n, c], target [n]] -> loss [n]`: `logsumexp(row) - row[target]`, 0 where the
    /// target is `ignore_index`.
    CrossEntropy {
        /// The class that does not count.
        ignore_index: i64,
    },
    /// `[logits, target, dloss [n]] -> dlogits`.
    CrossEntropyGrad {
        /// The class that does not count.
        ignore_index: i64,
    },
    /// `[x, weight, bias] -> y` over the last axis (Ba et al. 2016).
    LayerNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// `[x, weight, dy] -> dx`, then `dweight` and `dbias [last axis]`, flat: all come from one
    /// pass over `x` and `dy`.
    LayerNormGrad {
        /// Added to the variance.
        eps: f64,
    },
    /// `[x [n, c, ..], mean [c], var [c], weight [c], bias [c]] -> y` where mean and (biased)
    /// variance are those of `x` itself, passed along so that they are computed once; gradients
    /// flow through `x` as if they were computed here (Ioffe & Szegedy 2015).
    BatchNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// `[x, mean, var, weight, dy] -> dx`, then `dweight [c]` and `dbias [c]`, flat: they are sums
    /// that `dx` needs.
    BatchNormGrad {
        /// Added to the variance.
        eps: f64,
    },
    /// Maximum over windows of the last two axes; the first wins a tie, NaN wins all.
    MaxPool(Window),
    /// `[x, dy] -> dx`.
    MaxPoolGrad(Window),
    /// Mean over windows of the last two axes.
    AvgPool(Window),
    /// `[dy] -> dx` for inputs with the given last two sizes.
    AvgPoolGrad(Window, [usize; 2]),
    /// `[q [b, h, t, d], k [b, g, s, d], v [b, g, s, e], mask [b, h, t, s] if any] -> flat`: the
    /// output `[b, t, h, e]`, then the logarithm of each row's sum of exponentials `[b, h, t]`.
    Attention(Attend),
    /// `[q, k, v, mask if any, flat, dflat] -> dq [b, t, h, d], dk [b, s, g, d], dv [b, s, g, e]`,
    /// one behind the other or [`side_by_side`], and the mask's `[b, t, h, s]` if asked for, flat.
    AttentionGrad {
        /// The attention.
        of: Attend,
        /// Whether the mask's gradient is asked for.
        mask: bool,
    },
    /// `[x [t, b, gates h], weight [gates h, h], bias [biases h], h0 [b, h], c0 [b, h] if an LSTM,
    /// mask [t, b] if any] -> flat`: the states `[t, b, h]`, an LSTM's last cell `[b, h]`, and what
    /// the gradient needs.
    Recurrent(Recur),
    /// `[x, weight, bias, h0, c0 if any, mask if any, flat, dstates, dcell if any] -> flat`: the
    /// gradients of the gates' sums `[t, b, biases h]`, of the bias, `h0` and `c0`.
    RecurrentGrad(Recur),
}

/// The windows of a pooling over the last two axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Steps.
    pub stride: [usize; 2],
    /// Added on both sides: minus infinity for the maximum, zeros for the mean.
    pub padding: [usize; 2],
    /// Whether the mean counts padding (PyTorch's default: yes).
    pub count_include_pad: bool,
}

impl Window {
    /// The output size along spatial axis `i` for an input of `size`.
    pub fn out_size(&self, i: usize, size: usize) -> usize {
        (size + 2 * self.padding[i])
            .checked_sub(self.kernel[i])
            .map_or(0, |r| r / self.stride[i] + 1)
    }

    /// The output's shape for an input `[.., h, w]`.
    fn out_shape(&self, x: &Shape) -> Option<Shape> {
        let mut out = x.clone();
        let lead = x.len().checked_sub(2)?;
        for i in 0..2 {
            out.dims_mut()[lead + i] = self.out_size(i, x[lead + i]);
        }
        Some(out)
    }
}

impl Fast {
    /// At least one of each, for the test that compares kernels with definitions.
    pub fn registry() -> Vec<Fast> {
        let window = Window {
            kernel: [3, 2],
            stride: [2, 1],
            padding: [1, 0],
            count_include_pad: true,
        };
        let eps = 1e-5;
        let inner = Window {
            count_include_pad: false,
            ..window
        };
        let plain = Attend {
            scale: 0.7,
            causal: false,
            masked: false,
            dropped: None,
            precision: Precision::Highest,
        };
        let masked = Attend {
            causal: true,
            masked: true,
            ..plain
        };
        let key = Key { seed: 5, stream: 7 };
        let dropped = Attend {
            dropped: Some(Dropped { p: 0.3, key }),
            ..masked
        };
        let attention_grad = |of, mask| Fast::AttentionGrad { of, mask };
        let walk = |cell, reverse, masked, keeps| Recur {
            cell,
            reverse,
            masked,
            keeps,
            precision: Precision::Highest,
        };
        let recurrent = [
            walk(Cell::Lstm, false, false, true),
            walk(Cell::Lstm, true, true, true),
            walk(Cell::Gru, false, true, true),
            walk(Cell::Gru, true, false, true),
            walk(Cell::Tanh, true, true, true),
            walk(Cell::Relu, false, false, true),
        ];
        let forgetful = [
            walk(Cell::Lstm, true, true, false),
            walk(Cell::Gru, false, false, false),
            walk(Cell::Tanh, false, true, false),
        ];
        let ignore_index = -100;
        let mut all = Vec::new();
        macro_rules! examples {
            ($($kind:pat => $ops:expr,)*) => {{
                // Never called: a kind of op without examples does not compile.
                let _ = |op: &Fast| match op { $($kind => {})* };
                $(for op in $ops {
                    assert!(matches!(op, $kind), "{op:?} is an example of another op");
                    all.push(op);
                })*
            }};
        }
        examples! {
            Fast::Softmax { .. } => [false, true].map(|log| Fast::Softmax { log }),
            Fast::SoftmaxGrad { .. } => [false, true].map(|log| Fast::SoftmaxGrad { log }),
            Fast::CrossEntropy { .. } => [Fast::CrossEntropy { ignore_index }],
            Fast::CrossEntropyGrad { .. } => [Fast::CrossEntropyGrad { ignore_index }],
            Fast::LayerNorm { .. } => [Fast::LayerNorm { eps }],
            Fast::LayerNormGrad { .. } => [Fast::LayerNormGrad { eps }],
            Fast::BatchNorm { .. } => [Fast::BatchNorm { eps }],
            Fast::BatchNormGrad { .. } => [Fast::BatchNormGrad { eps }],
            Fast::MaxPool(_) => [Fast::MaxPool(window)],
            Fast::MaxPoolGrad(_) => [Fast::MaxPoolGrad(window)],
            Fast::AvgPool(_) => [window, inner].map(Fast::AvgPool),
            Fast::AvgPoolGrad(..) => [window, inner].map(|w| Fast::AvgPoolGrad(w, [7, 6])),
            Fast::Attention(_) => [plain, masked, dropped].map(Fast::Attention),
            Fast::AttentionGrad { .. } => [
                attention_grad(plain, false),
                attention_grad(masked, false),
                attention_grad(masked, true),
                attention_grad(dropped, true),
            ],
            Fast::Recurrent(_) => recurrent.into_iter().chain(forgetful).map(Fast::Recurrent),
            Fast::RecurrentGrad(_) => recurrent.map(Fast::RecurrentGrad),
        }
        all
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Fast::Softmax { log: false } => "softmax",
            Fast::Softmax { log: true } => "log_softmax",
            Fast::SoftmaxGrad { log: false } => "softmax_grad",
            Fast::SoftmaxGrad { log: true } => "log_softmax_grad",
            Fast::CrossEntropy { .. } => "cross_entropy",
            Fast::CrossEntropyGrad { .. } => "cross_entropy_grad",
            Fast::LayerNorm { .. } => "layer_norm",
            Fast::LayerNormGrad { .. } => "layer_norm_grad",
            Fast::BatchNorm { .. } => "batch_norm",
            Fast::BatchNormGrad { .. } => "batch_norm_grad",
            Fast::MaxPool(_) => "max_pool",
            Fast::MaxPoolGrad(_) => "max_pool_grad",
            Fast::AvgPool(_) => "avg_pool",
            Fast::AvgPoolGrad(..) => "avg_pool_grad",
            Fast::Attention(_) => "attention",
            Fast::AttentionGrad { .. } => "attention_grad",
            Fast::Recurrent(_) => "recurrent",
            Fast::RecurrentGrad(_) => "recurrent_grad",
        }
    }

    pub(crate) fn hash(&self, h: &mut impl FnMut(u64)) {
        for part in self.name().as_bytes().chunks(8) {
            h(part.iter().fold(0, |word, &b| word << 8 | b as u64));
        }
        match self {
            Fast::Softmax { .. } | Fast::SoftmaxGrad { .. } => {}
            Fast::CrossEntropy { ignore_index } | Fast::CrossEntropyGrad { ignore_index } => {
                h(*ignore_index as u64)
            }
            Fast::LayerNorm { eps }
            | Fast::LayerNormGrad { eps }
            | Fast::BatchNorm { eps }
            | Fast::BatchNormGrad { eps } => h(eps.to_bits()),
            Fast::MaxPool(w) | Fast::MaxPoolGrad(w) | Fast::AvgPool(w) => w.hash(h),
            Fast::Attention(a) => a.hash(h),
            Fast::AttentionGrad { of, mask } => {
                of.hash(h);
                h(*mask as u64);
            }
            Fast::Recurrent(r) | Fast::RecurrentGrad(r) => r.hash(h),
            Fast::AvgPoolGrad(w, size) => {
                w.hash(h);
                size.iter().for_each(|&s| h(s as u64));
            }
        }
    }

    /// The shapes that the inputs must have, given those that they have (most follow from the
    /// first's); `None` if no inputs like these will do.
    fn input_shapes(&self, given: &[&Shape]) -> Option<Vec<Shape>> {
        let x = given[0];
        let last = || x.last().map(|&n| Shape::from([n]));
        let channels = || x.get(1).map(|&c| Shape::from([c]));
        let rows = || (x.len() == 2).then(|| Shape::from([x[0]]));
        let x = x.clone();
        Some(match self {
            Fast::Softmax { .. } => {
                last()?;
                vec![x]
            }
            Fast::SoftmaxGrad { .. } => {
                last()?;
                vec![x.clone(), x]
            }
            Fast::CrossEntropy { .. } => vec![x.clone(), rows()?],
            Fast::CrossEntropyGrad { .. } => vec![x.clone(), rows()?, rows()?],
            Fast::LayerNorm { .. } => vec![x.clone(), last()?, last()?],
            Fast::LayerNormGrad { .. } => vec![x.clone(), last()?, x],
            Fast::BatchNorm { .. } => {
                let c = channels()?;
                vec![x, c.clone(), c.clone(), c.clone(), c]
            }
            Fast::BatchNormGrad { .. } => {
                let c = channels()?;
                vec![x.clone(), c.clone(), c.clone(), c, x]
            }
            Fast::MaxPool(w) | Fast::AvgPool(w) => {
                w.out_shape(&x)?;
                vec![x]
            }
            Fast::MaxPoolGrad(w) => vec![x.clone(), w.out_shape(&x)?],
            Fast::AvgPoolGrad(w, size) => {
                let lead = x.len().checked_sub(2)?;
                let mut wide = x.clone();
                wide.dims_mut()[lead..].copy_from_slice(size);
                vec![w.out_shape(&wide)?]
            }
            Fast::Attention(a) => attention::input_shapes(a, given)?,
            Fast::AttentionGrad { of, .. } => {
                let mut shapes = attention::input_shapes(of, given)?;
                let flat = attention::infer(&shapes[0], &shapes[2]);
                shapes.extend([flat.clone(), flat]);
                shapes
            }
            Fast::Recurrent(r) => rnn::input_shapes(r, given)?,
            Fast::RecurrentGrad(r) => rnn::grad_input_shapes(r, given)?,
        })
    }

    /// Whether input `i` holds classes and not floats.
    fn takes_classes(&self, i: usize) -> bool {
        let kind = matches!(
            self,
            Fast::CrossEntropy { .. } | Fast::CrossEntropyGrad { .. }
        );
        kind && i == 1
    }

    /// Refuses inputs that the kernel could not read: it trusts shapes and element types.
    ///
    /// All floats are of the first's type; beside a half-precision one they may be `f32`, as in
    /// PyTorch's norms.
    #[track_caller]
    pub(crate) fn check(&self, inputs: &[&Tensor]) {
        let (name, x) = (self.name(), inputs[0]);
        let given = || {
            let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
            format!("{shapes:?}")
        };
        let shapes: Vec<&Shape> = inputs.iter().map(|t| &t.0.shape).collect();
        match self.input_shapes(&shapes) {
            None => panic!("{name}: no inputs for it have shapes like {}", given()),
            Some(want) if !want.iter().eq(inputs.iter().map(|t| &t.0.shape)) => {
                panic!("{name}: shapes {}, expected {want:?}", given())
            }
            Some(_) => {}
        }
        if !x.dtype().is_float() {
            panic!(
                "{name}: not defined for {}; convert it with to_dtype first",
                x.dtype()
            );
        }
        for (i, t) in inputs.iter().enumerate() {
            let suits = if self.takes_classes(i) {
                t.dtype() == DType::I64
            } else {
                t.dtype() == x.dtype() || t.dtype() == x.dtype().widened()
            };
            if !suits {
                panic!(
                    "{name}: input {i} is {} beside {}; convert one of them with to_dtype",
                    t.dtype(),
                    x.dtype()
                );
            }
        }
    }

    pub(crate) fn infer(&self, inputs: &[(&Shape, DType)]) -> (Shape, DType) {
        let (x, dtype) = inputs[0];
        let shape = match self {
            Fast::CrossEntropy { .. } => inputs[1].0.clone(),
            Fast::LayerNormGrad { .. } => Shape::from([x.numel() + 2 * x[x.len() - 1]]),
            Fast::BatchNormGrad { .. } => Shape::from([x.numel() + 2 * x[1]]),
            Fast::MaxPool(w) | Fast::AvgPool(w) => {
                w.out_shape(x).expect("the inputs have been checked")
            }
            Fast::AvgPoolGrad(_, size) => {
                let mut shape = x.clone();
                let lead = x.len() - 2;
                shape.dims_mut()[lead..].copy_from_slice(size);
                shape
            }
            Fast::Attention(_) => attention::infer(x, inputs[2].0),
            Fast::AttentionGrad { mask, .. } => {
                attention::infer_grad(x, inputs[1].0, inputs[2].0, *mask)
            }
            Fast::Recurrent(r) => rnn::infer(r, x, inputs[3].0),
            Fast::RecurrentGrad(r) => rnn::infer_grad(r, x, inputs[3].0),
            _ => x.clone(),
        };
        (shape, dtype)
    }

    /// How many of the inputs, from the first on, the kernel reads under any strides.
    pub(crate) fn strided_inputs(&self) -> usize {
        match self {
            Fast::Attention(a) | Fast::AttentionGrad { of: a, .. } => 3 + a.masked as usize,
            _ => 0,
        }
    }

    /// What its random numbers are a function of, if it makes any.
    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Fast::Attention(a) | Fast::AttentionGrad { of: a, .. } => a.dropped.map(|d| d.key),
            _ => None,
        }
    }

    /// What the op computes, in terms of other ops.
    pub fn define(&self, inputs: &[Tensor]) -> Tensor {
        let x = &inputs[0];
        match self {
            Fast::Softmax { log: false } => {
                let e = (x - shift(x)).exp();
                &e / e.sum_keepdim(-1)
            }
            Fast::Softmax { log: true } => {
                let z = x - shift(x);
                &z - z.exp().sum_keepdim(-1).log()
            }
            Fast::SoftmaxGrad { log: false } => {
                let (y, dy) = (x, &inputs[1]);
                y * (dy - (y * dy).sum_keepdim(-1))
            }
            Fast::SoftmaxGrad { log: true } => {
                let (y, dy) = (x, &inputs[1]);
                dy - y.exp() * dy.sum_keepdim(-1)
            }
            Fast::CrossEntropy { ignore_index } => {
                let (counts, target) = counted(&inputs[1], *ignore_index);
                let picked = x
                    .log_softmax_defined()
                    .gather(-1, &target.unsqueeze(-1))
                    .squeeze(-1);
                counts.where_(&-picked, &Tensor::full((), 0.0, x.dtype()))
            }
            Fast::CrossEntropyGrad { ignore_index } => {
                let (counts, target) = counted(&inputs[1], *ignore_index);
                let dloss = &inputs[2] * counts.to_dtype(x.dtype());
                let hot = target.one_hot(x.dim(-1), x.dtype());
                (x.softmax_defined() - hot) * dloss.unsqueeze(-1)
            }
            Fast::LayerNorm { eps } => {
                let (xhat, _) = standardise(x, *eps);
                xhat * &inputs[1] + &inputs[2]
            }
            Fast::LayerNormGrad { eps } => {
                let (xhat, rstd) = standardise(x, *eps);
                let (dy, rows) = (&inputs[2], all_but_last(x));
                let g = dy * &inputs[1];
                let dx = (&g - g.mean_keepdim(-1) - &xhat * (&g * &xhat).mean_keepdim(-1)) * rstd;
                let (dweight, dbias) = ((xhat * dy).sum(rows.clone()), dy.sum(rows));
                Tensor::cat(&[dx.flatten(0, -1), dweight, dbias], 0)
            }
            Fast::BatchNorm { eps } => {
                let (xhat, _) = standardise_channels(x, *eps);
                xhat * channelwise(&inputs[3], x) + channelwise(&inputs[4], x)
            }
            Fast::BatchNormGrad { eps } => {
                let (xhat, rstd) = standardise_channels(x, *eps);
                let g = &inputs[4];
                let axes = all_but_channels(x);
                let count = x.numel() as f64 / x.dim(1) as f64;
                let (dbias, dweight) = (g.sum(axes.clone()), (g * &xhat).sum(axes));
                let [mean, along] = [&dbias, &dweight].map(|sum| channelwise(sum, x) / count);
                let dx = (g - mean - xhat * along) * rstd * channelwise(&inputs[3], x);
                Tensor::cat(&[dx.flatten(0, -1), dweight, dbias], 0)
            }
            Fast::MaxPool(w) => {
                let windows = windows(x, w, f64::NEG_INFINITY);
                let first = windows.detach().argmax(-1).unsqueeze(-1);
                windows.gather(-1, &first).squeeze(-1)
            }
            Fast::MaxPoolGrad(w) => vjp_by_definition(&Fast::MaxPool(*w), &inputs[..1], &inputs[1]),
            Fast::AvgPool(w) => {
                let sums = windows(x, w, 0.0).sum(-1);
                if w.count_include_pad || w.padding == [0, 0] {
                    return sums * (1.0 / (w.kernel[0] * w.kernel[1]) as f64);
                }
                let inside = Tensor::ones(&x.shape()[x.rank() - 2..], x.dtype());
                sums / windows(&inside, w, 0.0).sum(-1)
            }
            Fast::AvgPoolGrad(w, size) => {
                let mut shape = Shape::from(x.shape());
                let lead = shape.len() - 2;
                shape.dims_mut()[lead..].copy_from_slice(size);
                // Linear, so that any point will do to differentiate at.
                vjp_by_definition(&Fast::AvgPool(*w), &[Tensor::zeros(shape, x.dtype())], x)
            }
            Fast::Attention(a) => attention::define(a, inputs),
            Fast::AttentionGrad { of, mask } => attention::define_grad(of, *mask, inputs),
            Fast::Recurrent(r) => rnn::define(r, inputs),
            Fast::RecurrentGrad(r) => rnn::define_grad(r, inputs),
        }
    }

    /// The cotangents of the inputs, given the output `y` and its cotangent `g`; `None` where no
    /// gradient can flow (targets, statistics).
    pub(crate) fn vjp(
        &self,
        inputs: &[Tensor],
        y: &Tensor,
        g: &Tensor,
        wanted: &[bool],
    ) -> Vec<Option<Tensor>> {
        let fast = |op: Fast, inputs: &[&Tensor]| Some(op.call(inputs));
        match self {
            Fast::Softmax { log } => vec![fast(Fast::SoftmaxGrad { log: *log }, &[y, g])],
            Fast::CrossEntropy { ignore_index } => {
                let op = Fast::CrossEntropyGrad {
                    ignore_index: *ignore_index,
                };
                vec![fast(op, &[&inputs[0], &inputs[1], g]), None]
            }
            Fast::LayerNorm { eps } => {
                let op = Fast::LayerNormGrad { eps: *eps };
                let [dx, dweight, dbias] = norm_grads(op, &[&inputs[0], &inputs[1], g]);
                vec![Some(dx), Some(dweight), Some(dbias)]
            }
            Fast::BatchNorm { eps } => {
                let [x, mean, var, weight, _] = inputs else {
                    unreachable!()
                };
                let op = Fast::BatchNormGrad { eps: *eps };
                let [dx, dweight, dbias] = norm_grads(op, &[x, mean, var, weight, g]);
                vec![Some(dx), None, None, Some(dweight), Some(dbias)]
            }
            Fast::MaxPool(w) => vec![fast(Fast::MaxPoolGrad(*w), &[&inputs[0], g])],
            Fast::AvgPool(w) => {
                let size = [inputs[0].dim(-2), inputs[0].dim(-1)];
                vec![fast(Fast::AvgPoolGrad(*w, size), &[g])]
            }
            Fast::AvgPoolGrad(w, _) => vec![fast(Fast::AvgPool(*w), &[g])],
            Fast::Attention(a) => attention::vjp(a, inputs, y, g, wanted),
            Fast::Recurrent(r) => rnn::vjp(r, inputs, y, g),
            // Second order: through the definition.
            Fast::SoftmaxGrad { .. }
            | Fast::CrossEntropyGrad { .. }
            | Fast::LayerNormGrad { .. }
            | Fast::BatchNormGrad { .. }
            | Fast::MaxPoolGrad(_)
            | Fast::AttentionGrad { .. }
            | Fast::RecurrentGrad(_) => vjp_of(|inputs| self.define(inputs), inputs, g),
        }
    }

    /// The op applied, by its kernel. The methods of [`Tensor`] are the friendlier way.
    ///
    /// # Panics
    /// If number, shapes or element types of the inputs are not the op's.
    #[track_caller]
    pub fn apply(&self, inputs: &[Tensor]) -> Tensor {
        self.clone().call(&inputs.iter().collect::<Vec<_>>())
    }

    /// The op applied: by its kernel, or by its definition if `FORNAX_FAST=0`.
    #[track_caller]
    pub(crate) fn call(self, inputs: &[&Tensor]) -> Tensor {
        self.check(inputs);
        let dtype = inputs[0].dtype();
        if dtype.is_half() {
            let widened = |(i, t): (usize, &&Tensor)| match self.takes_classes(i) {
                true => (*t).clone(),
                false => t.to_dtype(dtype.widened()),
            };
            let wide: Vec<Tensor> = inputs.iter().enumerate().map(widened).collect();
            return self.call(&wide.iter().collect::<Vec<_>>()).to_dtype(dtype);
        }
        if !crate::plan::options().fast {
            let inputs: Vec<Tensor> = inputs.iter().map(|&t| t.clone()).collect();
            return self.define(&inputs);
        }
        let described: Vec<_> = inputs.iter().map(|t| (&t.0.shape, t.0.dtype)).collect();
        let (shape, dtype) = self.infer(&described);
        let inputs = inputs.iter().map(|&t| t.clone()).collect();
        Tensor::from_node(Prim::Fast(Box::new(self)), inputs, shape, dtype)
    }
}

impl Window {
    fn hash(&self, h: &mut impl FnMut(u64)) {
        let all = [self.kernel, self.stride, self.padding];
        all.iter().flatten().for_each(|&v| h(v as u64));
        h(self.count_include_pad as u64);
    }
}

/// The three results of a norm's gradient op, which lie one behind the other.
fn norm_grads(op: Fast, inputs: &[&Tensor]) -> [Tensor; 3] {
    let x = inputs[0];
    let flat = op.call(inputs);
    let n = x.numel();
    let c = (flat.numel() - n) / 2;
    // In memory of their own, so that the large array may go before they are used.
    let sums = Tensor::op(Prim::Concat(0), [&flat.narrow(0, n, 2 * c)]);
    let dx = flat.narrow(0, 0, n).reshape(x.shape());
    [dx, sums.narrow(0, 0, c), sums.narrow(0, c, c)]
}

fn vjp_by_definition(op: &Fast, inputs: &[Tensor], g: &Tensor) -> Tensor {
    let grads = vjp_of(|inputs| op.define(inputs), inputs, g);
    grads
        .into_iter()
        .next()
        .flatten()
        .expect("a pooling depends on its input")
}

/// What softmax subtracts so that no exponential overflows: the row's maximum.
fn shift(x: &Tensor) -> Tensor {
    x.detach().max_keepdim(-1)
}

/// Which targets count, and the targets with the others made harmless.
fn counted(target: &Tensor, ignore_index: i64) -> (Tensor, Tensor) {
    let ignored = target.eq(&Tensor::scalar(ignore_index));
    (ignored.logical_not(), target.masked_fill(&ignored, 0.0))
}

/// `(x - mean) * rstd` over the last axis, and `rstd`.
fn standardise(x: &Tensor, eps: f64) -> (Tensor, Tensor) {
    let centred = x - x.mean_keepdim(-1);
    let rstd = ((&centred * &centred).mean_keepdim(-1) + eps).rsqrt();
    (centred * &rstd, rstd)
}

fn all_but_last(x: &Tensor) -> Vec<isize> {
    (0..x.rank() as isize - 1).collect()
}

/// All axes but the second.
pub(crate) fn all_but_channels(x: &Tensor) -> Vec<isize> {
    (0..x.rank() as isize).filter(|&a| a != 1).collect()
}

/// A per-channel vector `[c]` with ones behind, to broadcast over `x [n, c, ..]`.
pub(crate) fn channelwise(v: &Tensor, x: &Tensor) -> Tensor {
    let mut shape = vec![1; x.rank() - 1];
    shape[0] = v.numel();
    v.reshape(shape)
}

fn standardise_channels(x: &Tensor, eps: f64) -> (Tensor, Tensor) {
    let axes = all_but_channels(x);
    let centred = x - x.mean_keepdim(axes.clone());
    let rstd = ((&centred * &centred).mean_keepdim(axes) + eps).rsqrt();
    (centred * &rstd, rstd)
}

/// The windows of a pooling laid out along a new last axis: `[.., oh, ow, kh * kw]`.
fn windows(x: &Tensor, w: &Window, fill: f64) -> Tensor {
    let rank = x.rank() as isize;
    let mut pads = vec![(0, 0); x.rank()];
    pads[x.rank() - 2] = (w.padding[0], w.padding[0]);
    pads[x.rank() - 1] = (w.padding[1], w.padding[1]);
    let out = [w.out_size(0, x.dim(-2)), w.out_size(1, x.dim(-1))];
    let x = x.pad(&pads, fill);
    let shifted: Vec<Tensor> = (0..w.kernel[0] * w.kernel[1])
        .map(|k| {
            let at = [k / w.kernel[1], k % w.kernel[1]];
            let mut part = x.clone();
            for i in 0..2 {
                let step = w.stride[i] as isize;
                let start = at[i] as isize;
                let end = start + (out[i] as isize - 1).max(-1) * step + 1;
                part = part.slice(rank - 2 + i as isize, start, end.max(start), step);
            }
            part
        })
        .collect();
    Tensor::stack(&shifted, -1)
}
