//! A recurrent language model over characters.

use crate::{Check, ConfigError};
use fornax_nn::{Dropout, Embedding, GRU, LSTM, Layer, Linear, Module, RNN};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What a [`CharRnn`] remembers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecurrentKind {
    /// Plain `tanh` units.
    Rnn,
    /// Long short-term memory.
    #[default]
    Lstm,
    /// Gated recurrent units.
    Gru,
}

/// The sizes and options of a [`CharRnn`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CharRnnConfig {
    /// The recurrent layers' kind.
    pub kind: RecurrentKind,
    /// How many characters there are.
    pub vocabulary: usize,
    /// The size of a character's vector.
    pub embedding: usize,
    /// Units of a recurrent layer.
    pub hidden: usize,
    /// Recurrent layers.
    pub layers: usize,
    /// The share of the recurrent layers' outputs dropped while training.
    pub dropout: f64,
}

/// Two LSTM layers of 256 over 65 characters, no dropout.
impl Default for CharRnnConfig {
    fn default() -> Self {
        CharRnnConfig {
            kind: RecurrentKind::Lstm,
            vocabulary: 65,
            embedding: 256,
            hidden: 256,
            layers: 2,
            dropout: 0.0,
        }
    }
}

#[derive(Module)]
enum Layers {
    Rnn(RNN),
    Lstm(LSTM),
    Gru(GRU),
}

/// Where a text was left: the recurrent layers' states `[layers, batch, hidden]`.
#[derive(Clone, Debug)]
pub struct CharRnnState {
    h: Tensor,
    /// An LSTM's cells.
    c: Option<Tensor>,
}

/// A language model over characters after Graves (2013, "Generating sequences with recurrent
/// neural networks") and Karpathy's char-rnn: embedding, recurrent layers, and at every step a
/// linear layer to the logits of the next character.
///
/// Input: characters `[batch, time]` below the vocabulary's size, output logits
/// `[batch, time, vocabulary]`.
///
/// ```
/// use fornax_models::{CharRnn, CharRnnConfig};
/// use fornax_nn::{Layer, Module};
/// use fornax_tensor::{DType, Tensor};
/// let net = CharRnn::new(&CharRnnConfig::default())?;
/// let text = Tensor::randint(0, 65, [2, 10]);
/// assert_eq!(net.forward(&text).shape(), [2, 10, 65]);
/// // One character at a time:
/// let (_, state) = net.run(&text, None);
/// let (logits, _state) = net.run(&text.narrow(1, 9, 1), Some(&state));
/// assert_eq!(logits.shape(), [2, 1, 65]);
/// assert_eq!(net.num_parameters(), 1_086_017);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct CharRnn {
    embedding: Embedding,
    rnn: Layers,
    dropout: Option<Dropout>,
    head: Linear,
}

impl CharRnn {
    /// The network of this configuration, with PyTorch's default weights.
    ///
    /// # Errors
    /// If a size is 0, the weights are too many, or the dropout is no share.
    pub fn new(config: &CharRnnConfig) -> Result<Self, ConfigError> {
        let &CharRnnConfig {
            kind,
            vocabulary,
            embedding,
            hidden,
            layers,
            dropout: p,
        } = config;
        let check = Check("char_rnn");
        let sizes = [vocabulary, embedding, hidden, layers];
        check.sizes("vocabulary, embedding, hidden and layers", &sizes)?;
        check.layers("layers", &[layers])?;
        check.dropout(p)?;
        let gates = hidden.saturating_mul(4);
        check.weights([
            [embedding, vocabulary],
            [embedding.saturating_add(hidden), gates],
            [hidden.saturating_mul(2), gates.saturating_mul(layers - 1)],
            [hidden, vocabulary],
        ])?;
        let rnn = match kind {
            RecurrentKind::Rnn => {
                Layers::Rnn(RNN::new(embedding, hidden).num_layers(layers).dropout(p))
            }
            RecurrentKind::Lstm => {
                Layers::Lstm(LSTM::new(embedding, hidden).num_layers(layers).dropout(p))
            }
            RecurrentKind::Gru => {
                Layers::Gru(GRU::new(embedding, hidden).num_layers(layers).dropout(p))
            }
        };
        Ok(CharRnn {
            embedding: Embedding::new(vocabulary, embedding),
            rnn,
            dropout: (p > 0.0).then(|| Dropout::new(p)),
            head: Linear::new(hidden, vocabulary),
        })
    }

