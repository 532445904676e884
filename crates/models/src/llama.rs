//! LLaMA: a decoder with rotary positions and gated feed-forward networks.

use crate::parts::{checkpoint_if, fits, linear, scores, table};
use crate::{CausalLm, Check, ConfigError, Pretrained};
use fornax_nn::{
    Causal, Embedding, GatedFeedForward, KvCache, Layer, Linear, Module, RMSNorm, Rotary, Turns,
    join_heads, split_heads,
};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The sizes and options of a [`Llama`], named as in HuggingFace's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LlamaConfig {
    /// Different tokens.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of the hidden layer of each block's feed-forward network.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads of each block's attention.
    pub num_attention_heads: usize,
    /// Heads of keys and values, each for as many heads of queries; one each, if not given.
    pub num_key_value_heads: Option<usize>,
    /// Size of a head; the width divided by the heads, if not given.
    pub head_dim: Option<usize>,
    /// What the gates pass through.
    pub hidden_act: String,
    /// The longest text.
    pub max_position_embeddings: usize,
    /// The standard deviation of starting weights.
    pub initializer_range: f64,
    /// Added to mean squares.
    pub rms_norm_eps: f64,
    /// Whether the embedding of tokens also predicts them.
    pub tie_word_embeddings: bool,
    /// The base of rotary positions, as older files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// How they are stretched to longer texts, as older files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// Base and stretching of rotary positions, as newer files have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// Whether attention's projections have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward networks have biases.
    pub mlp_bias: bool,
    /// The share dropped of attention's weights, while training.
    pub attention_dropout: f64,
    /// The token whose embedding does not train.
    pub pad_token_id: Option<usize>,
    /// Whether blocks are computed twice in training, to keep less in memory (gradient
    /// checkpointing).
    #[serde(skip)]
    pub checkpoint: bool,
    /// Fields of a file that mean nothing here; they are saved again.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Rotary positions and how they are stretched to texts longer than those of the first training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RopeParameters {
    /// "default", "linear", "llama3", or "longrope" with the same factors for short and long texts.
    #[serde(alias = "type", skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    /// The base; 10,000 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// How much longer texts are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Wavelengths beyond the first texts' length divided by this are stretched in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// Wavelengths below the first texts' length divided by this are not stretched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// The first texts' length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
    /// What each frequency is divided by in texts no longer than the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_factor: Option<Vec<f64>>,
    /// The same in longer ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_factor: Option<Vec<f64>>,
    /// What queries and keys are multiplied with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
}

impl RopeParameters {
    /// Every frequency divided by its own factor, whatever the text's length.
    pub(crate) fn divided(factors: Vec<f64>, length: usize) -> Self {
        RopeParameters {
            rope_type: Some("longrope".to_owned()),
            original_max_position_embeddings: Some(length),
            short_factor: Some(factors.clone()),
            long_factor: Some(factors),
            attention_factor: Some(1.0),
            ..RopeParameters::default()
        }
    }
}

/// LLaMA of 7 billion parameters.
impl Default for LlamaConfig {
    fn default() -> Self {
        LlamaConfig {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
            attention_bias: false,
            mlp_bias: false,
            attention_dropout: 0.0,
            pad_token_id: None,
            checkpoint: false,
            extra: Map::new(),
        }
    }
}

impl LlamaConfig {
    fn head_dim(&self) -> usize {
        let shared = || self.hidden_size / self.num_attention_heads.max(1);
        self.head_dim.unwrap_or_else(shared)
    }

    fn groups(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Rotary positions for one head.
    fn rotary(&self, check: &Check) -> Result<Rotary, ConfigError> {
        let none = RopeParameters::default();
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let rope = rope.unwrap_or(&none);
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10000.0);
        check.that(self.head_dim().is_multiple_of(2) && theta > 0.0, || {
            format!(
                "rotary positions need heads of an even size and a positive base, not {} and {theta}",
                self.head_dim()
            )
        })?;
        let rotary = Rotary::new(self.head_dim(), theta);
        let kind = rope.rope_type.as_deref().unwrap_or("default");
        let factor = rope.factor.unwrap_or(1.0);
        check.that(factor >= 1.0, || {
            format!("a rope factor of {factor} is less than 1")
        })?;
        match kind {
            "default" => Ok(rotary),
            "linear" => Ok(rotary.map(|frequency| frequency / factor)),
            "llama3" => {
                let (low, high) = (
                    rope.low_freq_factor.unwrap_or(1.0),
                    rope.high_freq_factor.unwrap_or(4.0),
                );
                check.that(0.0 < low && low < high, || {
                    format!("rope's low_freq_factor {low} must be positive and below its high_freq_factor {high}")
                })?;
                let length = rope.original_max_position_embeddings;
                let length = length.unwrap_or(self.max_position_embeddings) as f64;
                Ok(rotary.map(|frequency| {
                    // Turns over the length of the first texts.
                    let turns = length * frequency / std::f64::consts::TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * kept + frequency / factor * (1.0 - kept)
                }))
            }
            "longrope" => {
                let factors = rope.long_factor.as_deref().unwrap_or_default();
                let alike = rope.short_factor == rope.long_factor;
                check.that(alike && rope.attention_factor == Some(1.0), || {
                    "longrope is implemented only with equal short_factor and long_factor, and an \
                     attention_factor of 1"
                        .to_owned()
                })?;
                let pairs = self.head_dim() / 2;
                let positive = factors.iter().all(|f| *f > 0.0 && f.is_finite());
                check.that(factors.len() == pairs && positive, || {
                    format!("longrope needs {pairs} positive factors, not {factors:?}")
                })?;
                Ok(rotary.divided(factors))
            }
            other => Err(ConfigError {
                model: check.0,
                reason: format!(
                    "rotary positions of type \"{other}\" are not implemented; there are default, \
                     linear, llama3 and longrope"
                ),
            }),
        }
    }
}

