//! The multilayer perceptron.

use crate::{Check, ConfigError};
use fornax_nn::{Activation, BatchNorm1d, Dropout, Layer, Linear, Module};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The shape of an [`Mlp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Features of one sample, all its axes multiplied.
    pub inputs: usize,
    /// Neurons of each hidden layer.
    #[serde(default)]
    pub hidden: Vec<usize>,
    /// Outputs: classes or values.
    pub outputs: usize,
    /// What follows each hidden layer; ReLU by default.
    #[serde(default)]
    pub activation: Activation,
    /// Whether hidden layers are batch-normalised before their activation; no by default.
    #[serde(default)]
    pub batch_norm: bool,
    /// The share of hidden neurons dropped while training; 0 by default.
    #[serde(default)]
    pub dropout: f64,
}

impl MlpConfig {
    /// Plain ReLU layers of these sizes.
    pub fn new(inputs: usize, hidden: impl Into<Vec<usize>>, outputs: usize) -> Self {
        MlpConfig {
            inputs,
            hidden: hidden.into(),
            outputs,
            activation: Activation::Relu,
            batch_norm: false,
            dropout: 0.0,
        }
    }
}

/// Fully connected layers with a nonlinearity between them (Rumelhart et al. 1986).
///
/// Input `[batch, ..]`, flattened to `[batch, inputs]`; output `[batch, outputs]`.
///
/// ```
/// use fornax_models::{Mlp, MlpConfig};
/// use fornax_nn::{Layer, Module};
/// use fornax_tensor::{DType, Tensor};
/// let mlp = Mlp::new(&MlpConfig::new(784, [256, 128], 10))?;
/// assert_eq!(mlp.forward(&Tensor::zeros([2, 1, 28, 28], DType::F32)).shape(), [2, 10]);
/// assert_eq!(mlp.num_parameters(), 235_146);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct Mlp {
    hidden: Vec<Hidden>,
    output: Linear,
}

/// Linear, normalise, activate, drop.
#[derive(Module)]
struct Hidden {
    linear: Linear,
    norm: Option<BatchNorm1d>,
    activation: Activation,
    dropout: Option<Dropout>,
}

impl Mlp {
    /// The network of this configuration, with PyTorch's default weights.
    ///
    /// # Errors
    /// If a size is 0, the weights are too many, or the dropout is no share.
    pub fn new(config: &MlpConfig) -> Result<Self, ConfigError> {
        let check = Check("mlp");
        check.sizes("inputs and outputs", &[config.inputs, config.outputs])?;
        check.sizes("hidden layers", &config.hidden)?;
        check.dropout(config.dropout)?;
        let sizes = [&[config.inputs], &config.hidden[..], &[config.outputs]].concat();
        check.weights(sizes.windows(2).map(|pair| [pair[0], pair[1]]))?;
        let mut size = config.inputs;
        let mut hidden = Vec::with_capacity(config.hidden.len());
        for &neurons in &config.hidden {
            hidden.push(Hidden {
                // The normalisation has a bias of its own.
                linear: Linear::new(size, neurons).bias(!config.batch_norm),
                norm: config.batch_norm.then(|| BatchNorm1d::new(neurons)),
                activation: config.activation,
                dropout: (config.dropout > 0.0).then(|| Dropout::new(config.dropout)),
            });
            size = neurons;
        }
        Ok(Mlp {
            hidden,
            output: Linear::new(size, config.outputs),
        })
    }
}

impl Layer for Mlp {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = x.flatten(1, -1);
        for layer in &self.hidden {
            h = layer.norm.forward(&layer.linear.forward(&h));
            h = layer.dropout.forward(&layer.activation.forward(&h));
        }
        self.output.forward(&h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{DType, value_and_grad};

    #[test]
    fn everything_on_gets_gradients() {
        let config = MlpConfig {
            activation: Activation::GeluTanh,
            batch_norm: true,
            dropout: 0.5,
            ..MlpConfig::new(6, [5, 4], 3)
        };
        let mlp = Mlp::new(&config).unwrap();
        let names: Vec<String> = mlp.named_parameters().into_iter().map(|p| p.0).collect();
        assert_eq!(
            names[..4],
            [
                "hidden.0.linear.weight",
                "hidden.0.norm.weight",
                "hidden.0.norm.bias",
                "hidden.1.linear.weight"
            ]
        );
        let x = Tensor::randn([7, 2, 3], DType::F32);
        let (loss, grads) = value_and_grad(&mlp, |m| m.forward(&x).square().mean(..));
        assert!(loss.item().is_finite());
        assert_eq!(grads.len(), names.len());
    }

    #[test]
    fn no_hidden_layer_is_a_linear_model() {
        let mlp = Mlp::new(&MlpConfig::new(4, [], 3)).unwrap();
        assert_eq!(mlp.num_parameters(), 15);
        assert_eq!(
            mlp.forward(&Tensor::ones([0, 4], DType::F32)).shape(),
            [0, 3]
        );
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let message = Mlp::new(&MlpConfig::new(4, [3, 0], 2))
            .err()
            .unwrap()
            .to_string();
        assert_eq!(message, "mlp: hidden layers must be at least 1, not [3, 0]");
        let config = MlpConfig {
            dropout: 1.0,
            ..MlpConfig::new(4, [3], 2)
        };
        assert!(Mlp::new(&config).is_err());
        for neurons in [1 << 24, usize::MAX] {
            let config = MlpConfig::new(4, [neurons, neurons], 2);
            let message = Mlp::new(&config).err().unwrap().to_string();
            assert!(message.contains("at most 137438953472"), "{message}");
        }
    }
}
