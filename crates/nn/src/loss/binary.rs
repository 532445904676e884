//! Losses of yes-or-no targets.

use super::{Loss, Reduction, check_same_shape};
use fornax_tensor::{DType, Tensor};

/// `-w (t log p + (1 - t) log(1 - p))`, reduced; `p` between 0 and 1, `t` of the same shape. As
/// in PyTorch, the logarithms go no lower than -100 and the gradient divides by at least 1e-12,
/// so that a saturated `p` costs a finite loss. A `p` that is no probability costs NaN.
///
/// `weight` broadcasts to the input.
#[track_caller]
pub fn binary_cross_entropy(
    input: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    reduction: Reduction,
) -> Tensor {
    check_same_shape("BCELoss", input, target);
    let (p, t) = (input, &target.to_dtype(input.dtype()));
    let q = 1.0 - p;
    let spread = p * &q;
    // What is no probability (NaN too) is not saturated and becomes NaN.
    let saturated = spread.lt_scalar(1e-12).logical_and(&spread.ge_scalar(0.0));
    let inside = |v: &Tensor| v.masked_fill(&saturated, 0.5);
    let regular = -(t * inside(p).log() + (1.0 - t) * inside(&q).log());
    // At the ends: the value as it is, and a straight line with PyTorch's slope through it.
    let lowest = match p.dtype() {
        DType::F64 => (-100f64).exp(),
        _ => f64::from(f32::MIN_POSITIVE),
    };
    let floor_log = |v: &Tensor| {
        let v = v.detach();
        let tiny = v.lt_scalar(lowest);
        v.masked_fill(&tiny, 1.0).log().masked_fill(&tiny, -100.0)
    };
    let value = -(t * floor_log(p) + (1.0 - t) * floor_log(&q));
    let slope = ((p - t) / 1e-12).detach();
    let ends = value + (p - p.detach()) * slope.masked_fill(&saturated.logical_not(), 0.0);
    let loss = saturated.where_(&ends, &regular);
    reduction.apply(&match weight {
        Some(w) => loss * w,
        None => loss,
    })
}

/// [`binary_cross_entropy`] of `sigmoid(x)`, computed safely:
/// `w ((1 - t) x + (1 + (pos_weight - 1) t) log(1 + exp(-x)))`, reduced.
///
/// `weight` and `pos_weight` broadcast to the input.
#[track_caller]
pub fn binary_cross_entropy_with_logits(
    input: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    pos_weight: Option<&Tensor>,
    reduction: Reduction,
) -> Tensor {
    check_same_shape("BCEWithLogitsLoss", input, target);
    let (x, t) = (input, &target.to_dtype(input.dtype()));
    let softplus = -crate::functional::log_sigmoid(x);
    let softplus = match pos_weight {
        Some(w) => softplus * ((w - 1.0) * t + 1.0),
        None => softplus,
    };
    let loss = (1.0 - t) * x + softplus;
    reduction.apply(&match weight {
        Some(w) => loss * w,
        None => loss,
    })
}

/// Binary cross-entropy of probabilities:
/// [`torch.nn.BCELoss`](https://pytorch.org/docs/stable/generated/torch.nn.BCELoss.html); see
/// [`binary_cross_entropy`].
#[derive(Clone, Default)]
pub struct BCELoss {
    weight: Option<Tensor>,
    reduction: Reduction,
}

impl BCELoss {
    /// A factor on each element's loss; broadcasts to the input.
    pub fn weight(mut self, weight: Tensor) -> Self {
        self.weight = Some(weight);
        self
    }

    /// How the elements' losses become one; the mean by default.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

impl Loss for BCELoss {
    #[track_caller]
    fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor {
        binary_cross_entropy(input, target, self.weight.as_ref(), self.reduction)
    }
}

/// Binary cross-entropy of logits:
/// [`torch.nn.BCEWithLogitsLoss`](https://pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html);
/// see [`binary_cross_entropy_with_logits`].
#[derive(Clone, Default)]
pub struct BCEWithLogitsLoss {
    weight: Option<Tensor>,
    pos_weight: Option<Tensor>,
    reduction: Reduction,
}

impl BCEWithLogitsLoss {
    /// A factor on each element's loss; broadcasts to the input.
    pub fn weight(mut self, weight: Tensor) -> Self {
        self.weight = Some(weight);
        self
    }

