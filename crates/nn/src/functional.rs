//! Less common activations, as functions: `torch.nn.functional`.
//!
//! The common ones (ReLU, leaky ReLU, ELU, GELU, SiLU, Mish, softplus, softmax, hard swish ...)
//! are methods of [`Tensor`]. All work elementwise on any shape and fuse with their neighbours
//! when evaluated.

use fornax_tensor::Tensor;

/// `scale * elu(x)` with the self-normalising constants (Klambauer et al. 2017).
pub fn selu(x: &Tensor) -> Tensor {
    const ALPHA: f64 = 1.673_263_242_354_377_2;
    const SCALE: f64 = 1.050_700_987_355_480_5;
    x.elu(ALPHA) * SCALE
}

/// `clamp(x + 3, 0, 6) / 6`; gradient 0 at the ends.
pub fn hardsigmoid(x: &Tensor) -> Tensor {
    relu6(&(x + 3.0)) / 6.0
}

/// `clamp(x, 0, 6)`; gradient 0 at the ends (Krizhevsky 2010).
pub fn relu6(x: &Tensor) -> Tensor {
    x.relu().masked_fill(&x.ge_scalar(6.0), 6.0)
}

/// `x / (1 + |x|)`.
pub fn softsign(x: &Tensor) -> Tensor {
    x / (x.abs() + 1.0)
}

/// `log(sigmoid(x))` without overflow: `min(x, 0) - log(1 + exp(-|x|))`.
pub fn log_sigmoid(x: &Tensor) -> Tensor {
    // |x| by a comparison, whose derivative at 0 is 1 and not 0: together with relu's 0 the sum
    // has the true derivative there, 1/2, and the true second derivative.
    let magnitude = x.ge_scalar(0.0).where_(x, &-x);
    -((-x).relu() + (-magnitude).exp().log1p())
}
