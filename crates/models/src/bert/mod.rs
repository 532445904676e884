//! BERT: an encoder whose tokens see one another in both directions.

mod config;
mod heads;
#[cfg(test)]
mod tests;

pub use config::BertConfig;
pub use heads::{BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification};

use crate::parts::{Dense, SelfAttention, checkpoint_if, fits, for_all_queries, linear, table};
use crate::{Check, ConfigError, Pretrained};
use fornax_nn::{Activation, Dropout, Embedding, Layer, LayerNorm, Linear, Module};
use fornax_tensor::Tensor;

/// What BERT reads: token ids `[batch, time]` and what is known of them.
#[derive(Clone, Copy, Default)]
pub struct BertInput<'a> {
    /// Which are tokens (true, or not 0) and not padding, `[batch, time]`; all, if not given.
    pub mask: Option<&'a Tensor>,
    /// The segment of each, `[batch, time]`; 0, if not given.
    pub segments: Option<&'a Tensor>,
}

/// BERT (Devlin et al. 2019, "Pre-training of Deep Bidirectional Transformers"): tokens, their
/// positions and their segments are embedded; layers of attention and a feed-forward network,
/// each followed by normalisation, mix them.
///
/// Input: token ids `[batch, time]`, output: a vector for each, `[batch, time, width]`. It is
/// HuggingFace's `BertModel`.
///
/// ```
/// use fornax_models::{Bert, BertConfig, BertInput};
/// use fornax_tensor::Tensor;
/// let config = BertConfig { vocab_size: 100, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, ..BertConfig::default() };
/// let model = Bert::new(&config)?;
/// let ids = Tensor::randint(1, 100, [2, 5]);
/// let mask = Tensor::from_vec(vec![1i64, 1, 1, 1, 1, 1, 1, 1, 0, 0], [2, 5]);
/// let input = BertInput { mask: Some(&mask), ..BertInput::default() };
/// assert_eq!(model.forward(&ids, input).shape(), [2, 5, 16]);
/// assert_eq!(model.embed(&ids, Some(&mask)).shape(), [2, 16]);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct Bert {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Option<Dense>,
    #[module(skip)]
    config: BertConfig,
}

#[derive(Module)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    #[module(rename = "LayerNorm")]
    norm: LayerNorm,
}

#[derive(Module)]
struct Encoder {
    layer: Vec<Block>,
}

#[derive(Module)]
struct Block {
    attention: Attention,
    intermediate: Dense,
    output: Added,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module)]
struct Attention {
    #[module(rename = "self")]
    inner: SelfAttention,
    output: Added,
}

/// A projection that is added to what it came from; the sum is normalised.
#[derive(Module)]
struct Added {
    dense: Linear,
    #[module(rename = "LayerNorm")]
    norm: LayerNorm,
    #[module(skip)]
    dropout: Dropout,
}

impl Bert {
    /// The encoder of this configuration, with starting weights as HuggingFace's.
    ///
    /// # Errors
    /// If a size is 0, heads do not divide the width, the weights are too many, a dropout is no
    /// share, or an option is not implemented.
    pub fn new(config: &BertConfig) -> Result<Self, ConfigError> {
        let mut bert = Bert::without_pooler(config)?;
        let width = config.hidden_size;
        bert.pooler = Some(Dense {
            dense: linear(width, width, config.initializer_range, true),
        });
        Ok(bert)
    }

    fn without_pooler(config: &BertConfig) -> Result<Self, ConfigError> {
        let check = Check("bert");
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (layers, positions) = (config.num_hidden_layers, config.max_position_embeddings);
        let tables = [config.vocab_size, positions, config.type_vocab_size];
        check.sizes("vocabulary, positions and segments", &tables)?;
        check.sizes("width and inner width", &[width, inner])?;
        check.layers("layers", &[layers])?;
        check.heads(config.num_attention_heads, width)?;
        for p in [
            config.hidden_dropout_prob,
            config.attention_probs_dropout_prob,
        ] {
            check.dropout(p)?;
        }
        check.dropout(config.classifier_dropout.unwrap_or(0.0))?;
        check.that(config.position_embedding_type == "absolute", || {
            format!(
                "position_embedding_type \"{}\" is not implemented, only \"absolute\"",
                config.position_embedding_type
            )
        })?;
        check.that(
            config.pad_token_id.is_none_or(|id| id < config.vocab_size),
            || "pad_token_id lies outside the vocabulary".to_owned(),
        )?;
        check.weights([
            [width, tables.into_iter().fold(0, usize::saturating_add)],
            [width, width.saturating_mul(4).saturating_mul(layers)],
            [width, inner.saturating_mul(2).saturating_mul(layers)],
        ])?;
        let activation = check.activation(&config.hidden_act)?;

        let std = config.initializer_range;
        let norm = || LayerNorm::new(width).eps(config.layer_norm_eps);
        let added = |inputs| Added {
            dense: linear(inputs, width, std, true),
            norm: norm(),
            dropout: Dropout::new(config.hidden_dropout_prob),
        };
        let block = || Block {
            attention: Attention {
                inner: SelfAttention::new(
                    width,
                    config.num_attention_heads,
                    config.attention_probs_dropout_prob,
                    true,
                    std,
                ),
                output: added(width),
            },
            intermediate: Dense {
                dense: linear(width, inner, std, true),
            },
            output: added(inner),
            activation,
        };
        let mut words = table(config.vocab_size, width, std);
        if let Some(padding) = config.pad_token_id {
            words = words.padding_idx(padding);
        }
        Ok(Bert {
            embeddings: Embeddings {
                word_embeddings: words,
                position_embeddings: table(positions, width, std),
                token_type_embeddings: table(config.type_vocab_size, width, std),
                norm: norm(),
            },
            encoder: Encoder {
                layer: (0..layers).map(|_| block()).collect(),
            },
            pooler: None,
            config: config.clone(),
        })
    }

