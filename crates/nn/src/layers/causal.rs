//! Causal attention, over whole sequences and step by step with a cache.

use fornax_tensor::{Attention, DType, Tensor, eval_all};

/// The keys and values that a decoder has computed so far, in memory of a fixed length: every
/// step has the same shapes, and so runs the same plan.
///
/// Rows of a batch share their places: place `i` holds the `i`th token given to the decoder. Rows
/// that are shorter begin later: see [`KvCache::pad_left`].
#[derive(Clone)]
pub struct KvCache {
    /// Keys and values of each layer, `[batch, groups, length, size]`; zero where nothing was
    /// written yet.
    layers: Vec<[Tensor; 2]>,
    /// The first place of each row that holds a token: `[batch]`.
    first: Tensor,
    batch: usize,
    length: usize,
    used: usize,
}

impl KvCache {
    /// An empty cache for `layers` layers, each with keys and values
    /// `[batch, groups, length, size]` of this type.
    pub fn new(layers: usize, [batch, groups, length, size]: [usize; 4], dtype: DType) -> Self {
        let empty = || {
            let zeros = Tensor::zeros([batch, groups, length, size], dtype);
            zeros.eval();
            zeros
        };
        KvCache {
            layers: (0..layers).map(|_| [empty(), empty()]).collect(),
            first: Tensor::from_vec(vec![0i64; batch], [batch]),
            batch,
            length,
            used: 0,
        }
    }

    /// Lets row `i` begin at place `padding[i]`: what is given for the places before it is no
    /// token and is never seen. So prompts of unequal length end together.
    ///
    /// # Panics
    /// If there is not one number for each row, or the cache is not empty.
    #[track_caller]
    pub fn pad_left(mut self, padding: &[usize]) -> Self {
        if padding.len() != self.batch || self.used > 0 {
            panic!(
                "KvCache::pad_left: {} numbers for a cache of {} rows that holds {} tokens",
                padding.len(),
                self.batch,
                self.used
            );
        }
        let first = padding.iter().map(|&n| n as i64).collect();
        self.first = Tensor::from_vec(first, [self.batch]);
        self
    }

    /// Sequences side by side.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Places for tokens.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens held so far.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Places left.
    pub fn room(&self) -> usize {
        self.length - self.used
    }

    /// Replaces the rows: row `i` goes on from what row `rows[i]` holds, as beam search needs it.
    ///
    /// # Panics
    /// If there is no such row.
    #[track_caller]
    pub fn select_rows(&mut self, rows: &[usize]) {
        if let Some(&row) = rows.iter().find(|&&row| row >= self.batch) {
            panic!("KvCache::select_rows: row {row} of {}", self.batch);
        }
        let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let index = Tensor::from_vec(index, [rows.len()]);
        let mut all: Vec<&mut Tensor> = self.layers.iter_mut().flatten().collect();
        all.push(&mut self.first);
        for tensor in &mut all {
            **tensor = tensor.index_select(0, &index);
        }
        let all: Vec<&Tensor> = all.into_iter().map(|t| &*t).collect();
        eval_all(&all).expect("the rows exist");
        self.batch = rows.len();
    }
}

/// One causal pass through a decoder: token `i` sees the tokens up to itself, those of earlier
/// passes too if there is a cache.
///
/// A model asks it for the tokens' [`positions`](Causal::positions), and lets each layer
/// [`attend`](Causal::attend).
pub struct Causal<'a> {
    positions: Tensor,
    /// Which keys are seen, or what is added to products.
    mask: Option<Tensor>,
    /// And the place of each token in it, `[time]`.
    cache: Option<(&'a mut KvCache, Tensor)>,
    time: usize,
    scale: Option<f64>,
    dropout: f64,
}

