//! Models that read one text and write another: what generation and training need of them.

use fornax_nn::{CrossEntropyLoss, KvCache, Loss, Module};
use fornax_tensor::{DType, IGNORE_INDEX, Tensor, eval_all};

/// An encoder that reads a text once, and a decoder that writes another token by token.
///
/// ```
/// use fornax_models::{Seq2SeqLm, T5, T5Config};
/// use fornax_tensor::Tensor;
/// let config = T5Config { vocab_size: 50, d_model: 16, d_ff: 32, num_layers: 2, ..T5Config::default() };
/// let model = T5::new(&config)?;
/// let states = model.encode(&Tensor::randint(2, 50, [1, 6]), None);
/// let mut cache = model.init_cache(&states, None, 8);
/// let mut token = Tensor::from_vec(vec![model.start_token()], [1, 1]);
/// for _ in 0..8 {
///     token = model.decode_step(&token, &mut cache).argmax(-1).reshape([1, 1]);
/// }
/// assert_eq!(token.shape(), [1, 1]);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
pub trait Seq2SeqLm: Module + Send + Sync {
    /// The number of different tokens that it writes.
    fn vocab(&self) -> usize;

    /// The most tokens of a text, on either side.
    fn longest(&self) -> usize {
        usize::MAX
    }

    /// What stands before the first token that the decoder writes.
    fn start_token(&self) -> i64;

    /// The encoder's vectors `[batch, keys, width]` of token ids `[batch, keys]`. `mask` of the same
    /// shape tells tokens (true, or not 0) from padding.
    fn encode(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor;

    /// The keys and values that each of the decoder's layers has of the encoder's vectors
    /// [`encode`](Seq2SeqLm::encode) gave, with the same mask.
    fn memory(&self, states: &Tensor, mask: Option<&Tensor>) -> Memory;

    /// The scores `[batch, time, vocab]` of what follows each of the decoder's tokens
    /// `[batch, time]`.
    fn decode(&self, ids: &Tensor, memory: &Memory) -> Tensor;

    /// An empty cache for texts of at most `length` tokens about these vectors.
    fn init_cache(&self, states: &Tensor, mask: Option<&Tensor>, length: usize) -> Seq2SeqCache;

    /// Takes the next tokens `[batch, time]` of each text and returns the scores `[batch, vocab]`
    /// of what follows the last. The first is the [start token](Seq2SeqLm::start_token).
    ///
    /// Evaluate the result before the next step. From the second step on, all run one plan.
    ///
    /// # Panics
    /// If the cache has no room.
    fn decode_step(&self, ids: &Tensor, cache: &mut Seq2SeqCache) -> Tensor;

    /// Encoder and decoder on texts known in whole: the scores `[batch, time, vocab]` of what
    /// follows each of `decoder_ids`.
    fn forward_logits(&self, ids: &Tensor, mask: Option<&Tensor>, decoder_ids: &Tensor) -> Tensor {
        let states = self.encode(ids, mask);
        self.decode(decoder_ids, &self.memory(&states, mask))
    }

    /// What the decoder reads in training to write `labels [batch, time]`: the same, begun with the
    /// start token and without the last; `padding` stands for those that are [`IGNORE_INDEX`].
    fn shift_right(&self, labels: &Tensor, padding: i64) -> Tensor {
        let [batch, time] = [labels.dim(0), labels.dim(1)];
        let start = Tensor::full([batch, 1], self.start_token() as f64, DType::I64);
        let ids = labels.masked_fill(&labels.eq_scalar(IGNORE_INDEX), padding as f64);
        Tensor::cat(&[start, ids.narrow(1, 0, time - 1)], 1)
    }
}

impl<M: Seq2SeqLm + ?Sized> Seq2SeqLm for Box<M> {
    fn vocab(&self) -> usize {
        (**self).vocab()
    }
    fn longest(&self) -> usize {
        (**self).longest()
    }
    fn start_token(&self) -> i64 {
        (**self).start_token()
    }
    #[track_caller]
    fn encode(&self, ids: &Tensor, mask: Option<&Tensor>) -> Tensor {
        (**self).encode(ids, mask)
    }
    #[track_caller]
    fn memory(&self, states: &Tensor, mask: Option<&Tensor>) -> Memory {
        (**self).memory(states, mask)
    }
    #[track_caller]
    fn decode(&self, ids: &Tensor, memory: &Memory) -> Tensor {
        (**self).decode(ids, memory)
    }
    #[track_caller]
    fn init_cache(&self, states: &Tensor, mask: Option<&Tensor>, length: usize) -> Seq2SeqCache {
        (**self).init_cache(states, mask, length)
    }
    #[track_caller]
    fn decode_step(&self, ids: &Tensor, cache: &mut Seq2SeqCache) -> Tensor {
        (**self).decode_step(ids, cache)
    }
}

/// The mean cross-entropy of `logits [batch, time, vocab]` against `labels [batch, time]`, of which
/// a share `smoothing` is given to all tokens alike (Szegedy et al. 2016; Vaswani et al. 2017 take
/// 0.1). Labels that are [`IGNORE_INDEX`] do not count.
#[track_caller]
pub fn smoothed_loss(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Tensor {
    let loss = CrossEntropyLoss::default().label_smoothing(smoothing);
    loss.forward(&logits.flatten(0, 1), &labels.flatten(0, 1))
}

/// What a decoder's layers see of the encoder.
#[derive(Clone)]
pub struct Memory {
    /// Keys and values of each layer, `[batch, heads, keys, size]`.
    pub layers: Vec<[Tensor; 2]>,
    /// Which keys are tokens, `[batch, 1, 1, keys]`.
    pub mask: Option<Tensor>,
}

/// The decoder's keys and values so far, and those of the encoder.
#[derive(Clone)]
pub struct Seq2SeqCache {
    pub(crate) own: KvCache,
    pub(crate) memory: Memory,
}

impl Seq2SeqCache {
    /// Puts the two together, and computes what the decoder sees of the encoder.
    pub(crate) fn new(own: KvCache, memory: Memory) -> Self {
        let cache = Seq2SeqCache { own, memory };
        cache.ready();
        cache
    }

    fn ready(&self) {
        let layers = self.memory.layers.iter().flatten();
        let all: Vec<&Tensor> = layers.chain(&self.memory.mask).collect();
        eval_all(&all).unwrap_or_else(|e| panic!("the encoder's vectors cannot be computed: {e}"));
    }

    /// Tokens held so far.
    pub fn used(&self) -> usize {
        self.own.used()
    }

    /// Places left.
    pub fn room(&self) -> usize {
        self.own.room()
    }

    /// Replaces the rows: row `i` goes on from what row `rows[i]` holds, as beam search needs it.
    ///
    /// # Panics
    /// If there is no such row.
    #[track_caller]
    pub fn select_rows(&mut self, rows: &[usize]) {
        self.own.select_rows(rows);
        let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let index = Tensor::from_vec(index, [rows.len()]);
        let memory = &mut self.memory;
        for tensor in memory.layers.iter_mut().flatten().chain(&mut memory.mask) {
            *tensor = tensor.index_select(0, &index);
        }
        self.ready();
    }
}
