//! Normalisation layers.

use crate::{Buffer, Layer, Module, Param, init, note_output};
use fornax_tensor::{DType, Shape, Tensor, is_recording};

/// What batch normalisation over any number of spatial axes is.
#[derive(Module, Clone)]
struct BatchNorm {
    weight: Option<Param>,
    bias: Option<Param>,
    running_mean: Option<Buffer>,
    running_var: Option<Buffer>,
    num_batches_tracked: Option<Buffer>,
    #[module(skip)]
    channels: usize,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    momentum: Option<f64>,
}

impl BatchNorm {
    fn new(channels: usize) -> Self {
        let mut layer = BatchNorm {
            weight: None,
            bias: None,
            running_mean: None,
            running_var: None,
            num_batches_tracked: None,
            channels,
            eps: 1e-5,
            momentum: Some(0.1),
        };
        layer.set_affine(true);
        layer.set_tracking(true);
        layer
    }

    fn set_affine(&mut self, on: bool) {
        self.weight = on.then(|| Param::new(init::ones([self.channels])));
        self.bias = on.then(|| Param::new(init::zeros([self.channels])));
    }

    fn set_tracking(&mut self, on: bool) {
        self.running_mean = on.then(|| Buffer::new(init::zeros([self.channels])));
        self.running_var = on.then(|| Buffer::new(init::ones([self.channels])));
        self.num_batches_tracked = on.then(|| {
            let count = Tensor::zeros((), DType::I64);
            count.eval();
            Buffer::new(count)
        });
    }

    #[track_caller]
    fn forward(&self, name: &str, x: &Tensor) -> Tensor {
        if x.rank() < 2 || x.dim(1) != self.channels {
            panic!(
                "{name}: expected [batch, {}, ..], got {:?}",
                self.channels,
                x.shape()
            );
        }
        let (weight, bias) = (self.weight.as_deref(), self.bias.as_deref());
        match (&self.running_mean, &self.running_var) {
            (Some(mean), Some(var)) if !is_recording() => {
                x.batch_norm_eval(&mean.get(), &var.get(), weight, bias, self.eps)
            }
            _ => {
                let n = x.numel() / self.channels.max(1);
                if n == 1 && is_recording() {
                    panic!(
                        "{name}: the variance of one value per channel is always 0; training needs more than the {:?} given",
                        x.shape()
                    );
                }
                let (y, mean, var) = x.batch_norm_train(weight, bias, self.eps);
                // An empty batch has no statistics to learn from.
                if is_recording() && n > 0 {
                    self.track(n, &mean, &var);
                }
                y
            }
        }
    }

    /// Moves the running statistics towards those of a batch of `n` values per channel.
    fn track(&self, n: usize, mean: &Tensor, var: &Tensor) {
        let (Some(running_mean), Some(running_var), Some(count)) = (
            &self.running_mean,
            &self.running_var,
            &self.num_batches_tracked,
        ) else {
            return;
        };
        let batches = count.get() + 1i64;
        // The running variance is the unbiased one, although the layer itself divides by n.
        let unbiased = var * (n as f64 / (n as f64 - 1.0));
        for (running, new) in [(running_mean, mean), (running_var, &unbiased)] {
            let old = running.get();
            let new = new.detach().to_dtype(old.dtype());
            running.set(match self.momentum {
                Some(m) => old * (1.0 - m) + new * m,
                None => {
                    let share = batches.to_dtype(old.dtype()).recip();
                    &old + (new - &old) * share
                }
            });
        }
        count.set(batches);
    }
}

