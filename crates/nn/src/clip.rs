//! Keeping gradients small.

use fornax_tensor::{DType, Grads, Tensor};

/// The norm of all gradients as if they were one vector: `(sum |g|^p)^(1/p)`, or the largest
/// `|g|` for an infinite `p`. A scalar tensor, not yet evaluated; 0 without gradients.
#[track_caller]
pub fn grad_norm(grads: &Grads, p: f64) -> Tensor {
    assert!(
        p > 0.0,
        "grad_norm: the norm's order must be positive, not {p}"
    );
    let each = grads.iter().filter(|(_, g)| g.numel() > 0).map(|(_, g)| {
        if p == 2.0 {
            g.square().sum(..)
        } else if p.is_infinite() {
            g.abs().max(..)
        } else {
            g.abs().powf(p).sum(..)
        }
    });
    let total = each.reduce(|a, b| {
        if p.is_infinite() {
            a.maximum(&b)
        } else {
            a + b
        }
    });
    match total {
        None => Tensor::full((), 0.0, DType::F32),
        Some(t) if p == 2.0 => t.sqrt(),
        Some(t) if p.is_infinite() => t,
        Some(t) => t.powf(1.0 / p),
    }
}

/// Scales all gradients by `min(1, max_norm / (norm + 1e-6))`, where `norm` is the L2 norm over
/// all of them (Pascanu et al. 2013); returns them with that norm. Agrees with
/// `torch.nn.utils.clip_grad_norm_`. Nothing is evaluated yet, so the clipping fuses into the
/// optimizer's step.
///
/// ```
/// use fornax_nn::{Linear, Layer, clip_grad_norm};
/// use fornax_tensor::{DType, Tensor, value_and_grad};
/// let layer = Linear::new(3, 2);
/// let x = Tensor::ones([4, 3], DType::F32);
/// let (_, grads) = value_and_grad(&layer, |l| (l.forward(&x) * 100.0).sum(..));
/// let (grads, norm) = clip_grad_norm(grads, 1.0);
/// assert!(norm.item() > 1.0);
/// assert!((fornax_nn::grad_norm(&grads, 2.0).item() - 1.0).abs() < 1e-5);
/// ```
#[track_caller]
pub fn clip_grad_norm(grads: Grads, max_norm: f64) -> (Grads, Tensor) {
    let norm = grad_norm(&grads, 2.0);
    let scale = (max_norm / (&norm + 1e-6)).clamp(f64::NEG_INFINITY, 1.0);
    (grads.map(|_, g| g * &scale), norm)
}

/// Clamps every element of every gradient to `[-limit, limit]`; `torch.nn.utils.clip_grad_value_`.
#[track_caller]
pub fn clip_grad_value(grads: Grads, limit: f64) -> Grads {
    assert!(
        limit >= 0.0,
        "clip_grad_value: the limit must not be negative, is {limit}"
    );
    grads.map(|_, g| g.clamp(-limit, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grads() -> Grads {
        let t = |v: &[f64]| Tensor::from_slice(v, [v.len()]);
        [("a", t(&[3.0, -4.0])), ("b", t(&[12.0])), ("none", t(&[]))]
            .map(|(n, g)| (n.to_owned(), g))
            .into_iter()
            .collect()
    }

    fn values(g: &Grads) -> Vec<f64> {
        g.iter().flat_map(|(_, g)| g.to_vec::<f64>()).collect()
    }

    #[test]
    fn norms_are_over_all_gradients() {
        assert_eq!(grad_norm(&grads(), 2.0).item(), 13.0);
        assert_eq!(grad_norm(&grads(), 1.0).item(), 19.0);
        assert_eq!(grad_norm(&grads(), f64::INFINITY).item(), 12.0);
        assert!((grad_norm(&grads(), 3.0).item() - 1819f64.cbrt()).abs() < 1e-12);
        assert_eq!(grad_norm(&Grads::default(), 2.0).item(), 0.0);
    }

    #[test]
    fn large_gradients_shrink_and_small_ones_stay() {
        let (clipped, norm) = clip_grad_norm(grads(), 1.3);
        assert_eq!(norm.item(), 13.0);
        let expected = [0.3, -0.4, 1.2];
        for (got, want) in values(&clipped).iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(values(&clip_grad_norm(grads(), 20.0).0), [3.0, -4.0, 12.0]);
        assert_eq!(values(&clip_grad_value(grads(), 3.5)), [3.0, -3.5, 3.5]);
    }
}
