//! GPT-2: a decoder that predicts the next token.

use crate::parts::{checkpoint_if, fits, linear, scores, table};
use crate::{CausalLm, Check, ConfigError, Pretrained};
use fornax_nn::{
    Activation, Causal, Dropout, Embedding, KvCache, Layer, LayerNorm, Linear, Module, Param, init,
    join_heads, note_output, split_heads,
};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The sizes and options of a [`Gpt2`], named as in HuggingFace's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpt2Config {
    /// Different tokens.
    pub vocab_size: usize,
    /// The longest text.
    pub n_positions: usize,
    /// Width.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Heads of each block's attention.
    pub n_head: usize,
    /// Width of the hidden layer of each block's feed-forward network; `4 * n_embd` if not given.
    pub n_inner: Option<usize>,
    /// What follows that hidden layer.
    pub activation_function: String,
    /// The share dropped of what a block adds, while training.
    pub resid_pdrop: f64,
    /// The share dropped of the embedded tokens, while training.
    pub embd_pdrop: f64,
    /// The share dropped of attention's weights, while training.
    pub attn_pdrop: f64,
    /// Added to variances.
    pub layer_norm_epsilon: f64,
    /// The standard deviation of starting weights.
    pub initializer_range: f64,
    /// Whether products of queries and keys are divided by the square root of their size.
    pub scale_attn_weights: bool,
    /// Whether they are divided by the number of the block as well.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the embedding of tokens also predicts them.
    pub tie_word_embeddings: bool,
    /// Whether blocks are computed twice in training, to keep less in memory (gradient
    /// checkpointing).
    #[serde(skip)]
    pub checkpoint: bool,
    /// Fields of a file that mean nothing here; they are saved again.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// GPT-2 of 124 million parameters.
impl Default for Gpt2Config {
    fn default() -> Self {
        Gpt2Config {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            checkpoint: false,
            extra: Map::new(),
        }
    }
}

impl Gpt2Config {
    /// The same without dropout.
    pub fn without_dropout(self) -> Self {
        Gpt2Config {
            resid_pdrop: 0.0,
            embd_pdrop: 0.0,
            attn_pdrop: 0.0,
            ..self
        }
    }
}

/// GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): tokens and
/// their positions are embedded, blocks of causal attention and a feed-forward network add to
/// them, and what comes out is compared with the embedding of every token.
///
/// Input: token ids `[batch, time]`, output: scores of the next token `[batch, time, vocab]`.
/// It is HuggingFace's `GPT2LMHeadModel`.
///
/// ```
/// use fornax_models::{Gpt2, Gpt2Config};
/// use fornax_nn::{Layer, Module};
/// use fornax_tensor::Tensor;
/// let config = Gpt2Config { vocab_size: 65, n_positions: 64, n_embd: 128, n_layer: 4, n_head: 4, ..Gpt2Config::default() };
/// let model = Gpt2::new(&config)?;
/// assert_eq!(model.num_parameters(), 809_856);
/// let ids = Tensor::randint(0, 65, [2, 10]);
/// assert_eq!(model.forward(&ids).shape(), [2, 10, 65]);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct Gpt2 {
    transformer: Transformer,
    /// Only where it is not the embedding.
    lm_head: Option<Linear>,
    #[module(skip)]
    config: Gpt2Config,
}

#[derive(Module)]
struct Transformer {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Block>,
    ln_f: LayerNorm,
}

#[derive(Module)]
struct Block {
    ln_1: LayerNorm,
    attn: Attention,
    ln_2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    dropout: Dropout,
}

#[derive(Module)]
struct Attention {
    c_attn: Conv1D,
    c_proj: Conv1D,
    #[module(skip)]
    heads: usize,
    /// What queries are multiplied with besides the pass's own scale.
    #[module(skip)]
    temper: Option<f64>,
}

#[derive(Module)]
struct Mlp {
    c_fc: Conv1D,
    c_proj: Conv1D,
    #[module(skip)]
    activation: Activation,
}

/// A linear layer whose weight is `[in, out]`, as in GPT-2's files.
#[derive(Module)]
struct Conv1D {
    weight: Param,
    bias: Param,
}

impl Conv1D {
    fn new(inputs: usize, outputs: usize, std: f64) -> Self {
        Conv1D {
            weight: Param::new(init::normal([inputs, outputs], 0.0, std)),
            bias: Param::new(init::zeros([outputs])),
        }
    }
}

impl Layer for Conv1D {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.matmul(&self.weight) + &*self.bias)
    }
}

