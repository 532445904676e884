//! The sizes and options of LLaMA.

use crate::{Check, ConfigError};
use fornax_nn::Rotary;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The sizes and options of a [`Llama`](crate::Llama), named as in HuggingFace's `config.json`.
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
    /// "default", "linear", "llama3", or "longrope" with the same factors for short and long texts;
    /// older files call it `type`, and some have both.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// Fields of a file that mean nothing here; they are saved again.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
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
    pub(super) fn head_dim(&self) -> usize {
        let shared = || self.hidden_size / self.num_attention_heads.max(1);
        self.head_dim.unwrap_or_else(shared)
    }

    pub(super) fn groups(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Rotary positions for one head.
    pub(super) fn rotary(&self, check: &Check) -> Result<Rotary, ConfigError> {
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
        let older = || rope.extra.get("type")?.as_str();
        let kind = rope.rope_type.as_deref().or_else(older);
        let kind = kind.unwrap_or("default");
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

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::Tensor;

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
        let both = r#"{"rope_theta": 500.0,
            "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}}"#;
        assert_eq!(turned(new), turned(old));
        assert_eq!(turned(new), turned(both));
        assert_ne!(turned(new), turned("{}"));
        let yarn = r#"{"rope_scaling": {"rope_type": "yarn"}}"#;
        let config: LlamaConfig = serde_json::from_str(yarn).unwrap();
        let message = config.rotary(&Check("llama")).err().unwrap().to_string();
        assert!(
            message.contains("type \"yarn\" are not implemented"),
            "{message}"
        );
    }
}
