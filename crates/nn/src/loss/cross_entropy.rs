//! Losses of class targets.

use super::{Loss, Reduction};
use fornax_tensor::{DType, IGNORE_INDEX, Tensor};

/// Options of [`cross_entropy`] and [`nll_loss`].
#[derive(Clone)]
struct Options<'a> {
    weight: Option<&'a Tensor>,
    ignore_index: i64,
    label_smoothing: f64,
    reduction: Reduction,
}

/// The cross-entropy of logits against classes or class probabilities.
///
/// - `input`: logits `[classes]`, `[batch, classes]` or `[batch, classes, d1, ..]`
/// - `target`: class indices (integers) of the input's shape without the class axis, or
///   probabilities (floats) of the input's shape
/// - `weight [classes]`: a factor on each class
///
/// With class indices `y` the loss of an element is `-w[y] log softmax(x)[y]`; smoothing by `e`
/// mixes in `e / classes * sum_c -w[c] log softmax(x)[c]`. Elements of class `ignore_index` count
/// for nothing, and the mean divides by the sum of the others' weights (NaN if all are ignored).
/// With probabilities `p`, first smoothed to `p (1 - e) + e / classes`, it is
/// `-sum_c w[c] p[c] log softmax(x)[c]`, and the mean divides by the number of elements.
///
/// A class out of range is an error when the loss is evaluated.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn cross_entropy(
    input: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    ignore_index: i64,
    reduction: Reduction,
    label_smoothing: f64,
) -> Tensor {
    let options = Options {
        weight,
        ignore_index,
        label_smoothing,
        reduction,
    };
    if !(0.0..=1.0).contains(&label_smoothing) {
        panic!("CrossEntropyLoss: label_smoothing must be between 0 and 1, not {label_smoothing}");
    }
    let name = "CrossEntropyLoss";
    if target.dtype().is_float() {
        return from_probabilities(name, input, target, &options);
    }
    let (rows, targets) = rows_and_targets(name, input, target, weight);
    if weight.is_none() && label_smoothing == 0.0 {
        let loss = rows.cross_entropy_rows(&targets, ignore_index);
        return finish(&loss, None, &targets, target, &options);
    }
    from_classes(&rows.log_softmax(-1), &targets, target, &options)
}

/// The negative log-likelihood of classes: [`cross_entropy`] without the softmax; the input holds
/// log-probabilities.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn nll_loss(
    input: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    ignore_index: i64,
    reduction: Reduction,
) -> Tensor {
    let options = Options {
        weight,
        ignore_index,
        label_smoothing: 0.0,
        reduction,
    };
    if target.dtype().is_float() {
        panic!("NLLLoss: targets are class indices, not {}", target.dtype());
    }
    let (rows, targets) = rows_and_targets("NLLLoss", input, target, weight);
    from_classes(&rows, &targets, target, &options)
}

/// The axis of the classes.
fn class_axis(input: &Tensor) -> usize {
    usize::from(input.rank() > 1)
}

/// The input as `[n, classes]` and the target as `[n]`.
#[track_caller]
fn rows_and_targets(
    name: &str,
    input: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
) -> (Tensor, Tensor) {
    if input.rank() == 0 {
        panic!("{name}: the input needs a class axis");
    }
    let axis = class_axis(input);
    let classes = input.shape()[axis];
    let mut expected = input.shape().to_vec();
    expected.remove(axis);
    if target.shape() != expected {
        panic!(
            "{name}: input {:?} needs class indices of shape {expected:?}, not {:?}",
            input.shape(),
            target.shape()
        );
    }
    check_weight(name, weight, classes);
    let n = target.numel();
    let rows = match input.rank() {
        1 | 2 => input.reshape([n, classes]),
        rank => {
            let order: Vec<isize> = (0..rank as isize).filter(|&a| a != 1).chain([1]).collect();
            input.permute(order).reshape([n, classes])
        }
    };
    (rows, target.reshape([n]).to_dtype(DType::I64))
}

#[track_caller]
fn check_weight(name: &str, weight: Option<&Tensor>, classes: usize) {
    if let Some(w) = weight
        && w.shape() != [classes]
    {
        panic!(
            "{name}: weight must be [{classes}], one per class, not {:?}",
            w.shape()
        );
    }
}

