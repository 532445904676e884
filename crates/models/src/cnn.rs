//! A convolutional network of stacked 3x3 blocks.

use crate::{Check, ConfigError};
use fornax_nn::{Activation, BatchNorm2d, Conv2d, Dropout, Layer, Linear, MaxPool2d, Module};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The input and shape of a [`Cnn`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CnnConfig {
    /// Colours of the image.
    pub inputs: usize,
    /// Its height in pixels.
    pub height: usize,
    /// Its width in pixels.
    pub width: usize,
    /// Outputs.
    pub classes: usize,
    /// Channels of each block; a block halves the image.
    pub channels: Vec<usize>,
    /// 3x3 convolutions in each block.
    pub convolutions: usize,
    /// Neurons of each hidden dense layer after the blocks.
    pub dense: Vec<usize>,
    /// What follows each hidden layer.
    pub activation: Activation,
    /// Whether convolutions are batch-normalised before their activation.
    pub batch_norm: bool,
    /// The share of neurons dropped before each dense layer while training.
    pub dropout: f64,
}

/// Grey 28x28 images of 10 classes; blocks of 32 and 64 channels with two convolutions each, one
/// dense layer of 128, ReLU, batch normalisation, no dropout.
impl Default for CnnConfig {
    fn default() -> Self {
        CnnConfig {
            inputs: 1,
            height: 28,
            width: 28,
            classes: 10,
            channels: vec![32, 64],
            convolutions: 2,
            dense: vec![128],
            activation: Activation::Relu,
            batch_norm: true,
            dropout: 0.0,
        }
    }
}

/// Blocks of 3x3 convolutions, each followed by maximum pooling, then dense layers: VGG (Simonyan
/// & Zisserman 2015) in small, with batch normalisation (Ioffe & Szegedy 2015).
///
/// Input `[batch, inputs, height, width]`, output `[batch, classes]`.
///
/// ```
/// use fornax_models::{Cnn, CnnConfig};
/// use fornax_nn::{Layer, summary};
/// let net = Cnn::new(&CnnConfig { height: 8, width: 8, ..CnnConfig::default() })?;
/// println!("{}", summary(&net, [1, 1, 8, 8]));
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct Cnn {
    blocks: Vec<Block>,
    dropout: Option<Dropout>,
    dense: Vec<Linear>,
    output: Linear,
    activation: Activation,
}

/// Convolutions at one size, then half the size.
#[derive(Module)]
struct Block {
    convs: Vec<Convolution>,
    pool: MaxPool2d,
}

/// Convolve, normalise, activate; keeps the size.
#[derive(Module)]
struct Convolution {
    conv: Conv2d,
    norm: Option<BatchNorm2d>,
    activation: Activation,
}

impl Cnn {
    /// The network of this configuration, with PyTorch's default weights.
    ///
    /// # Errors
    /// If the image is too small for the poolings, a size is 0, the weights are too many, or the
    /// dropout is no share.
    pub fn new(config: &CnnConfig) -> Result<Self, ConfigError> {
        let check = Check("cnn");
        check.sizes("inputs and classes", &[config.inputs, config.classes])?;
        check.sizes("channels", &config.channels)?;
        check.layers("convolutions", &[config.convolutions])?;
        check.sizes("dense layers", &config.dense)?;
        check.dropout(config.dropout)?;

        let poolings = config.channels.len();
        let halved = |side: usize| side.checked_shr(poolings as u32).unwrap_or(0);
        let (h, w) = (halved(config.height), halved(config.width));
        check.that(h > 0 && w > 0, || {
            format!(
                "an image of {}x{} is too small for {poolings} poolings by 2",
                config.height, config.width
            )
        })?;
        let last = *config.channels.last().unwrap_or(&config.inputs);
        let mut features = last.saturating_mul(h).saturating_mul(w);
        check.weights(layers(config, features))?;

        let mut size = config.inputs;
        let mut blocks = Vec::with_capacity(config.channels.len());
        for &channels in &config.channels {
            let mut convs = Vec::with_capacity(config.convolutions);
            for _ in 0..config.convolutions {
                convs.push(Convolution {
                    // The normalisation has a bias of its own.
                    conv: Conv2d::new(size, channels, 3)
                        .padding(1)
                        .bias(!config.batch_norm),
                    norm: config.batch_norm.then(|| BatchNorm2d::new(channels)),
                    activation: config.activation,
                });
                size = channels;
            }
            let pool = MaxPool2d::new(2);
            blocks.push(Block { convs, pool });
        }

        let mut dense = Vec::with_capacity(config.dense.len());
        for &neurons in &config.dense {
            dense.push(Linear::new(features, neurons));
            features = neurons;
        }
        Ok(Cnn {
            blocks,
            dropout: (config.dropout > 0.0).then(|| Dropout::new(config.dropout)),
            dense,
            output: Linear::new(features, config.classes),
            activation: config.activation,
        })
    }
}

/// `[inputs of an output, outputs]` of every layer; the first dense one takes `features`.
fn layers(config: &CnnConfig, features: usize) -> Vec<[usize; 2]> {
    let mut layers = Vec::new();
    let mut size = config.inputs;
    for &channels in &config.channels {
        layers.push([size.saturating_mul(9), channels]);
        let more = config.convolutions - 1;
        layers.extend(std::iter::repeat_n(
            [channels.saturating_mul(9), channels],
            more,
        ));
        size = channels;
    }
    size = features;
    for &neurons in config.dense.iter().chain([&config.classes]) {
        layers.push([size, neurons]);
        size = neurons;
    }
    layers
}

impl Layer for Cnn {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = x.clone();
        for block in &self.blocks {
            for layer in &block.convs {
                h = layer.norm.forward(&layer.conv.forward(&h));
                h = layer.activation.forward(&h);
            }
            h = block.pool.forward(&h);
        }
        h = h.flatten(1, -1);
        for layer in &self.dense {
            h = self
                .activation
                .forward(&layer.forward(&self.dropout.forward(&h)));
        }
        self.output.forward(&self.dropout.forward(&h))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{DType, value_and_grad};

    #[test]
    fn digits_sized_images_train() {
        let config = CnnConfig {
            height: 8,
            width: 8,
            channels: vec![4, 6],
            dropout: 0.3,
            ..CnnConfig::default()
        };
        let net = Cnn::new(&config).unwrap();
        let x = Tensor::randn([3, 1, 8, 8], DType::F32);
        let (loss, grads) = value_and_grad(&net, |net| net.forward(&x).square().mean(..));
        assert!(loss.item().is_finite());
        assert_eq!(
            grads.get("blocks.1.convs.0.conv.weight").unwrap().shape(),
            [6, 4, 3, 3]
        );
        assert_eq!(grads.get("dense.0.weight").unwrap().shape(), [128, 24]);
    }

    #[test]
    fn dense_layers_are_optional() {
        let config = CnnConfig {
            dense: vec![],
            batch_norm: false,
            ..CnnConfig::default()
        };
        let net = Cnn::new(&config).unwrap();
        assert_eq!(
            net.forward(&Tensor::zeros([1, 1, 28, 28], DType::F32))
                .shape(),
            [1, 10]
        );
        assert!(net.named_buffers().is_empty());
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let error = |config: CnnConfig| Cnn::new(&config).err().unwrap().to_string();
        let dense = error(CnnConfig {
            dense: vec![1 << 24, 1 << 24],
            ..CnnConfig::default()
        });
        assert!(
            dense.contains("at most 137438953472 are possible"),
            "{dense}"
        );
        let channels = error(CnnConfig {
            channels: vec![usize::MAX / 2],
            ..CnnConfig::default()
        });
        assert!(channels.contains("far too many weights"), "{channels}");
    }

    #[test]
    fn too_many_poolings_are_an_error() {
        let config = CnnConfig {
            height: 8,
            channels: vec![2; 4],
            ..CnnConfig::default()
        };
        let message = Cnn::new(&config).err().unwrap().to_string();
        assert_eq!(
            message,
            "cnn: an image of 8x28 is too small for 4 poolings by 2"
        );
    }
}
