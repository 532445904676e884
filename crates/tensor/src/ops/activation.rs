//! Activation functions that are short expressions; the planner makes one kernel of each. In half
//! precision they are computed in `f32` and rounded once.

use crate::grad::alias;
use crate::node::checkpoint;
use crate::tensor::Tensor;

impl Tensor {
    /// An activation of several steps. Its gradient is computed from `x` alone: what the steps yield
    /// would be several times as large, and memory is slower than the steps. The result is a node
    /// of its own, since whatever reads it keeps it and need not have it computed again.
    fn activation(&self, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        alias(&self.widened(|x| checkpoint(|| f(x))))
    }

    /// `x * Phi(x)` with the exact normal distribution (Hendrycks & Gimpel 2016).
    pub fn gelu(&self) -> Tensor {
        self.activation(|x| x * 0.5 * ((x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0))
    }

    /// GELU by its tanh approximation, as GPT-2 uses it.
    pub fn gelu_tanh(&self) -> Tensor {
        self.activation(|x| {
            // (1 + tanh(z)) / 2 is sigmoid(2 z), which cancels nothing and takes fewer steps.
            let slope = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            x * (x * (x.square() * (slope * 0.044715) + slope)).sigmoid()
        })
    }

    /// `x * sigmoid(x)`, also called swish.
    pub fn silu(&self) -> Tensor {
        self.activation(|x| x * x.sigmoid())
    }

    /// `x` where positive, else `slope * x`.
    pub fn leaky_relu(&self, slope: f64) -> Tensor {
        self.widened(|x| x.gt_scalar(0).where_(x, &(x * slope)))
    }

    /// `x` where positive, else `alpha * (exp(x) - 1)` (Clevert et al. 2016).
    pub fn elu(&self, alpha: f64) -> Tensor {
        self.activation(|x| {
            let positive = x.gt_scalar(0);
            // The branch not taken must stay finite, or its gradient 0 * inf would be NaN.
            let low = x.masked_fill(&positive, 0.0).expm1() * alpha;
            positive.where_(x, &low)
        })
    }

    /// `log(1 + exp(beta * x)) / beta`, linear where `beta * x > threshold` (PyTorch's defaults
    /// are 1 and 20).
    pub fn softplus(&self, beta: f64, threshold: f64) -> Tensor {
        self.activation(|x| {
            let z = x * beta;
            let linear = z.gt_scalar(threshold);
            // The branch not taken must stay finite, or its gradient 0 * inf would be NaN.
            let soft = z.masked_fill(&linear, 0.0).exp().log1p();
            linear.where_(&z, &soft) / beta
        })
    }

    /// `x * tanh(softplus(x))` (Misra 2019).
    pub fn mish(&self) -> Tensor {
        self.activation(|x| x * x.softplus(1.0, 20.0).tanh())
    }

    /// `x * min(max(x + 3, 0), 6) / 6` (Howard et al. 2019); gradient 0 at -3 and 1 at 3.
    pub fn hardswish(&self) -> Tensor {
        self.activation(|x| {
            let gate = (x + 3.0).relu();
            x * gate.masked_fill(&gate.ge_scalar(6), 6.0) / 6.0
        })
    }
}