/// From log-probabilities `[n, classes]` and classes `[n]`.
fn from_classes(logp: &Tensor, targets: &Tensor, shaped: &Tensor, options: &Options) -> Tensor {
    let classes = logp.dim(1);
    let ignored = targets.eq_scalar(options.ignore_index);
    // An ignored class may be out of range; any class will do for its lookup.
    let safe = targets.masked_fill(&ignored, 0.0);
    let picked = -logp.gather(1, &safe.unsqueeze(1)).squeeze(1);
    let weight = options.weight.map(|w| w.to_dtype(logp.dtype()));
    let row_weight = weight
        .as_ref()
        .map(|w| w.gather(0, &safe).masked_fill(&ignored, 0.0));
    let mut loss = match &row_weight {
        Some(w) => picked * w,
        None => picked,
    };
    let smoothing = options.label_smoothing;
    if smoothing > 0.0 {
        let all = match &weight {
            Some(w) => -(logp * w).sum(1),
            None => -logp.sum(1),
        };
        loss = loss * (1.0 - smoothing) + all * (smoothing / classes as f64);
    }
    let loss = loss.masked_fill(&ignored, 0.0);
    finish(&loss, row_weight.as_ref(), targets, shaped, options)
}

/// Reduces the losses `[n]` of rows that may be ignored (those are 0 already).
fn finish(
    loss: &Tensor,
    row_weight: Option<&Tensor>,
    targets: &Tensor,
    shaped: &Tensor,
    options: &Options,
) -> Tensor {
    match options.reduction {
        Reduction::None => loss.reshape(shaped.shape()),
        Reduction::Mean => {
            let total = match row_weight {
                Some(w) => w.sum(..),
                None => {
                    let counted = targets.ne_scalar(options.ignore_index);
                    counted.to_dtype(loss.dtype()).sum(..)
                }
            };
            loss.sum(..) / total
        }
        other => other.apply(&loss.reshape(shaped.shape())),
    }
}

#[track_caller]
fn from_probabilities(name: &str, input: &Tensor, target: &Tensor, options: &Options) -> Tensor {
    super::check_same_shape(name, input, target);
    if input.rank() == 0 {
        panic!("{name}: the input needs a class axis");
    }
    let axis = class_axis(input);
    let classes = input.shape()[axis];
    check_weight(name, options.weight, classes);
    let mut p = target.to_dtype(input.dtype());
    let smoothing = options.label_smoothing;
    if smoothing > 0.0 {
        p = p * (1.0 - smoothing) + smoothing / classes as f64;
    }
    if let Some(w) = options.weight {
        let mut shape = vec![1; input.rank()];
        shape[axis] = classes;
        p = p * w.to_dtype(input.dtype()).reshape(shape);
    }
    let loss = -(input.log_softmax(axis as isize) * p).sum(axis as isize);
    options.reduction.apply(&loss)
}

/// Softmax and negative log-likelihood in one:
/// [`torch.nn.CrossEntropyLoss`](https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html);
/// see [`cross_entropy`].
#[derive(Clone)]
pub struct CrossEntropyLoss {
    weight: Option<Tensor>,
    ignore_index: i64,
    label_smoothing: f64,
    reduction: Reduction,
}

impl Default for CrossEntropyLoss {
    fn default() -> Self {
        CrossEntropyLoss {
            weight: None,
            ignore_index: IGNORE_INDEX,
            label_smoothing: 0.0,
            reduction: Reduction::Mean,
        }
    }
}

impl CrossEntropyLoss {
    /// A factor on each class, `[classes]`.
    pub fn weight(mut self, weight: Tensor) -> Self {
        self.weight = Some(weight);
        self
    }

    /// The class that counts for nothing; -100 by default.
    pub fn ignore_index(mut self, class: i64) -> Self {
        self.ignore_index = class;
        self
    }

    /// How much of the target is spread evenly over all classes (Szegedy et al. 2016); 0 by
    /// default.
    pub fn label_smoothing(mut self, share: f64) -> Self {
        self.label_smoothing = share;
        self
    }

    /// How the elements' losses become one; the mean by default.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

impl Loss for CrossEntropyLoss {
    #[track_caller]
    fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor {
        cross_entropy(
            input,
            target,
            self.weight.as_ref(),
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
        )
    }
}

/// The negative log-likelihood of log-probabilities:
/// [`torch.nn.NLLLoss`](https://pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html); see
/// [`nll_loss`].
#[derive(Clone)]
pub struct NLLLoss {
    weight: Option<Tensor>,
    ignore_index: i64,
    reduction: Reduction,
}

impl Default for NLLLoss {
    fn default() -> Self {
        NLLLoss {
            weight: None,
            ignore_index: IGNORE_INDEX,
            reduction: Reduction::Mean,
        }
    }
}

impl NLLLoss {
    /// A factor on each class, `[classes]`.
    pub fn weight(mut self, weight: Tensor) -> Self {
        self.weight = Some(weight);
        self
    }

    /// The class that counts for nothing; -100 by default.
    pub fn ignore_index(mut self, class: i64) -> Self {
        self.ignore_index = class;
        self
    }

