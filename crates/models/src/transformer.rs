//! The Transformer of 2017: an encoder and a decoder, for translation.

use crate::parts::{checkpoint_if, fits, for_all_queries, scores, table};
use crate::seq2seq::{Memory, Seq2SeqCache, Seq2SeqLm};
use crate::{Check, ConfigError, Pretrained};
use fornax_nn::{
    Activation, Causal, Embedding, KvCache, Layer, LayerNorm, Linear, Module,
    TransformerDecoderLayer, TransformerEncoderLayer, TransformerLayerOptions, init,
    sinusoidal_positions,
};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The sizes and options of a [`Transformer`], named as those of `torch.nn.Transformer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformerConfig {
    /// Different tokens of the text that is read.
    pub source_vocab: usize,
    /// Different tokens of the text that is written.
    pub target_vocab: usize,
    /// Width.
    pub d_model: usize,
    /// Heads of each attention.
    pub nhead: usize,
    /// The encoder's layers.
    pub num_encoder_layers: usize,
    /// The decoder's layers.
    pub num_decoder_layers: usize,
    /// Width of the hidden layer of each feed-forward network.
    pub dim_feedforward: usize,
    /// The share dropped, while training.
    pub dropout: f64,
    /// What follows the hidden layers.
    pub activation: Activation,
    /// Whether parts normalise what they read, and each stack what comes out, in place of the
    /// paper's normalisation after each part.
    pub norm_first: bool,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// The longest text, on either side.
    pub max_length: usize,
    /// Whether both texts have one vocabulary and one table of embeddings.
    pub shared_vocabulary: bool,
    /// Whether the embedding of the tokens that are written also predicts them.
    pub tie_word_embeddings: bool,
    /// Stands before the first token that is written.
    pub start_token_id: usize,
    /// Whether layers are computed twice in training, to keep less in memory (gradient
    /// checkpointing).
    #[serde(skip)]
    pub checkpoint: bool,
}

/// The paper's base model, for 37,000 shared tokens.
impl Default for TransformerConfig {
    fn default() -> Self {
        TransformerConfig {
            source_vocab: 37000,
            target_vocab: 37000,
            d_model: 512,
            nhead: 8,
            num_encoder_layers: 6,
            num_decoder_layers: 6,
            dim_feedforward: 2048,
            dropout: 0.1,
            activation: Activation::Relu,
            norm_first: false,
            layer_norm_eps: 1e-5,
            max_length: 512,
            shared_vocabulary: true,
            tie_word_embeddings: true,
            start_token_id: 1,
            checkpoint: false,
        }
    }
}

/// The Transformer (Vaswani et al. 2017, "Attention Is All You Need"): an encoder whose tokens see
/// one another, and a decoder whose tokens see those before them and the encoder's.
///
/// Its layers are those of `torch.nn.Transformer`; its use is that of [`Seq2SeqLm`].
///
/// ```
/// use fornax_models::seq2seq::smoothed_loss;
/// use fornax_models::{Seq2SeqLm, Transformer, TransformerConfig};
/// use fornax_tensor::Tensor;
/// let config = TransformerConfig {
///     source_vocab: 40, target_vocab: 40, d_model: 16, nhead: 2, num_encoder_layers: 1,
///     num_decoder_layers: 1, dim_feedforward: 32, ..TransformerConfig::default()
/// };
/// let model = Transformer::new(&config)?;
/// let (read, written) = (Tensor::randint(2, 40, [2, 7]), Tensor::randint(2, 40, [2, 5]));
/// let logits = model.forward_logits(&read, None, &model.shift_right(&written, 0));
/// let loss = smoothed_loss(&logits, &written, 0.1);
/// assert_eq!((logits.shape(), loss.shape()), (&[2, 5, 40][..], &[][..]));
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct Transformer {
    /// None where the target's table serves both.
    source_embedding: Option<Embedding>,
    target_embedding: Embedding,
    encoder: Encoder,
    decoder: Decoder,
    /// None where the embedding predicts.
    generator: Option<Linear>,
    /// `[max_length, d_model]`.
    #[module(skip)]
    positions: Tensor,
    #[module(skip)]
    config: TransformerConfig,
}

#[derive(Module)]
struct Encoder {
    layers: Vec<TransformerEncoderLayer>,
    norm: Option<LayerNorm>,
}

#[derive(Module)]
struct Decoder {
    layers: Vec<TransformerDecoderLayer>,
    norm: Option<LayerNorm>,
}

