//! The blocks of a Transformer, with PyTorch's names.

use super::attention::{MultiheadAttention, join_heads};
use super::causal::Causal;
use crate::{Activation, Dropout, Layer, LayerNorm, Linear, Module};
use fornax_tensor::{Attention, Tensor};

/// The sizes and options of a [`TransformerEncoderLayer`] or [`TransformerDecoderLayer`].
#[derive(Clone, Debug)]
pub struct TransformerLayerOptions {
    /// Width of the hidden layer of the feed-forward network; 2048 by default.
    pub dim_feedforward: usize,
    /// The share dropped of weights, of hidden elements and of what each part adds, while
    /// training; 0.1 by default.
    pub dropout: f64,
    /// What follows the hidden layer; ReLU by default.
    pub activation: Activation,
    /// Whether each part normalises what it reads (pre-norm) or what comes out (post-norm, the
    /// default).
    pub norm_first: bool,
    /// Added to variances; 1e-5 by default.
    pub layer_norm_eps: f64,
}

/// PyTorch's.
impl Default for TransformerLayerOptions {
    fn default() -> Self {
        TransformerLayerOptions {
            dim_feedforward: 2048,
            dropout: 0.1,
            activation: Activation::Relu,
            norm_first: false,
            layer_norm_eps: 1e-5,
        }
    }
}

impl TransformerLayerOptions {
    fn norm(&self, width: usize) -> LayerNorm {
        LayerNorm::new(width).eps(self.layer_norm_eps)
    }
}

/// `x + f(norm(x))`, or `norm(x + f(x))`.
#[track_caller]
fn add(pre: bool, norm: &LayerNorm, x: &Tensor, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    match pre {
        true => x + f(&norm.forward(x)),
        false => norm.forward(&(x + f(x))),
    }
}

/// Self-attention and a feed-forward network (Vaswani et al. 2017):
/// [`torch.nn.TransformerEncoderLayer`](https://pytorch.org/docs/stable/generated/torch.nn.TransformerEncoderLayer.html)
/// with `batch_first=True`.
///
/// Input and output `[batch, time, width]`.
///
/// ```
/// use fornax_nn::{TransformerEncoderLayer, TransformerLayerOptions};
/// use fornax_tensor::{DType, Tensor};
/// let layer = TransformerEncoderLayer::new(32, 4, TransformerLayerOptions::default());
/// let x = Tensor::randn([2, 7, 32], DType::F32);
/// assert_eq!(layer.forward(&x, None).shape(), [2, 7, 32]);
/// ```
#[derive(Module, Clone)]
pub struct TransformerEncoderLayer {
    self_attn: MultiheadAttention,
    linear1: Linear,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    #[module(skip)]
    options: TransformerLayerOptions,
}

impl TransformerEncoderLayer {
    /// A layer of this width and number of heads.
    ///
    /// # Panics
    /// If heads do not divide the width.
    #[track_caller]
    pub fn new(width: usize, heads: usize, options: TransformerLayerOptions) -> Self {
        TransformerEncoderLayer {
            self_attn: MultiheadAttention::new(width, heads).dropout(options.dropout),
            linear1: Linear::new(width, options.dim_feedforward),
            linear2: Linear::new(options.dim_feedforward, width),
            norm1: options.norm(width),
            norm2: options.norm(width),
            options,
        }
    }

    /// The layer's output; `mask`, broadcast to `[batch, heads, time, time]`, says what each token
    /// sees, see [`Attention::mask`].
    ///
    /// # Panics
    /// If shapes do not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let (pre, dropout) = (self.options.norm_first, Dropout::new(self.options.dropout));
        let options = Attention {
            mask,
            ..Attention::default()
        };
        let x = add(pre, &self.norm1, x, |x| {
            dropout.forward(&self.self_attn.forward(x, x, options))
        });
        add(pre, &self.norm2, &x, |x| {
            feed_forward(&self.linear1, &self.linear2, &self.options, x)
        })
    }
}

#[track_caller]
fn feed_forward(
    linear1: &Linear,
    linear2: &Linear,
    options: &TransformerLayerOptions,
    x: &Tensor,
) -> Tensor {
    let hidden = options.activation.forward(&linear1.forward(x));
    let dropout = Dropout::new(options.dropout);
    dropout.forward(&linear2.forward(&dropout.forward(&hidden)))
}

