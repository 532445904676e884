//! The Kullback-Leibler divergence.

use super::{Loss, Reduction, check_same_shape};
use fornax_tensor::Tensor;

/// `t (log t - x)`, reduced, where the input `x` holds log-probabilities and the target `t`
/// probabilities (or, with `log_target`, their logarithms). `0 log 0` is 0.
///
/// As in PyTorch, [`Reduction::Mean`] divides by the number of elements;
/// [`Reduction::BatchMean`] is the divergence in the mathematical sense.
#[track_caller]
pub fn kl_div(input: &Tensor, target: &Tensor, log_target: bool, reduction: Reduction) -> Tensor {
    check_same_shape("KLDivLoss", input, target);
    let loss = if log_target {
        target.exp() * (target - input)
    } else {
        let zero = target.eq_scalar(0.0);
        let log = target.masked_fill(&zero, 1.0).log();
        target * log - target * input
    };
    reduction.apply(&loss)
}

/// The divergence of a target distribution from the model's:
/// [`torch.nn.KLDivLoss`](https://pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html); see
/// [`kl_div`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KLDivLoss {
    log_target: bool,
    reduction: Reduction,
}

impl KLDivLoss {
    /// Whether the target holds log-probabilities; false by default.
    pub fn log_target(mut self, on: bool) -> Self {
        self.log_target = on;
        self
    }

    /// How the elements' losses become one; the mean by default, but you probably want
    /// [`Reduction::BatchMean`].
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

impl Loss for KLDivLoss {
    #[track_caller]
    fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor {
        kl_div(input, target, self.log_target, self.reduction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::grad;

    #[test]
    fn zero_probabilities_cost_nothing() {
        let x = Tensor::from_vec(vec![0.5f64.ln(), 0.5f64.ln()], [1, 2]);
        let t = Tensor::from_vec(vec![1f64, 0.], [1, 2]);
        let loss = KLDivLoss::default().reduction(Reduction::BatchMean);
        assert!((loss.forward(&x, &t).item() - 2f64.ln()).abs() < 1e-15);
        let g = grad(&t, |t| kl_div(&x, t, false, Reduction::Sum)).to_vec::<f64>();
        assert!(g.iter().all(|v| v.is_finite()), "{g:?}");
    }

    #[test]
    fn log_targets_are_the_same_distribution() {
        let x = Tensor::from_vec(vec![0.1f64.ln(), 0.9f64.ln()], [2]);
        let t = Tensor::from_vec(vec![0.4f64, 0.6], [2]);
        let a = kl_div(&x, &t, false, Reduction::Sum).item();
        let b = kl_div(&x, &t.log(), true, Reduction::Sum).item();
        assert!((a - b).abs() < 1e-14);
    }
}