/// LLaMA (Touvron et al. 2023) and the many models built like it: a causal decoder with
/// normalisation by root mean square before each part, rotary positions, heads of queries that
/// share keys and values (Ainslie et al. 2023), and SwiGLU.
///
/// Input: token ids `[batch, time]`, output: scores of the next token `[batch, time, vocab]`.
/// It is HuggingFace's `LlamaForCausalLM`.
///
/// ```
/// use fornax_models::{CausalLm, Llama, LlamaConfig};
/// use fornax_tensor::Tensor;
/// let config = LlamaConfig {
///     vocab_size: 100, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2,
///     num_attention_heads: 4, num_key_value_heads: Some(2), ..LlamaConfig::default()
/// };
/// let model = Llama::new(&config)?;
/// let ids = Tensor::randint(0, 100, [2, 10]);
/// assert_eq!(model.forward_logits(&ids, None).shape(), [2, 10, 100]);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct Llama {
    model: Decoder,
    /// Only where it is not the embedding.
    lm_head: Option<Linear>,
    #[module(skip)]
    rotary: Rotary,
    #[module(skip)]
    config: LlamaConfig,
}

#[derive(Module)]
struct Decoder {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RMSNorm,
}

#[derive(Module)]
struct Block {
    input_layernorm: RMSNorm,
    self_attn: Attention,
    post_attention_layernorm: RMSNorm,
    mlp: GatedFeedForward,
}

#[derive(Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    groups: usize,
}

impl Llama {
    /// The network of this configuration, with starting weights as HuggingFace's.
    ///
    /// # Errors
    /// If a size is 0, heads do not divide, the weights are too many, a dropout is no share, or an
    /// option is not implemented.
    pub fn new(config: &LlamaConfig) -> Result<Self, ConfigError> {
        let check = Check("llama");
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (layers, heads) = (config.num_hidden_layers, config.num_attention_heads);
        let (groups, size) = (config.groups(), config.head_dim());
        check.sizes(
            "vocabulary and positions",
            &[config.vocab_size, config.max_position_embeddings],
        )?;
        check.sizes("width and inner width", &[width, inner])?;
        check.layers(&[layers])?;
        check.sizes("heads, groups and their size", &[heads, groups, size])?;
        if config.head_dim.is_none() {
            check.heads(heads, width)?;
        }
        check.that(heads.is_multiple_of(groups), || {
            format!("{groups} heads of keys and values do not divide {heads} heads of queries")
        })?;
        check.dropout(config.attention_dropout)?;
        let tables = if config.tie_word_embeddings { 1 } else { 2 };
        let (queries, keys) = (heads.saturating_mul(size), groups.saturating_mul(size));
        check.weights([
            [width, config.vocab_size.saturating_mul(tables)],
            [
                width,
                queries
                    .saturating_add(keys)
                    .saturating_mul(2)
                    .saturating_mul(layers),
            ],
            [width, inner.saturating_mul(3).saturating_mul(layers)],
        ])?;
        check.memory("rotary positions", size)?;
        let activation = check.activation(&config.hidden_act)?;
        let rotary = config.rotary(&check)?;

        let std = config.initializer_range;
        let norm = || RMSNorm::new(width).eps(config.rms_norm_eps);
        let linear = |inputs, outputs, bias| linear(inputs, outputs, std, bias);
        let block = || {
            let mut mlp = GatedFeedForward::new(1, 1, activation);
            mlp.gate_proj = linear(width, inner, config.mlp_bias);
            mlp.up_proj = linear(width, inner, config.mlp_bias);
            mlp.down_proj = linear(inner, width, config.mlp_bias);
            Block {
                input_layernorm: norm(),
                self_attn: Attention {
                    q_proj: linear(width, queries, config.attention_bias),
                    k_proj: linear(width, keys, config.attention_bias),
                    v_proj: linear(width, keys, config.attention_bias),
                    o_proj: linear(queries, width, config.attention_bias),
                    heads,
                    groups,
                },
                post_attention_layernorm: norm(),
                mlp,
            }
        };
        let mut embed_tokens = table(config.vocab_size, width, std);
        if let Some(padding) = config.pad_token_id.filter(|&id| id < config.vocab_size) {
            embed_tokens = embed_tokens.padding_idx(padding);
        }
        Ok(Llama {
            model: Decoder {
                embed_tokens,
                layers: (0..layers).map(|_| block()).collect(),
                norm: norm(),
            },
            lm_head: (!config.tie_word_embeddings).then(|| linear(width, config.vocab_size, false)),
            rotary,
            config: config.clone(),
        })
    }

