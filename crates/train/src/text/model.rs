//! From `[model]` of a recipe to a network that works on text.

use fornax_data::Batch;
use fornax_data::text::Tokenizer;
use fornax_models::{
    BertConfig, BertForMaskedLM, ConfigError, Gpt2, Gpt2Config, Seq2SeqLm, T5, T5Config,
    Transformer, TransformerConfig,
};
use fornax_nn::{Layer, Module, Summary};
use fornax_tensor::module::{Entry, EntryMut, Path};
use fornax_tensor::{DType, Tensor, manual_seed};

use super::Marks;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::trainer::{Language, Outcome, Seq2Seq, Task};

/// A network that works on text.
pub enum TextModel {
    /// Says at each place of a text which token comes next, and so goes on with texts.
    Causal(Box<Gpt2>),
    /// Guesses hidden words.
    Masked(Box<BertForMaskedLM>),
    /// Writes one text about another.
    Seq2Seq(Box<dyn Seq2SeqLm>),
}

impl TextModel {
    /// The network of a recipe for text in the tokens of `tokenizer`, its starting weights a
    /// function of the recipe's seed.
    ///
    /// # Errors
    /// If the sizes describe no network, or the tokenizer lacks a token that it needs.
    pub fn new(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<Self> {
        manual_seed(recipe.seed);
        let wrong = |error: ConfigError| Error::Recipe(format!("[model] {error}"));
        let model = &recipe.model;
        let vocab = tokenizer.vocab_size();
        let context = recipe.data.context.unwrap_or(64);
        let (layers, heads) = (model.layers.unwrap_or(4), model.heads.unwrap_or(4));
        let (width, dropout) = (model.width.unwrap_or(128), model.dropout.unwrap_or(0.0));
        let checkpoint = model.checkpoint.unwrap_or(false);
        Ok(match model.name.as_str() {
            "bert" => {
                let config = BertConfig {
                    vocab_size: vocab,
                    max_position_embeddings: context,
                    hidden_size: width,
                    num_hidden_layers: layers,
                    num_attention_heads: heads,
                    intermediate_size: 4 * width,
                    hidden_dropout_prob: dropout,
                    attention_probs_dropout_prob: dropout,
                    checkpoint,
                    ..BertConfig::default()
                };
                Self::Masked(Box::new(BertForMaskedLM::new(&config).map_err(wrong)?))
            }
            "t5" => {
                let config = T5Config {
                    vocab_size: vocab,
                    d_model: width,
                    d_kv: width.div_ceil(heads),
                    d_ff: 4 * width,
                    num_layers: layers,
                    num_heads: heads,
                    dropout_rate: dropout,
                    pad_token_id: Marks::of(tokenizer)?.padding as usize,
                    checkpoint,
                    ..T5Config::default()
                };
                Self::Seq2Seq(Box::new(T5::new(&config).map_err(wrong)?))
            }
            "transformer" => {
                let config = TransformerConfig {
                    source_vocab: vocab,
                    target_vocab: vocab,
                    d_model: width,
                    nhead: heads,
                    num_encoder_layers: layers,
                    num_decoder_layers: layers,
                    dim_feedforward: 4 * width,
                    dropout,
                    // Learns at rates that the paper's order of things does not bear.
                    norm_first: true,
                    // Translations may be longer than what was learnt from.
                    max_length: 4 * context,
                    start_token_id: Marks::of(tokenizer)?.start as usize,
                    checkpoint,
                    ..TransformerConfig::default()
                };
                Self::Seq2Seq(Box::new(Transformer::new(&config).map_err(wrong)?))
            }
            _ => {
                let config = Gpt2Config {
                    vocab_size: vocab,
                    n_positions: context,
                    n_embd: width,
                    n_layer: layers,
                    n_head: heads,
                    resid_pdrop: dropout,
                    embd_pdrop: dropout,
                    attn_pdrop: dropout,
                    checkpoint,
                    ..Gpt2Config::default()
                };
                Self::Causal(Box::new(Gpt2::new(&config).map_err(wrong)?))
            }
        })
    }

    /// Whether it writes texts.
    pub fn writes(&self) -> bool {
        !matches!(self, Self::Masked(_))
    }

    /// Its layers, on a text of `context` tokens.
    pub(crate) fn summary(&self, name: &str, context: usize) -> Summary {
        let ids = Tensor::zeros([1, context], DType::I64);
        Summary {
            model: name.to_owned(),
            ..fornax_nn::summary_of(self, |model| match model {
                Self::Causal(model) => model.forward(&ids),
                Self::Masked(model) => model.forward(&ids),
                Self::Seq2Seq(model) => model.forward_logits(&ids, None, &ids),
            })
        }
    }

    pub(crate) fn task(&self, recipe: &Recipe, tokenizer: &Tokenizer) -> Result<TextTask> {
        let label_smoothing = recipe.regularization.label_smoothing;
        Ok(match self {
            Self::Causal(_) | Self::Masked(_) => TextTask::Language(Language { label_smoothing }),
            Self::Seq2Seq(_) => TextTask::Seq2Seq(Seq2Seq {
                padding: Marks::of(tokenizer)?.padding.into(),
                label_smoothing,
            }),
        })
    }
}

impl Module for TextModel {
    fn visit(&self, path: &mut Path, f: &mut dyn FnMut(Entry<'_>)) {
        match self {
            Self::Causal(model) => model.visit(path, f),
            Self::Masked(model) => model.visit(path, f),
            Self::Seq2Seq(model) => model.visit(path, f),
        }
    }

    fn visit_mut(&mut self, path: &mut Path, f: &mut dyn FnMut(&str, EntryMut<'_>)) {
        match self {
            Self::Causal(model) => model.visit_mut(path, f),
            Self::Masked(model) => model.visit_mut(path, f),
            Self::Seq2Seq(model) => model.visit_mut(path, f),
        }
    }
}

/// What a [`TextModel`] learns.
pub(crate) enum TextTask {
    Language(Language),
    Seq2Seq(Seq2Seq),
}

impl Task<TextModel> for TextTask {
    fn outcome(&self, model: &TextModel, batch: &Batch) -> Outcome {
        match (self, model) {
            (Self::Language(task), TextModel::Causal(model)) => task.outcome(&**model, batch),
            (Self::Language(task), TextModel::Masked(model)) => task.outcome(&**model, batch),
            (Self::Seq2Seq(task), TextModel::Seq2Seq(model)) => task.outcome(model, batch),
            _ => unreachable!("a task is made by the model that it is for"),
        }
    }
}
