//! Activations as layers, and a choice of them as data.

use super::pool::no_parameters;
use crate::module::{Entry, EntryMut, Path};
use crate::{Layer, Module, functional, note_output};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

macro_rules! unit_activation {
    ($($(#[$doc:meta])* $name:ident |$x:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct $name;
        impl Layer for $name {
            fn forward(&self, $x: &Tensor) -> Tensor {
                note_output(self, $body)
            }
        }
        no_parameters!($name);
    )*};
}

unit_activation! {
    /// `max(x, 0)` (Nair & Hinton 2010).
    ReLU |x| x.relu();
    /// `min(max(x, 0), 6)` (Krizhevsky 2010).
    ReLU6 |x| functional::relu6(x);
    /// The self-normalising `scale * elu(x)` (Klambauer et al. 2017).
    SELU |x| functional::selu(x);
    /// `x * sigmoid(x)`, also called swish (Elfwing et al. 2017).
    SiLU |x| x.silu();
    /// `x * tanh(softplus(x))` (Misra 2019).
    Mish |x| x.mish();
    /// `1 / (1 + exp(-x))`.
    Sigmoid |x| x.sigmoid();
    /// Hyperbolic tangent.
    Tanh |x| x.tanh();
    /// `x / (1 + |x|)`.
    Softsign |x| functional::softsign(x);
    /// `x * clamp(x + 3, 0, 6) / 6` (Howard et al. 2019).
    Hardswish |x| x.hardswish();
    /// `clamp(x + 3, 0, 6) / 6`.
    Hardsigmoid |x| functional::hardsigmoid(x);
}

/// `x` where positive, else `slope * x` (Maas et al. 2013).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyReLU {
    slope: f64,
}

impl LeakyReLU {
    /// With this slope below zero.
    pub fn new(slope: f64) -> Self {
        LeakyReLU { slope }
    }
}

/// A slope of 0.01.
impl Default for LeakyReLU {
    fn default() -> Self {
        LeakyReLU::new(0.01)
    }
}

impl Layer for LeakyReLU {
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.leaky_relu(self.slope))
    }
}

/// `x` where positive, else `alpha * (exp(x) - 1)` (Clevert et al. 2016).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ELU {
    alpha: f64,
}

impl ELU {
    /// Falling to `-alpha`.
    pub fn new(alpha: f64) -> Self {
        ELU { alpha }
    }
}

/// An alpha of 1.
impl Default for ELU {
    fn default() -> Self {
        ELU::new(1.0)
    }
}

impl Layer for ELU {
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.elu(self.alpha))
    }
}

/// `x * Phi(x)`, `Phi` the normal distribution function (Hendrycks & Gimpel 2016).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GELU {
    tanh: bool,
}

impl GELU {
    /// The exact form.
    pub fn new() -> Self {
        GELU::default()
    }

    /// The approximation by tanh that GPT-2 uses (PyTorch's `approximate="tanh"`).
    pub fn tanh() -> Self {
        GELU { tanh: true }
    }
}

impl Layer for GELU {
    fn forward(&self, x: &Tensor) -> Tensor {
        let y = if self.tanh { x.gelu_tanh() } else { x.gelu() };
        note_output(self, y)
    }
}

/// `log(1 + exp(beta x)) / beta`, linear where `beta x` exceeds a threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softplus {
    beta: f64,
    threshold: f64,
}

impl Softplus {
    /// With this sharpness and threshold.
    pub fn new(beta: f64, threshold: f64) -> Self {
        Softplus { beta, threshold }
    }
}

/// A beta of 1 and a threshold of 20.
impl Default for Softplus {
    fn default() -> Self {
        Softplus::new(1.0, 20.0)
    }
}

impl Layer for Softplus {
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.softplus(self.beta, self.threshold))
    }
}

/// `exp(x_i) / sum_j exp(x_j)` along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    axis: isize,
}

impl Softmax {
    /// Along this axis; negative counts from the end.
    pub fn new(axis: isize) -> Self {
        Softmax { axis }
    }
}

impl Layer for Softmax {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.softmax(self.axis))
    }
}

/// The logarithm of [`Softmax`], computed without overflow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSoftmax {
    axis: isize,
}

impl LogSoftmax {
    /// Along this axis; negative counts from the end.
    pub fn new(axis: isize) -> Self {
        LogSoftmax { axis }
    }
}

impl Layer for LogSoftmax {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.log_softmax(self.axis))
    }
}

/// An activation chosen by name, as in a recipe: `"relu"`, `"gelu_tanh"`, ...
///
/// Each has PyTorch's default options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// [`ReLU`].
    #[default]
    Relu,
    /// [`ReLU6`].
    Relu6,
    /// [`LeakyReLU`].
    LeakyRelu,
    /// [`ELU`].
    Elu,
    /// [`SELU`].
    Selu,
    /// [`GELU`], exact.
    Gelu,
    /// [`GELU`] by tanh.
    GeluTanh,
    /// [`SiLU`].
    Silu,
    /// [`Mish`].
    Mish,
    /// [`Softplus`].
    Softplus,
    /// [`Sigmoid`].
    Sigmoid,
    /// [`Tanh`].
    Tanh,
    /// [`Softsign`].
    Softsign,
    /// [`Hardswish`].
    Hardswish,
    /// [`Hardsigmoid`].
    Hardsigmoid,
    /// None at all.
    Identity,
}

