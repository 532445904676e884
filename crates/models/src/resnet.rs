//! Residual networks.

use crate::{Check, ConfigError};
use fornax_nn::init::{Fan, Nonlinearity, kaiming_normal};
use fornax_nn::{AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Layer, Linear, MaxPool2d, Module, Param};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The size of a [`ResNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNetConfig {
    /// Colours of the image.
    pub inputs: usize,
    /// Outputs.
    pub classes: usize,
    /// Blocks in each of the four stages; all but the first halve the image.
    pub blocks: [usize; 4],
    /// Channels of the first stage; each further one has twice as many.
    pub width: usize,
    /// Whether a block is 1x1, 3x3, 1x1 with four times the channels at its end, instead of two
    /// 3x3 convolutions.
    pub bottleneck: bool,
    /// Whether the stem keeps the size of the image (3x3, stride 1, no pooling), as for CIFAR's
    /// 32x32; else it quarters it (7x7, stride 2, then pooling), as for ImageNet's 224x224.
    pub small_images: bool,
}

/// ResNet-18 for ImageNet.
impl Default for ResNetConfig {
    fn default() -> Self {
        ResNetConfig {
            inputs: 3,
            classes: 1000,
            blocks: [2, 2, 2, 2],
            width: 64,
            bottleneck: false,
            small_images: false,
        }
    }
}

impl ResNetConfig {
    /// 18 layers.
    pub fn resnet18() -> Self {
        ResNetConfig::default()
    }

    /// 34 layers.
    pub fn resnet34() -> Self {
        ResNetConfig {
            blocks: [3, 4, 6, 3],
            ..ResNetConfig::default()
        }
    }

    /// 50 layers, in bottleneck blocks.
    pub fn resnet50() -> Self {
        ResNetConfig {
            bottleneck: true,
            ..ResNetConfig::resnet34()
        }
    }
}

/// A deep residual network (He et al. 2016, "Deep Residual Learning for Image Recognition"), as
/// [torchvision](https://docs.pytorch.org/vision/stable/models/resnet.html) builds, names and
/// initialises it: the stride of a bottleneck is in its 3x3 convolution.
///
/// Input `[batch, inputs, height, width]`, output `[batch, classes]`. Convolutions start from a
/// normal distribution of variance `2 / fan_out`.
///
/// ```
/// use fornax_models::{ResNet, ResNetConfig};
/// use fornax_nn::Layer;
/// use fornax_tensor::{DType, Tensor};
/// let net = ResNet::new(&ResNetConfig {
///     classes: 10,
///     width: 8,
///     small_images: true,
///     ..ResNetConfig::resnet18()
/// })?;
/// assert_eq!(net.forward(&Tensor::zeros([1, 3, 32, 32], DType::F32)).shape(), [1, 10]);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    maxpool: Option<MaxPool2d>,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    avgpool: AdaptiveAvgPool2d,
    fc: Linear,
}

/// `relu(F(x) + x)`, where `x` is brought to the size of `F(x)` if need be.
#[derive(Module)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
    downsample: Option<Projection>,
}

/// The shortcut between sizes: a 1x1 convolution, normalised.
#[derive(Module)]
struct Projection(Conv2d, BatchNorm2d);

/// A convolution that keeps the size at stride 1; the normalisation after it has the bias.
fn conv(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Conv2d {
    let mut conv = Conv2d::new(inputs, outputs, kernel)
        .stride(stride)
        .padding(kernel / 2)
        .bias(false);
    let shape = conv.weight.shape().to_vec();
    conv.weight = Param::new(kaiming_normal(shape, Fan::Out, Nonlinearity::Relu));
    conv
}

impl ResNet {
    /// The network of this configuration.
    ///
    /// # Errors
    /// If a size is 0 or the weights are too many.
    pub fn new(config: &ResNetConfig) -> Result<Self, ConfigError> {
        let check = Check("resnet");
        let sizes = [config.inputs, config.classes, config.width];
        check.sizes("inputs, classes and width", &sizes)?;
        check.layers("blocks", &config.blocks)?;
        // The last stage has most of the weights; all others together have fewer.
        let widest = config.width.saturating_mul(8);
        let last = [widest.saturating_mul(18), widest];
        let features = widest.saturating_mul(config.expansion());
        let blocks = std::iter::repeat_n(last, config.blocks[3].saturating_mul(2).min(1 << 20));
        check.weights(blocks.chain([[features, config.classes]]))?;

        let width = config.width;
        let (kernel, stride) = if config.small_images { (3, 1) } else { (7, 2) };
        let stem = conv(config.inputs, width, kernel, stride);
        let mut channels = width;
        let [layer1, layer2, layer3, layer4] = std::array::from_fn(|stage| {
            let stride = if stage == 0 { 1 } else { 2 };
            config.stage(&mut channels, width << stage, config.blocks[stage], stride)
        });
        Ok(ResNet {
            conv1: stem,
            bn1: BatchNorm2d::new(width),
            maxpool: (!config.small_images).then(|| MaxPool2d::new(3).stride(2).padding(1)),
            layer1,
            layer2,
            layer3,
            layer4,
            avgpool: AdaptiveAvgPool2d::new(1),
            fc: Linear::new(channels, config.classes),
        })
    }
}

impl ResNetConfig {
    /// How many times as many channels a block gives as it works with.
    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }

    /// Blocks one after another, the first of them with the stride. `channels` are those that go
    /// in, and then those that come out.
    fn stage(
        &self,
        channels: &mut usize,
        width: usize,
        blocks: usize,
        stride: usize,
    ) -> Vec<Block> {
        let strides = std::iter::once(stride).chain(std::iter::repeat(1));
        let block = |stride| {
            let block = self.block(*channels, width, stride);
            *channels = width * self.expansion();
            block
        };
        strides.take(blocks).map(block).collect()
    }

    fn block(&self, inputs: usize, width: usize, stride: usize) -> Block {
        let outputs = width * self.expansion();
        let norm = BatchNorm2d::new;
        // Kernel sizes and strides of the convolutions.
        let [(k1, s1), (k2, s2)] = match self.bottleneck {
            true => [(1, 1), (3, stride)],
            false => [(3, stride), (3, 1)],
        };
        let projects = stride != 1 || inputs != outputs;
        Block {
            conv1: conv(inputs, width, k1, s1),
            bn1: norm(width),
            conv2: conv(width, width, k2, s2),
            bn2: norm(width),
            conv3: self.bottleneck.then(|| conv(width, outputs, 1, 1)),
            bn3: self.bottleneck.then(|| norm(outputs)),
            downsample: projects
                .then(|| Projection(conv(inputs, outputs, 1, stride), norm(outputs))),
        }
    }
}

impl Layer for ResNet {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = self.bn1.forward(&self.conv1.forward(x)).relu();
        h = self.maxpool.forward(&h);
        for stage in [&self.layer1, &self.layer2, &self.layer3, &self.layer4] {
            for block in stage {
                h = block.forward(&h);
            }
        }
        self.fc.forward(&self.avgpool.forward(&h).flatten(1, -1))
    }
}

impl Layer for Block {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = self.bn1.forward(&self.conv1.forward(x)).relu();
        h = self.bn2.forward(&self.conv2.forward(&h));
        if self.conv3.is_some() {
            h = self.bn3.forward(&self.conv3.forward(&h.relu()));
        }
        (h + self.downsample.forward(x)).relu()
    }
}

impl Layer for Projection {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        self.1.forward(&self.0.forward(x))
    }
}
