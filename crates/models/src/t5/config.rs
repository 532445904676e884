//! The sizes and options of T5.

use crate::{Check, ConfigError};
use fornax_nn::Activation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The sizes and options of a [`T5`](crate::T5), named as in HuggingFace's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// Different tokens.
    pub vocab_size: usize,
    /// Width.
    pub d_model: usize,
    /// Size of a head.
    pub d_kv: usize,
    /// Width of the hidden layer of each feed-forward network.
    pub d_ff: usize,
    /// The encoder's blocks.
    pub num_layers: usize,
    /// The decoder's; as many as the encoder's, if not given.
    pub num_decoder_layers: Option<usize>,
    /// Heads of each attention.
    pub num_heads: usize,
    /// Buckets of distances.
    pub relative_attention_num_buckets: usize,
    /// The distance from which on all are alike.
    pub relative_attention_max_distance: usize,
    /// The share dropped everywhere, while training.
    pub dropout_rate: f64,
    /// Added to mean squares.
    pub layer_norm_epsilon: f64,
    /// What the deviations of starting weights are multiplied with.
    pub initializer_factor: f64,
    /// The activation of the feed-forward networks, such as "relu", or "gated-gelu" for one with a
    /// gate (T5 1.1, FLAN-T5).
    pub feed_forward_proj: String,
    /// Whether the embedding of tokens also predicts them.
    pub tie_word_embeddings: bool,
    /// Whether vectors are divided by the square root of the width before that; if not given, where
    /// the embedding predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_decoder_outputs: Option<bool>,
    /// Stands for padding, and before the first token that is written.
    pub pad_token_id: usize,
    /// Stands before the first token that is written, if another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoder_start_token_id: Option<usize>,
    /// Whether blocks are computed twice in training, to keep less in memory (gradient
    /// checkpointing).
    #[serde(skip)]
    pub checkpoint: bool,
    /// Fields of a file that mean nothing here; they are saved again.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// T5-Small.
impl Default for T5Config {
    fn default() -> Self {
        T5Config {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            feed_forward_proj: "relu".to_owned(),
            tie_word_embeddings: true,
            scale_decoder_outputs: None,
            pad_token_id: 0,
            decoder_start_token_id: None,
            checkpoint: false,
            extra: Map::new(),
        }
    }
}

impl T5Config {
    pub(super) fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// The activation of the feed-forward networks, and whether they have a gate.
    pub(super) fn feed_forward(&self, check: &Check) -> Result<(Activation, bool), ConfigError> {
        match self.feed_forward_proj.strip_prefix("gated-") {
            // What files call so is the approximation.
            Some("gelu") => Ok((Activation::GeluTanh, true)),
            Some(name) => Ok((check.activation(name)?, true)),
            None => Ok((check.activation(&self.feed_forward_proj)?, false)),
        }
    }
}
