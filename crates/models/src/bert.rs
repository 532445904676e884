//! BERT: an encoder whose tokens see one another in both directions.

use crate::parts::{Dense, SelfAttention, checkpoint_if, fits, for_all_queries, linear, table};
use crate::vit::labels;
use crate::{Check, ConfigError, Pretrained};
use fornax_nn::{Activation, Dropout, Embedding, Layer, LayerNorm, Linear, Module, Param, init};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The sizes and options of a [`Bert`], named as in HuggingFace's `config.json`.
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

    fn head_dropout(&self) -> Dropout {
        Dropout::new(self.classifier_dropout.unwrap_or(self.hidden_dropout_prob))
    }
}

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
        check.layers(&[layers])?;
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

/// BERT that tells which tokens were masked: `[batch, time]` to scores `[batch, time, vocab]`;
/// HuggingFace's `BertForMaskedLM`.
#[derive(Module)]
pub struct BertForMaskedLM {
    bert: Bert,
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

/// BERT that sorts texts into classes: `[batch, time]` to scores `[batch, classes]`; HuggingFace's
/// `BertForSequenceClassification`.
#[derive(Module)]
pub struct BertForSequenceClassification {
    bert: Bert,
    classifier: Linear,
}

/// BERT that sorts tokens into classes: `[batch, time]` to scores `[batch, time, classes]`;
/// HuggingFace's `BertForTokenClassification`.
#[derive(Module)]
pub struct BertForTokenClassification {
    bert: Bert,
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

/// Texts without padding, of one segment.
impl Layer for BertForMaskedLM {
    #[track_caller]
    fn forward(&self, ids: &Tensor) -> Tensor {
        self.forward(ids, BertInput::default())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretrained::load_tensors;
    use fornax_tensor::value_and_grad;

    fn tiny() -> BertConfig {
        BertConfig {
            vocab_size: 30,
            hidden_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 16,
            max_position_embeddings: 6,
            ..BertConfig::default()
        }
    }

    #[test]
    fn embeddings_have_length_one_and_ignore_padding() {
        let model = Bert::new(&tiny()).unwrap();
        let ids = Tensor::from_vec(vec![4i64, 5, 6, 0, 0], [1, 5]);
        let mask = Tensor::from_vec(vec![1i64, 1, 1, 0, 0], [1, 5]);
        let padded = model.embed(&ids, Some(&mask));
        let alone = model.embed(&ids.narrow(1, 0, 3), None);
        assert!((padded.square().sum(..).item() - 1.0).abs() < 1e-5);
        assert!((padded - alone).abs().max(..).item() < 1e-6);
    }

    #[test]
    fn files_of_one_head_load_as_another() {
        let source = BertForMaskedLM::new(&tiny()).unwrap();
        let mut state = source.state_dict();
        for (name, _) in &mut state {
            *name = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
        }
        let mut model = Bert::without_pooler(&tiny()).unwrap();
        let unexpected = load_tensors(&mut model, state).unwrap();
        assert_eq!(unexpected.len(), 5, "{unexpected:?}");
        assert!(
            unexpected
                .iter()
                .all(|name| name.starts_with("cls.predictions"))
        );
        let ids = Tensor::from_vec(vec![4i64, 5, 6], [1, 3]);
        let input = BertInput::default();
        let states = |bert: &Bert| bert.forward(&ids, input).to_vec::<f32>();
        assert_eq!(states(&model), states(&source.bert));
        let error =
            load_tensors(&mut Bert::new(&tiny()).unwrap(), source.state_dict()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`pooler.dense.weight` is missing"),
            "{error}"
        );
    }

    #[test]
    fn dropout_and_checkpoints_train() {
        let config = BertConfig {
            checkpoint: true,
            ..tiny()
        };
        let model = BertForSequenceClassification::new(&config).unwrap();
        let ids = Tensor::from_vec(vec![4i64, 5, 6, 7], [2, 2]);
        let segments = Tensor::from_vec(vec![0i64, 1, 0, 0], [2, 2]);
        let input = BertInput {
            mask: None,
            segments: Some(&segments),
        };
        let (loss, grads) = value_and_grad(&model, |m| m.forward(&ids, input).square().mean(..));
        assert!(loss.item().is_finite());
        assert_eq!(grads.len(), model.named_parameters().len());
    }
}
