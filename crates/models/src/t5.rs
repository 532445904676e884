//! T5: every task is a text to read and a text to write.

use crate::parts::{checkpoint_if, for_all_queries, linear, scores, table};
use crate::seq2seq::{Memory, Seq2SeqCache, Seq2SeqLm};
use crate::{Check, ConfigError, Pretrained};
use fornax_nn::{
    Activation, Causal, Dropout, Embedding, KvCache, Layer, Linear, Module, RMSNorm,
    RelativeBuckets, attention, init, join_heads, split_heads,
};
use fornax_tensor::{Attention as Options, DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The sizes and options of a [`T5`], named as in HuggingFace's `config.json`.
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
    fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// The activation of the feed-forward networks, and whether they have a gate.
    fn feed_forward(&self, check: &Check) -> Result<(Activation, bool), ConfigError> {
        match self.feed_forward_proj.strip_prefix("gated-") {
            // What files call so is the approximation.
            Some("gelu") => Ok((Activation::GeluTanh, true)),
            Some(name) => Ok((check.activation(name)?, true)),
            None => Ok((check.activation(&self.feed_forward_proj)?, false)),
        }
    }
}

/// T5 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
/// Transformer"): an encoder and a decoder whose attention learns a number for each bucket of
/// distances in place of positions.
///
/// It is HuggingFace's `T5ForConditionalGeneration`, with the gated variants (T5 1.1, FLAN-T5);
/// its use is that of [`Seq2SeqLm`].
#[derive(Module)]
pub struct T5 {
    shared: Embedding,
    encoder: Encoder,
    decoder: Decoder,
    /// Only where it is not the embedding.
    lm_head: Option<Linear>,
    #[module(skip)]
    config: T5Config,
}

#[derive(Module)]
struct Encoder {
    block: Vec<EncoderBlock>,
    final_layer_norm: RMSNorm,
}

#[derive(Module)]
struct Decoder {
    block: Vec<DecoderBlock>,
    final_layer_norm: RMSNorm,
}

#[derive(Module)]
struct EncoderBlock {
    layer: (SelfLayer, FeedForwardLayer),
}

#[derive(Module)]
struct DecoderBlock {
    layer: (SelfLayer, CrossLayer, FeedForwardLayer),
}

#[derive(Module)]
struct SelfLayer {
    #[module(rename = "SelfAttention")]
    attention: Attention,
    layer_norm: RMSNorm,
}

#[derive(Module)]
struct CrossLayer {
    #[module(rename = "EncDecAttention")]
    attention: Attention,
    layer_norm: RMSNorm,
}

#[derive(Module)]
struct FeedForwardLayer {
    #[module(rename = "DenseReluDense")]
    dense: FeedForward,
    layer_norm: RMSNorm,
}

#[derive(Module)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// The first block's, used by all of its stack.
    relative_attention_bias: Option<RelativeBuckets>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    dropout: f64,
}

#[derive(Module)]
struct FeedForward {
    /// Without a gate.
    wi: Option<Linear>,
    /// The gate.
    wi_0: Option<Linear>,
    wi_1: Option<Linear>,
    wo: Linear,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    dropout: Dropout,
}

/// Makes the parts of one configuration.
struct Parts<'a> {
    config: &'a T5Config,
    activation: Activation,
    gated: bool,
}

impl Parts<'_> {
    fn linear(&self, inputs: usize, outputs: usize, variance: usize) -> Linear {
        let std = self.config.initializer_factor / (variance as f64).sqrt();
        linear(inputs, outputs, std, false)
    }

    fn norm(&self) -> RMSNorm {
        let config = self.config;
        let mut norm = RMSNorm::new(config.d_model).eps(config.layer_norm_epsilon);
        norm.weight
            .set(init::constant([config.d_model], config.initializer_factor));
        norm
    }

    fn attention(&self, buckets: Option<RelativeBuckets>) -> Attention {
        let T5Config {
            d_model,
            d_kv,
            num_heads,
            dropout_rate,
            ..
        } = *self.config;
        let inner = num_heads * d_kv;
        Attention {
            // Products are not scaled, so queries start small.
            q: self.linear(d_model, inner, d_model * d_kv),
            k: self.linear(d_model, inner, d_model),
            v: self.linear(d_model, inner, d_model),
            o: self.linear(inner, d_model, inner),
            relative_attention_bias: buckets,
            heads: num_heads,
            dropout: dropout_rate,
        }
    }

    /// Self-attention of block `i`; `both_sides` in the encoder.
    fn own(&self, i: usize, both_sides: bool) -> SelfLayer {
        let config = self.config;
        let buckets = (i == 0).then(|| {
            RelativeBuckets::new(
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance,
                config.num_heads,
                both_sides,
                config.initializer_factor / (config.d_model as f64).sqrt(),
            )
        });
        SelfLayer {
            attention: self.attention(buckets),
            layer_norm: self.norm(),
        }
    }

    fn feed_forward(&self) -> FeedForwardLayer {
        let T5Config {
            d_model,
            d_ff,
            dropout_rate,
            ..
        } = *self.config;
        let inner = || self.linear(d_model, d_ff, d_model);
        FeedForwardLayer {
            dense: FeedForward {
                wi: (!self.gated).then(inner),
                wi_0: self.gated.then(inner),
                wi_1: self.gated.then(inner),
                wo: self.linear(d_ff, d_model, d_ff),
                activation: self.activation,
                dropout: Dropout::new(dropout_rate),
            },
            layer_norm: self.norm(),
        }
    }
}

