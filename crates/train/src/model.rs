//! From `[model]` of a recipe to a network that learns from examples.

use std::collections::BTreeMap;

use fornax_data::Schema;
use fornax_models::{
    Cnn, CnnConfig, ConfigError, LeNet, LeNetConfig, Mlp, MlpConfig, Pooling, Vit, VitConfig,
};
use fornax_nn::{Activation, Layer};
use fornax_tensor::manual_seed;

use crate::error::{Error, Result};
use crate::recipe::{ModelRecipe, OneOrMany};

/// The network of a run, whatever its architecture.
pub type Network = Box<dyn Layer>;

/// Builds the network of a recipe for data of `schema`, its starting weights a function of `seed`.
///
/// # Errors
/// If the network does not fit the data.
pub fn build(recipe: &ModelRecipe, schema: &Schema, seed: u64) -> Result<Network> {
    manual_seed(seed);
    let shape = schema.sample_shape();
    let classes = match schema.classes() {
        Some(names) => names.len(),
        None => schema.target_shape().iter().product(),
    };
    let activation = activation(recipe.activation.as_deref().unwrap_or("relu"));
    let batch_norm = recipe.batch_norm.unwrap_or(false);
    let dropout = recipe.dropout.unwrap_or(0.0);
    let list = |numbers: &Option<OneOrMany>| numbers.as_ref().map_or(Vec::new(), OneOrMany::list);
    let wrong = |error: ConfigError| Error::Recipe(format!("[model] {error}"));

    if recipe.name == "mlp" {
        return Ok(Box::new(
            Mlp::new(&MlpConfig {
                activation,
                batch_norm,
                dropout,
                ..MlpConfig::new(shape.iter().product(), recipe.hidden(), classes)
            })
            .map_err(wrong)?,
        ));
    }
    let [channels, height, width] = shape[..] else {
        return Err(Error::Recipe(format!(
            "model.name = \"{}\" is for images, but the examples of \"{}\" have the shape \
             {shape:?}; use model.name = \"mlp\"",
            recipe.name, schema.name
        )));
    };
    let square = |what: &str| match height == width {
        true => Ok(height),
        false => Err(Error::Recipe(format!(
            "model.name = \"{what}\" is for square images, not {height} x {width}; set data.height \
             and data.width"
        ))),
    };
    Ok(match recipe.name.as_str() {
        "vit" => Box::new(
            Vit::new(&VitConfig {
                image_size: square("vit")?,
                patch_size: recipe.patch.unwrap_or(4),
                num_channels: channels,
                hidden_size: recipe.width.unwrap_or(128),
                num_hidden_layers: recipe.layers.unwrap_or(6),
                num_attention_heads: recipe.heads.unwrap_or(4),
                intermediate_size: 4 * recipe.width.unwrap_or(128),
                hidden_dropout_prob: dropout,
                attention_probs_dropout_prob: dropout,
                id2label: match schema.classes() {
                    Some(names) => names.iter().cloned().enumerate().collect(),
                    None => (0..classes)
                        .map(|i| (i, i.to_string()))
                        .collect::<BTreeMap<_, _>>(),
                },
                pooling: Pooling::Mean,
                checkpoint: recipe.checkpoint.unwrap_or(false),
                ..VitConfig::default()
            })
            .map_err(wrong)?,
        ),
        "lenet" => Box::new(
            LeNet::new(&LeNetConfig {
                channels,
                height,
                width,
                classes,
                batch_norm,
                dropout,
            })
            .map_err(wrong)?,
        ),
        _ => Box::new(
            Cnn::new(&CnnConfig {
                inputs: channels,
                height,
                width,
                classes,
                channels: list(&recipe.channels),
                convolutions: recipe.convolutions.unwrap_or(1),
                dense: list(&recipe.dense),
                activation,
                batch_norm,
                dropout,
            })
            .map_err(wrong)?,
        ),
    })
}

fn activation(name: &str) -> Activation {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .expect("the recipe's activations are those of the layers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Recipe, schema};
    use fornax_data::{Input, TargetKind};

    fn schema_of(input: Input) -> Schema {
        Schema {
            name: "some".into(),
            input,
            target: TargetKind::Classes {
                names: vec!["a".into(), "b".into()],
            },
        }
    }

    fn image(height: usize, width: usize) -> Schema {
        schema_of(Input::Image {
            channels: 1,
            height,
            width,
        })
    }

    #[test]
    fn every_activation_of_the_schema_exists() {
        for name in schema::ACTIVATIONS {
            activation(name);
        }
    }

    #[test]
    fn networks_that_do_not_fit_say_so() {
        let model = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
            Recipe::parse("r", "", &set).unwrap().model
        };
        let error = |model: &ModelRecipe, schema: &Schema| {
            build(model, schema, 0).err().unwrap().to_string()
        };
        let table = schema_of(Input::Array { shape: vec![4] });
        assert!(error(&model(&["model.name=cnn"]), &table).contains("is for images"));
        let deep = model(&["model.name=cnn", "model.channels=[2, 2, 2]"]);
        assert!(error(&deep, &image(4, 4)).contains("too small"));
        assert!(build(&model(&["model.name=lenet"]), &image(8, 8), 0).is_ok());
        assert!(build(&model(&["model.layers=0"]), &table, 0).is_ok());
    }
}
