//! The Vision Transformer.

use crate::parts::{Dense, SelfAttention, checkpoint_if, linear};
use crate::{Check, ConfigError, Pretrained};
use fornax_nn::{Activation, Conv2d, Dropout, Layer, LayerNorm, Linear, Module, Param, init};
use fornax_tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The sizes and options of a [`Vit`], named as in HuggingFace's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VitConfig {
    /// Height and width of an image in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// Colours.
    pub num_channels: usize,
    /// Width.
    pub hidden_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads of each block's attention.
    pub num_attention_heads: usize,
    /// Width of the hidden layer of each block's feed-forward network.
    pub intermediate_size: usize,
    /// What follows that hidden layer.
    pub hidden_act: String,
    /// The share dropped of embeddings and of what a block adds, while training.
    pub hidden_dropout_prob: f64,
    /// The share dropped of attention's weights, while training.
    pub attention_probs_dropout_prob: f64,
    /// The standard deviation of starting weights.
    pub initializer_range: f64,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// The classes and their names, by number.
    pub id2label: BTreeMap<usize, String>,
    /// What classes are predicted from. Not an option of `transformers`, which has the class token
    /// alone.
    pub pooling: Pooling,
    /// Whether blocks are computed twice in training, to keep less in memory (gradient
    /// checkpointing).
    #[serde(skip)]
    pub checkpoint: bool,
    /// Fields of a file that mean nothing here; they are saved again.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What classes are predicted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The vector of a token that stands before the patches.
    #[default]
    Token,
    /// The mean of the patches' vectors; there is no further token (Beyer et al. 2022).
    Mean,
}

/// ViT-Base for 224x224 pixels, two classes.
impl Default for VitConfig {
    fn default() -> Self {
        VitConfig {
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            qkv_bias: true,
            id2label: labels(2),
            pooling: Pooling::Token,
            checkpoint: false,
            extra: Map::new(),
        }
    }
}

impl VitConfig {
    /// A small network for 32x32 pixels: patches of 4x4, width 192, 6 blocks of 3 heads, mean of
    /// the patches.
    pub fn tiny(classes: usize) -> Self {
        VitConfig {
            image_size: 32,
            patch_size: 4,
            hidden_size: 192,
            num_hidden_layers: 6,
            num_attention_heads: 3,
            intermediate_size: 768,
            pooling: Pooling::Mean,
            ..VitConfig::default().classes(classes)
        }
    }

    /// The same with this many classes, named by `transformers`' custom.
    pub fn classes(mut self, count: usize) -> Self {
        // Those of the old classes.
        self.extra.remove("label2id");
        VitConfig {
            id2label: labels(count),
            ..self
        }
    }
}

/// The names that `transformers` gives to classes without a name.
pub(crate) fn labels(count: usize) -> BTreeMap<usize, String> {
    (0..count).map(|i| (i, format!("LABEL_{i}"))).collect()
}

/// The Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"): an image is
/// cut into patches, which are a Transformer encoder's tokens.
///
/// Input `[batch, channels, size, size]`, output `[batch, classes]`. It is HuggingFace's
/// `ViTForImageClassification`.
///
/// ```
/// use fornax_models::{Vit, VitConfig};
/// use fornax_nn::Layer;
/// use fornax_tensor::{DType, Tensor};
/// let model = Vit::new(&VitConfig::tiny(10))?;
/// assert_eq!(model.forward(&Tensor::zeros([2, 3, 32, 32], DType::F32)).shape(), [2, 10]);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
#[derive(Module)]
pub struct Vit {
    vit: Body,
    classifier: Linear,
    #[module(skip)]
    config: VitConfig,
}

#[derive(Module)]
struct Body {
    embeddings: Embeddings,
    encoder: Encoder,
    layernorm: LayerNorm,
}

#[derive(Module)]
struct Embeddings {
    cls_token: Option<Param>,
    position_embeddings: Param,
    patch_embeddings: Patches,
}

#[derive(Module)]
struct Patches {
    projection: Conv2d,
}

#[derive(Module)]
struct Encoder {
    layer: Vec<Block>,
}

#[derive(Module)]
struct Block {
    attention: Attention,
    intermediate: Dense,
    output: Dense,
    layernorm_before: LayerNorm,
    layernorm_after: LayerNorm,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    dropout: Dropout,
}

#[derive(Module)]
struct Attention {
    attention: SelfAttention,
    output: Dense,
}

