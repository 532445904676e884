//! Optimizers with PyTorch's numerics.
//!
//! A step builds the new value of every parameter and of every piece of the optimizer's state as
//! an expression, puts them in place, and evaluates all of them together: one plan, in which each
//! parameter's update is one fused pass over memory that writes in place (a few in [`Adafactor`],
//! which needs means of whole parameters). What changes from step
//! to step (learning rate, bias corrections) enters as plain numbers, so the plan is reused.

mod adafactor;
mod adagrad;
mod adam;
mod base;
mod group;
mod rmsprop;
mod sgd;

use crate::module::Module;
use crate::{Error, Result};
use fornax_tensor::{Grads, Tensor};
use std::collections::BTreeMap;

pub use adafactor::Adafactor;
pub use adagrad::Adagrad;
pub use adam::{Adam, AdamW};
pub use group::Group;
pub use rmsprop::RMSprop;
pub use sgd::SGD;

use base::Base;

/// Changes parameters along their gradients.
///
/// ```
/// use fornax_nn::{Layer, Linear, Optimizer, SGD};
/// use fornax_tensor::{DType, Tensor, value_and_grad};
/// let mut model = Linear::new(2, 1);
/// let mut optimizer = SGD::new(0.1).momentum(0.9);
/// let (x, y) = (Tensor::ones([8, 2], DType::F32), Tensor::zeros([8, 1], DType::F32));
/// let mut losses = Vec::new();
/// for _ in 0..5 {
///     let (loss, grads) = value_and_grad(&model, |m| (m.forward(&x) - &y).square().mean(..));
///     optimizer.step(&mut model, grads)?;
///     losses.push(loss.item());
/// }
/// assert!(losses[1] < losses[0]);
/// # Ok::<(), fornax_nn::Error>(())
/// ```
pub trait Optimizer: Send + Sync {
    /// One step: replaces every trainable parameter of `model` by its updated value. Frozen
    /// parameters stay as they are.
    ///
    /// The first step on a model creates the optimizer's state for it, under the parameters'
    /// names.
    ///
    /// # Errors
    /// If a trainable parameter has no gradient, a gradient has no trainable parameter, their
    /// shapes differ, or an index in the data is out of range. Then model and optimizer are as
    /// before.
    fn step(&mut self, model: &mut dyn Module, grads: Grads) -> Result<()> {
        self.step_with(model, grads, &[])
    }

    /// [`step`](Optimizer::step) that computes `also` in the same plan: metrics of the same
    /// forward pass, for example, which would otherwise be run a second time for them.
    ///
    /// # Errors
    /// As [`step`](Optimizer::step).
    fn step_with(&mut self, model: &mut dyn Module, grads: Grads, also: &[&Tensor]) -> Result<()>;

    /// The learning rate.
    fn lr(&self) -> f64 {
        self.base().lr
    }

    /// Changes the learning rate, from the next step on.
    fn set_lr(&mut self, lr: f64) {
        self.base_mut().lr = lr;
    }

    /// Changes what a one-cycle schedule cycles: SGD's and RMSprop's momentum, Adam's first beta.
    /// Others have none and ignore it.
    fn set_momentum(&mut self, momentum: f64) {
        let _ = momentum;
    }

    /// How many steps were taken.
    fn steps(&self) -> u64 {
        self.base().steps
    }

    /// Adds a group of parameters with options of its own; of several that claim a parameter the
    /// first added has it.
    fn add_group(&mut self, group: Group) {
        self.base_mut().groups.push(group);
    }

    /// Everything a checkpoint needs besides the options given in code.
    fn state(&self) -> OptimizerState {
        self.base().state()
    }

    /// Goes on from a saved state. Tensors are checked against the parameters of `model`.
    ///
    /// # Errors
    /// If the state belongs to another optimizer or another model, naming every misfit; then
    /// nothing has changed.
    fn load_state(&mut self, model: &dyn Module, state: OptimizerState) -> Result<()> {
        self.base_mut().load(model, state)
    }

    #[doc(hidden)]
    fn base(&self) -> &Base;

    #[doc(hidden)]
    fn base_mut(&mut self) -> &mut Base;
}

impl<O: Optimizer + ?Sized> Optimizer for Box<O> {
    fn step_with(&mut self, model: &mut dyn Module, grads: Grads, also: &[&Tensor]) -> Result<()> {
        (**self).step_with(model, grads, also)
    }
    fn set_momentum(&mut self, momentum: f64) {
        (**self).set_momentum(momentum);
    }
    fn base(&self) -> &Base {
        (**self).base()
    }
    fn base_mut(&mut self) -> &mut Base {
        (**self).base_mut()
    }
}

/// What an optimizer remembers between steps, by name; see [`Optimizer::state`].
///
/// Tensors are called `<parameter>.<what>`, such as `fc1.weight.exp_avg`, with PyTorch's names for
/// the latter. Scalars are `lr`, `steps`, and each parameter's own count `<parameter>.step`.
#[derive(Clone, Default)]
pub struct OptimizerState {
    /// In the order of the model's parameters.
    pub tensors: Vec<(String, Tensor)>,
    /// By name.
    pub scalars: BTreeMap<String, f64>,
}

/// The builder methods that all optimizers share.
macro_rules! common_options {
    ($name:ident) => {
        impl $name {
            /// Adds a group of parameters with options of its own; of several that claim a
            /// parameter the first added has it.
            pub fn group(mut self, group: Group) -> Self {
                self.base.groups.push(group);
                self
            }
        }
    };
}
pub(crate) use common_options;

/// The parts of [`Optimizer`] that every optimizer has alike.
macro_rules! with_base {
    () => {
        fn base(&self) -> &Base {
            &self.base
        }
        fn base_mut(&mut self) -> &mut Base {
            &mut self.base
        }
    };
}
pub(crate) use with_base;

fn mismatch(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: "the optimizer's state".to_owned(),
        problems,
    })
}

#[cfg(test)]
mod tests;