    /// How the elements' losses become one; the mean by default.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

impl Loss for NLLLoss {
    #[track_caller]
    fn forward(&self, input: &Tensor, target: &Tensor) -> Tensor {
        nll_loss(
            input,
            target,
            self.weight.as_ref(),
            self.ignore_index,
            self.reduction,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::grad;

    fn logits() -> Tensor {
        Tensor::from_vec(vec![1f64, 2., 0.5, -1., 0., 3., 0.2, 0.1, 0.3], [3, 3])
    }
    fn classes(v: &[i64]) -> Tensor {
        Tensor::from_slice(v, [v.len()])
    }
    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }
    /// `-log softmax` of every logit, by hand.
    fn costs() -> Vec<Vec<f64>> {
        let rows = logits().to_vec::<f64>();
        rows.chunks(3)
            .map(|r| {
                let lse = r.iter().map(|x| x.exp()).sum::<f64>().ln();
                r.iter().map(|x| lse - x).collect()
            })
            .collect()
    }

    #[test]
    fn ignored_rows_do_not_count() {
        let c = costs();
        let loss = CrossEntropyLoss::default().forward(&logits(), &classes(&[0, -100, 2]));
        close(loss.item(), (c[0][0] + c[2][2]) / 2.);
        let all = CrossEntropyLoss::default().forward(&logits(), &classes(&[-100; 3]));
        assert!(all.item().is_nan());
    }

    #[test]
    fn weights_and_smoothing_follow_the_definition() {
        let (c, w, e) = (costs(), [1.0, 2.0, 0.5], 0.3);
        let (y, ignore) = ([1usize, 2, 0], 0usize);
        let loss = |r| {
            CrossEntropyLoss::default()
                .weight(Tensor::from_slice(&w, [3]))
                .label_smoothing(e)
                .ignore_index(ignore as i64)
                .reduction(r)
                .forward(&logits(), &classes(&[1, 2, 0]))
        };
        let row = |i: usize| {
            let all: f64 = (0..3).map(|k| w[k] * c[i][k]).sum();
            (1. - e) * w[y[i]] * c[i][y[i]] + e / 3. * all
        };
        close(loss(Reduction::Sum).item(), row(0) + row(1));
        close(
            loss(Reduction::Mean).item(),
            (row(0) + row(1)) / (w[1] + w[2]),
        );
        let each = loss(Reduction::None).to_vec::<f64>();
        close(each[1], row(1));
        assert_eq!(each[2], 0.0);
    }

    #[test]
    fn one_hot_probabilities_equal_classes() {
        let y = classes(&[2, 0, 1]);
        let p = y.one_hot(3, DType::F64);
        for e in [0.0, 0.1] {
            let loss = CrossEntropyLoss::default().label_smoothing(e);
            close(
                loss.forward(&logits(), &p).item(),
                loss.forward(&logits(), &y).item(),
            );
        }
    }

    #[test]
    fn the_class_axis_is_the_second() {
        let x = logits().reshape([1, 3, 3]);
        let y = classes(&[0, 1, 2]).reshape([1, 3]);
        let loss = CrossEntropyLoss::default().reduction(Reduction::None);
        let got = loss.forward(&x, &y);
        assert_eq!(got.shape(), [1, 3]);
        let flat = loss.forward(&logits().t(), &classes(&[0, 1, 2]));
        assert_eq!(got.to_vec::<f64>(), flat.to_vec::<f64>());
        // Without a batch.
        let one = loss.forward(&logits().select(0, 0), &Tensor::scalar(1i64));
        assert_eq!(one.rank(), 0);
        close(one.item(), costs()[0][1]);
    }

    #[test]
    fn nll_of_log_softmax_is_cross_entropy() {
        let y = classes(&[2, -1, 1]);
        let w = Tensor::from_slice(&[0.3, 1., 2.], [3]);
        let a = NLLLoss::default()
            .weight(w.clone())
            .ignore_index(-1)
            .forward(&logits().log_softmax(1), &y);
        let b = CrossEntropyLoss::default()
            .weight(w)
            .ignore_index(-1)
            .forward(&logits(), &y);
        close(a.item(), b.item());
    }

    #[test]
    fn the_gradient_is_softmax_minus_target() {
        let y = classes(&[2, 0, 1]);
        let expected = (logits().softmax(1) - y.one_hot(3, DType::F64)) / 3.0;
        let expected = expected.to_vec::<f64>();
        for weight in [None, Some(Tensor::ones([3], DType::F64))] {
            let got = grad(&logits(), |x| {
                cross_entropy(x, &y, weight.as_ref(), -100, Reduction::Mean, 0.0)
            });
            for (a, b) in got.to_vec::<f64>().iter().zip(&expected) {
                close(*a, *b);
            }
        }
    }

    #[test]
    fn a_class_out_of_range_is_an_error() {
        let loss = CrossEntropyLoss::default().forward(&logits(), &classes(&[0, 3, 1]));
        assert!(loss.try_eval().is_err());
    }

    #[test]
    #[should_panic(expected = "input [3, 3] needs class indices of shape [3], not [2]")]
    fn shapes_are_checked() {
        CrossEntropyLoss::default().forward(&logits(), &classes(&[0, 1]));
    }
}
