//! The layers of T5's blocks: each normalises what it reads, and adds to it.

use super::T5Config;
use crate::parts::linear;
use fornax_nn::{
    Activation, Causal, Dropout, Layer, Linear, Module, RMSNorm, RelativeBuckets, init, join_heads,
    split_heads,
};
use fornax_tensor::{Attention as Options, Tensor};

#[derive(Module)]
pub(super) struct SelfLayer {
    #[module(rename = "SelfAttention")]
    attention: Attention,
    layer_norm: RMSNorm,
}

#[derive(Module)]
pub(super) struct CrossLayer {
    #[module(rename = "EncDecAttention")]
    attention: Attention,
    layer_norm: RMSNorm,
}

#[derive(Module)]
pub(super) struct FeedForwardLayer {
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

impl SelfLayer {
    /// Tokens see all tokens; `bias [heads, queries, keys]` is added to products.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, bias: &Tensor) -> Tensor {
        let at = &self.attention;
        let [q, k, v] = at.queries_keys_values(&self.layer_norm.forward(x));
        x + at.output(&at.see(&q, &k, &v, Some(bias)))
    }

    /// Tokens see themselves and those before them.
    #[track_caller]
    pub fn causal(&self, x: &Tensor, pass: &mut Causal<'_>, layer: usize) -> Tensor {
        let at = &self.attention;
        let [q, k, v] = at.queries_keys_values(&self.layer_norm.forward(x));
        x + at.output(&pass.attend(layer, &q, &k, &v))
    }

    /// The stack's bias `[heads, queries, keys]`, which its first block keeps.
    #[track_caller]
    pub fn bias(&self, distances: &Tensor) -> Tensor {
        let buckets = self.attention.relative_attention_bias.as_ref();
        buckets.expect("the first block has it").bias(distances)
    }
}

impl CrossLayer {
    /// Keys and values of the encoder's vectors.
    #[track_caller]
    pub fn keys_values(&self, states: &Tensor) -> [Tensor; 2] {
        let at = &self.attention;
        [&at.k, &at.v].map(|part| split_heads(&part.forward(states), at.heads))
    }

    #[track_caller]
    pub fn forward(&self, x: &Tensor, [k, v]: &[Tensor; 2], mask: Option<&Tensor>) -> Tensor {
        let at = &self.attention;
        let q = split_heads(&at.q.forward(&self.layer_norm.forward(x)), at.heads);
        x + at.output(&at.see(&q, k, v, mask))
    }
}

impl Attention {
    #[track_caller]
    fn queries_keys_values(&self, x: &Tensor) -> [Tensor; 3] {
        [&self.q, &self.k, &self.v].map(|part| split_heads(&part.forward(x), self.heads))
    }

    #[track_caller]
    fn see(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let options = Options {
            mask,
            scale: Some(1.0),
            causal: false,
            dropout: self.dropout,
        };
        Tensor::attention(q, k, v, options)
    }

    /// Joins the heads, projects, and drops.
    #[track_caller]
    fn output(&self, y: &Tensor) -> Tensor {
        self.o.forward(&join_heads(y)).dropout(self.dropout)
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
        let added = net.wo.forward(&net.dropout.forward(&hidden));
        x + net.dropout.forward(&added)
    }
}

/// Makes the parts of one configuration.
pub(super) struct Parts<'a> {
    pub config: &'a T5Config,
    pub activation: Activation,
    pub gated: bool,
}

impl Parts<'_> {
    pub fn linear(&self, inputs: usize, outputs: usize, variance: usize) -> Linear {
        let std = self.config.initializer_factor / (variance as f64).sqrt();
        linear(inputs, outputs, std, false)
    }

    pub fn norm(&self) -> RMSNorm {
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

    /// Attention to the encoder's vectors.
    pub fn cross(&self) -> CrossLayer {
        CrossLayer {
            attention: self.attention(None),
            layer_norm: self.norm(),
        }
    }

    /// Self-attention of block `i`; `both_sides` in the encoder.
    pub fn own(&self, i: usize, both_sides: bool) -> SelfLayer {
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

    pub fn feed_forward(&self) -> FeedForwardLayer {
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
