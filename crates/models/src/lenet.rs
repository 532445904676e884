//! The classic small convolutional network.

use crate::{Check, ConfigError};
use fornax_nn::{BatchNorm2d, Conv2d, Dropout, Layer, Linear, MaxPool2d, Module};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The input and options of a [`LeNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeNetConfig {
    /// Colours of the image.
    pub channels: usize,
    /// Its height in pixels.
    pub height: usize,
    /// Its width in pixels.
    pub width: usize,
    /// Outputs.
    pub classes: usize,
    /// Whether the convolutions are batch-normalised.
    pub batch_norm: bool,
    /// The share of the dense layer's neurons dropped while training.
    pub dropout: f64,
}

/// Grey 28x28 images of 10 classes, no normalisation, no dropout.
impl Default for LeNetConfig {
    fn default() -> Self {
        LeNetConfig {
            channels: 1,
            height: 28,
            width: 28,
            classes: 10,
            batch_norm: false,
            dropout: 0.0,
        }
    }
}

/// Two convolutions with pooling and two dense layers, after LeNet-5 (LeCun et al. 1998) with
/// today's ReLU, maximum pooling and sizes:
///
/// `conv 3x3 to 32, ReLU, pool 2, conv 3x3 to 64, ReLU, pool 2, dense 128, ReLU, dense classes`.
///
/// Input `[batch, channels, height, width]`, output `[batch, classes]`.
///
/// ```
/// use fornax_models::{LeNet, LeNetConfig};
/// use fornax_nn::{Layer, Module};
/// use fornax_tensor::{DType, Tensor};
/// let net = LeNet::new(&LeNetConfig::default())?;
/// assert_eq!(net.forward(&Tensor::zeros([2, 1, 28, 28], DType::F32)).shape(), [2, 10]);
/// assert_eq!(net.num_parameters(), 421_642);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct LeNet {
    conv1: Conv2d,
    norm1: Option<BatchNorm2d>,
    conv2: Conv2d,
    norm2: Option<BatchNorm2d>,
    pool: MaxPool2d,
    fc1: Linear,
    dropout: Option<Dropout>,
    fc2: Linear,
}

impl LeNet {
    /// The network of this configuration, with PyTorch's default weights.
    ///
    /// # Errors
    /// If the image is smaller than 4x4, a size is 0, the weights are too many, or the dropout is no
    /// share.
    pub fn new(config: &LeNetConfig) -> Result<Self, ConfigError> {
        let check = Check("lenet");
        check.sizes("channels and classes", &[config.channels, config.classes])?;
        check.dropout(config.dropout)?;
        let (h, w) = (config.height / 4, config.width / 4);
        check.that(h > 0 && w > 0, || {
            format!(
                "an image of {}x{} is too small for two poolings by 2",
                config.height, config.width
            )
        })?;
        let features = h.saturating_mul(w).saturating_mul(64);
        check.weights([
            [config.channels.saturating_mul(9), 32],
            [features, 128],
            [128, config.classes],
        ])?;
        let norm = |channels| config.batch_norm.then(|| BatchNorm2d::new(channels));
        let bias = !config.batch_norm;
        Ok(LeNet {
            conv1: Conv2d::new(config.channels, 32, 3).padding(1).bias(bias),
            norm1: norm(32),
            conv2: Conv2d::new(32, 64, 3).padding(1).bias(bias),
            norm2: norm(64),
            pool: MaxPool2d::new(2),
            fc1: Linear::new(features, 128),
            dropout: (config.dropout > 0.0).then(|| Dropout::new(config.dropout)),
            fc2: Linear::new(128, config.classes),
        })
    }
}

impl Layer for LeNet {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let h = self.norm1.forward(&self.conv1.forward(x)).relu();
        let h = self.pool.forward(&h);
        let h = self.norm2.forward(&self.conv2.forward(&h)).relu();
        let h = self.pool.forward(&h);
        let h = self.fc1.forward(&h.flatten(1, -1)).relu();
        self.fc2.forward(&self.dropout.forward(&h))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{DType, value_and_grad};

    #[test]
    fn odd_images_and_all_options() {
        let config = LeNetConfig {
            channels: 3,
            height: 9,
            width: 6,
            classes: 4,
            batch_norm: true,
            dropout: 0.2,
        };
        let net = LeNet::new(&config).unwrap();
        let x = Tensor::randn([2, 3, 9, 6], DType::F32);
        let (loss, grads) = value_and_grad(&net, |net| net.forward(&x).square().mean(..));
        assert!(loss.item().is_finite());
        assert_eq!(grads.get("fc1.weight").unwrap().shape(), [128, 128]);
        assert_eq!(net.named_buffers().len(), 6);
    }

    #[test]
    fn an_image_too_large_is_an_error() {
        let config = LeNetConfig {
            height: 1 << 14,
            width: 1 << 14,
            ..LeNetConfig::default()
        };
        let message = LeNet::new(&config).err().unwrap().to_string();
        assert!(message.contains("at most 137438953472"), "{message}");
    }

    #[test]
    fn an_image_too_small_is_an_error() {
        let config = LeNetConfig {
            height: 3,
            ..LeNetConfig::default()
        };
        let message = LeNet::new(&config).err().unwrap().to_string();
        assert_eq!(
            message,
            "lenet: an image of 3x28 is too small for two poolings by 2"
        );
    }
}