impl Transformer {
    /// The network of this configuration. Matrices start as Glorot & Bengio have them (2010).
    ///
    /// # Errors
    /// If a size is 0, heads do not divide the width, the weights are too many, the dropout is no
    /// share, or vocabularies that are shared differ.
    pub fn new(config: &TransformerConfig) -> Result<Self, ConfigError> {
        let check = Check("transformer");
        let (width, hidden) = (config.d_model, config.dim_feedforward);
        let (encoders, decoders) = (config.num_encoder_layers, config.num_decoder_layers);
        let (source, target) = (config.source_vocab, config.target_vocab);
        check.sizes(
            "vocabularies and max_length",
            &[source, target, config.max_length],
        )?;
        check.sizes("d_model and dim_feedforward", &[width, hidden])?;
        check.layers("layers", &[encoders, decoders])?;
        check.heads(config.nhead, width)?;
        check.dropout(config.dropout)?;
        check.that(!config.shared_vocabulary || source == target, || {
            format!("a shared vocabulary has one size, not {source} and {target}")
        })?;
        check.that(config.start_token_id < target, || {
            "start_token_id lies outside the target's vocabulary".to_owned()
        })?;
        let sum = |a: usize, b: usize| {
            a.saturating_mul(encoders)
                .saturating_add(b.saturating_mul(decoders))
        };
        check.weights([
            [width, target.saturating_mul(2).saturating_add(source)],
            [width, width.saturating_mul(sum(4, 8))],
            [width, hidden.saturating_mul(sum(2, 2))],
            [width, config.max_length],
        ])?;
        check.memory("positions", config.max_length.saturating_mul(width))?;

        let options = TransformerLayerOptions {
            dim_feedforward: hidden,
            dropout: config.dropout,
            activation: config.activation,
            norm_first: config.norm_first,
            layer_norm_eps: config.layer_norm_eps,
        };
        // The last layer's sum has had no normalisation yet where that comes first.
        let norm = || {
            let norm = LayerNorm::new(width).eps(config.layer_norm_eps);
            config.norm_first.then_some(norm)
        };
        let encoder = || TransformerEncoderLayer::new(width, config.nhead, options.clone());
        let decoder = || TransformerDecoderLayer::new(width, config.nhead, options.clone());
        let mut stacks = (
            Encoder {
                layers: (0..encoders).map(|_| encoder()).collect(),
                norm: norm(),
            },
            Decoder {
                layers: (0..decoders).map(|_| decoder()).collect(),
                norm: norm(),
            },
        );
        init::apply(&mut stacks, |_, p| match p.rank() {
            2 => Some(init::xavier_uniform(p.shape(), 1.0)),
            _ => None,
        });
        let std = 1.0 / (width as f64).sqrt();
        Ok(Transformer {
            source_embedding: (!config.shared_vocabulary).then(|| table(source, width, std)),
            target_embedding: table(target, width, std),
            encoder: stacks.0,
            decoder: stacks.1,
            generator: (!config.tie_word_embeddings).then(|| Linear::new(width, target)),
            positions: sinusoidal_positions(config.max_length, width),
            config: config.clone(),
        })
    }

    /// Tokens `[batch, time]` and their positions `[batch, time]` (or `[1, time]`) as vectors.
    #[track_caller]
    fn embedded(&self, table: &Embedding, ids: &Tensor, positions: &Tensor) -> Tensor {
        let tokens = table.forward(ids) * (self.config.d_model as f64).sqrt();
        let positions = positions.to_dtype(tokens.dtype());
        (tokens + positions).dropout(self.config.dropout)
    }

    #[track_caller]
    fn fits(&self, time: usize) {
        fits("Transformer", time, self.config.max_length);
    }

    /// The decoder's vectors `[batch, time, width]`.
    #[track_caller]
    fn decoded(&self, ids: &Tensor, memory: &Memory, pass: Causal<'_>) -> Tensor {
        let mut pass = pass.dropout(self.config.dropout);
        let positions = self.positions.embedding(pass.positions());
        let mut x = self.embedded(&self.target_embedding, ids, &positions);
        let mask = memory.mask.as_ref();
        for (i, (layer, see)) in self.decoder.layers.iter().zip(&memory.layers).enumerate() {
            x = checkpoint_if(self.config.checkpoint, || {
                layer.forward(&x, &mut pass, i, see, mask)
            });
        }
        self.decoder.norm.forward(&x)
    }

    #[track_caller]
    fn head(&self, x: &Tensor) -> Tensor {
        scores(x, self.generator.as_ref(), &self.target_embedding)
    }
}