/// Causal self-attention, attention to an encoder's output, and a feed-forward network (Vaswani et
/// al. 2017):
/// [`torch.nn.TransformerDecoderLayer`](https://pytorch.org/docs/stable/generated/torch.nn.TransformerDecoderLayer.html)
/// with `batch_first=True`.
///
/// Input and output `[batch, time, width]`.
#[derive(Module, Clone)]
pub struct TransformerDecoderLayer {
    self_attn: MultiheadAttention,
    multihead_attn: MultiheadAttention,
    linear1: Linear,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    norm3: LayerNorm,
    #[module(skip)]
    options: TransformerLayerOptions,
}

impl TransformerDecoderLayer {
    /// A layer of this width and number of heads.
    ///
    /// # Panics
    /// If heads do not divide the width.
    #[track_caller]
    pub fn new(width: usize, heads: usize, options: TransformerLayerOptions) -> Self {
        TransformerDecoderLayer {
            self_attn: MultiheadAttention::new(width, heads),
            multihead_attn: MultiheadAttention::new(width, heads).dropout(options.dropout),
            linear1: Linear::new(width, options.dim_feedforward),
            linear2: Linear::new(options.dim_feedforward, width),
            norm1: options.norm(width),
            norm2: options.norm(width),
            norm3: options.norm(width),
            options,
        }
    }

    /// Keys and values of an encoder's output `[batch, keys, width]`, to be given to
    /// [`forward`](TransformerDecoderLayer::forward).
    #[track_caller]
    pub fn keys_values(&self, memory: &Tensor) -> [Tensor; 2] {
        self.multihead_attn.keys_values(memory)
    }

    /// The output of the layer with this number, given the encoder's keys and values and a mask of
    /// those, broadcast to `[batch, heads, time, keys]`.
    ///
    /// # Panics
    /// If shapes do not fit.
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        pass: &mut Causal<'_>,
        layer: usize,
        [k, v]: &[Tensor; 2],
        mask: Option<&Tensor>,
    ) -> Tensor {
        let (pre, dropout) = (self.options.norm_first, Dropout::new(self.options.dropout));
        let x = add(pre, &self.norm1, x, |x| {
            let [q, k, v] = self.self_attn.queries_keys_values(x);
            let y = join_heads(&pass.attend(layer, &q, &k, &v));
            dropout.forward(&self.self_attn.out_proj.forward(&y))
        });
        let options = Attention {
            mask,
            ..Attention::default()
        };
        let x = add(pre, &self.norm2, &x, |x| {
            let q = self.multihead_attn.queries(x);
            dropout.forward(&self.multihead_attn.attend(&q, k, v, options))
        });
        add(pre, &self.norm3, &x, |x| {
            feed_forward(&self.linear1, &self.linear2, &self.options, x)
        })
    }
}

/// A feed-forward network with a gate, `down(activation(gate(x)) * up(x))` (Shazeer 2020): SwiGLU
/// with SiLU, GEGLU with GELU. Named as in LLaMA.
///
/// ```
/// use fornax_nn::{Activation, GatedFeedForward, Layer};
/// use fornax_tensor::{DType, Tensor};
/// let layer = GatedFeedForward::new(8, 20, Activation::Silu);
/// assert_eq!(layer.forward(&Tensor::zeros([2, 3, 8], DType::F32)).shape(), [2, 3, 8]);
/// ```
#[derive(Module, Clone)]
pub struct GatedFeedForward {
    /// `width -> hidden`, before the activation.
    pub gate_proj: Linear,
    /// `width -> hidden`.
    pub up_proj: Linear,
    /// `hidden -> width`.
    pub down_proj: Linear,
    activation: Activation,
}

impl GatedFeedForward {
    /// A network of this width and hidden size, without biases.
    pub fn new(width: usize, hidden: usize, activation: Activation) -> Self {
        GatedFeedForward {
            gate_proj: Linear::new(width, hidden).bias(false),
            up_proj: Linear::new(width, hidden).bias(false),
            down_proj: Linear::new(hidden, width).bias(false),
            activation,
        }
    }
}

impl Layer for GatedFeedForward {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let gate = self.activation.forward(&self.gate_proj.forward(x));
        self.down_proj.forward(&(gate * self.up_proj.forward(x)))
    }
}
