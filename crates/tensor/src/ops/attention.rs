//! Scaled dot-product attention.

use crate::dtype::DType;
use crate::fast::{Attend, Dropped, Fast, attention};
use crate::node::is_recording;
use crate::ops::random::next_key;
use crate::precision::Precision;
use crate::tensor::Tensor;

/// The options of [`Tensor::attention`], PyTorch's defaults.
///
/// ```
/// use fornax_tensor::Attention;
/// let decoder = Attention { causal: true, ..Attention::default() };
/// # assert!(decoder.scale.is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Attention<'a> {
    /// Broadcast to `[batch, heads, queries, keys]`: booleans that say which keys a query sees,
    /// or numbers that are added to the scaled products.
    pub mask: Option<&'a Tensor>,
    /// Query `i` sees keys `0..=i` alone.
    pub causal: bool,
    /// What products are multiplied with; `1 / sqrt(size)` if not given.
    pub scale: Option<f64>,
    /// The probability with which a weight becomes 0; the others grow by `1 / (1 - dropout)`. As
    /// PyTorch's `dropout_p`, but only while a gradient is being recorded.
    pub dropout: f64,
}

impl Tensor {
    /// `softmax(q k^T * scale + mask) v` (Vaswani et al. 2017) for queries
    /// `[batch, heads, queries, size]`, keys `[batch, groups, keys, size]` and values
    /// `[batch, groups, keys, width]`, where `groups` divides `heads` and each group of key heads
    /// serves as many query heads (Ainslie et al. 2023). The result is
    /// `[batch, heads, queries, width]`. A query that sees no key gives zeros.
    ///
    /// It agrees with `torch.nn.functional.scaled_dot_product_attention`; the matrix of weights
    /// is never stored whole (Dao et al. 2022), unless the gradient of a mask is asked for: that one
    /// is as large.
    ///
    /// ```
    /// use fornax_tensor::{Attention, DType, Tensor};
    /// let q = Tensor::randn([2, 4, 10, 16], DType::F32);
    /// let (k, v) = (Tensor::randn([2, 4, 7, 16], DType::F32), Tensor::ones([2, 4, 7, 16], DType::F32));
    /// let y = Tensor::attention(&q, &k, &v, Attention::default());
    /// assert_eq!(y.shape(), [2, 4, 10, 16]);
    /// assert!((y.mean(..).item() - 1.0).abs() < 1e-6); // a mean of equal values
    /// ```
    ///
    /// # Panics
    /// If shapes or types do not fit, or `dropout` is no probability.
    #[track_caller]
    pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: Attention<'_>) -> Tensor {
        check(q, k, v);
        let p = options.dropout;
        if !(0.0..=1.0).contains(&p) {
            panic!("attention: the probability {p} of dropout is not between 0 and 1");
        }
        let dtype = q.dtype();
        let [b, h, t, s] = [q.dim(0), q.dim(1), q.dim(2), k.dim(2)];
        if s == 0 {
            let all = |x: &Tensor| attention::repeated(x, h);
            return q.matmul(&all(k).t()).matmul(&all(v));
        }
        let mask = options.mask.map(|mask| {
            let numbers = match mask.dtype() {
                DType::Bool => {
                    let zero = Tensor::full((), 0.0, dtype);
                    mask.where_(&zero, &Tensor::full((), f64::NEG_INFINITY, dtype))
                }
                _ => mask.to_dtype(dtype),
            };
            numbers.broadcast_to([b, h, t, s])
        });
        let drops = p > 0.0 && is_recording();
        let attend = Attend {
            scale: options
                .scale
                .unwrap_or((q.dim(3).max(1) as f64).sqrt().recip()),
            causal: options.causal,
            masked: mask.is_some(),
            dropped: drops.then(|| Dropped { p, key: next_key() }),
            precision: Precision::current(),
        };
        let inputs: Vec<&Tensor> = [q, k, v].into_iter().chain(&mask).collect();
        let op = Fast::Attention(attend);
        let flat = match q.dim(3) == 0 || v.dim(3) == 0 {
            // Nothing that deserves a kernel.
            true => op.define(&inputs.into_iter().cloned().collect::<Vec<_>>()),
            false => op.call(&inputs),
        };
        attention::output(&flat, q.shape(), v.shape())
    }
}

#[track_caller]
fn check(q: &Tensor, k: &Tensor, v: &Tensor) {
    let alike = q.dtype().is_float() && k.dtype() == q.dtype() && v.dtype() == q.dtype();
    let fits = [q, k, v].iter().all(|t| t.rank() == 4)
        && k.shape()[..3] == v.shape()[..3]
        && [q.dim(0), q.dim(3)] == [k.dim(0), k.dim(3)]
        && k.dim(1) > 0
        && q.dim(1).is_multiple_of(k.dim(1));
    if !alike || !fits {
        panic!(
            "attention: queries {} {:?}, keys {} {:?}, values {} {:?}; expected one type and \
             [batch, heads, queries, size], [batch, groups, keys, size], [batch, groups, keys, \
             width] with groups that divide heads",
            q.dtype(),
            q.shape(),
            k.dtype(),
            k.shape(),
            v.dtype(),
            v.shape()
        );
    }
}
