//! Stochastic gradient descent.

use super::base::Slot;
use super::{Base, Group, Optimizer, common_options, with_base};
use crate::Result;
use crate::module::Module;
use fornax_tensor::{Grads, Tensor};

/// Gradient descent with momentum:
/// [`torch.optim.SGD`](https://pytorch.org/docs/stable/generated/torch.optim.SGD.html)
/// (Sutskever et al. 2013).
///
/// With gradient `g` (plus `weight_decay * p`), momentum `m` and dampening `d`:
/// `b = m b + (1 - d) g` (at the first step `b = g`), then `p -= lr b`, or
/// `p -= lr (g + m b)` with Nesterov's momentum.
#[derive(Debug)]
pub struct SGD {
    base: Base,
    momentum: f64,
    dampening: f64,
    nesterov: bool,
}

impl SGD {
    /// Plain gradient descent; all options 0 or off.
    pub fn new(lr: f64) -> Self {
        SGD {
            base: Base::new(lr, 0.0, |shape| {
                vec![Slot::sometimes("momentum_buffer", shape)]
            }),
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
        }
    }

    /// The share of the last step that is kept.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// What the gradient's share in the momentum is lowered by.
    pub fn dampening(mut self, dampening: f64) -> Self {
        self.dampening = dampening;
        self
    }

    /// Nesterov's momentum, which looks one step ahead.
    pub fn nesterov(mut self, on: bool) -> Self {
        self.nesterov = on;
        self
    }

    /// L2 penalty: what of each parameter is added to its gradient.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.base.weight_decay = weight_decay;
        self
    }
}

common_options!(SGD);

impl Optimizer for SGD {
    fn step_with(&mut self, model: &mut dyn Module, grads: Grads, also: &[&Tensor]) -> Result<()> {
        let (momentum, dampening, nesterov) = (self.momentum, self.dampening, self.nesterov);
        assert!(
            !nesterov || (momentum > 0.0 && dampening == 0.0),
            "SGD: Nesterov's momentum needs a momentum and no dampening"
        );
        self.base.step(model, grads, also, |h, p, mut g, state| {
            if h.weight_decay != 0.0 {
                g = g + &p * h.weight_decay;
            }
            if momentum != 0.0 {
                let buffer = match state.take("momentum_buffer") {
                    Some(b) => b * momentum + &g * (1.0 - dampening),
                    None => g.clone(),
                };
                g = match nesterov {
                    true => g + &buffer * momentum,
                    false => buffer.clone(),
                };
                state.put("momentum_buffer", buffer);
            }
            p - g * h.lr
        })
    }

    fn set_momentum(&mut self, momentum: f64) {
        self.momentum = momentum;
    }

    with_base!();
}