impl<'a> Causal<'a> {
    /// A pass over whole sequences of `time` tokens. `mask [batch, time]` tells tokens (true, or
    /// not 0) from padding, which no token sees.
    ///
    /// # Panics
    /// If the mask has another shape.
    #[track_caller]
    pub fn whole(time: usize, mask: Option<&Tensor>) -> Causal<'static> {
        let mask = mask.map(|m| {
            if m.rank() != 2 || m.dim(1) != time {
                panic!("a mask is [batch, {time}], not {:?}", m.shape());
            }
            m.ne_scalar(0)
        });
        let positions = match &mask {
            // Tokens are counted, padding is not.
            Some(m) => (m.to_dtype(DType::I64).cumsum(-1) - 1i64).clamp(0i64, i64::MAX),
            None => Tensor::arange(time, DType::I64).unsqueeze(0),
        };
        Causal {
            positions,
            mask: mask.map(|m| m.unsqueeze(1).unsqueeze(1)),
            cache: None,
            time,
            scale: None,
            dropout: 0.0,
        }
    }

    /// A pass over the next `time` tokens of each row of a cache.
    ///
    /// # Panics
    /// If the cache has no room for them.
    #[track_caller]
    pub fn next(cache: &'a mut KvCache, time: usize) -> Causal<'a> {
        if time > cache.room() {
            panic!(
                "a cache of length {} that holds {} tokens has no room for {time} more",
                cache.length, cache.used
            );
        }
        // Data, not a constant of the graph: the next step is the same plan.
        let places = Tensor::arange(time, DType::I64) + Tensor::scalar(cache.used as i64);
        cache.used += time;
        let first = cache.first.unsqueeze(1);
        let positions = (&places - &first).clamp(0i64, i64::MAX);
        let key = Tensor::arange(cache.length, DType::I64);
        let past = key.le(&places.unsqueeze(1));
        let token = key.ge(&first);
        let mask = past.logical_and(&token.unsqueeze(1)).unsqueeze(1);
        Causal {
            positions,
            mask: Some(mask),
            cache: Some((cache, places)),
            time,
            scale: None,
            dropout: 0.0,
        }
    }

    /// What products of queries and keys are multiplied with; `1 / sqrt(size)` by default.
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// The share of attention weights that is dropped while training; 0 by default.
    pub fn dropout(mut self, p: f64) -> Self {
        self.dropout = p;
        self
    }

    /// What is added to the scaled products, broadcast to `[batch, heads, time, keys]`; nothing by
    /// default.
    ///
    /// # Panics
    /// If it does not broadcast.
    #[track_caller]
    pub fn bias(mut self, bias: &Tensor) -> Self {
        let hidden = Tensor::full((), f64::NEG_INFINITY, bias.dtype());
        self.mask = Some(match &self.mask {
            Some(seen) => seen.where_(bias, &hidden),
            None => bias.clone(),
        });
        self
    }

    /// How many tokens precede each token in its sequence: `[batch, time]`, or `[1, time]` where
    /// all rows are alike.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// How far before each token each key lies, `[time, keys]`; negative for later ones.
    pub fn distances(&self) -> Tensor {
        let (tokens, keys) = match &self.cache {
            Some((cache, places)) => (places.clone(), cache.length),
            None => (Tensor::arange(self.time, DType::I64), self.time),
        };
        tokens.unsqueeze(1) - Tensor::arange(keys, DType::I64)
    }

    /// What the queries `[batch, heads, time, size]` of a layer find in its keys and values
    /// `[batch, groups, time, size]` and in those that the cache holds:
    /// `[batch, heads, time, size]`.
    ///
    /// # Panics
    /// If shapes or types do not fit.
    #[track_caller]
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let options = Attention {
            mask: self.mask.as_ref(),
            // With a cache the mask says it.
            causal: self.cache.is_none(),
            scale: self.scale,
            dropout: self.dropout,
        };
        let Some((cache, places)) = &mut self.cache else {
            return Tensor::attention(q, k, v, options);
        };
        for (held, new) in cache.layers[layer].iter_mut().zip([k, v]) {
            *held = written(held, new, places);
        }
        let [k, v] = &cache.layers[layer];
        Tensor::attention(q, k, v, options)
    }
}

/// `held [batch, groups, length, size]` with `new [batch, groups, time, size]` at `places [time]`,
/// where `held` is zero. By an index in data, so that every step is the same plan; the same index
/// for all layers, so that it is checked once and all but the first write into the old memory.
fn written(held: &Tensor, new: &Tensor, places: &Tensor) -> Tensor {
    let index = places.reshape([1, 1, places.numel(), 1]);
    held.scatter_add(2, &index.broadcast_to(new.shape()), new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn randoms(time: usize) -> [Tensor; 3] {
        [4, 2, 2].map(|heads| {
            let t = Tensor::randn([2, heads, time, 8], DType::F32);
            t.eval();
            t
        })
    }

    /// The first `n` tokens at once and the others one by one give what all at once give.
    #[test]
    fn steps_agree_with_the_whole() {
        let [q, k, v] = randoms(7);
        let padding = [0, 2];
        let mask = Tensor::from_vec(
            [[1i64, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]].concat(),
            [2, 7],
        );
        let mut whole = Causal::whole(7, Some(&mask));
        assert_eq!(
            whole.positions().to_vec::<i64>()[7..],
            [0, 0, 0, 1, 2, 3, 4]
        );
        let want = whole.attend(0, &q, &k, &v);
        for n in [1, 3] {
            let mut cache = KvCache::new(1, [2, 2, 9, 8], DType::F32).pad_left(&padding);
            let mut at = 0;
            for time in std::iter::once(n).chain(std::iter::repeat_n(1, 7 - n)) {
                let mut pass = Causal::next(&mut cache, time);
                let part = |x: &Tensor| x.narrow(2, at, time);
                let got = pass.attend(0, &part(&q), &part(&k), &part(&v));
                let positions = pass.positions().to_vec::<i64>();
                assert_eq!(positions[time - 1], (at + time - 1) as i64);
                let difference = (got - part(&want)).abs().max(..).item();
                assert!(difference < 1e-6, "{n} {at}: {difference}");
                at += time;
            }
            assert_eq!((cache.used(), cache.room()), (7, 2));
        }
    }

    #[test]
    fn rows_move() {
        let [q, k, v] = randoms(3);
        let mut cache = KvCache::new(1, [2, 2, 4, 8], DType::F32);
        Causal::next(&mut cache, 3).attend(0, &q, &k, &v).eval();
        cache.select_rows(&[1, 1, 0]);
        let held = &cache.layers[0][0];
        assert_eq!(held.shape(), [3, 2, 4, 8]);
        let row = |i: isize| held.select(0, i).narrow(1, 0, 3).to_vec::<f32>();
        assert_eq!(row(0), k.select(0, 1).to_vec::<f32>());
        assert_eq!((row(0), cache.batch()), (row(1), 3));
    }

    #[test]
    #[should_panic(expected = "a cache of length 4 that holds 3 tokens has no room for 2 more")]
    fn a_full_cache_says_so() {
        let mut cache = KvCache::new(1, [1, 1, 4, 2], DType::F32);
        let _ = Causal::next(&mut cache, 3);
        let _ = Causal::next(&mut cache, 2);
    }
}