    /// A vector for each token: `[batch, time]` to `[batch, time, width]`.
    ///
    /// # Panics
    /// If the text is longer than the model's positions, or shapes do not fit.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor, input: BertInput<'_>) -> Tensor {
        let time = ids.dim(1);
        fits("Bert", time, self.config.max_position_embeddings);
        let tables = &self.embeddings;
        let positions = tables.position_embeddings.weight.narrow(0, 0, time);
        let segments = match input.segments {
            Some(segments) => tables.token_type_embeddings.forward(segments),
            None => tables.token_type_embeddings.weight.narrow(0, 0, 1),
        };
        let x = tables.word_embeddings.forward(ids) + segments + positions;
        let mut x = tables
            .norm
            .forward(&x)
            .dropout(self.config.hidden_dropout_prob);
        let mask = input.mask.map(for_all_queries);
        for block in &self.encoder.layer {
            x = checkpoint_if(self.config.checkpoint, || block.forward(&x, mask.as_ref()));
        }
        x
    }

    /// A vector for each text, from that of its first token: `[batch, time, width]` (what
    /// [`forward`](Bert::forward) gave) to `[batch, width]`.
    #[track_caller]
    pub fn pool(&self, hidden: &Tensor) -> Tensor {
        let Some(pooler) = &self.pooler else {
            panic!("Bert: this model has no pooler");
        };
        pooler.dense.forward(&hidden.select(1, 0)).tanh()
    }

    /// The meaning of each text as a vector of length 1, `[batch, width]`: the mean over the
    /// vectors of its tokens, as `sentence-transformers` has it (Reimers & Gurevych 2019). The
    /// product of two is their cosine similarity.
    #[track_caller]
    pub fn embed(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let input = BertInput {
            mask,
            ..BertInput::default()
        };
        let mean = mean_of_tokens(&self.forward(ids, input), mask);
        let length = mean.square().sum_keepdim(-1).sqrt();
        let shortest = Tensor::full((), 1e-12, length.dtype());
        mean / length.maximum(&shortest)
    }
}

/// The mean over the tokens of each text: `[batch, time, width]` to `[batch, width]`. `mask [batch,
/// time]` tells tokens from padding.
#[track_caller]
pub fn mean_of_tokens(x: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let Some(mask) = mask else {
        return x.mean(1);
    };
    let mask = mask.ne_scalar(0).to_dtype(x.dtype()).unsqueeze(-1);
    let least = Tensor::full((), 1e-9, x.dtype());
    (x * &mask).sum(1) / mask.sum(1).maximum(&least)
}

impl Block {
    #[track_caller]
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let a = self.attention.inner.forward(x, mask);
        let x = self.attention.output.forward(&a, x);
        let m = self
            .activation
            .forward(&self.intermediate.dense.forward(&x));
        self.output.forward(&m, &x)
    }
}

impl Added {
    #[track_caller]
    fn forward(&self, new: &Tensor, x: &Tensor) -> Tensor {
        let new = self.dropout.forward(&self.dense.forward(new));
        self.norm.forward(&(new + x))
    }
}

macro_rules! pretrained {
    ($($name:ident $class:literal $($bert:ident)?;)*) => {$(
        impl Pretrained for $name {
            type Config = BertConfig;
            const MODEL_TYPE: &'static str = "bert";
            const ARCHITECTURE: &'static str = $class;
            const BASE: &'static str = "bert.";

            fn from_config(config: &BertConfig) -> Result<Self, ConfigError> {
                $name::new(config)
            }

            fn config(&self) -> &BertConfig {
                &self$(.$bert)?.config
            }

            fn is_redundant(name: &str) -> bool {
                // Positions counted, and the head that is the embedding.
                name.ends_with("embeddings.position_ids") || name.starts_with("cls.predictions.decoder.")
            }

            fn former_name(name: &str) -> Option<String> {
                let norm = name.strip_suffix("LayerNorm.weight").map(|n| format!("{n}LayerNorm.gamma"));
                norm.or_else(|| name.strip_suffix("LayerNorm.bias").map(|n| format!("{n}LayerNorm.beta")))
            }
        }
    )*};
}
pretrained! {
    Bert "BertModel";
    BertForMaskedLM "BertForMaskedLM" bert;
    BertForSequenceClassification "BertForSequenceClassification" bert;
    BertForTokenClassification "BertForTokenClassification" bert;
}
