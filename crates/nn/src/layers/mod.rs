//! The layers: one file per family.

mod activation;
mod attention;
mod causal;
mod conv;
mod dropout;
mod embedding;
mod linear;
mod norm;
mod pool;
mod position;
mod recurrent;
mod reshape;
mod rms_norm;
mod transformer;

pub use activation::{
    Activation, ELU, GELU, Hardsigmoid, Hardswish, LeakyReLU, LogSoftmax, Mish, ReLU, ReLU6, SELU,
    SiLU, Sigmoid, Softmax, Softplus, Softsign, Tanh,
};
pub use attention::{MultiheadAttention, join_heads, split_heads};
pub use causal::{Causal, KvCache};
pub use conv::{Conv1d, Conv2d, ConvTranspose2d};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::{BatchNorm1d, BatchNorm2d, LayerNorm};
pub use pool::{AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d};
pub use position::{RelativeBuckets, Rotary, Turns, alibi_bias, sinusoidal_positions};
pub use recurrent::{GRU, GRUCell, LSTM, LSTMCell, RNN, RNNCell, RecurrentActivation};
pub use reshape::{Flatten, Identity};
pub use rms_norm::RMSNorm;
pub use transformer::{
    GatedFeedForward, TransformerDecoderLayer, TransformerEncoderLayer, TransformerLayerOptions,
};