impl Gpt2 {
    /// The network of this configuration, with starting weights as HuggingFace's: normal, and
    /// smaller where a block adds to what it got.
    ///
    /// # Errors
    /// If a size is 0, heads do not divide the width, the weights are too many, a dropout is no
    /// share, or the activation is unknown.
    pub fn new(config: &Gpt2Config) -> Result<Self, ConfigError> {
        let check = Check("gpt2");
        let (width, layers) = (config.n_embd, config.n_layer);
        let inner = config.n_inner.unwrap_or(width.saturating_mul(4));
        let sizes = [config.vocab_size, config.n_positions, width, inner];
        check.sizes("vocab_size, n_positions, n_embd and n_inner", &sizes)?;
        check.layers("layers", &[layers])?;
        check.heads(config.n_head, width)?;
        for p in [config.resid_pdrop, config.embd_pdrop, config.attn_pdrop] {
            check.dropout(p)?;
        }
        let heads = if config.tie_word_embeddings { 1 } else { 2 };
        check.weights([
            [width, config.vocab_size.saturating_mul(heads)],
            [width, config.n_positions],
            [width, width.saturating_mul(4).saturating_mul(layers)],
            [width, inner.saturating_mul(2).saturating_mul(layers)],
        ])?;
        let activation = check.activation(&config.activation_function)?;

        let std = config.initializer_range;
        let table = |count| table(count, width, std);
        let norm = || LayerNorm::new(width).eps(config.layer_norm_epsilon);
        // Each of the `2 * layers` parts adds its share of the variance.
        let added = std / (2.0 * layers as f64).sqrt();
        let block = |i: usize| Block {
            ln_1: norm(),
            attn: Attention {
                c_attn: Conv1D::new(width, 3 * width, std),
                c_proj: Conv1D::new(width, width, added),
                heads: config.n_head,
                temper: config
                    .scale_attn_by_inverse_layer_idx
                    .then(|| 1.0 / (i + 1) as f64),
            },
            ln_2: norm(),
            mlp: Mlp {
                c_fc: Conv1D::new(width, inner, std),
                c_proj: Conv1D::new(inner, width, added),
                activation,
            },
            dropout: Dropout::new(config.resid_pdrop),
        };
        Ok(Gpt2 {
            transformer: Transformer {
                wte: table(config.vocab_size),
                wpe: table(config.n_positions),
                h: (0..layers).map(block).collect(),
                ln_f: norm(),
            },
            lm_head: (!config.tie_word_embeddings)
                .then(|| linear(width, config.vocab_size, std, false)),
            config: config.clone(),
        })
    }

    /// The vectors `[batch, time, width]` that tokens are predicted from.
    #[track_caller]
    fn hidden(&self, ids: &Tensor, pass: Causal<'_>) -> Tensor {
        let (net, config) = (&self.transformer, &self.config);
        fits("Gpt2", ids.dim(1), config.n_positions);
        let mut pass = pass.dropout(config.attn_pdrop);
        if !config.scale_attn_weights {
            pass = pass.scale(1.0);
        }
        let embedded = net.wte.forward(ids) + net.wpe.forward(pass.positions());
        let mut x = embedded.dropout(config.embd_pdrop);
        for (i, block) in net.h.iter().enumerate() {
            x = checkpoint_if(config.checkpoint, || block.forward(&x, &mut pass, i));
        }
        net.ln_f.forward(&x)
    }

    #[track_caller]
    fn head(&self, x: &Tensor) -> Tensor {
        scores(x, self.lm_head.as_ref(), &self.transformer.wte)
    }
}

impl Block {
    #[track_caller]
    fn forward(&self, x: &Tensor, pass: &mut Causal<'_>, layer: usize) -> Tensor {
        let a = self.attn.forward(&self.ln_1.forward(x), pass, layer);
        let x = x + self.dropout.forward(&a);
        let m = self.mlp.forward(&self.ln_2.forward(&x));
        x + self.dropout.forward(&m)
    }
}

impl Attention {
    #[track_caller]
    fn forward(&self, x: &Tensor, pass: &mut Causal<'_>, layer: usize) -> Tensor {
        let all = self.c_attn.forward(x);
        let width = x.dim(-1);
        let [mut q, k, v] =
            [0, 1, 2].map(|i| split_heads(&all.narrow(-1, i * width, width), self.heads));
        if let Some(temper) = self.temper {
            q = q * temper;
        }
        let y = pass.attend(layer, &q, &k, &v);
        self.c_proj.forward(&join_heads(&y))
    }
}

impl Layer for Mlp {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = self.activation.forward(&self.c_fc.forward(x));
        self.c_proj.forward(&hidden)
    }
}

impl Layer for Gpt2 {
    #[track_caller]
    fn forward(&self, ids: &Tensor) -> Tensor {
        self.forward_logits(ids, None)
    }
}

impl CausalLm for Gpt2 {
    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.n_positions
    }

    #[track_caller]
    fn forward_logits(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let pass = Causal::whole(ids.dim(1), mask);
        self.head(&self.hidden(ids, pass))
    }

    #[track_caller]
    fn init_cache(&self, batch: usize, length: usize) -> KvCache {
        let config = &self.config;
        fits("Gpt2", length, config.n_positions);
        let shape = [batch, config.n_head, length, config.n_embd / config.n_head];
        KvCache::new(config.n_layer, shape, self.transformer.wte.weight.dtype())
    }

    #[track_caller]
    fn decode_step(&self, ids: &Tensor, cache: &mut KvCache) -> Tensor {
        let x = self.hidden(ids, Causal::next(cache, ids.dim(1)));
        self.head(&x.select(1, -1))
    }
}

impl Pretrained for Gpt2 {
    type Config = Gpt2Config;
    const MODEL_TYPE: &'static str = "gpt2";
    const ARCHITECTURE: &'static str = "GPT2LMHeadModel";
    const BASE: &'static str = "transformer.";

    fn from_config(config: &Gpt2Config) -> Result<Self, ConfigError> {
        Gpt2::new(config)
    }

    fn config(&self) -> &Gpt2Config {
        &self.config
    }

    fn is_redundant(name: &str) -> bool {
        // Causal masks, and the head that is the embedding.
        name.ends_with(".attn.bias")
            || name.ends_with(".attn.masked_bias")
            || name == "lm_head.weight"
    }
}
