//! RMSprop.

use super::base::Slot;
use super::{Base, Group, Optimizer, common_options, with_base};
use crate::Result;
use crate::module::Module;
use fornax_tensor::{Grads, Tensor};

/// Rates by a running mean of squared gradients:
/// [`torch.optim.RMSprop`](https://pytorch.org/docs/stable/generated/torch.optim.RMSprop.html)
/// (Hinton 2012, lecture 6e).
///
/// With gradient `g` (plus `weight_decay * p`): `s = alpha s + (1 - alpha) g^2`. If centred, the
/// square of a running mean of `g` is taken off `s`. With `d = g / (sqrt(s) + eps)` and
/// `b = momentum b + d`: `p -= lr b`.
#[derive(Debug)]
pub struct RMSprop {
    base: Base,
    alpha: f64,
    eps: f64,
    momentum: f64,
    centered: bool,
}

impl RMSprop {
    /// With PyTorch's defaults for everything else (whose learning rate is 0.01).
    pub fn new(lr: f64) -> Self {
        RMSprop {
            base: Base::new(lr, 0.0, |shape| {
                vec![
                    Slot::always("square_avg", shape),
                    Slot::sometimes("grad_avg", shape),
                    Slot::sometimes("momentum_buffer", shape),
                ]
            }),
            alpha: 0.99,
            eps: 1e-8,
            momentum: 0.0,
            centered: false,
        }
    }

    /// The memory of the running means; 0.99 by default.
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Added to the root of the mean; 1e-8 by default.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// The share of the last step that is kept; 0 by default.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Whether to divide by the variance instead of the mean square (Graves 2013).
    pub fn centered(mut self, on: bool) -> Self {
        self.centered = on;
        self
    }

    /// L2 penalty: what of each parameter is added to its gradient; 0 by default.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.base.weight_decay = weight_decay;
        self
    }
}

common_options!(RMSprop);

impl Optimizer for RMSprop {
    fn step_with(&mut self, model: &mut dyn Module, grads: Grads, also: &[&Tensor]) -> Result<()> {
        let (alpha, eps, momentum, centered) = (self.alpha, self.eps, self.momentum, self.centered);
        self.base.step(model, grads, also, |h, p, mut g, state| {
            if h.weight_decay != 0.0 {
                g = g + &p * h.weight_decay;
            }
            let square = state.take_or_zeros("square_avg", &p);
            let square = square * alpha + g.square() * (1.0 - alpha);
            let spread = if centered {
                let mean = state.take_or_zeros("grad_avg", &p);
                let mean = &mean + (&g - &mean) * (1.0 - alpha);
                let variance = &square - mean.square();
                state.put("grad_avg", mean);
                variance
            } else {
                square.clone()
            };
            state.put("square_avg", square);
            let mut step = g / (spread.sqrt() + eps);
            if momentum > 0.0 {
                step = state.take_or_zeros("momentum_buffer", &p) * momentum + step;
                state.put("momentum_buffer", step.clone());
            }
            p - step * h.lr
        })
    }

    fn set_momentum(&mut self, momentum: f64) {
        self.momentum = momentum;
    }

    with_base!();
}