impl Layer for Activation {
    fn forward(&self, x: &Tensor) -> Tensor {
        let y = match self {
            Activation::Relu => x.relu(),
            Activation::Relu6 => functional::relu6(x),
            Activation::LeakyRelu => x.leaky_relu(0.01),
            Activation::Elu => x.elu(1.0),
            Activation::Selu => functional::selu(x),
            Activation::Gelu => x.gelu(),
            Activation::GeluTanh => x.gelu_tanh(),
            Activation::Silu => x.silu(),
            Activation::Mish => x.mish(),
            Activation::Softplus => x.softplus(1.0, 20.0),
            Activation::Sigmoid => x.sigmoid(),
            Activation::Tanh => x.tanh(),
            Activation::Softsign => functional::softsign(x),
            Activation::Hardswish => x.hardswish(),
            Activation::Hardsigmoid => functional::hardsigmoid(x),
            Activation::Identity => x.clone(),
        };
        note_output(self, y)
    }
}

no_parameters!(
    LeakyReLU, ELU, GELU, Softplus, Softmax, LogSoftmax, Activation
);

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::grad;

    const POINTS: [f64; 7] = [-1000.0, -3.5, -0.5, 0.0, 0.5, 3.5, 1000.0];

    /// Values at -0.5 and 0.5, from PyTorch in f64.
    #[test]
    fn values_are_those_of_pytorch() {
        let cases: [(Activation, f64, f64); 10] = [
            (Activation::Elu, -0.3934693402873666, 0.5),
            (Activation::Selu, -0.6917581878028713, 0.5253504936777402),
            (Activation::Gelu, -0.15426876936299344, 0.34573123063700656),
            (
                Activation::GeluTanh,
                -0.15428599017485606,
                0.34571400982514394,
            ),
            (Activation::Silu, -0.1887703343990727, 0.3112296656009273),
            (Activation::Mish, -0.22074377465173, 0.3752452113048951),
            (Activation::Softplus, 0.4740769841801067, 0.9740769841801067),
            (
                Activation::Hardswish,
                -0.20833333333333334,
                0.2916666666666667,
            ),
            (Activation::Softsign, -1. / 3., 1. / 3.),
            (Activation::LeakyRelu, -0.005, 0.5),
        ];
        let x = Tensor::from_vec(vec![-0.5f64, 0.5], [2]);
        for (f, low, high) in cases {
            let y = f.forward(&x).to_vec::<f64>();
            assert!(
                (y[0] - low).abs() < 1e-12 && (y[1] - high).abs() < 1e-12,
                "{f:?} {y:?}"
            );
        }
    }

    #[test]
    fn values_and_gradients_stay_finite() {
        use Activation::*;
        let x = Tensor::from_vec(POINTS.to_vec(), [7]);
        for f in [
            Relu,
            Relu6,
            LeakyRelu,
            Elu,
            Selu,
            Gelu,
            GeluTanh,
            Silu,
            Mish,
            Softplus,
            Sigmoid,
            Tanh,
            Softsign,
            Hardswish,
            Hardsigmoid,
            Identity,
        ] {
            let y = f.forward(&x).to_vec::<f64>();
            let g = grad(&x, |x| f.forward(x).sum(..)).to_vec::<f64>();
            assert!(
                y.iter().chain(&g).all(|v| v.is_finite()),
                "{f:?} {y:?} {g:?}"
            );
        }
    }

    #[test]
    fn the_logarithm_of_the_sigmoid_has_its_derivative_at_zero() {
        let x = Tensor::from_vec(POINTS.to_vec(), [7]);
        let y = functional::log_sigmoid(&x).to_vec::<f64>();
        assert_eq!((y[0], y[6]), (-1000.0, 0.0));
        let g = grad(&x, |x| functional::log_sigmoid(x).sum(..)).to_vec::<f64>();
        assert_eq!((g[0], g[3], g[6]), (1.0, 0.5, 0.0));
        let h = grad(&x, |x| {
            grad(x, |x| functional::log_sigmoid(x).sum(..)).sum(..)
        });
        assert_eq!(h.to_vec::<f64>()[3], -0.25);
    }

    #[test]
    fn derivatives_at_corners_are_those_of_pytorch() {
        let zero = Tensor::zeros([1], fornax_tensor::DType::F64);
        let at_zero = |f: Activation| grad(&zero, |x| f.forward(x).sum(..)).item();
        assert_eq!(at_zero(Activation::Relu), 0.0);
        assert_eq!(at_zero(Activation::LeakyRelu), 0.01);
        assert_eq!(at_zero(Activation::Elu), 1.0);
        assert_eq!(at_zero(Activation::Relu6), 0.0);
        assert_eq!(at_zero(Activation::Hardswish), 0.5);
        let ends = Tensor::from_vec(vec![-3f64, 3.], [2]);
        let g = grad(&ends, |x| Activation::Hardswish.forward(x).sum(..));
        assert_eq!(g.to_vec::<f64>(), [0.0, 1.0]);
    }

    #[test]
    fn activations_have_names() {
        assert_eq!(
            serde_json::to_string(&Activation::GeluTanh).unwrap(),
            "\"gelu_tanh\""
        );
        assert!(serde_json::from_str::<Activation>("\"rleu\"").is_err());
    }
}
