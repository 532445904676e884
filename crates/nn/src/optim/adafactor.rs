//! Adafactor.

use super::base::Slot;
use super::{Base, Group, Optimizer, common_options, with_base};
use crate::Result;
use crate::module::Module;
use fornax_tensor::{DType, Grads, Tensor};

/// Steps as large as the parameter they change, and second moments as a row and a column per
/// matrix:
/// [`torch.optim.Adafactor`](https://pytorch.org/docs/stable/generated/torch.optim.Adafactor.html)
/// (Shazeer & Stern 2018). T5 was trained with it.
///
/// At step `t`, with `rms` the root of the mean square: `b = t^beta2_decay`; of a gradient `g` with
/// two dimensions or more the means of `g^2` over the last and over the last but one dimension
/// enter the running means `r` and `c` with weight `b`, and `v = r c / max(mean(r), eps1)`; of a
/// vector, `v` itself is the running mean of `g^2`. Then `u = g / max(sqrt(v), eps1)`, and
/// `p -= max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d)`, after `p` was scaled by
/// `1 - lr weight_decay`.
///
/// So `lr` is relative: 0.01 moves a weight by a hundredth of the size that weights of its matrix
/// have, whatever deviation they started with.
///
/// ```
/// use fornax_nn::{Adafactor, Layer, Linear, Optimizer};
/// use fornax_tensor::{DType, Tensor, value_and_grad};
/// let mut model = Linear::new(2, 1);
/// let mut optimizer = Adafactor::new(0.1);
/// let x = Tensor::ones([8, 2], DType::F32);
/// let before = model.forward(&x).square().mean(..).item();
/// for _ in 0..20 {
///     let (_, grads) = value_and_grad(&model, |m| m.forward(&x).square().mean(..));
///     optimizer.step(&mut model, grads)?;
/// }
/// assert!(model.forward(&x).square().mean(..).item() < before);
/// # Ok::<(), fornax_nn::Error>(())
/// ```
#[derive(Debug)]
pub struct Adafactor {
    base: Base,
    beta2_decay: f64,
    eps: (Option<f64>, f64),
    d: f64,
}

impl Adafactor {
    /// With PyTorch's defaults for everything else (whose learning rate is 0.01).
    pub fn new(lr: f64) -> Self {
        let slots = |shape: &[usize]| match shape {
            [batch @ .., rows, columns] => vec![
                Slot::always("row_var", &[batch, &[*rows, 1]].concat()),
                Slot::always("col_var", &[batch, &[1, *columns]].concat()),
            ],
            vector => vec![Slot::always("variance", vector)],
        };
        Adafactor {
            base: Base::new(lr, 0.0, slots),
            beta2_decay: -0.8,
            eps: (None, 1e-3),
            d: 1.0,
        }
    }

    /// The exponent of the weight that a new square gets: `t^beta2_decay`; -0.8 by default.
    pub fn beta2_decay(mut self, beta2_decay: f64) -> Self {
        self.beta2_decay = beta2_decay;
        self
    }

    /// The least root of a second moment, by default (`None`) the dtype's epsilon, and the least
    /// size of a parameter, 1e-3 by default.
    pub fn eps(mut self, eps1: Option<f64>, eps2: f64) -> Self {
        self.eps = (eps1, eps2);
        self
    }

    /// How large the root mean square of an update gets before it is scaled down; 1 by default.
    pub fn d(mut self, d: f64) -> Self {
        self.d = d;
        self
    }

    /// Decoupled: `lr * weight_decay` of each parameter is taken off it; 0 by default.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.base.weight_decay = weight_decay;
        self
    }
}

common_options!(Adafactor);

impl Optimizer for Adafactor {
    fn step_with(&mut self, model: &mut dyn Module, grads: Grads, also: &[&Tensor]) -> Result<()> {
        let (beta2_decay, (eps1, eps2), d) = (self.beta2_decay, self.eps, self.d);
        self.base.step(model, grads, also, |h, p, g, state| {
            let eps1 = eps1.unwrap_or_else(|| epsilon(p.dtype()));
            let t = h.step as f64;
            let weight = t.powf(beta2_decay);
            let mut running = |name, square: Tensor| {
                let new = match state.take(name) {
                    Some(old) => &old + (square - &old) * weight,
                    None => square * weight,
                };
                state.put(name, new.clone());
                new
            };
            let square = g.square();
            let variance = if p.rank() > 1 {
                let row = running("row_var", square.mean_keepdim(-1));
                let col = running("col_var", square.mean_keepdim(-2));
                let mean = row.mean_keepdim(-2).clamp(eps1, f64::INFINITY);
                row / mean * col
            } else {
                running("variance", square)
            };
            let update = g / variance.clamp(eps1 * eps1, f64::INFINITY).sqrt();
            let rms = |x: &Tensor| x.square().mean(..).sqrt();
            let clip = (rms(&update) / d).clamp(1.0, f64::INFINITY);
            let rate = rms(&p).clamp(eps2, f64::INFINITY) * h.lr.min(1.0 / t.sqrt()) / clip;
            p * (1.0 - h.lr * h.weight_decay) - update * rate
        })
    }

    with_base!();
}

/// The distance from 1 to the next number.
fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    }
}
