//! What BERT is put to: each task has a head of its own.

use super::{Bert, BertConfig, BertInput};
use crate::parts::linear;
use crate::{Check, ConfigError};
use fornax_nn::{Activation, Layer, LayerNorm, Linear, Module, Param, init};
use fornax_tensor::Tensor;

/// BERT that tells which tokens were masked: `[batch, time]` to scores `[batch, time, vocab]`;
/// HuggingFace's `BertForMaskedLM`.
#[derive(Module)]
pub struct BertForMaskedLM {
    pub(super) bert: Bert,
    cls: MaskedHead,
}

#[derive(Module)]
struct MaskedHead {
    predictions: Predictions,
}

#[derive(Module)]
struct Predictions {
    bias: Param,
    transform: Transform,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module)]
struct Transform {
    dense: Linear,
    #[module(rename = "LayerNorm")]
    norm: LayerNorm,
}

impl BertForMaskedLM {
    /// The network of this configuration.
    ///
    /// # Errors
    /// As [`Bert::new`].
    pub fn new(config: &BertConfig) -> Result<Self, ConfigError> {
        let width = config.hidden_size;
        Ok(BertForMaskedLM {
            bert: Bert::without_pooler(config)?,
            cls: MaskedHead {
                predictions: Predictions {
                    bias: Param::new(init::zeros([config.vocab_size])),
                    transform: Transform {
                        dense: linear(width, width, config.initializer_range, true),
                        norm: LayerNorm::new(width).eps(config.layer_norm_eps),
                    },
                    activation: Check("bert").activation(&config.hidden_act)?,
                },
            },
        })
    }

    /// Scores of all tokens at each place.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor, input: BertInput<'_>) -> Tensor {
        let x = self.bert.forward(ids, input);
        let head = &self.cls.predictions;
        let x = head.activation.forward(&head.transform.dense.forward(&x));
        let x = head.transform.norm.forward(&x);
        x.linear(
            &self.bert.embeddings.word_embeddings.weight,
            Some(&head.bias),
        )
    }
}

/// Texts without padding, of one segment.
impl Layer for BertForMaskedLM {
    #[track_caller]
    fn forward(&self, ids: &Tensor) -> Tensor {
        self.forward(ids, BertInput::default())
    }
}

/// BERT that sorts texts into classes: `[batch, time]` to scores `[batch, classes]`; HuggingFace's
/// `BertForSequenceClassification`.
#[derive(Module)]
pub struct BertForSequenceClassification {
    pub(super) bert: Bert,
    classifier: Linear,
}

/// BERT that sorts tokens into classes: `[batch, time]` to scores `[batch, time, classes]`;
/// HuggingFace's `BertForTokenClassification`.
#[derive(Module)]
pub struct BertForTokenClassification {
    pub(super) bert: Bert,
    classifier: Linear,
}

fn classifier(config: &BertConfig) -> Result<Linear, ConfigError> {
    let (width, classes) = (config.hidden_size, config.id2label.len());
    let check = Check("bert");
    check.sizes("classes", &[classes])?;
    check.weights([[width, classes]])?;
    Ok(linear(width, classes, config.initializer_range, true))
}

impl BertForSequenceClassification {
    /// The network of this configuration.
    ///
    /// # Errors
    /// As [`Bert::new`].
    pub fn new(config: &BertConfig) -> Result<Self, ConfigError> {
        let (bert, classifier) = (Bert::new(config)?, classifier(config)?);
        Ok(BertForSequenceClassification { bert, classifier })
    }

    /// Scores of the classes.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor, input: BertInput<'_>) -> Tensor {
        let x = self.bert.pool(&self.bert.forward(ids, input));
        let dropout = self.bert.config.head_dropout();
        self.classifier.forward(&dropout.forward(&x))
    }
}

impl BertForTokenClassification {
    /// The network of this configuration.
    ///
    /// # Errors
    /// As [`Bert::new`].
    pub fn new(config: &BertConfig) -> Result<Self, ConfigError> {
        let (bert, classifier) = (Bert::without_pooler(config)?, classifier(config)?);
        Ok(BertForTokenClassification { bert, classifier })
    }

    /// Scores of the classes, for each token.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor, input: BertInput<'_>) -> Tensor {
        let x = self.bert.forward(ids, input);
        let dropout = self.bert.config.head_dropout();
        self.classifier.forward(&dropout.forward(&x))
    }
}
