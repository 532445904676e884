//! Language models that predict the next token: what generation and training need of them.

use crate::seq2seq::smoothed_loss;
use fornax_nn::{KvCache, Module};
use fornax_tensor::{DType, IGNORE_INDEX, Tensor};

/// A model that gives, for each token of a text, a score for every token that may follow.
///
/// ```
/// use fornax_models::{CausalLm, Gpt2, Gpt2Config};
/// use fornax_tensor::Tensor;
/// let config = Gpt2Config { vocab_size: 50, n_embd: 16, n_layer: 2, n_head: 2, ..Gpt2Config::default() };
/// let model = Gpt2::new(&config)?;
/// let mut cache = model.init_cache(1, 8);
/// let mut logits = model.decode_step(&Tensor::from_vec(vec![7i64, 3, 9], [1, 3]), &mut cache);
/// for _ in 0..5 {
///     let token = logits.argmax(-1).reshape([1, 1]);
///     logits = model.decode_step(&token, &mut cache);
/// }
/// assert_eq!((logits.shape(), cache.room()), (&[1, 50][..], 0));
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
pub trait CausalLm: Module + Send + Sync {
    /// The number of different tokens.
    fn vocab(&self) -> usize;

    /// The most tokens that the model can look back on.
    fn context(&self) -> usize;

    /// The scores `[batch, time, vocab]` of what follows each of `ids [batch, time]`. `mask` of the
    /// same shape tells tokens (true, or not 0) from padding; without it all are tokens.
    fn forward_logits(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor;

    /// An empty cache for `batch` texts of at most `length` tokens, prompt included.
    ///
    /// # Panics
    /// If the model cannot look back that far.
    fn init_cache(&self, batch: usize, length: usize) -> KvCache;

    /// Takes the next tokens `[batch, time]` of each text and returns the scores `[batch, vocab]`
    /// of what follows the last: the whole prompt first, then token by token.
    ///
    /// Evaluate the result before the next step. From the second step of one token on, all steps
    /// run one plan.
    ///
    /// # Panics
    /// If the cache has no room.
    fn decode_step(&self, ids: &Tensor, cache: &mut KvCache) -> Tensor;
}

/// The mean cross-entropy of each token but the first, given those before it. `logits` are
/// `[batch, time, vocab]`, `labels [batch, time]` the tokens themselves; those that are
/// [`IGNORE_INDEX`] do not count. It is the loss that HuggingFace's causal models compute.
#[track_caller]
pub fn next_token_loss(logits: &Tensor, labels: &Tensor) -> Tensor {
    let [batch, time] = [labels.dim(0), labels.dim(1)];
    // The labels are moved, not the logits, which are many.
    let last = Tensor::full([batch, 1], IGNORE_INDEX as f64, DType::I64);
    let next = Tensor::cat(&[labels.narrow(1, 1, time - 1), last], 1);
    token_loss(logits, &next)
}

/// The mean cross-entropy of `logits [batch, time, vocab]` against `labels [batch, time]` at the
/// same places; those that are [`IGNORE_INDEX`] do not count.
#[track_caller]
pub fn token_loss(logits: &Tensor, labels: &Tensor) -> Tensor {
    smoothed_loss(logits, labels, 0.0)
}
