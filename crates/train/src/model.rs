//! From `[model]` of a recipe to a network.

use fornax_data::Schema;
use fornax_nn::{
    Activation, BatchNorm1d, BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d,
    Sequential,
};
use fornax_tensor::manual_seed;

use crate::error::{Error, Result};
use crate::recipe::ModelRecipe;

/// The network of a run, whatever its architecture.
pub type Network = Box<dyn Layer>;

/// Builds the network of a recipe for data of `schema`, its starting weights a function of `seed`.
///
/// # Errors
/// If the network does not fit the data.
pub fn build(recipe: &ModelRecipe, schema: &Schema, seed: u64) -> Result<Network> {
    manual_seed(seed);
    let shape = schema.sample_shape();
    let outputs = match schema.classes() {
        Some(names) => names.len(),
        None => schema.target_shape().iter().product(),
    };
    let activation = activation(recipe.activation.as_deref().unwrap_or("relu"));
    match recipe.name.as_str() {
        "mlp" => Ok(Box::new(mlp(
            recipe,
            activation,
            shape.iter().product(),
            outputs,
        ))),
        _ => cnn(recipe, activation, &shape, outputs),
    }
}

fn activation(name: &str) -> Activation {
    let name = name.replace('_', "-");
    serde_json::from_value(serde_json::Value::String(name))
        .expect("the recipe's activations are those of the layers")
}

fn mlp(recipe: &ModelRecipe, activation: Activation, inputs: usize, outputs: usize) -> Sequential {
    let mut net = Sequential::new().push(Flatten::default());
    let mut width = inputs;
    for neurons in recipe.hidden() {
        net = dense(net, recipe, activation, width, neurons);
        width = neurons;
    }
    net.push(Linear::new(width, outputs))
}

fn dense(
    mut net: Sequential,
    recipe: &ModelRecipe,
    activation: Activation,
    inputs: usize,
    outputs: usize,
) -> Sequential {
    net = net.push(Linear::new(inputs, outputs));
    if recipe.batch_norm == Some(true) {
        net = net.push(BatchNorm1d::new(outputs));
    }
    net = net.push(activation);
    match recipe.dropout {
        Some(p) if p > 0.0 => net.push(Dropout::new(p)),
        _ => net,
    }
}

/// Blocks of 3x3 convolutions, each ended by a 2x2 max pooling, then dense layers.
fn cnn(
    recipe: &ModelRecipe,
    activation: Activation,
    shape: &[usize],
    outputs: usize,
) -> Result<Network> {
    let [channels, mut height, mut width] = *shape else {
        return Err(Error::Recipe(format!(
            "model.name = \"cnn\" is for images [channels, height, width], but the examples have \
             shape {shape:?}; use model.name = \"mlp\""
        )));
    };
    let list = |numbers: &Option<crate::recipe::OneOrMany>| {
        numbers
            .as_ref()
            .map(|numbers| numbers.list())
            .unwrap_or_default()
    };
    let mut net = Sequential::new();
    let mut depth = channels;
    for (block, wanted) in list(&recipe.channels).into_iter().enumerate() {
        if height < 2 || width < 2 {
            return Err(Error::Recipe(format!(
                "model.channels has more blocks than {}x{} images can be halved: {block} at most",
                shape[1], shape[2]
            )));
        }
        let normed = recipe.batch_norm == Some(true);
        for _ in 0..recipe.convolutions.unwrap_or(1) {
            // A norm that follows takes the mean away, and a bias with it.
            net = net.push(Conv2d::new(depth, wanted, 3).padding(1).bias(!normed));
            if normed {
                net = net.push(BatchNorm2d::new(wanted));
            }
            net = net.push(activation);
            depth = wanted;
        }
        net = net.push(MaxPool2d::new(2));
        (height, width) = (height / 2, width / 2);
    }
    net = net.push(Flatten::default());
    let mut inputs = depth * height * width;
    for neurons in list(&recipe.dense) {
        net = dense(net, recipe, activation, inputs, neurons);
        inputs = neurons;
    }
    Ok(Box::new(net.push(Linear::new(inputs, outputs))))
}