impl Vit {
    /// The network of this configuration, with starting weights as HuggingFace's.
    ///
    /// # Errors
    /// If a size is 0, patches do not divide the image, heads do not divide the width, the weights
    /// are too many, a dropout is no share, or the activation is unknown.
    pub fn new(config: &VitConfig) -> Result<Self, ConfigError> {
        let check = Check("vit");
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (layers, classes) = (config.num_hidden_layers, config.id2label.len());
        let sizes = [
            config.image_size,
            config.patch_size,
            config.num_channels,
            classes,
        ];
        check.sizes("image, patch, channels and classes", &sizes)?;
        check.sizes("width and inner width", &[width, inner])?;
        check.layers("layers", &[layers])?;
        check.heads(config.num_attention_heads, width)?;
        check.dropout(config.hidden_dropout_prob)?;
        check.dropout(config.attention_probs_dropout_prob)?;
        let (size, patch) = (config.image_size, config.patch_size);
        check.that(size.is_multiple_of(patch), || {
            format!("patches of {patch} pixels do not divide an image of {size}")
        })?;
        let side = size / patch;
        let tokens = side.saturating_mul(side) + (config.pooling == Pooling::Token) as usize;
        let pixels = patch
            .saturating_mul(patch)
            .saturating_mul(config.num_channels);
        check.weights([
            [pixels, width],
            [width, tokens],
            [width, width.saturating_mul(4).saturating_mul(layers)],
            [width, inner.saturating_mul(2).saturating_mul(layers)],
            [width, classes],
        ])?;
        let activation = check.activation(&config.hidden_act)?;

        let std = config.initializer_range;
        let norm = || LayerNorm::new(width).eps(config.layer_norm_eps);
        let normal = |shape: &[usize]| Param::new(init::normal(shape, 0.0, std));
        let mut projection = Conv2d::new(config.num_channels, width, patch).stride(patch);
        projection.weight = normal(&[width, config.num_channels, patch, patch]);
        let block = || Block {
            attention: Attention {
                attention: SelfAttention::new(
                    width,
                    config.num_attention_heads,
                    config.attention_probs_dropout_prob,
                    config.qkv_bias,
                    std,
                ),
                output: Dense {
                    dense: linear(width, width, std, true),
                },
            },
            intermediate: Dense {
                dense: linear(width, inner, std, true),
            },
            output: Dense {
                dense: linear(inner, width, std, true),
            },
            layernorm_before: norm(),
            layernorm_after: norm(),
            activation,
            dropout: Dropout::new(config.hidden_dropout_prob),
        };
        Ok(Vit {
            vit: Body {
                embeddings: Embeddings {
                    cls_token: (config.pooling == Pooling::Token).then(|| normal(&[1, 1, width])),
                    position_embeddings: normal(&[1, tokens, width]),
                    patch_embeddings: Patches { projection },
                },
                encoder: Encoder {
                    layer: (0..layers).map(|_| block()).collect(),
                },
                layernorm: norm(),
            },
            classifier: linear(width, classes, std, true),
            config: config.clone(),
        })
    }

    /// The vectors `[batch, tokens, width]` of the class token, if there is one, and of the
    /// patches, row by row.
    #[track_caller]
    pub fn features(&self, images: &Tensor) -> Tensor {
        let config = &self.config;
        let expected = [config.num_channels, config.image_size, config.image_size];
        if images.rank() != 4 || images.shape()[1..] != expected {
            panic!(
                "Vit: images {:?}, expected [batch, channels, size, size] with {expected:?}",
                images.shape()
            );
        }
        let embeddings = &self.vit.embeddings;
        let patches = embeddings.patch_embeddings.projection.forward(images);
        // [batch, width, rows, columns] to [batch, patches, width].
        let mut x = patches.flatten(2, -1).t();
        if let Some(token) = &embeddings.cls_token {
            let token = token.broadcast_to([images.dim(0), 1, config.hidden_size]);
            x = Tensor::cat(&[token, x], 1);
        }
        x = (x + &*embeddings.position_embeddings).dropout(config.hidden_dropout_prob);
        for block in &self.vit.encoder.layer {
            x = checkpoint_if(config.checkpoint, || block.forward(&x));
        }
        self.vit.layernorm.forward(&x)
    }
}

impl Layer for Block {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let a = self
            .attention
            .attention
            .forward(&self.layernorm_before.forward(x), None);
        let x = x + self
            .dropout
            .forward(&self.attention.output.dense.forward(&a));
        let m = self
            .intermediate
            .dense
            .forward(&self.layernorm_after.forward(&x));
        let m = self.output.dense.forward(&self.activation.forward(&m));
        x + self.dropout.forward(&m)
    }
}

impl Layer for Vit {
    #[track_caller]
    fn forward(&self, images: &Tensor) -> Tensor {
        let x = self.features(images);
        self.classifier.forward(&match self.config.pooling {
            Pooling::Token => x.select(1, 0),
            Pooling::Mean => x.mean(1),
        })
    }
}

impl Pretrained for Vit {
    type Config = VitConfig;
    const MODEL_TYPE: &'static str = "vit";
    const ARCHITECTURE: &'static str = "ViTForImageClassification";
    const BASE: &'static str = "vit.";

    fn from_config(config: &VitConfig) -> Result<Self, ConfigError> {
        Vit::new(config)
    }

    fn config(&self) -> &VitConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{DType, value_and_grad};

    #[test]
    fn the_mean_of_patches_trains() {
        let config = VitConfig {
            num_hidden_layers: 2,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            checkpoint: true,
            ..VitConfig::tiny(4)
        };
        let model = Vit::new(&config).unwrap();
        assert_eq!(
            model
                .features(&Tensor::zeros([1, 3, 32, 32], DType::F32))
                .shape(),
            [1, 64, 192]
        );
        let x = Tensor::randn([2, 3, 32, 32], DType::F32);
        let (loss, grads) = value_and_grad(&model, |m| m.forward(&x).square().mean(..));
        assert!(loss.item().is_finite());
        assert_eq!(grads.len(), model.named_parameters().len());
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let config = VitConfig {
            patch_size: 5,
            ..VitConfig::tiny(4)
        };
        let message = Vit::new(&config).err().unwrap().to_string();
        assert_eq!(
            message,
            "vit: patches of 5 pixels do not divide an image of 32"
        );
    }
}