    /// The vectors `[batch, time, width]` that tokens are predicted from.
    #[track_caller]
    fn hidden(&self, ids: &Tensor, pass: Causal<'_>) -> Tensor {
        let mut pass = pass.dropout(self.config.attention_dropout);
        let turns = self.rotary.at(pass.positions());
        let mut x = self.model.embed_tokens.forward(ids);
        for (i, block) in self.model.layers.iter().enumerate() {
            x = checkpoint_if(self.config.checkpoint, || {
                block.forward(&x, &turns, &mut pass, i)
            });
        }
        self.model.norm.forward(&x)
    }

    #[track_caller]
    fn head(&self, x: &Tensor) -> Tensor {
        scores(x, self.lm_head.as_ref(), &self.model.embed_tokens)
    }
}

impl Block {
    #[track_caller]
    fn forward(&self, x: &Tensor, turns: &Turns, pass: &mut Causal<'_>, layer: usize) -> Tensor {
        let normed = self.input_layernorm.forward(x);
        let x = x + self.self_attn.forward(&normed, turns, pass, layer);
        &x + self.mlp.forward(&self.post_attention_layernorm.forward(&x))
    }
}

impl Attention {
    #[track_caller]
    fn forward(&self, x: &Tensor, turns: &Turns, pass: &mut Causal<'_>, layer: usize) -> Tensor {
        let q = turns.apply(&split_heads(&self.q_proj.forward(x), self.heads));
        let k = turns.apply(&split_heads(&self.k_proj.forward(x), self.groups));
        let v = split_heads(&self.v_proj.forward(x), self.groups);
        let y = pass.attend(layer, &q, &k, &v);
        self.o_proj.forward(&join_heads(&y))
    }
}

impl CausalLm for Llama {
    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.max_position_embeddings
    }

    #[track_caller]
    fn forward_logits(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let pass = Causal::whole(ids.dim(1), mask);
        self.head(&self.hidden(ids, pass))
    }

    #[track_caller]
    fn init_cache(&self, batch: usize, length: usize) -> KvCache {
        let config = &self.config;
        fits("Llama", length, config.max_position_embeddings);
        let shape = [batch, config.groups(), length, config.head_dim()];
        let dtype = self.model.embed_tokens.weight.dtype();
        KvCache::new(config.num_hidden_layers, shape, dtype)
    }

    #[track_caller]
    fn decode_step(&self, ids: &Tensor, cache: &mut KvCache) -> Tensor {
        let x = self.hidden(ids, Causal::next(cache, ids.dim(1)));
        self.head(&x.select(1, -1))
    }
}

impl Pretrained for Llama {
    type Config = LlamaConfig;
    const MODEL_TYPE: &'static str = "llama";
    const ARCHITECTURE: &'static str = "LlamaForCausalLM";
    const BASE: &'static str = "model.";

    fn from_config(config: &LlamaConfig) -> Result<Self, ConfigError> {
        Llama::new(config)
    }

    fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn is_redundant(name: &str) -> bool {
        // Frequencies that old files hold, and the head that is the embedding.
        name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_files_tell_of_rotary_positions() {
        let new =
            r#"{"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0}}"#;
        let old = r#"{"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}"#;
        let x = Tensor::ones([1, 1, 1, 128], fornax_tensor::DType::F32);
        let position = Tensor::from_vec(vec![5i64], [1, 1]);
        let turned = |json: &str| {
            let config: LlamaConfig = serde_json::from_str(json).unwrap();
            let rotary = config.rotary(&Check("llama")).ok().unwrap();
            rotary.at(&position).apply(&x).to_vec::<f32>()
        };
        assert_eq!(turned(new), turned(old));
        assert_ne!(turned(new), turned("{}"));
        let yarn = r#"{"rope_scaling": {"rope_type": "yarn"}}"#;
        let config: LlamaConfig = serde_json::from_str(yarn).unwrap();
        let message = config.rotary(&Check("llama")).err().unwrap().to_string();
        assert!(
            message.contains("type \"yarn\" are not implemented"),
            "{message}"
        );
    }

    #[test]
    fn groups_divide_heads() {
        let config = LlamaConfig {
            num_key_value_heads: Some(5),
            ..LlamaConfig::default()
        };
        let message = Llama::new(&config).err().unwrap().to_string();
        assert!(
            message.contains("5 heads of keys and values do not divide 32"),
            "{message}"
        );
    }
}
