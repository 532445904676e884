//! Adam and AdamW.

use super::base::Slot;
use super::{Base, Group, Optimizer, common_options, with_base};
use crate::Result;
use crate::module::Module;
use fornax_tensor::{Grads, Tensor};

/// Options and rule of both variants.
#[derive(Debug)]
struct Options {
    beta1: f64,
    beta2: f64,
    eps: f64,
    amsgrad: bool,
    /// Whether weight decay acts on the parameter instead of the gradient.
    decoupled: bool,
}

impl Options {
    fn new(decoupled: bool) -> Self {
        Options {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            amsgrad: false,
            decoupled,
        }
    }

    fn step(
        &self,
        base: &mut Base,
        model: &mut dyn Module,
        grads: Grads,
        also: &[&Tensor],
    ) -> Result<()> {
        let (beta1, beta2) = (self.beta1, self.beta2);
        base.step(model, grads, also, |h, mut p, mut g, state| {
            let t = h.step as f64;
            let correction1 = 1.0 - beta1.powf(t);
            let correction2 = (1.0 - beta2.powf(t)).sqrt();
            if h.weight_decay != 0.0 {
                if self.decoupled {
                    p = p * (1.0 - h.lr * h.weight_decay);
                } else {
                    g = g + &p * h.weight_decay;
                }
            }
            let m = state.take_or_zeros("exp_avg", &p);
            let v = state.take_or_zeros("exp_avg_sq", &p);
            let m = &m + (&g - &m) * (1.0 - beta1);
            let v = v * beta2 + g.square() * (1.0 - beta2);
            let largest = if self.amsgrad {
                let largest = state.take_or_zeros("max_exp_avg_sq", &p).maximum(&v);
                state.put("max_exp_avg_sq", largest.clone());
                largest
            } else {
                v.clone()
            };
            let root = largest.sqrt() * (1.0 / correction2) + self.eps;
            let p = p - &m / root * (h.lr / correction1);
            state.put("exp_avg", m);
            state.put("exp_avg_sq", v);
            p
        })
    }
}

macro_rules! adam {
    ($(#[$doc:meta])* $name:ident, decoupled: $decoupled:literal, weight_decay: $weight_decay:literal,
     $(#[$decay_doc:meta])*) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            base: Base,
            options: Options,
        }

        impl $name {
            /// With PyTorch's defaults for everything else.
            pub fn new(lr: f64) -> Self {
                $name {
                    base: Base::new(lr, $weight_decay, |shape| {
                        vec![
                            Slot::always("exp_avg", shape),
                            Slot::always("exp_avg_sq", shape),
                            Slot::sometimes("max_exp_avg_sq", shape),
                        ]
                    }),
                    options: Options::new($decoupled),
                }
            }

            /// The memories of the two running means; 0.9 and 0.999 by default.
            pub fn betas(mut self, beta1: f64, beta2: f64) -> Self {
                (self.options.beta1, self.options.beta2) = (beta1, beta2);
                self
            }

            /// Added to the root of the second mean; 1e-8 by default.
            pub fn eps(mut self, eps: f64) -> Self {
                self.options.eps = eps;
                self
            }

            /// Whether to divide by the largest second mean so far (Reddi et al. 2018).
            pub fn amsgrad(mut self, on: bool) -> Self {
                self.options.amsgrad = on;
                self
            }

            $(#[$decay_doc])*
            pub fn weight_decay(mut self, weight_decay: f64) -> Self {
                self.base.weight_decay = weight_decay;
                self
            }
        }

        common_options!($name);

        impl Optimizer for $name {
            fn step_with(
        &mut self,
        model: &mut dyn Module,
        grads: Grads,
        also: &[&Tensor],
    ) -> Result<()> {
                self.options.step(&mut self.base, model, grads, also)
            }

            fn set_momentum(&mut self, momentum: f64) {
                self.options.beta1 = momentum;
            }

            with_base!();
        }
    };
}

adam! {
    /// Running means of gradient and squared gradient:
    /// [`torch.optim.Adam`](https://pytorch.org/docs/stable/generated/torch.optim.Adam.html)
    /// (Kingma & Ba 2015).
    ///
    /// With gradient `g` (plus `weight_decay * p`) at step `t`:
    /// `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2`, then
    /// `p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)`.
    Adam, decoupled: false, weight_decay: 0.0,
    /// L2 penalty: what of each parameter is added to its gradient; 0 by default.
}

adam! {
    /// Adam with weight decay apart from the gradient:
    /// [`torch.optim.AdamW`](https://pytorch.org/docs/stable/generated/torch.optim.AdamW.html)
    /// (Loshchilov & Hutter 2019).
    ///
    /// First `p *= 1 - lr * weight_decay`, then Adam's step without a penalty.
    AdamW, decoupled: true, weight_decay: 0.01,
    /// What of each parameter is taken away per step, times the learning rate; 0.01 by default.
}
