//! Layers one after another.

use crate::{Layer, Module};
use fornax_tensor::Tensor;

/// A chain of layers, the output of each the input of the next.
///
/// Parameters are named by position, `0.weight`, `3.bias`, as in PyTorch's
/// [`Sequential`](https://pytorch.org/docs/stable/generated/torch.nn.Sequential.html). An empty
/// chain passes its input on.
///
/// ```
/// use fornax_nn::{Layer, Linear, Module, ReLU, Sequential};
/// use fornax_tensor::{DType, Tensor};
/// let mlp = Sequential::new()
///     .push(Linear::new(4, 8))
///     .push(ReLU)
///     .push(Linear::new(8, 2));
/// assert_eq!(mlp.forward(&Tensor::zeros([5, 4], DType::F32)).shape(), [5, 2]);
/// assert_eq!(mlp.named_parameters()[2].0, "2.weight");
/// ```
#[derive(Module, Default)]
pub struct Sequential {
    #[module(flatten)]
    layers: Vec<Box<dyn Layer>>,
}

impl Sequential {
    /// An empty chain.
    pub fn new() -> Self {
        Sequential::default()
    }

    /// The chain with one more layer at its end.
    pub fn push(mut self, layer: impl Layer + 'static) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// The number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The layers in order.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Layer> {
        self.layers.iter().map(|l| &**l)
    }
}

impl Layer for Sequential {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x);
        }
        x
    }
}

impl FromIterator<Box<dyn Layer>> for Sequential {
    fn from_iter<I: IntoIterator<Item = Box<dyn Layer>>>(layers: I) -> Self {
        Sequential {
            layers: layers.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flatten, Linear, ReLU};
    use fornax_tensor::DType;

    #[test]
    fn names_count_layers_without_parameters() {
        let net = Sequential::new().push(Flatten::default()).push(
            Sequential::new()
                .push(ReLU)
                .push(Linear::new(6, 2).bias(false)),
        );
        let names: Vec<String> = net.state_dict().into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["1.1.weight"]);
        assert_eq!(
            net.forward(&Tensor::ones([4, 2, 3], DType::F32)).shape(),
            [4, 2]
        );
        assert_eq!((net.len(), net.iter().count()), (2, 2));
    }

    #[test]
    fn an_empty_chain_is_the_identity() {
        let x = Tensor::from_vec(vec![1f32, 2.], [2]);
        assert_eq!(Sequential::new().forward(&x).to_vec::<f32>(), [1., 2.]);
    }
}
