//! The fully connected layer.

use crate::{Layer, Module, Param, init, note_output};
use fornax_tensor::Tensor;

/// `y = x W^T + b` over the last axis:
/// [`torch.nn.Linear`](https://pytorch.org/docs/stable/generated/torch.nn.Linear.html).
///
/// - input `[.., in]`, output `[.., out]`
/// - `weight [out, in]` and `bias [out]`, both uniform within `1 / sqrt(in)` of zero
///
/// ```
/// use fornax_nn::{Layer, Linear};
/// use fornax_tensor::{DType, Tensor};
/// let layer = Linear::new(20, 30);
/// assert_eq!(layer.forward(&Tensor::zeros([128, 20], DType::F32)).shape(), [128, 30]);
/// ```
#[derive(Module, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param,
    /// `[out]`.
    pub bias: Option<Param>,
}

impl Linear {
    /// A layer from `inputs` to `outputs` features.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Linear {
            weight: Param::new(init::fan_in_uniform([outputs, inputs], inputs)),
            bias: Some(Param::new(init::fan_in_uniform([outputs], inputs))),
        }
    }

    /// With a bias (the default) or without.
    pub fn bias(mut self, on: bool) -> Self {
        let (outputs, inputs) = (self.weight.dim(0), self.weight.dim(1));
        match (on, &self.bias) {
            (true, None) => {
                self.bias = Some(Param::new(init::fan_in_uniform([outputs], inputs)));
            }
            (false, Some(_)) => self.bias = None,
            _ => {}
        }
        self
    }
}

impl Layer for Linear {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        note_output(self, x.linear(&self.weight, self.bias.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{DType, manual_seed};

    #[test]
    fn it_is_a_product_and_a_sum() {
        let mut layer = Linear::new(2, 1);
        layer.weight.set(Tensor::from_vec(vec![2f32, 3.], [1, 2]));
        layer
            .bias
            .as_mut()
            .unwrap()
            .set(Tensor::from_vec(vec![0.5f32], [1]));
        let x = Tensor::from_vec(vec![1f32, 1., 0., 2.], [2, 1, 2]);
        let y = layer.forward(&x);
        assert_eq!(y.shape(), [2, 1, 1]);
        assert_eq!(y.to_vec::<f32>(), [5.5, 6.5]);
    }

    #[test]
    fn weights_start_within_their_bound() {
        manual_seed(3);
        let layer = Linear::new(100, 50);
        let bound = layer
            .weight
            .abs()
            .max(..)
            .item()
            .max(layer.bias.unwrap().abs().max(..).item());
        assert!(bound <= 0.1 && bound > 0.095, "{bound}");
        let none = Linear::new(3, 2).bias(false);
        assert_eq!(none.num_parameters(), 6);
        assert_eq!(none.bias(true).num_parameters(), 8);
    }

    #[test]
    fn empty_sizes_work() {
        let y = Linear::new(3, 2).forward(&Tensor::zeros([0, 3], DType::F32));
        assert_eq!(y.shape(), [0, 2]);
        let y = Linear::new(0, 2)
            .bias(false)
            .forward(&Tensor::zeros([4, 0], DType::F32));
        assert_eq!(y.to_vec::<f32>(), [0.0; 8]);
    }
}
