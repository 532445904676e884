//! Softmax, normalisation layers' arithmetic, cross-entropy and dropout.

use crate::dtype::DType;
use crate::fast::{Fast, all_but_channels, channelwise};
use crate::node::is_recording;
use crate::shape::axis_index;
use crate::tensor::Tensor;

/// The class that counts for nothing in a loss if no other is named, as in PyTorch and HuggingFace.
pub const IGNORE_INDEX: i64 = -100;

impl Tensor {
    /// `exp(x_i) / sum_j exp(x_j)` along an axis.
    #[track_caller]
    pub fn softmax(&self, axis: isize) -> Tensor {
        self.along_last("softmax", axis, Fast::Softmax { log: false })
    }

    /// The logarithm of [`softmax`](Tensor::softmax), computed safely.
    #[track_caller]
    pub fn log_softmax(&self, axis: isize) -> Tensor {
        self.along_last("log_softmax", axis, Fast::Softmax { log: true })
    }

    #[track_caller]
    fn along_last(&self, name: &str, axis: isize, op: Fast) -> Tensor {
        if self.rank() == 0 {
            return self.unsqueeze(0).along_last(name, 0, op).reshape(());
        }
        let axis = axis_index(name, axis, self.rank()) as isize;
        let x = self.to_real();
        if x.numel() == 0 {
            return x;
        }
        if axis == x.rank() as isize - 1 {
            return op.call(&[&x]);
        }
        op.call(&[&x.transpose(axis, -1)]).transpose(axis, -1)
    }

    pub(crate) fn softmax_defined(&self) -> Tensor {
        Fast::Softmax { log: false }.define(std::slice::from_ref(self))
    }

    pub(crate) fn log_softmax_defined(&self) -> Tensor {
        Fast::Softmax { log: true }.define(std::slice::from_ref(self))
    }

    /// The cross-entropy of each row: logits `[n, c]`, classes `[n]` (integers) -> `[n]`. Rows
    /// whose class is `ignore_index` (PyTorch's default is -100) cost 0 and get no gradient. A
    /// class outside `0..c` is an error of the evaluation.
    #[track_caller]
    pub fn cross_entropy_rows(&self, target: &Tensor, ignore_index: i64) -> Tensor {
        if self.rank() != 2 || target.shape() != [self.dim(0)] || !target.dtype().is_int() {
            panic!(
                "cross_entropy_rows: logits {:?} and {} target {:?}; expected [n, c] and integers [n]",
                self.shape(),
                target.dtype(),
                target.shape()
            );
        }
        let target = target.to_dtype(DType::I64);
        Fast::CrossEntropy { ignore_index }.call(&[&self.to_real(), &target])
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias` over the last `axes` axes, with the biased
    /// variance; weight and bias have the shape of those axes (Ba et al. 2016). Beside half
    /// precision they may be `f32`; else they are of the tensor's type.
    #[track_caller]
    pub fn layer_norm(
        &self,
        axes: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Tensor {
        if axes == 0 || axes > self.rank() {
            panic!(
                "layer_norm: {axes} axes of a tensor of shape {:?}",
                self.shape()
            );
        }
        let (lead, normal) = self.shape().split_at(self.rank() - axes);
        let (rows, n): (usize, usize) = (lead.iter().product(), normal.iter().product());
        let flat = |name: &str, t: Option<&Tensor>, default: f64| match t {
            None => Tensor::full([n], default, self.dtype()),
            Some(t) if t.shape() == normal => t.reshape([n]),
            Some(t) => panic!("layer_norm: {name} {:?} for axes of {normal:?}", t.shape()),
        };
        let (weight, bias) = (flat("weight", weight, 1.0), flat("bias", bias, 0.0));
        let x = self.reshape([rows, n]);
        let op = Fast::LayerNorm { eps };
        if self.numel() == 0 {
            op.check(&[&x, &weight, &bias]);
            // Nothing to normalise, but weight and bias have their gradient: zeros.
            return (x * weight + bias)
                .to_dtype(self.dtype())
                .reshape(self.shape());
        }
        op.call(&[&x, &weight, &bias]).reshape(self.shape())
    }

    /// Normalisation by the statistics of the batch, per channel of `[n, c, ..]`: returns the
    /// result, the mean and the biased variance (Ioffe & Szegedy 2015). Gradients flow through
    /// the result alone.
    ///
    /// Beside half precision weight and bias may be `f32`; mean and variance are of the weight's
    /// type.
    #[track_caller]
    pub fn batch_norm_train(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> (Tensor, Tensor, Tensor) {
        let (weight, bias) = self.channel_affine(weight, bias);
        let axes = all_but_channels(self);
        // Not rounded before they are used.
        let x = self.detach().to_dtype(self.dtype().widened());
        let mean = x.mean(axes.clone());
        let var = (&x - channelwise(&mean, self)).square().mean(axes);
        let y = Fast::BatchNorm { eps }.call(&[self, &mean, &var, &weight, &bias]);
        let dtype = weight.dtype();
        (y, mean.to_dtype(dtype), var.to_dtype(dtype))
    }

    /// Normalisation by given statistics, per channel of `[n, c, ..]`. Beside half precision the
    /// other operands may be `f32`; else they are of the tensor's type.
    #[track_caller]
    pub fn batch_norm_eval(
        &self,
        mean: &Tensor,
        var: &Tensor,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Tensor {
        let (weight, bias) = self.channel_affine(weight, bias);
        // The same expression with given statistics: the same operands.
        Fast::BatchNorm { eps }.check(&[self, mean, var, &weight, &bias]);
        let [x, mean, var, weight, bias] =
            [self, mean, var, &weight, &bias].map(|t| t.to_dtype(self.dtype().widened()));
        let scale = (var + eps).rsqrt() * weight;
        let shift = bias - mean * &scale;
        let y = x * channelwise(&scale, self) + channelwise(&shift, self);
        y.to_dtype(self.dtype())
    }

    #[track_caller]
    fn channel_affine(&self, weight: Option<&Tensor>, bias: Option<&Tensor>) -> (Tensor, Tensor) {
        if self.rank() < 2 {
            panic!("batch_norm: needs [n, c, ..], got {:?}", self.shape());
        }
        let c = self.shape()[1];
        let vector = |name: &str, t: Option<&Tensor>, default: f64| match t {
            None => Tensor::full([c], default, self.dtype()),
            Some(t) if t.shape() == [c] => t.clone(),
            Some(t) => panic!("batch_norm: {name} {:?} for {c} channels", t.shape()),
        };
        (vector("weight", weight, 1.0), vector("bias", bias, 0.0))
    }

    /// While training, elements become 0 with probability `p` and the others grow by `1/(1-p)`;
    /// otherwise nothing happens (Srivastava et al. 2014).
    #[track_caller]
    pub fn dropout(&self, p: f64) -> Tensor {
        if !(0.0..=1.0).contains(&p) {
            panic!("dropout: the probability {p} is not between 0 and 1");
        }
        if !is_recording() || p == 0.0 {
            return self.clone();
        }
        if p == 1.0 {
            return self * 0.0;
        }
        let kept = Tensor::rand(self.shape(), DType::F32).ge_scalar(p);
        kept.where_(&(self * (1.0 / (1.0 - p))), &self.zeros_like())
    }
}
