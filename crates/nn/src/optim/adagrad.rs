//! Adagrad.

use super::base::Slot;
use super::{Base, Group, Optimizer, common_options, with_base};
use crate::Result;
use crate::module::Module;
use fornax_tensor::{Grads, Tensor};

/// Rates by the sum of squared gradients so far:
/// [`torch.optim.Adagrad`](https://pytorch.org/docs/stable/generated/torch.optim.Adagrad.html)
/// (Duchi et al. 2011).
///
/// With gradient `g` (plus `weight_decay * p`) at step `t`: `s += g^2`, then
/// `p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps)`.
#[derive(Debug)]
pub struct Adagrad {
    base: Base,
    lr_decay: f64,
    initial: f64,
    eps: f64,
}

impl Adagrad {
    /// With PyTorch's defaults for everything else (whose learning rate is 0.01).
    pub fn new(lr: f64) -> Self {
        Adagrad {
            base: Base::new(lr, 0.0, |shape| vec![Slot::always("sum", shape)]),
            lr_decay: 0.0,
            initial: 0.0,
            eps: 1e-10,
        }
    }

    /// How fast the learning rate itself falls; 0 by default.
    pub fn lr_decay(mut self, lr_decay: f64) -> Self {
        self.lr_decay = lr_decay;
        self
    }

    /// Where the sums start; 0 by default.
    pub fn initial_accumulator_value(mut self, value: f64) -> Self {
        self.initial = value;
        self
    }

    /// Added to the root of the sum; 1e-10 by default.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// L2 penalty: what of each parameter is added to its gradient; 0 by default.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.base.weight_decay = weight_decay;
        self
    }
}

common_options!(Adagrad);

impl Optimizer for Adagrad {
    fn step_with(&mut self, model: &mut dyn Module, grads: Grads, also: &[&Tensor]) -> Result<()> {
        let (lr_decay, initial, eps) = (self.lr_decay, self.initial, self.eps);
        self.base.step(model, grads, also, |h, p, mut g, state| {
            if h.weight_decay != 0.0 {
                g = g + &p * h.weight_decay;
            }
            let sum = state.take("sum").unwrap_or_else(|| p.full_like(initial));
            let sum = sum + g.square();
            let lr = h.lr / (1.0 + (h.step - 1) as f64 * lr_decay);
            let p = p - g / (sum.sqrt() + eps) * lr;
            state.put("sum", sum);
            p
        })
    }

    with_base!();
}
