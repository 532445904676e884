//! L1 and L2 penalties: terms to add to a loss.

use crate::module::Module;
use fornax_tensor::{DType, Tensor};

/// `sum |w|` over the trainable parameters whose name passes `filter`: a scalar to multiply with
/// a strength and add to the loss (Tibshirani 1996).
///
/// ```
/// use fornax_nn::{Linear, l1_penalty};
/// let layer = Linear::new(3, 2);
/// let term = l1_penalty(&layer, |name| name.ends_with("weight")) * 1e-4;
/// assert!(term.item() > 0.0);
/// ```
pub fn l1_penalty(model: &dyn Module, filter: impl FnMut(&str) -> bool) -> Tensor {
    sum_over(model, filter, |w| w.abs().sum(..))
}

/// `sum w^2` over the trainable parameters whose name passes `filter`. With SGD, a strength of
/// `weight_decay / 2` has the effect of that weight decay.
pub fn l2_penalty(model: &dyn Module, filter: impl FnMut(&str) -> bool) -> Tensor {
    sum_over(model, filter, |w| w.square().sum(..))
}

fn sum_over(
    model: &dyn Module,
    mut filter: impl FnMut(&str) -> bool,
    term: impl Fn(&Tensor) -> Tensor,
) -> Tensor {
    let mut total: Option<Tensor> = None;
    model.visit(&mut Default::default(), &mut |e| {
        if e.trainable && filter(e.path) {
            let t = term(&e.tensor);
            total = Some(match total.take() {
                Some(sum) => sum + t,
                None => t,
            });
        }
    });
    total.unwrap_or_else(|| Tensor::full((), 0.0, DType::F32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Param;

    #[test]
    fn penalties_skip_frozen_and_filtered_parameters() {
        let t = |v: Vec<f32>| Param::new(Tensor::from_vec(v, [2]));
        let mut m = (t(vec![1., -2.]), t(vec![3., 4.]), t(vec![-5., 6.]));
        m.1.freeze();
        assert_eq!(l1_penalty(&m, |_| true).item(), 14.0);
        assert_eq!(l2_penalty(&m, |n| n != "2").item(), 5.0);
        assert_eq!(l2_penalty(&m, |_| false).item(), 0.0);
    }
}
