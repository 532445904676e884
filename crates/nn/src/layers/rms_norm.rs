//! Normalisation by the root of the mean square.

use crate::{Layer, Module, Param, init, note_output};
use fornax_tensor::Tensor;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis (Zhang & Sennrich 2019):
/// [`torch.nn.RMSNorm`](https://pytorch.org/docs/stable/generated/torch.nn.RMSNorm.html).
///
/// - input and output `[.., size]`
/// - `weight [size]`, ones
///
/// Half precision is widened to f32 for it.
///
/// ```
/// use fornax_nn::{Layer, RMSNorm};
/// use fornax_tensor::Tensor;
/// let y = RMSNorm::new(2).forward(&Tensor::from_vec(vec![3f32, 4.], [1, 2]));
/// assert!((y.square().mean(..).item() - 1.0).abs() < 1e-5);
/// ```
#[derive(Module, Clone)]
pub struct RMSNorm {
    /// `[size]`.
    pub weight: Param,
    #[module(skip)]
    eps: f64,
}

impl RMSNorm {
    /// For vectors of this size.
    pub fn new(size: usize) -> Self {
        RMSNorm {
            weight: Param::new(init::ones([size])),
            eps: f32::EPSILON as f64,
        }
    }

    /// What is added to the mean square; the epsilon of f32 by default, 1e-6 in most models.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }
}

impl Layer for RMSNorm {
    #[track_caller]
    fn forward(&self, x: &Tensor) -> Tensor {
        if x.rank() == 0 || x.dim(-1) != self.weight.numel() {
            panic!(
                "RMSNorm: expected a last axis of {}, got {:?}",
                self.weight.numel(),
                x.shape()
            );
        }
        let dtype = x.dtype();
        let wide = match dtype.is_half() {
            true => x.to_dtype(fornax_tensor::DType::F32),
            false => x.clone(),
        };
        let scale = (wide.square().mean_keepdim(-1) + self.eps).rsqrt();
        note_output(self, (wide * scale).to_dtype(dtype) * &*self.weight)
    }
}
