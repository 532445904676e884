//! Multi-head attention.

use crate::{Layer, Linear, Module, Param, init};
use fornax_tensor::{Attention, Tensor};

/// `[batch, time, heads * size]` as `[batch, heads, time, size]`: a view.
///
/// # Panics
/// If `heads` does not divide the last axis.
#[track_caller]
pub fn split_heads(x: &Tensor, heads: usize) -> Tensor {
    let [batch, time, width] = three(x);
    if heads == 0 || !width.is_multiple_of(heads) {
        panic!("split_heads: {heads} heads do not divide a width of {width}");
    }
    x.reshape([batch, time, heads, width / heads])
        .transpose(1, 2)
}

/// `[batch, heads, time, size]` as `[batch, time, heads * size]`: the reverse of [`split_heads`].
#[track_caller]
pub fn join_heads(x: &Tensor) -> Tensor {
    let x = x.transpose(1, 2);
    x.flatten(2, -1)
}

#[track_caller]
fn three(x: &Tensor) -> [usize; 3] {
    match *x.shape() {
        [a, b, c] => [a, b, c],
        _ => panic!("expected [batch, time, width], got {:?}", x.shape()),
    }
}

/// Several attentions side by side, each over a share of the width (Vaswani et al. 2017):
/// [`torch.nn.MultiheadAttention`](https://pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html)
/// with `batch_first=True`.
///
/// - queries `[batch, time, width]`, keys and values `[batch, keys, width]`, output
///   `[batch, time, width]`
/// - `in_proj_weight [3 * width, width]` (Xavier uniform) and `in_proj_bias [3 * width]` (zero) of
///   queries, keys and values; `out_proj` with a bias of zero
///
/// ```
/// use fornax_nn::MultiheadAttention;
/// use fornax_tensor::{Attention, DType, Tensor};
/// let layer = MultiheadAttention::new(32, 4);
/// let x = Tensor::randn([2, 7, 32], DType::F32);
/// let causal = Attention { causal: true, ..Attention::default() };
/// assert_eq!(layer.forward(&x, &x, causal).shape(), [2, 7, 32]);
/// ```
#[derive(Module, Clone)]
pub struct MultiheadAttention {
    /// Of queries, keys and values: `[3 * width, width]`.
    pub in_proj_weight: Param,
    /// `[3 * width]`.
    pub in_proj_bias: Param,
    /// Joins the heads.
    pub out_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    dropout: f64,
}

impl MultiheadAttention {
    /// Attention of `heads` heads over vectors of size `width`.
    ///
    /// # Panics
    /// If `heads` does not divide `width`.
    #[track_caller]
    pub fn new(width: usize, heads: usize) -> Self {
        if heads == 0 || !width.is_multiple_of(heads) {
            panic!("MultiheadAttention: {heads} heads do not divide a width of {width}");
        }
        let mut out_proj = Linear::new(width, width);
        out_proj.bias = Some(Param::new(init::zeros([width])));
        MultiheadAttention {
            in_proj_weight: Param::new(init::xavier_uniform([3 * width, width], 1.0)),
            in_proj_bias: Param::new(init::zeros([3 * width])),
            out_proj,
            heads,
            dropout: 0.0,
        }
    }

    /// The share of weights dropped while training; 0 by default.
    pub fn dropout(mut self, p: f64) -> Self {
        self.dropout = p;
        self
    }

    /// What `queries` find in `memory` (themselves, for self-attention).
    ///
    /// # Panics
    /// If shapes or types do not fit.
    #[track_caller]
    pub fn forward(&self, queries: &Tensor, memory: &Tensor, options: Attention<'_>) -> Tensor {
        let (q, [k, v]) = match queries.same(memory) {
            true => {
                let [q, k, v] = self.queries_keys_values(queries);
                (q, [k, v])
            }
            false => {
                let [q] = self.project(queries, [0]);
                (q, self.keys_values(memory))
            }
        };
        self.attend(&q, &k, &v, options)
    }