    /// Logits, and the state behind the last character; `state` is where the text was left.
    ///
    /// # Panics
    /// If shapes do not fit, or the state is one of another kind of network.
    #[track_caller]
    pub fn run(&self, text: &Tensor, state: Option<&CharRnnState>) -> (Tensor, CharRnnState) {
        // Time first, as the recurrent layers have it.
        let x = self.embedding.forward(&text.t());
        let (y, state) = match &self.rnn {
            Layers::Rnn(rnn) => {
                let (y, h) = rnn.run(&x, state.map(|s| &s.h), None);
                (y, CharRnnState { h, c: None })
            }
            Layers::Gru(rnn) => {
                let (y, h) = rnn.run(&x, state.map(|s| &s.h), None);
                (y, CharRnnState { h, c: None })
            }
            Layers::Lstm(rnn) => {
                let state = state.map(|s| (&s.h, s.c.as_ref().expect("the state of an LSTM")));
                let (y, (h, c)) = rnn.run(&x, state, None);
                (y, CharRnnState { h, c: Some(c) })
            }
        };
        let logits = self.head.forward(&self.dropout.forward(&y));
        (logits.transpose(0, 1), state)
    }
}

impl Layer for CharRnn {
    #[track_caller]
    fn forward(&self, text: &Tensor) -> Tensor {
        self.run(text, None).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_nn::{AdamW, CrossEntropyLoss, Loss, Optimizer};
    use fornax_tensor::{manual_seed, value_and_grad};

    #[test]
    fn every_kind_learns_a_text() {
        for kind in [RecurrentKind::Rnn, RecurrentKind::Lstm, RecurrentKind::Gru] {
            manual_seed(1);
            let config = CharRnnConfig {
                kind,
                vocabulary: 5,
                embedding: 8,
                hidden: 12,
                dropout: 0.1,
                ..CharRnnConfig::default()
            };
            let mut net = CharRnn::new(&config).unwrap();
            let text = Tensor::randint(0, 5, [3, 9]);
            let (x, y) = (text.narrow(1, 0, 8), text.narrow(1, 1, 8).reshape([24]));
            let mut optimizer = AdamW::new(1e-2);
            let mut losses = Vec::new();
            for _ in 0..60 {
                let (loss, grads) = value_and_grad(&net, |net| {
                    let logits = net.forward(&x).reshape([24, 5]);
                    CrossEntropyLoss::default().forward(&logits, &y)
                });
                optimizer.step(&mut net, grads).unwrap();
                losses.push(loss.item());
            }
            assert!(losses[59] < 0.7 * losses[0], "{kind:?}: {losses:?}");
            let names = net.named_parameters();
            assert_eq!(names[1].0, "rnn.weight_ih_l0");
        }
    }

    #[test]
    fn one_character_at_a_time() {
        manual_seed(2);
        let net = CharRnn::new(&CharRnnConfig::default()).unwrap();
        let text = Tensor::randint(0, 65, [2, 4]);
        let whole = net.forward(&text).to_vec::<f32>();
        let mut state = None;
        let mut parts = Vec::new();
        for i in 0..4 {
            let (logits, next) = net.run(&text.narrow(1, i, 1), state.as_ref());
            parts.push(logits);
            state = Some(next);
        }
        let parts = Tensor::cat(&parts, 1).to_vec::<f32>();
        assert!(whole.iter().zip(&parts).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn a_size_of_zero_is_an_error() {
        let config = CharRnnConfig {
            layers: 0,
            ..CharRnnConfig::default()
        };
        let message = CharRnn::new(&config).err().unwrap().to_string();
        assert!(message.contains("must be at least 1"), "{message}");
    }
}
