//! LLaMA: a decoder with rotary positions and gated feed-forward networks.

mod config;

pub use config::{LlamaConfig, RopeParameters};

use crate::parts::{checkpoint_if, fits, linear, scores, table};
use crate::{CausalLm, Check, ConfigError, Pretrained};
use fornax_nn::{
    Causal, Embedding, GatedFeedForward, KvCache, Layer, Linear, Module, RMSNorm, Rotary, Turns,
    join_heads, split_heads,
};
use fornax_tensor::Tensor;

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
        check.layers("layers", &[layers])?;
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
