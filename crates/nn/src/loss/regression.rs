//! Losses of real-valued targets.

use super::{Loss, Reduction, check_same_shape};
use fornax_tensor::Tensor;

/// `(x - t)^2`, reduced; input and target of one shape.
#[track_caller]
pub fn mse_loss(input: &Tensor, target: &Tensor, reduction: Reduction) -> Tensor {
    check_same_shape("MSELoss", input, target);
    reduction.apply(&(input - target).square())
}

/// `|x - t|`, reduced; input and target of one shape. Gradient 0 where they are equal.
#[track_caller]
pub fn l1_loss(input: &Tensor, target: &Tensor, reduction: Reduction) -> Tensor {
    check_same_shape("L1Loss", input, target);
    reduction.apply(&(input - target).abs())
}

/// `d^2 / (2 beta)` where `d = |x - t| < beta`, else `d - beta / 2`, reduced; the L1 loss for
/// `beta = 0`.
///
/// # Panics
/// If the shapes differ or `beta < 0`.
#[track_caller]
pub fn smooth_l1_loss(input: &Tensor, target: &Tensor, beta: f64, reduction: Reduction) -> Tensor {
    check_same_shape("SmoothL1Loss", input, target);
    assert!(
        beta >= 0.0,
        "SmoothL1Loss: beta must not be negative, is {beta}"
    );
    if beta == 0.0 {
        return l1_loss(input, target, reduction);
    }
    let difference = input - target;
    let d = difference.abs();
    // Limited, so that the branch not taken has a finite derivative.
    let near = difference.clamp(-beta, beta).square() * (0.5 / beta);
    reduction.apply(&d.lt_scalar(beta).where_(&near, &(&d - 0.5 * beta)))
}

/// `d^2 / 2` where `d = |x - t| < delta`, else `delta (d - delta / 2)`, reduced (Huber 1964).
///
/// # Panics
/// If the shapes differ or `delta <= 0`.
#[track_caller]
pub fn huber_loss(input: &Tensor, target: &Tensor, delta: f64, reduction: Reduction) -> Tensor {
    check_same_shape("HuberLoss", input, target);
    assert!(delta > 0.0, "HuberLoss: delta must be positive, is {delta}");
    let difference = input - target;
    let d = difference.abs();
    // Limited, so that the branch not taken has a finite derivative.
    let near = difference.clamp(-delta, delta).square() * 0.5;
    reduction.apply(
        &d.lt_scalar(delta)
            .where_(&near, &((&d - 0.5 * delta) * delta)),
    )
}

/// Implements [`Loss`] and the option setter of a loss with one number.
macro_rules! loss_struct {
    ($(#[$doc:meta])* $name:ident, $function:ident $(, $(#[$field_doc:meta])* $field:ident = $default:literal)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($field: f64,)?
            reduction: Reduction,
        }

        impl $name {
            $($(#[$field_doc])*
            pub fn $field(mut self, $field: f64) -> Self {
                self.$field = $field;
                self
            })?

            /// How the elements' losses become one; the mean by default.
            pub fn reduction(mut self, reduction: Reduction) -> Self {
                self.reduction = reduction;
                self
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)? reduction: Reduction::Mean }
            }
        }

        impl Loss for $name {
            #[track_caller]
            fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor {
                $function(input, target, $(self.$field,)? self.reduction)
            }
        }
    };
}

loss_struct! {
    /// Mean squared error:
    /// [`torch.nn.MSELoss`](https://pytorch.org/docs/stable/generated/torch.nn.MSELoss.html);
    /// see [`mse_loss`].
    MSELoss, mse_loss
}
loss_struct! {
    /// Mean absolute error:
    /// [`torch.nn.L1Loss`](https://pytorch.org/docs/stable/generated/torch.nn.L1Loss.html);
    /// see [`l1_loss`].
    L1Loss, l1_loss
}
loss_struct! {
    /// Squared near zero, absolute far away:
    /// [`torch.nn.SmoothL1Loss`](https://pytorch.org/docs/stable/generated/torch.nn.SmoothL1Loss.html)
    /// (Girshick 2015); see [`smooth_l1_loss`].
    SmoothL1Loss, smooth_l1_loss,
    /// Where the two parts meet; 1 by default.
    beta = 1.0
}
loss_struct! {
    /// Squared near zero, linear far away:
    /// [`torch.nn.HuberLoss`](https://pytorch.org/docs/stable/generated/torch.nn.HuberLoss.html);
    /// see [`huber_loss`].
    HuberLoss, huber_loss,
    /// Where the two parts meet; 1 by default.
    delta = 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Tensor, Tensor) {
        let x = Tensor::from_vec(vec![0f64, 1., 2., -4.], [2, 2]);
        (x, Tensor::from_vec(vec![0f64, 0.5, 4., 0.], [2, 2]))
    }

    #[test]
    fn values_by_hand() {
        let (x, t) = pair();
        assert_eq!(
            MSELoss::default().forward(&x, &t).item(),
            (0.25 + 4. + 16.) / 4.
        );
        assert_eq!(
            L1Loss::default()
                .reduction(Reduction::Sum)
                .forward(&x, &t)
                .item(),
            6.5
        );
        let each = |l: Tensor| l.to_vec::<f64>();
        let none = Reduction::None;
        assert_eq!(
            each(smooth_l1_loss(&x, &t, 2.0, none)),
            [0., 0.0625, 1., 3.]
        );
        assert_eq!(each(huber_loss(&x, &t, 2.0, none)), [0., 0.125, 2., 6.]);
        assert_eq!(
            smooth_l1_loss(&x, &t, 0.0, Reduction::BatchMean).item(),
            3.25
        );
        assert_eq!(
            HuberLoss::default().delta(100.0).forward(&x, &t).item(),
            20.25 / 8.
        );
    }

    #[test]
    #[should_panic(expected = "MSELoss: input [2, 2] and target [4] must have the same shape")]
    fn shapes_do_not_broadcast() {
        let (x, t) = pair();
        mse_loss(&x, &t.flatten(0, 1), Reduction::Mean);
    }
}