impl Seq2SeqLm for Transformer {
    fn vocab(&self) -> usize {
        self.config.target_vocab
    }

    fn longest(&self) -> usize {
        self.config.max_length
    }

    fn start_token(&self) -> i64 {
        self.config.start_token_id as i64
    }

    #[track_caller]
    fn encode(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        self.fits(ids.dim(1));
        let table = self
            .source_embedding
            .as_ref()
            .unwrap_or(&self.target_embedding);
        let positions = self.positions.narrow(0, 0, ids.dim(1));
        let mut x = self.embedded(table, ids, &positions);
        let mask = mask.map(for_all_queries);
        for layer in &self.encoder.layers {
            x = checkpoint_if(self.config.checkpoint, || layer.forward(&x, mask.as_ref()));
        }
        self.encoder.norm.forward(&x)
    }

    #[track_caller]
    fn memory(&self, states: &Tensor, mask: Option<&Tensor>) -> Memory {
        let layers = &self.decoder.layers;
        Memory {
            layers: layers
                .iter()
                .map(|layer| layer.keys_values(states))
                .collect(),
            mask: mask.map(for_all_queries),
        }
    }

    #[track_caller]
    fn decode(&self, ids: &Tensor, memory: &Memory) -> Tensor {
        self.fits(ids.dim(1));
        self.head(&self.decoded(ids, memory, Causal::whole(ids.dim(1), None)))
    }

    #[track_caller]
    fn init_cache(&self, states: &Tensor, mask: Option<&Tensor>, length: usize) -> Seq2SeqCache {
        self.fits(length);
        let config = &self.config;
        let shape = [
            states.dim(0),
            config.nhead,
            length,
            config.d_model / config.nhead,
        ];
        let dtype = self.target_embedding.weight.dtype();
        let own = KvCache::new(config.num_decoder_layers, shape, dtype);
        Seq2SeqCache::new(own, self.memory(states, mask))
    }

    #[track_caller]
    fn decode_step(&self, ids: &Tensor, cache: &mut Seq2SeqCache) -> Tensor {
        let pass = Causal::next(&mut cache.own, ids.dim(1));
        let x = self.decoded(ids, &cache.memory, pass);
        self.head(&x.select(1, -1))
    }
}

/// Not an architecture of `transformers`: its folders are this crate's own.
impl Pretrained for Transformer {
    type Config = TransformerConfig;
    const MODEL_TYPE: &'static str = "transformer";
    const ARCHITECTURE: &'static str = "Transformer";

    fn from_config(config: &TransformerConfig) -> Result<Self, ConfigError> {
        Transformer::new(config)
    }

    fn config(&self) -> &TransformerConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seq2seq::smoothed_loss;
    use fornax_tensor::value_and_grad;

    #[test]
    fn the_base_model_has_the_papers_size() {
        // 65 million, by table 3 of the paper.
        let config = TransformerConfig {
            num_encoder_layers: 1,
            num_decoder_layers: 1,
            ..TransformerConfig::default()
        };
        let count = Transformer::new(&config).unwrap().num_parameters();
        let table = 37000 * 512;
        let whole = table + 6 * (count - table);
        assert!((60_000_000..66_000_000).contains(&whole), "{whole}");
    }

    #[test]
    fn every_option_trains() {
        let config = TransformerConfig {
            source_vocab: 20,
            target_vocab: 30,
            d_model: 8,
            nhead: 2,
            num_encoder_layers: 2,
            num_decoder_layers: 2,
            dim_feedforward: 16,
            shared_vocabulary: false,
            tie_word_embeddings: false,
            norm_first: true,
            checkpoint: true,
            ..TransformerConfig::default()
        };
        let model = Transformer::new(&config).unwrap();
        let (read, labels) = (
            Tensor::randint(0, 20, [2, 5]),
            Tensor::randint(0, 30, [2, 4]),
        );
        let written = model.shift_right(&labels, 0);
        let (loss, grads) = value_and_grad(&model, |m| {
            let logits = m.forward_logits(&read, None, &written);
            smoothed_loss(&logits, &labels, 0.1)
        });
        assert!(loss.item().is_finite());
        assert_eq!(grads.len(), model.named_parameters().len());
    }

    #[test]
    fn shared_vocabularies_have_one_size() {
        let config = TransformerConfig {
            target_vocab: 5,
            ..TransformerConfig::default()
        };
        let message = Transformer::new(&config).err().unwrap().to_string();
        assert!(message.contains("one size, not 37000 and 5"), "{message}");
    }
}