impl T5 {
    /// The network of this configuration, with starting weights as HuggingFace's.
    ///
    /// # Errors
    /// If a size is 0, the weights are too many, the dropout is no share, the buckets are too few or
    /// reach too far, or the activation is unknown.
    pub fn new(config: &T5Config) -> Result<Self, ConfigError> {
        let check = Check("t5");
        let T5Config {
            vocab_size,
            d_model,
            d_kv,
            d_ff,
            num_layers,
            num_heads,
            ..
        } = *config;
        let layers = config.decoder_layers();
        check.sizes("vocab_size, d_model and d_ff", &[vocab_size, d_model, d_ff])?;
        check.sizes("heads and their size", &[num_heads, d_kv])?;
        check.layers(&[num_layers, layers])?;
        check.dropout(config.dropout_rate)?;
        let (buckets, reach) = (
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        );
        check.that(
            (4..=1 << 16).contains(&buckets) && reach > buckets / 2 && reach <= 1 << 20,
            || format!("{buckets} buckets cannot share out distances up to {reach}"),
        )?;
        check.that(config.pad_token_id < vocab_size, || {
            "pad_token_id lies outside the vocabulary".to_owned()
        })?;
        let (activation, gated) = config.feed_forward(&check)?;
        let inner = num_heads.saturating_mul(d_kv).saturating_mul(4);
        let hidden = d_ff.saturating_mul(if gated { 3 } else { 2 });
        check.weights([
            [d_model, vocab_size.saturating_mul(2)],
            [
                d_model,
                inner.saturating_mul(layers.saturating_mul(2).saturating_add(num_layers)),
            ],
            [
                d_model,
                hidden.saturating_mul(layers.saturating_add(num_layers)),
            ],
        ])?;

        let parts = Parts {
            config,
            activation,
            gated,
        };
        let encoder_block = |i: usize| EncoderBlock {
            layer: (parts.own(i, true), parts.feed_forward()),
        };
        let decoder_block = |i: usize| {
            let cross = CrossLayer {
                attention: parts.attention(None),
                layer_norm: parts.norm(),
            };
            DecoderBlock {
                layer: (parts.own(i, false), cross, parts.feed_forward()),
            }
        };
        Ok(T5 {
            shared: table(vocab_size, d_model, config.initializer_factor),
            encoder: Encoder {
                block: (0..num_layers).map(encoder_block).collect(),
                final_layer_norm: parts.norm(),
            },
            decoder: Decoder {
                block: (0..layers).map(decoder_block).collect(),
                final_layer_norm: parts.norm(),
            },
            lm_head: (!config.tie_word_embeddings).then(|| parts.linear(d_model, vocab_size, 1)),
            config: config.clone(),
        })
    }

    fn dropped(&self, x: &Tensor) -> Tensor {
        x.dropout(self.config.dropout_rate)
    }

    /// The decoder's vectors `[batch, time, width]`, before they are compared with tokens.
    #[track_caller]
    fn decoded(&self, ids: &Tensor, memory: &Memory, pass: Causal<'_>) -> Tensor {
        let stack = &self.decoder;
        let bias = stack.block[0].layer.0.attention.bias(&pass.distances());
        let mut pass = pass
            .scale(1.0)
            .dropout(self.config.dropout_rate)
            .bias(&bias);
        let mut x = self.dropped(&self.shared.forward(ids));
        for (i, block) in stack.block.iter().enumerate() {
            let see = (&memory.layers[i], memory.mask.as_ref());
            x = checkpoint_if(self.config.checkpoint, || {
                block.forward(&x, &mut pass, i, see)
            });
        }
        self.dropped(&stack.final_layer_norm.forward(&x))
    }

    /// Scores of all tokens for vectors `[.., width]`.
    #[track_caller]
    fn head(&self, x: &Tensor) -> Tensor {
        let config = &self.config;
        let scaled = config
            .scale_decoder_outputs
            .unwrap_or(config.tie_word_embeddings);
        let x = match scaled {
            true => x * (config.d_model as f64).sqrt().recip(),
            false => x.clone(),
        };
        scores(&x, self.lm_head.as_ref(), &self.shared)
    }
}

impl EncoderBlock {
    #[track_caller]
    fn forward(&self, x: &Tensor, bias: &Tensor) -> Tensor {
        let (own, dense) = &self.layer;
        let at = &own.attention;
        let [q, k, v] = at.queries_keys_values(&own.layer_norm.forward(x));
        let options = Options {
            mask: Some(bias),
            scale: Some(1.0),
            causal: false,
        };
        let y = attention(&q, &k, &v, options, at.dropout);
        dense.forward(&(x + at.output(&y)))
    }
}

