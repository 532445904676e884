//! T5: every task is a text to read and a text to write.

mod config;
mod layers;

pub use config::T5Config;

use crate::parts::{checkpoint_if, for_all_queries, scores, table};
use crate::seq2seq::{Memory, Seq2SeqCache, Seq2SeqLm};
use crate::{Check, ConfigError, Pretrained};
use fornax_nn::{Causal, Embedding, KvCache, Layer, Linear, Module, RMSNorm};
use fornax_tensor::{DType, Tensor};
use layers::{CrossLayer, FeedForwardLayer, Parts, SelfLayer};

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
        check.layers("layers", &[num_layers, layers])?;
        check.dropout(config.dropout_rate)?;
        let (buckets, reach) = (
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        );
        check.that(
            (4..=1 << 16).contains(&buckets) && reach > buckets / 2 && reach <= 1 << 20,
            || format!("{buckets} buckets cannot share out distances up to {reach}"),
        )?;
        let start = config.decoder_start_token_id.unwrap_or(0);
        check.that(config.pad_token_id.max(start) < vocab_size, || {
            "pad_token_id or decoder_start_token_id lies outside the vocabulary".to_owned()
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
        let decoder_block = |i: usize| DecoderBlock {
            layer: (parts.own(i, false), parts.cross(), parts.feed_forward()),
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
        let bias = stack.block[0].layer.0.bias(&pass.distances());
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
        dense.forward(&own.forward(x, bias))
    }
}

impl DecoderBlock {
    /// `see` are keys and values of the encoder's vectors, and which of them are tokens.
    #[track_caller]
    fn forward(
        &self,
        x: &Tensor,
        pass: &mut Causal<'_>,
        layer: usize,
        see: (&[Tensor; 2], Option<&Tensor>),
    ) -> Tensor {
        let (own, cross, dense) = &self.layer;
        let x = own.causal(x, pass, layer);
        dense.forward(&cross.forward(&x, see.0, see.1))
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
        let mut bias = self.encoder.block[0].layer.0.bias(&distances);
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
        let of = |block: &DecoderBlock| block.layer.1.keys_values(states);
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
