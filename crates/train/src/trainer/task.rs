//! What a model is trained for: how a batch becomes a loss.

use fornax_data::{Batch, Preprocess, Schema};
use fornax_models::Seq2SeqLm;
use fornax_nn::{CrossEntropyLoss, Layer, Loss, MSELoss, Module};
use fornax_tensor::{DType, IGNORE_INDEX, Tensor, is_recording};

/// What a batch yields.
pub struct Outcome {
    /// The mean loss per example (or per token that counts), a scalar: what there are
    /// [`weight`](Batch::weight) of in the batch.
    pub loss: Tensor,
    /// Metrics by name, each a scalar, means as the loss.
    pub metrics: Vec<(&'static str, Tensor)>,
}

/// How a model of type `M` learns from batches.
///
/// Write one where a network has more than one output, its own loss or its own metrics; for the
/// rest there is [`Supervised`]. Gradients flow from the loss only.
pub trait Task<M: Module> {
    /// The loss and the metrics of `model` on `batch`. Called inside a recording for training,
    /// outside for validation.
    fn outcome(&self, model: &M, batch: &Batch) -> Outcome;
}

/// A network with one input and one output, with the usual loss for its kind of target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Supervised {
    /// The output is `[batch, classes]` logits: cross-entropy, and the metric "accuracy".
    Classification {
        /// The share of the target that is spread over all classes, in training only: losses of
        /// validation and test are without it.
        label_smoothing: f64,
    },
    /// The output has as many numbers as the target: mean squared error, and the metric "mae",
    /// the mean absolute error.
    Regression {
        /// How many of the target's own units a difference of 1 is. The loss is in the units that
        /// the network sees, "mae" in the target's own.
        scale: f64,
    },
}

impl Supervised {
    /// The task that the target of some data suggests, scaled by `rule`.
    pub fn of(schema: &Schema, rule: Option<&Preprocess>, label_smoothing: f64) -> Self {
        match schema.classes() {
            Some(_) => Self::Classification { label_smoothing },
            None => Self::Regression {
                scale: rule.map_or(1.0, Preprocess::target_scale),
            },
        }
    }

    /// Loss and metrics of an output against a target.
    pub fn judge(&self, output: &Tensor, target: &Tensor) -> Outcome {
        match *self {
            Self::Classification { label_smoothing } => {
                let loss = cross_entropy(label_smoothing);
                let right = output.detach().argmax(-1).eq(target);
                Outcome {
                    loss: loss.forward(output, target),
                    metrics: vec![("accuracy", right.to_dtype(DType::F64).mean(..))],
                }
            }
            Self::Regression { scale } => {
                // `[batch, 1]` beside `[batch]` would broadcast to a square.
                let output = output.reshape(target.shape());
                let error = (output.detach() - target).abs();
                Outcome {
                    loss: MSELoss::default().forward(&output, target),
                    metrics: vec![("mae", error.mean(..) * scale)],
                }
            }
        }
    }
}

impl<M: Layer> Task<M> for Supervised {
    fn outcome(&self, model: &M, batch: &Batch) -> Outcome {
        self.judge(&model.forward(&batch.x), &batch.y)
    }
}

/// A model of language, which says at each place of a text what the token there is: the next one,
/// or one that was hidden.
///
/// The model's output is `[batch, time, vocab]`, the targets are `[batch, time]`; those that are
/// [`IGNORE_INDEX`] do not count. The loss is the cross-entropy in nats per token, the metric
/// "accuracy" the share of tokens that are the model's first guess.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Language {
    /// The share of the target that is spread over all tokens, in training only.
    pub label_smoothing: f64,
}

impl<M: Layer> Task<M> for Language {
    fn outcome(&self, model: &M, batch: &Batch) -> Outcome {
        of_tokens(&model.forward(&batch.x), &batch.y, self.label_smoothing)
    }
}

/// A model that reads one text and writes another, such as its translation.
///
/// A batch has `x [batch, keys]`, what is read, and `y [batch, time]`, what is to be written, where
/// [`IGNORE_INDEX`] does not count. Loss and metric are those of [`Language`];
/// the decoder sees what it should have written so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seq2Seq {
    /// The token that fills up texts and that nobody sees.
    pub padding: i64,
    /// The share of the target that is spread over all tokens, in training only.
    pub label_smoothing: f64,
}

impl<M: Seq2SeqLm> Task<M> for Seq2Seq {
    fn outcome(&self, model: &M, batch: &Batch) -> Outcome {
        let mask = batch.x.ne_scalar(self.padding as f64);
        let before = model.shift_right(&batch.y, self.padding);
        let logits = model.forward_logits(&batch.x, Some(&mask), &before);
        of_tokens(&logits, &batch.y, self.label_smoothing)
    }
}

/// Smoothed in training only.
fn cross_entropy(label_smoothing: f64) -> CrossEntropyLoss {
    let smoothing = if is_recording() { label_smoothing } else { 0.0 };
    CrossEntropyLoss::default().label_smoothing(smoothing)
}

/// Loss and accuracy of the scores `[batch, time, vocab]` of tokens.
fn of_tokens(logits: &Tensor, targets: &Tensor, label_smoothing: f64) -> Outcome {
    let loss = cross_entropy(label_smoothing);
    let (logits, targets) = (logits.flatten(0, 1), targets.flatten(0, 1));
    let counts = targets.ne_scalar(IGNORE_INDEX as f64).to_dtype(DType::F64);
    let right = logits.detach().argmax(-1).eq(&targets).to_dtype(DType::F64);
    Outcome {
        loss: loss.forward(&logits, &targets),
        metrics: vec![("accuracy", right.sum(..) / counts.sum(..))],
    }
}