    /// Queries, keys and values `[batch, heads, time, size]` of `x`.
    #[track_caller]
    pub fn queries_keys_values(&self, x: &Tensor) -> [Tensor; 3] {
        self.project(x, [0, 1, 2])
    }

    /// Queries `[batch, heads, time, size]` of `x`.
    #[track_caller]
    pub fn queries(&self, x: &Tensor) -> Tensor {
        let [q] = self.project(x, [0]);
        q
    }

    /// Keys and values `[batch, heads, time, size]` of `memory`.
    #[track_caller]
    pub fn keys_values(&self, memory: &Tensor) -> [Tensor; 2] {
        self.project(memory, [1, 2])
    }

    /// What projected queries find in projected keys and values, joined and projected. The
    /// layer's dropout takes the place of that of the options.
    #[track_caller]
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, options: Attention<'_>) -> Tensor {
        let options = Attention {
            dropout: self.dropout,
            ..options
        };
        let y = Tensor::attention(q, k, v, options);
        self.out_proj.forward(&join_heads(&y))
    }

    /// Neighbouring thirds of the projection, computed as one product and split into heads.
    #[track_caller]
    fn project<const N: usize>(&self, x: &Tensor, thirds: [usize; N]) -> [Tensor; N] {
        let width = self.in_proj_weight.dim(1);
        let rows = |t: &Tensor| t.narrow(0, thirds[0] * width, N * width);
        let y = x.linear(&rows(&self.in_proj_weight), Some(&rows(&self.in_proj_bias)));
        std::array::from_fn(|i| split_heads(&y.narrow(-1, i * width, width), self.heads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_tensor::{DType, manual_seed, value_and_grad, with_training};

    #[test]
    fn dropout_of_nothing_changes_nothing() {
        manual_seed(4);
        let q = Tensor::randn([2, 4, 5, 8], DType::F32);
        let [k, v] = [(); 2].map(|_| Tensor::randn([2, 2, 5, 8], DType::F32));
        let mask = Tensor::arange(5, DType::I64).ge_scalar(1);
        let options = Attention {
            mask: Some(&mask),
            causal: true,
            scale: Some(0.4),
            // So small a probability drops nothing, but takes the other path.
            dropout: 1e-12,
        };
        let plain = Tensor::attention(&q, &k, &v, options.clone()).to_vec::<f32>();
        let dropped = with_training(true, || Tensor::attention(&q, &k, &v, options));
        for (a, b) in plain.iter().zip(dropped.to_vec::<f32>()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        assert_eq!(plain[..8], [0.0; 8], "the first query sees no key");
    }

    #[test]
    fn dropped_weights_are_scaled() {
        manual_seed(4);
        let (q, v) = (
            Tensor::zeros([1, 1, 4000, 1], DType::F32),
            Tensor::ones([1, 1, 8, 1], DType::F32),
        );
        let k = Tensor::zeros([1, 1, 8, 1], DType::F32);
        let options = Attention {
            dropout: 0.5,
            ..Attention::default()
        };
        let y = with_training(true, || Tensor::attention(&q, &k, &v, options));
        assert!((y.mean(..).item() - 1.0).abs() < 0.03);
        assert!(y.max(..).item() > 1.2);
    }

    #[test]
    fn every_parameter_trains() {
        let layer = MultiheadAttention::new(8, 2).dropout(0.1);
        let x = Tensor::randn([1, 3, 8], DType::F32);
        let memory = Tensor::randn([1, 5, 8], DType::F32);
        let (_, grads) = value_and_grad(&layer, |l| {
            (l.forward(&x, &memory, Attention::default()) + l.forward(&x, &x, Attention::default()))
                .square()
                .mean(..)
        });
        assert_eq!(grads.len(), 4);
    }

    #[test]
    #[should_panic(expected = "3 heads do not divide a width of 8")]
    fn heads_divide_the_width() {
        MultiheadAttention::new(8, 3);
    }
}