macro_rules! batch_norm {
    ($(#[$doc:meta])* $name:ident, $ranks:pat, $expected:literal) => {
        $(#[$doc])*
        #[derive(Module, Clone)]
        pub struct $name {
            #[module(flatten)]
            inner: BatchNorm,
        }

        impl $name {
            /// A layer for inputs of this many channels.
            pub fn new(channels: usize) -> Self {
                $name { inner: BatchNorm::new(channels) }
            }

            /// What is added to the variance; 1e-5 by default.
            pub fn eps(mut self, eps: f64) -> Self {
                self.inner.eps = eps;
                self
            }

            /// The share of each new batch in the running statistics, 0.1 by default; `None` for
            /// the plain mean over all batches.
            pub fn momentum(mut self, momentum: Option<f64>) -> Self {
                self.inner.momentum = momentum;
                self
            }

            /// With weight and bias (the default) or without.
            pub fn affine(mut self, on: bool) -> Self {
                self.inner.set_affine(on);
                self
            }

            /// With running statistics (the default), or always with those of the batch.
            pub fn track_running_stats(mut self, on: bool) -> Self {
                self.inner.set_tracking(on);
                self
            }

            /// The scale `[channels]`, 1 at the start.
            pub fn weight(&self) -> Option<&Param> {
                self.inner.weight.as_ref()
            }

            /// The shift `[channels]`, 0 at the start.
            pub fn bias(&self) -> Option<&Param> {
                self.inner.bias.as_ref()
            }

            /// The running mean `[channels]`.
            pub fn running_mean(&self) -> Option<Tensor> {
                self.inner.running_mean.as_ref().map(Buffer::get)
            }

            /// The running (unbiased) variance `[channels]`.
            pub fn running_var(&self) -> Option<Tensor> {
                self.inner.running_var.as_ref().map(Buffer::get)
            }
        }

        impl Layer for $name {
            #[track_caller]
            fn forward(&self, x: &Tensor) -> Tensor {
                if !matches!(x.rank(), $ranks) {
                    panic!("{}: expected {}, got {:?}", stringify!($name), $expected, x.shape());
                }
                note_output(self, self.inner.forward(stringify!($name), x))
            }
        }
    };
}

batch_norm! {
    /// Batch normalisation of features or sequences:
    /// [`torch.nn.BatchNorm1d`](https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html).
    /// See [`BatchNorm2d`].
    ///
    /// Input and output `[batch, channels]` or `[batch, channels, length]`.
    BatchNorm1d, 2 | 3, "[batch, channels] or [batch, channels, length]"
}
batch_norm! {
    /// Batch normalisation of images:
    /// [`torch.nn.BatchNorm2d`](https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    /// (Ioffe & Szegedy 2015).
    ///
    /// `y = (x - mean) / sqrt(var + eps) * weight + bias` per channel. While a gradient is being
    /// recorded, mean and (biased) variance are those of the batch, and the running ones move
    /// towards them; otherwise they are the running ones.
    ///
    /// - input and output `[batch, channels, h, w]`
    /// - `weight [channels]` 1, `bias [channels]` 0
    /// - buffers `running_mean [channels]` 0, `running_var [channels]` 1, `num_batches_tracked` 0
    ///
    /// ```
    /// use fornax_nn::{BatchNorm2d, Layer, Module};
    /// use fornax_tensor::{DType, Tensor, value_and_grad};
    /// let layer = BatchNorm2d::new(3);
    /// let x = Tensor::randn([4, 3, 5, 5], DType::F32) + 2.0;
    /// let (loss, _) = value_and_grad(&layer, |l| l.forward(&x).square().mean(..));
    /// assert!((loss.item() - 1.0).abs() < 1e-3);
    /// assert!(layer.running_mean().unwrap().min(..).item() > 0.1);
    /// ```
    BatchNorm2d, 4, "[batch, channels, h, w]"
}

/// Normalisation over the last axes of each sample:
/// [`torch.nn.LayerNorm`](https://pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html)
/// (Ba et al. 2016).
///
/// `y = (x - mean) / sqrt(var + eps) * weight + bias`, with mean and (biased) variance over the
/// axes of `shape`.
///
/// - input and output `[.., shape..]`
/// - `weight [shape..]` 1, `bias [shape..]` 0
///
/// ```
/// use fornax_nn::{Layer, LayerNorm};
/// use fornax_tensor::Tensor;
/// let y = LayerNorm::new(2).forward(&Tensor::from_vec(vec![1f32, 3.], [1, 2]));
/// assert!((y.to_vec::<f32>()[1] - 1.0).abs() < 1e-4);
/// ```
#[derive(Module, Clone)]
pub struct LayerNorm {
    /// `[shape..]`.
    pub weight: Option<Param>,
    /// `[shape..]`.
    pub bias: Option<Param>,
    #[module(skip)]
    shape: Shape,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// A layer for inputs that end in `shape`.
    pub fn new(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        LayerNorm {
            weight: Some(Param::new(init::ones(&shape))),
            bias: Some(Param::new(init::zeros(&shape))),
            shape,
            eps: 1e-5,
        }
    }

    /// What is added to the variance; 1e-5 by default.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// With weight and bias (the default) or without both.
    pub fn affine(mut self, on: bool) -> Self {
        self.weight = on.then(|| Param::new(init::ones(&self.shape)));
        self.bias(on)
    }

    /// With a bias (the default) or without.
    pub fn bias(mut self, on: bool) -> Self {
        self.bias = on.then(|| Param::new(init::zeros(&self.shape)));
        self
    }
}

impl Layer for LayerNorm {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        if !x.shape().ends_with(&self.shape) {
            panic!(
                "LayerNorm: expected a shape ending in {:?}, got {:?}",
                self.shape,
                x.shape()
            );
        }
        let y = x.layer_norm(
            self.shape.len(),
            self.weight.as_deref(),
            self.bias.as_deref(),
            self.eps,
        );
        note_output(self, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{value_and_grad, with_training};

    fn batch() -> Tensor {
        Tensor::from_vec(vec![1f32, 10., 3., 20.], [2, 2])
    }

    #[test]
    fn running_statistics_move_only_while_recording() {
        let layer = BatchNorm1d::new(2);
        layer.forward(&batch());
        assert_eq!(layer.running_mean().unwrap().to_vec::<f32>(), [0., 0.]);
        let (loss, _) = value_and_grad(&layer, |l| (l.forward(&batch()) * batch()).sum(..));
        assert!(loss.item() > 0.0);
        let close = |got: Option<Tensor>, want: [f32; 2]| {
            let got = got.unwrap().to_vec::<f32>();
            assert!(
                got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5),
                "{got:?} {want:?}"
            );
        };
        close(layer.running_mean(), [0.2, 1.5]);
        close(layer.running_var(), [0.9 + 0.2, 0.9 + 5.0]);
        assert_eq!(layer.named_buffers()[2].1.to_vec::<i64>(), [1]);
    }

    #[test]
    fn names_are_those_of_pytorch() {
        let names: Vec<String> = BatchNorm2d::new(1)
            .state_dict()
            .into_iter()
            .map(|e| e.0)
            .collect();
        let expected = [
            "weight",
            "bias",
            "running_mean",
            "running_var",
            "num_batches_tracked",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn no_momentum_means_the_mean_of_all_batches() {
        let layer = BatchNorm1d::new(2).momentum(None).affine(false);
        with_training(true, || {
            layer.forward(&batch());
            layer.forward(&(batch() + 2.0));
        });
        assert_eq!(layer.running_mean().unwrap().to_vec::<f32>(), [3., 16.]);
    }

    #[test]
    fn without_tracking_the_batch_always_counts() {
        let layer = BatchNorm1d::new(2).track_running_stats(false);
        let y = layer.forward(&batch()).to_vec::<f32>();
        assert!(
            (y[0] + 1.0).abs() < 1e-4 && (y[3] - 1.0).abs() < 1e-4,
            "{y:?}"
        );
        assert_eq!(layer.named_buffers().len(), 0);
    }

    #[test]
    #[should_panic(expected = "one value per channel")]
    fn training_on_one_value_is_an_error() {
        let layer = BatchNorm1d::new(2);
        with_training(true, || layer.forward(&Tensor::ones([1, 2], DType::F32)));
    }

    #[test]
    #[should_panic(expected = "BatchNorm2d: expected [batch, channels, h, w], got [2, 3]")]
    fn ranks_are_checked() {
        BatchNorm2d::new(3).forward(&Tensor::ones([2, 3], DType::F32));
    }

    #[test]
    fn layer_norm_over_several_axes() {
        let layer = LayerNorm::new([2, 2]).affine(false).eps(0.0);
        let y = layer.forward(&Tensor::from_vec(vec![0f32, 0., 2., 2.], [1, 2, 2]));
        assert_eq!(y.to_vec::<f32>(), [-1., -1., 1., 1.]);
        assert_eq!(LayerNorm::new(3).bias(false).num_parameters(), 3);
    }
}