    /// A factor on the positive targets' part; broadcasts to the input, usually `[classes]`.
    pub fn pos_weight(mut self, pos_weight: Tensor) -> Self {
        self.pos_weight = Some(pos_weight);
        self
    }

    /// How the elements' losses become one; the mean by default.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

impl Loss for BCEWithLogitsLoss {
    #[track_caller]
    fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor {
        let (weight, pos_weight) = (self.weight.as_ref(), self.pos_weight.as_ref());
        binary_cross_entropy_with_logits(input, target, weight, pos_weight, self.reduction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::grad;

    fn t(v: Vec<f64>) -> Tensor {
        let n = v.len();
        Tensor::from_vec(v, [n])
    }

    #[test]
    fn saturated_probabilities_follow_pytorch() {
        let (p, y) = (t(vec![0., 1., 0., 1., 0.25]), t(vec![1., 0., 0., 1., 1.]));
        let each = |p: &Tensor| binary_cross_entropy(p, &y, None, Reduction::None);
        let loss = each(&p).to_vec::<f64>();
        assert_eq!(loss[..4], [100., 100., 0., 0.]);
        assert!((loss[4] - 4f64.ln()).abs() < 1e-15);
        let g = grad(&p, |p| each(p).sum(..)).to_vec::<f64>();
        assert_eq!(g, [-1e12, 1e12, 0., 0., -4.]);
    }

    #[test]
    fn single_precision_probabilities_stay_finite() {
        let p = Tensor::from_vec(vec![0f32, 1.0, 1e-40, 1e-30], [4]);
        let y = Tensor::from_vec(vec![1f32, 0., 1., 1.], [4]);
        let loss = binary_cross_entropy(&p, &y, None, Reduction::None).to_vec::<f32>();
        assert_eq!(loss[..2], [100., 100.]);
        assert!((loss[3] - 69.0776).abs() < 1e-3 && loss[2] >= 92.0 && loss[2] <= 100.0);
        let g = grad(&p, |p| binary_cross_entropy(p, &y, None, Reduction::Mean));
        assert!(g.to_vec::<f32>().iter().all(|v| v.is_finite()));
    }

    #[test]
    fn what_is_no_probability_costs_nan() {
        let p = t(vec![1.5, -0.1, f64::NAN]);
        let loss = binary_cross_entropy(&p, &t(vec![1., 0., 1.]), None, Reduction::None);
        assert!(loss.to_vec::<f64>().iter().all(|v| v.is_nan()));
    }

    #[test]
    fn logits_agree_with_probabilities() {
        let x = t(vec![-2., -0.1, 0., 0.3, 5.]);
        let y = t(vec![1., 0., 1., 0.2, 1.]);
        let w = t(vec![1., 2., 3., 4., 5.]);
        let a = binary_cross_entropy_with_logits(&x, &y, Some(&w), None, Reduction::Sum).item();
        let b = binary_cross_entropy(&x.sigmoid(), &y, Some(&w), Reduction::Sum).item();
        assert!((a - b).abs() < 1e-12, "{a} {b}");
        // sigmoid(x) - t, at 0 too.
        let g = grad(&x, |x| {
            binary_cross_entropy_with_logits(x, &y, None, None, Reduction::Sum)
        });
        let expected = (x.sigmoid() - &y).to_vec::<f64>();
        for (a, b) in g.to_vec::<f64>().iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }

    #[test]
    fn positive_weights_scale_the_positive_part() {
        let (x, y) = (t(vec![0., 0.]), t(vec![1., 0.]));
        let loss = BCEWithLogitsLoss::default()
            .pos_weight(t(vec![3., 3.]))
            .reduction(Reduction::None)
            .forward(&x, &y);
        let ln2 = 2f64.ln();
        let got = loss.to_vec::<f64>();
        assert!((got[0] - 3. * ln2).abs() < 1e-15 && (got[1] - ln2).abs() < 1e-15);
    }

    #[test]
    fn huge_logits_stay_finite() {
        let (x, y) = (t(vec![1e4, -1e4]), t(vec![0., 0.]));
        let loss = BCEWithLogitsLoss::default()
            .reduction(Reduction::None)
            .forward(&x, &y);
        assert_eq!(loss.to_vec::<f64>(), [1e4, 0.]);
    }
}
