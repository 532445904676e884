//! What architectures have in common.

use fornax_nn::{Embedding, Layer, Linear, Module, Param, init, join_heads, split_heads};
use fornax_tensor::{Attention, Tensor, checkpoint};

/// A linear layer with normal weights and, if it has one, a bias of zero.
pub(crate) fn linear(inputs: usize, outputs: usize, std: f64, bias: bool) -> Linear {
    Linear {
        weight: Param::new(init::normal([outputs, inputs], 0.0, std)),
        bias: bias.then(|| Param::new(init::zeros([outputs]))),
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
        let part = || linear(width, width, std, bias);
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
            dropout: self.dropout,
            ..Attention::default()
        };
        join_heads(&Tensor::attention(&q, &k, &v, options))
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

/// Scores of all tokens for vectors `[.., width]`: by the head, or where there is none by the
/// embedding of tokens.
#[track_caller]
pub(crate) fn scores(x: &Tensor, head: Option<&Linear>, tokens: &Embedding) -> Tensor {
    match head {
        Some(head) => head.forward(x),
        None => x.linear(&tokens.weight, None),
    }
}

/// Runs `f`, with gradient checkpointing if `on`.
pub(crate) fn checkpoint_if<R>(on: bool, f: impl FnOnce() -> R) -> R {
    if on { checkpoint(f) } else { f() }
}

/// Ends a call with a text, or a cache for one, that is longer than the model's positions.
#[track_caller]
pub(crate) fn fits(model: &str, tokens: usize, positions: usize) {
    if tokens > positions {
        panic!("{model}: {tokens} tokens are more than the {positions} positions");
    }
}