impl DecoderBlock {
    #[track_caller]
    fn forward(
        &self,
        x: &Tensor,
        pass: &mut Causal<'_>,
        layer: usize,
        ([k, v], mask): (&[Tensor; 2], Option<&Tensor>),
    ) -> Tensor {
        let (own, cross, dense) = &self.layer;
        let [q, new_k, new_v] = own
            .attention
            .queries_keys_values(&own.layer_norm.forward(x));
        let y = pass.attend(layer, &q, &new_k, &new_v);
        let x = x + own.attention.output(&y);

        let at = &cross.attention;
        let q = split_heads(&at.q.forward(&cross.layer_norm.forward(&x)), at.heads);
        let options = Options {
            mask,
            scale: Some(1.0),
            causal: false,
        };
        let y = attention(&q, k, v, options, at.dropout);
        dense.forward(&(x + at.output(&y)))
    }
}

impl Attention {
    #[track_caller]
    fn queries_keys_values(&self, x: &Tensor) -> [Tensor; 3] {
        [&self.q, &self.k, &self.v].map(|part| split_heads(&part.forward(x), self.heads))
    }

    /// Joins the heads, projects, and drops.
    #[track_caller]
    fn output(&self, y: &Tensor) -> Tensor {
        self.o.forward(&join_heads(y)).dropout(self.dropout)
    }

    /// The stack's bias `[heads, queries, keys]`, which its first block keeps.
    #[track_caller]
    fn bias(&self, distances: &Tensor) -> Tensor {
        let buckets = self.relative_attention_bias.as_ref();
        buckets.expect("the first block has it").bias(distances)
    }
}

impl Layer for FeedForwardLayer {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let net = &self.dense;
        let normed = self.layer_norm.forward(x);
        let hidden = |part: &Option<Linear>| part.as_ref().map(|p| p.forward(&normed));
        let hidden = match (hidden(&net.wi), hidden(&net.wi_0), hidden(&net.wi_1)) {
            (_, Some(gate), Some(up)) => net.activation.forward(&gate) * up,
            (plain, ..) => net
                .activation
                .forward(&plain.expect("one of the two kinds")),
        };
        x + net
            .dropout
            .forward(&net.wo.forward(&net.dropout.forward(&hidden)))
    }
}

impl Seq2SeqLm for T5 {
    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn start_token(&self) -> i64 {
        let config = &self.config;
        config.decoder_start_token_id.unwrap_or(config.pad_token_id) as i64
    }

    #[track_caller]
    fn encode(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let place = Tensor::arange(ids.dim(1), DType::I64);
        let distances = place.unsqueeze(1) - place;
        let mut bias = self.encoder.block[0].layer.0.attention.bias(&distances);
        if let Some(mask) = mask {
            let hidden = Tensor::full((), f64::NEG_INFINITY, bias.dtype());
            bias = for_all_queries(mask).where_(&bias, &hidden);
        }
        let mut x = self.dropped(&self.shared.forward(ids));
        for block in &self.encoder.block {
            x = checkpoint_if(self.config.checkpoint, || block.forward(&x, &bias));
        }
        self.dropped(&self.encoder.final_layer_norm.forward(&x))
    }

    #[track_caller]
    fn memory(&self, states: &Tensor, mask: Option<&Tensor>) -> Memory {
        let of = |block: &DecoderBlock| {
            let at = &block.layer.1.attention;
            [&at.k, &at.v].map(|part| split_heads(&part.forward(states), at.heads))
        };
        Memory {
            layers: self.decoder.block.iter().map(of).collect(),
            mask: mask.map(for_all_queries),
        }
    }

    #[track_caller]
    fn decode(&self, ids: &Tensor, memory: &Memory) -> Tensor {
        self.head(&self.decoded(ids, memory, Causal::whole(ids.dim(1), None)))
    }

    fn init_cache(&self, states: &Tensor, mask: Option<&Tensor>, length: usize) -> Seq2SeqCache {
        let config = &self.config;
        let shape = [states.dim(0), config.num_heads, length, config.d_kv];
        let own = KvCache::new(config.decoder_layers(), shape, self.shared.weight.dtype());
        Seq2SeqCache::new(own, self.memory(states, mask))
    }

    #[track_caller]
    fn decode_step(&self, ids: &Tensor, cache: &mut Seq2SeqCache) -> Tensor {
        let pass = Causal::next(&mut cache.own, ids.dim(1));
        let x = self.decoded(ids, &cache.memory, pass);
        self.head(&x.select(1, -1))
    }
}

impl Pretrained for T5 {
    type Config = T5Config;
    const MODEL_TYPE: &'static str = "t5";
    const ARCHITECTURE: &'static str = "T5ForConditionalGeneration";

    fn from_config(config: &T5Config) -> Result<Self, ConfigError> {
        T5::new(config)
    }

    fn config(&self) -> &T5Config {
        &self.config
    }

    fn is_redundant(name: &str) -> bool {
        // Copies of the embedding, and a table that the first files had by mistake.
        name.ends_with("embed_tokens.weight")
            || name == "lm_head.weight"
            || name.ends_with("EncDecAttention.relative_attention_bias.weight")
    }
}
