//! The sizes and options of BERT.

use crate::vit::labels;
use fornax_nn::Dropout;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The sizes and options of a [`Bert`](crate::Bert), named as in HuggingFace's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Different tokens.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each layer's attention.
    pub num_attention_heads: usize,
    /// Width of the hidden layer of each layer's feed-forward network.
    pub intermediate_size: usize,
    /// What follows that hidden layer.
    pub hidden_act: String,
    /// The share dropped of embeddings and of what a layer adds, while training.
    pub hidden_dropout_prob: f64,
    /// The share dropped of attention's weights, while training.
    pub attention_probs_dropout_prob: f64,
    /// The longest text.
    pub max_position_embeddings: usize,
    /// How positions are told: only "absolute" is implemented.
    pub position_embedding_type: String,
    /// Kinds of segments.
    pub type_vocab_size: usize,
    /// The standard deviation of starting weights.
    pub initializer_range: f64,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// The token whose embedding does not train.
    pub pad_token_id: Option<usize>,
    /// The share dropped before a classifier, while training; `hidden_dropout_prob` if not given.
    pub classifier_dropout: Option<f64>,
    /// The classes of a classifier and their names, by number.
    pub id2label: BTreeMap<usize, String>,
    /// Whether layers are computed twice in training, to keep less in memory (gradient
    /// checkpointing).
    #[serde(skip)]
    pub checkpoint: bool,
    /// Fields of a file that mean nothing here; they are saved again.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// BERT-Base for lower-cased English, two classes.
impl Default for BertConfig {
    fn default() -> Self {
        BertConfig {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            position_embedding_type: "absolute".to_owned(),
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            classifier_dropout: None,
            id2label: labels(2),
            checkpoint: false,
            extra: Map::new(),
        }
    }
}

impl BertConfig {
    /// The same with this many classes, named by `transformers`' custom.
    pub fn classes(mut self, count: usize) -> Self {
        // Those of the old classes.
        self.extra.remove("label2id");
        BertConfig {
            id2label: labels(count),
            ..self
        }
    }

    pub(super) fn head_dropout(&self) -> Dropout {
        Dropout::new(self.classifier_dropout.unwrap_or(self.hidden_dropout_prob))
    }
}
