//! Architectures, one file each, built from a configuration that is plain data.
//!
//! A file reads like its paper: the configuration, the layers, the forward pass. Parameters have
//! the names that PyTorch would give to the same fields.
//!
//! Those that HuggingFace's `transformers` has too are configured by its `config.json` and have its
//! names; [`pretrained`] loads and saves its folders. What a loop that generates text needs of a
//! model is in [`causal`] and [`seq2seq`].

mod bert;
pub mod causal;
mod char_rnn;
mod cnn;
pub mod generate;
pub mod gguf;
mod gpt2;
mod lenet;
mod llama;
mod mlp;
mod parts;
pub mod pretrained;
mod resnet;
pub mod seq2seq;
mod t5;
mod transformer;
mod vit;

pub use bert::{
    Bert, BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification,
    BertInput, mean_of_tokens,
};
pub use causal::CausalLm;
pub use char_rnn::{CharRnn, CharRnnConfig, CharRnnState, RecurrentKind};
pub use cnn::{Cnn, CnnConfig};
pub use gpt2::{Gpt2, Gpt2Config};
pub use lenet::{LeNet, LeNetConfig};
pub use llama::{Llama, LlamaConfig, RopeParameters};
pub use mlp::{Mlp, MlpConfig};
pub use pretrained::Pretrained;
pub use resnet::{ResNet, ResNetConfig};
pub use seq2seq::Seq2SeqLm;
pub use t5::{T5, T5Config};
pub use transformer::{Transformer, TransformerConfig};
pub use vit::{Pooling, Vit, VitConfig};

use fornax_nn::{Activation, init};

/// A configuration that describes no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{model}: {reason}")]
pub struct ConfigError {
    /// The architecture.
    pub model: &'static str,
    /// What is wrong with the configuration.
    pub reason: String,
}

/// The most weights that a network may have: 512 GiB as `f32`. Beyond it a size was mistyped.
const MOST_WEIGHTS: usize = 1 << 37;

/// The most layers of a kind; beyond it a number was mistyped.
const MOST_LAYERS: usize = 10_000;

/// The checks that all configurations share.
struct Check(&'static str);

impl Check {
    fn that(&self, ok: bool, reason: impl FnOnce() -> String) -> Result<(), ConfigError> {
        match ok {
            true => Ok(()),
            false => Err(ConfigError {
                model: self.0,
                reason: reason(),
            }),
        }
    }

    fn sizes(&self, what: &str, sizes: &[usize]) -> Result<(), ConfigError> {
        self.that(!sizes.contains(&0), || {
            format!("{what} must be at least 1, not {sizes:?}")
        })
    }

    /// The numbers of layers of each kind.
    fn layers(&self, what: &str, counts: &[usize]) -> Result<(), ConfigError> {
        self.sizes(what, counts)?;
        self.that(counts.iter().all(|&count| count <= MOST_LAYERS), || {
            format!("{what} must be at most {MOST_LAYERS}, not {counts:?}")
        })
    }

    /// Whether the system would give memory for so many `f32`: without this check it would end the
    /// process.
    fn memory(&self, what: &str, count: usize) -> Result<(), ConfigError> {
        self.that(Vec::<f32>::new().try_reserve_exact(count).is_ok(), || {
            format!("{what} have {count} numbers, more than fit into memory")
        })
    }

    /// Takes `[inputs of an output, outputs]` of every layer.
    fn weights(&self, layers: impl IntoIterator<Item = [usize; 2]>) -> Result<(), ConfigError> {
        let total = layers
            .into_iter()
            .try_fold(0usize, |total, [inputs, outputs]| {
                total.checked_add(inputs.checked_add(1)?.checked_mul(outputs)?)
            });
        self.that(total.is_some_and(|total| total <= MOST_WEIGHTS), || {
            let found = total.map_or("far too many".into(), |total| total.to_string());
            format!("the layers have {found} weights, at most {MOST_WEIGHTS} are possible")
        })?;
        match init::is_without_values() {
            // A file holds them all, or is refused.
            true => Ok(()),
            false => self.memory("the layers", total.unwrap_or(0)),
        }
    }

    /// The activation that HuggingFace calls `name`.
    fn activation(&self, name: &str) -> Result<Activation, ConfigError> {
        Ok(match name {
            "relu" => Activation::Relu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => {
                Activation::GeluTanh
            }
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            _ => {
                return Err(ConfigError {
                    model: self.0,
                    reason: format!(
                        "the activation \"{name}\" is unknown; there are relu, gelu, gelu_new, \
                         gelu_pytorch_tanh, silu and tanh"
                    ),
                });
            }
        })
    }

    fn heads(&self, heads: usize, width: usize) -> Result<(), ConfigError> {
        self.that(heads > 0 && width.is_multiple_of(heads), || {
            format!("{heads} heads do not divide a width of {width}")
        })
    }

    fn dropout(&self, p: f64) -> Result<(), ConfigError> {
        self.that((0.0..1.0).contains(&p), || {
            format!("dropout must be at least 0 and less than 1, not {p}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_models_may_be_loaded_and_absurd_ones_are_errors() {
        // LLaMA 3.1 of 70 billion parameters.
        let large = LlamaConfig {
            vocab_size: 128256,
            hidden_size: 8192,
            intermediate_size: 28672,
            num_hidden_layers: 80,
            num_attention_heads: 64,
            num_key_value_heads: Some(8),
            ..LlamaConfig::default()
        };
        let loadable = |config: &LlamaConfig| init::without_values(|| Llama::new(config)).map(drop);
        assert_eq!(loadable(&large), Ok(()));
        assert_eq!(loadable(&LlamaConfig::default()), Ok(()));

        let narrow = LlamaConfig {
            vocab_size: 1,
            hidden_size: 1,
            intermediate_size: 1,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            head_dim: Some(2),
            ..LlamaConfig::default()
        };
        let absurd = [
            LlamaConfig {
                num_hidden_layers: 1 << 33,
                ..narrow.clone()
            },
            LlamaConfig {
                head_dim: Some(1 << 37),
                ..narrow.clone()
            },
            LlamaConfig {
                vocab_size: usize::MAX,
                ..narrow.clone()
            },
            LlamaConfig {
                hidden_size: 1 << 21,
                ..large.clone()
            },
        ];
        for config in &absurd {
            let error = loadable(config).expect_err("too large").to_string();
            assert!(error.starts_with("llama: "), "{error}");
        }
        // More than any system gives.
        let error = Check("llama").memory("the layers", usize::MAX / 4);
        let error = error.expect_err("too large").to_string();
        assert!(error.contains("more than fit into memory"), "{error}");
    }
}
