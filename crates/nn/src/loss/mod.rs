//! What training minimises: the losses of `torch.nn`, as structs of options and as functions.
//!
//! A struct holds PyTorch's defaults until told otherwise:
//!
//! ```
//! use fornax_nn::{CrossEntropyLoss, Loss};
//! use fornax_tensor::Tensor;
//! let logits = Tensor::from_vec(vec![2f32, 0., 0., 2.], [2, 2]);
//! let classes = Tensor::from_vec(vec![0i64, 0], [2]);
//! let plain = CrossEntropyLoss::default().forward(&logits, &classes).item();
//! let smooth = CrossEntropyLoss::default().label_smoothing(0.1).forward(&logits, &classes).item();
//! assert!((plain - 1.126928).abs() < 1e-6 && smooth > 0.0);
//! ```

mod binary;
mod cross_entropy;
mod divergence;
mod regression;

use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use binary::{
    BCELoss, BCEWithLogitsLoss, binary_cross_entropy, binary_cross_entropy_with_logits,
};
pub use cross_entropy::{CrossEntropyLoss, NLLLoss, cross_entropy, nll_loss};
pub use divergence::{KLDivLoss, kl_div};
pub use regression::{
    HuberLoss, L1Loss, MSELoss, SmoothL1Loss, huber_loss, l1_loss, mse_loss, smooth_l1_loss,
};

/// A measure of how far a model's output is from a target.
pub trait Loss: Send + Sync {
    /// The loss of `input` (the model's output) against `target`.
    ///
    /// # Panics
    /// If their shapes do not fit.
    #[track_caller]
    fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor;
}

impl<L: Loss + ?Sized> Loss for Box<L> {
    #[track_caller]
    fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor {
        (**self).forward(input, target)
    }
}

/// How the losses of the elements become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// They do not: the loss keeps its shape.
    None,
    /// Their mean (for class targets weighted as each loss says). PyTorch's default.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// Their sum divided by the size of the first axis (PyTorch's `batchmean`).
    BatchMean,
}

impl Reduction {
    /// Reduces a loss of independent elements.
    pub fn apply(self, loss: &Tensor) -> Tensor {
        match self {
            Reduction::None => loss.clone(),
            Reduction::Mean => loss.mean(..),
            Reduction::Sum => loss.sum(..),
            Reduction::BatchMean => {
                let batch = loss.shape().first().copied().unwrap_or(1);
                loss.sum(..) / batch as f64
            }
        }
    }
}

/// A forgotten `unsqueeze` must not broadcast `[n]` against `[n, 1]` to `[n, n]`.
#[track_caller]
fn check_same_shape(loss: &str, input: &Tensor, target: &Tensor) {
    if input.shape() != target.shape() {
        panic!(
            "{loss}: input {:?} and target {:?} must have the same shape",
            input.shape(),
            target.shape()
        );
    }
}
