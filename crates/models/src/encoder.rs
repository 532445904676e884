//! What the encoders of this crate have in common.

use fornax_nn::{
    Embedding, Layer, Linear, Module, Param, attention, init, join_heads, split_heads,
};
use fornax_tensor::{Attention, Tensor};

/// A linear layer with normal weights and a bias of zero.
pub(crate) fn linear(inputs: usize, outputs: usize, std: f64) -> Linear {
    Linear {
        weight: Param::new(init::normal([outputs, inputs], 0.0, std)),
        bias: Some(Param::new(init::zeros([outputs]))),
    }
}

/// A table of normal vectors.
pub(crate) fn table(count: usize, width: usize, std: f64) -> Embedding {
    Embedding::from_pretrained(init::normal([count, width], 0.0, std))
}

/// A linear layer that `transformers` calls `dense`.
#[derive(Module)]
pub(crate) struct Dense {
    pub dense: Linear,
}

/// Self-attention as BERT and ViT name it, without its output projection.
#[derive(Module)]
pub(crate) struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    dropout: f64,
}

impl SelfAttention {
    pub fn new(width: usize, heads: usize, dropout: f64, bias: bool, std: f64) -> Self {
        let part = || linear(width, width, std).bias(bias);
        SelfAttention {
            query: part(),
            key: part(),
            value: part(),
            heads,
            dropout,
        }
    }

    /// `[batch, time, width]` to the same; `mask` broadcasts to `[batch, heads, time, time]`.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let [q, k, v] = [&self.query, &self.key, &self.value]
            .map(|part| split_heads(&part.forward(x), self.heads));
        let options = Attention {
            mask,
            ..Attention::default()
        };
        join_heads(&attention(&q, &k, &v, options, self.dropout))
    }
}

/// A mask `[batch, time]` of tokens (true, or not 0) as one that every query of every head has.
#[track_caller]
pub(crate) fn for_all_queries(mask: &Tensor) -> Tensor {
    if mask.rank() != 2 {
        panic!("a mask is [batch, time], not {:?}", mask.shape());
    }
    mask.ne_scalar(0).unsqueeze(1).unsqueeze(1)
}
