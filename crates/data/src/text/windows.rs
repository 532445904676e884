//! Batches out of a long text: windows of a fixed length, and what is to be learnt from each.

use super::Tokens;
use crate::error::{Error, Result};
use crate::loader::{Batch, Batches};
use crate::rng::{Philox, Purpose};
use fornax_tensor::{IGNORE_INDEX, Tensor};
use std::sync::Arc;

/// What a model is to learn from a window.
#[derive(Clone)]
pub enum Objective {
    /// The next token, at every place.
    Next,
    /// The tokens that were hidden.
    Masked(Masking),
    /// Another text: the stretches that were taken out of this one.
    Spans(Spans),
}

/// How tokens are hidden from a masked language model: whole words, as in the later BERTs. Of what
/// is chosen, 80% becomes the mask, 10% another token, and 10% stays (Devlin et al. 2019).
#[derive(Clone)]
pub struct Masking {
    /// The token that stands for a hidden one.
    pub mask: u32,
    /// The share of tokens that is chosen; 0.15 in BERT.
    pub share: f64,
    /// For every token of the vocabulary, whether a word begins with it.
    pub begins: Arc<[bool]>,
    /// The tokens that a hidden one may be replaced by.
    pub others: std::ops::Range<u32>,
}

/// How stretches are taken out of a text (span corruption, Raffel et al. 2020): each leaves a token
/// of its own behind, a sentinel. What is to be written is each sentinel with the tokens that it
/// stands for. Both texts end with `end`.
#[derive(Clone)]
pub struct Spans {
    /// The share of tokens that is taken out; 0.15 in T5.
    pub share: f64,
    /// How long stretches are on average; 3 in T5.
    pub mean: f64,
    /// What stands for the first stretch, the second and so on.
    pub sentinels: Arc<[u32]>,
    /// Ends both texts.
    pub end: u32,
}

/// Batches of windows of a text: at random places for training, side by side for validation.
///
/// A batch has `x [batch, context]` and `y [batch, context]`, both `i64`; targets that do not count
/// are [`IGNORE_INDEX`]. With [`Objective::Spans`] `y` is another text, of another length. What a batch
/// holds is a function of seed, epoch and number alone.
///
/// ```
/// use fornax_data::Batches;
/// use fornax_data::text::{Objective, Tokens, Windows};
/// let tokens = Tokens::new((0..100).collect());
/// let windows = Windows::new(tokens, 8, Objective::Next)?.batch_size(4).random(7, 50);
/// assert_eq!(windows.batches(), 50);
/// let batch = windows.epoch(3, 10).next().unwrap()?;
/// assert_eq!(batch.x.shape(), [4, 8]);
/// assert_eq!((batch.y - batch.x).to_vec::<i64>(), [1; 32]);
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Clone)]
pub struct Windows {
    tokens: Tokens,
    context: usize,
    objective: Objective,
    batch_size: usize,
    seed: u64,
    /// Batches in an epoch, if they are drawn at random.
    random: Option<usize>,
}

impl Windows {
    /// Windows of `context` tokens, side by side, in batches of 32. Each needs one more where the
    /// next token is the target. What is left over at the end is not used.
    ///
    /// # Errors
    /// If the text is shorter than one window, or a window has more stretches than there are
    /// sentinels.
    pub fn new(tokens: Tokens, context: usize, objective: Objective) -> Result<Self> {
        let windows = Windows {
            tokens,
            context,
            objective,
            batch_size: 32,
            seed: 0,
            random: None,
        };
        if windows.stride() == 0 || windows.starts() == 0 {
            return Err(Error::Mismatch(format!(
                "a part of the text has {} tokens, too few for a context of {context}; take a \
                 longer text or a shorter context",
                windows.tokens.len()
            )));
        }
        if let Objective::Spans(spans) = &windows.objective {
            let [_, count] = spans.taken(windows.stride());
            if count > spans.sentinels.len() {
                return Err(Error::Mismatch(format!(
                    "a window has {count} stretches to take out, but the vocabulary only {} \
                     sentinels; take a shorter context",
                    spans.sentinels.len()
                )));
            }
        }
        Ok(windows)
    }

    /// Windows in a batch.
    ///
    /// # Panics
    /// If it is 0.
    #[track_caller]
    pub fn batch_size(mut self, windows: usize) -> Self {
        assert!(windows > 0, "a batch needs at least one window");
        self.batch_size = windows;
        self
    }

    /// Draws windows anywhere in the text, `batches` full batches an epoch.
    ///
    /// # Panics
    /// If there are to be no batches.
    #[track_caller]
    pub fn random(mut self, seed: u64, batches: usize) -> Self {
        assert!(batches > 0, "an epoch needs at least one batch");
        self.seed = seed;
        self.random = Some(batches);
        self
    }

    /// The seed of what is hidden, where windows are side by side.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Tokens of a window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The batches that cover the text once.
    pub fn once(&self) -> usize {
        self.side_by_side().div_ceil(self.batch_size)
    }

    /// Tokens that a window needs.
    fn needed(&self) -> usize {
        match self.objective {
            Objective::Next => self.context + 1,
            Objective::Masked(_) | Objective::Spans(_) => self.stride(),
        }
    }

    /// Tokens from one window to the next.
    fn stride(&self) -> usize {
        match &self.objective {
            Objective::Next | Objective::Masked(_) => self.context,
            Objective::Spans(spans) => spans.read(self.context),
        }
    }

    /// Places where a window may begin.
    fn starts(&self) -> usize {
        (self.tokens.len() + 1).saturating_sub(self.needed())
    }

    fn side_by_side(&self) -> usize {
        (self.tokens.len() + self.stride() - self.needed()) / self.stride()
    }

    fn make(&self, epoch: u64, number: usize) -> Batch {
        let first = number * self.batch_size;
        let count = self.batch_size.min(self.samples() - first);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let mut indices = Vec::with_capacity(count);
        for sample in first..first + count {
            let start = match self.random {
                Some(_) => {
                    let mut rng = Philox::new(self.seed, Purpose::Window, epoch, sample);
                    rng.below(self.starts())
                }
                None => sample * self.stride(),
            };
            let token = |i: usize| i64::from(self.tokens.get(start + i));
            match &self.objective {
                Objective::Next => {
                    x.extend((0..self.context).map(token));
                    y.extend((1..=self.context).map(token));
                }
                Objective::Masked(masking) => {
                    let mut window: Vec<i64> = (0..self.context).map(token).collect();
                    let mut rng = Philox::new(self.seed, Purpose::Mask, epoch, sample);
                    y.extend(masking.hide(&mut window, &mut rng));
                    x.extend(window);
                }
                Objective::Spans(spans) => {
                    let window: Vec<i64> = (0..self.stride()).map(token).collect();
                    let mut rng = Philox::new(self.seed, Purpose::Mask, epoch, sample);
                    spans.take_out(&window, &mut rng, &mut x, &mut y);
                }
            }
            indices.push(start);
        }
        let written = y.len() / count;
        Batch {
            weight: y.iter().filter(|&&y| y != IGNORE_INDEX).count(),
            x: Tensor::from_vec(x, [count, self.context]),
            y: Tensor::from_vec(y, [count, written]),
            indices,
        }
    }
}

impl Masking {
    /// Hides words of a window until the share of tokens is reached; returns the targets.
    fn hide(&self, window: &mut [i64], rng: &mut Philox) -> Vec<i64> {
        let begins = |i: usize| i == 0 || self.begins.get(window[i] as usize) == Some(&true);
        let mut words: Vec<(usize, usize)> = Vec::new();
        for i in 0..window.len() {
            match words.last_mut() {
                Some((_, end)) if !begins(i) => *end = i + 1,
                _ => words.push((i, i + 1)),
            }
        }
        rng.shuffle(&mut words);
        let wanted = ((self.share * window.len() as f64).round() as usize).max(1);
        let mut targets = vec![IGNORE_INDEX; window.len()];
        let mut hidden = 0;
        for (start, end) in words {
            // A word that is too long is left out, but something is hidden at any rate.
            if hidden > 0 && hidden + end - start > wanted {
                continue;
            }
            for i in start..end {
                targets[i] = window[i];
                window[i] = match rng.below(10) {
                    0..8 => self.mask.into(),
                    8 => i64::from(self.others.start) + rng.below(self.others.len()) as i64,
                    _ => window[i],
                };
            }
            hidden += end - start;
            if hidden >= wanted {
                break;
            }
        }
        targets
    }
}

impl Spans {
    /// Of `length` tokens, how many are taken out, and in how many stretches.
    fn taken(&self, length: usize) -> [usize; 2] {
        let round = |n: f64, most: usize| (n.round() as usize).clamp(1, most.max(1));
        let tokens = round(length as f64 * self.share, length.saturating_sub(1));
        let most = tokens.min(length.saturating_sub(tokens));
        [tokens, round(tokens as f64 / self.mean, most)]
    }

    /// The tokens of a text of which `context` are left, sentinels and end included: as many as
    /// possible, 0 if there is no such text.
    fn read(&self, context: usize) -> usize {
        let left = |length: usize| {
            let [tokens, stretches] = self.taken(length);
            length - tokens + stretches + 1
        };
        let lengths = 2..=context.saturating_mul(16);
        let fitting = lengths.take_while(|&length| left(length) <= context);
        fitting
            .last()
            .filter(|&length| left(length) == context)
            .unwrap_or(0)
    }

    /// Takes stretches out of a window: adds what is left to `x` and what is to be written to `y`.
    fn take_out(&self, window: &[i64], rng: &mut Philox, x: &mut Vec<i64>, y: &mut Vec<i64>) {
        let [tokens, stretches] = self.taken(window.len());
        let out = cut(tokens, stretches, rng);
        let kept = cut(window.len() - tokens, stretches, rng);
        let mut rest = window;
        for ((kept, out), &sentinel) in kept.into_iter().zip(out).zip(&*self.sentinels) {
            let sentinel = i64::from(sentinel);
            x.extend(&rest[..kept]);
            x.push(sentinel);
            y.push(sentinel);
            y.extend(&rest[kept..kept + out]);
            rest = &rest[kept + out..];
        }
        x.push(self.end.into());
        y.push(self.end.into());
    }
}

/// Cuts `length` into `parts`, none of them empty, every way equally likely.
fn cut(length: usize, parts: usize, rng: &mut Philox) -> Vec<usize> {
    let mut places: Vec<usize> = (1..length).collect();
    rng.shuffle(&mut places);
    places.truncate(parts - 1);
    places.sort_unstable();
    let ends = places.iter().copied().chain([length]);
    let starts = [0].into_iter().chain(places.iter().copied());
    ends.zip(starts).map(|(end, start)| end - start).collect()
}

impl Batches for Windows {
    fn samples(&self) -> usize {
        match self.random {
            Some(batches) => batches * self.batch_size,
            None => self.side_by_side(),
        }
    }

    fn batches(&self) -> usize {
        self.samples().div_ceil(self.batch_size)
    }

    fn epoch(&self, epoch: u64, skip: usize) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        Box::new((skip..self.batches()).map(move |number| Ok(self.make(epoch, number))))
    }

    fn digest(&self, take: &mut dyn FnMut(&[u8])) -> Result<()> {
        take(&(self.context as u64).to_le_bytes());
        take(&(self.samples() as u64).to_le_bytes());
        for i in 0..self.tokens.len() {
            take(&self.tokens.get(i).to_le_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(windows: &Windows, epoch: u64) -> Vec<(Vec<i64>, Vec<i64>)> {
        windows
            .epoch(epoch, 0)
            .map(|batch| {
                let batch = batch.unwrap();
                (batch.x.to_vec(), batch.y.to_vec())
            })
            .collect()
    }

    #[test]
    fn side_by_side_covers_the_text_once() {
        let tokens = Tokens::new((0..26).collect());
        let windows = Windows::new(tokens.clone(), 5, Objective::Next)
            .unwrap()
            .batch_size(2);
        let batches = all(&windows, 0);
        let x: Vec<i64> = batches.iter().flat_map(|(x, _)| x.clone()).collect();
        assert_eq!(x, (0..25).collect::<Vec<i64>>());
        assert_eq!((windows.samples(), batches.len()), (5, 3));
        // One token less, and the last window has no target.
        let windows = Windows::new(tokens.slice(0..25), 5, Objective::Next).unwrap();
        assert_eq!(windows.samples(), 4);
        assert!(Windows::new(tokens.slice(0..5), 5, Objective::Next).is_err());
        assert!(Windows::new(tokens.slice(0..6), 5, Objective::Next).is_ok());
    }

    #[test]
    fn random_windows_reach_every_place_and_can_be_made_again() {
        let tokens = Tokens::new((0..20).collect());
        let windows = Windows::new(tokens, 4, Objective::Next).unwrap();
        let windows = windows.batch_size(3).random(5, 100);
        assert_eq!(all(&windows, 0), all(&windows, 0));
        assert_ne!(all(&windows, 0), all(&windows, 1));
        let later: Vec<i64> = windows.epoch(0, 99).next().unwrap().unwrap().x.to_vec();
        assert_eq!(later, all(&windows, 0)[99].0);
        let mut starts: Vec<i64> = all(&windows, 0)
            .iter()
            .flat_map(|(x, _)| x.chunks(4).map(|w| w[0]).collect::<Vec<_>>())
            .collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts, (0..16).collect::<Vec<_>>());
    }

    fn spans() -> Spans {
        Spans {
            share: 0.15,
            mean: 3.0,
            sentinels: (1000..1100).collect(),
            end: 999,
        }
    }

    #[test]
    fn stretches_that_are_taken_out_fit_back_in() {
        let tokens = Tokens::new((0..900).collect());
        let windows = Windows::new(tokens, 64, Objective::Spans(spans())).unwrap();
        let windows = windows.batch_size(3);
        // T5's 512 tokens come of 568, with 114 to write.
        assert_eq!(spans().read(512), 568);
        assert_eq!(spans().taken(568), [85, 28]);
        let mut text = Vec::new();
        let mut lengths = Vec::new();
        for (x, y) in all(&windows, 0) {
            for (x, y) in x.chunks(64).zip(y.chunks(y.len() / (x.len() / 64))) {
                assert_eq!((x.last(), y.last()), (Some(&999), Some(&999)));
                let mut out = y[..y.len() - 1].split(|&id| id >= 1000).skip(1);
                for &id in &x[..63] {
                    match id >= 1000 {
                        true => {
                            let stretch = out.next().unwrap();
                            lengths.push(stretch.len());
                            text.extend(stretch);
                        }
                        false => text.push(id),
                    }
                }
                assert!(out.next().is_none());
                let sentinels = |ids: &[i64]| ids.iter().filter(|&&id| id >= 1000).count();
                assert_eq!(sentinels(x), sentinels(y));
            }
        }
        let whole = windows.samples() * spans().read(64);
        assert_eq!(text, (0..whole as i64).collect::<Vec<_>>());
        assert!(lengths.contains(&1) && lengths.iter().any(|&length| length > 4));
    }

    #[test]
    fn every_context_has_its_text() {
        for context in 3..300 {
            let length = spans().read(context);
            assert!(length >= 2, "{context}");
            let (mut x, mut y) = (Vec::new(), Vec::new());
            let window: Vec<i64> = (0..length as i64).collect();
            let mut rng = Philox::new(1, Purpose::Mask, 0, context);
            spans().take_out(&window, &mut rng, &mut x, &mut y);
            let [tokens, stretches] = spans().taken(length);
            assert_eq!((x.len(), y.len()), (context, tokens + stretches + 1));
        }
        let few = Spans {
            sentinels: [7].into(),
            ..spans()
        };
        let tokens = Tokens::new((0..900).collect());
        let refused = Windows::new(tokens.clone(), 64, Objective::Spans(few));
        assert!(refused.err().unwrap().to_string().contains("only 1"));
        assert!(Windows::new(tokens, 1, Objective::Spans(spans())).is_err());
    }

    #[test]
    fn whole_words_are_hidden() {
        // Words of one, two and three tokens; even tokens begin them.
        let text = [2, 4, 5, 6, 7, 9].repeat(400);
        let masking = Masking {
            mask: 0,
            share: 0.15,
            begins: (0..10).map(|id| id % 2 == 0).collect(),
            others: 1..10,
        };
        let context = 60;
        let windows = Windows::new(Tokens::new(text), context, Objective::Masked(masking)).unwrap();
        let (mut hidden, mut masked, mut kept) = (0, 0, 0);
        for (x, y) in all(&windows, 0) {
            for (x, y) in x.chunks(context).zip(y.chunks(context)) {
                for i in 0..context {
                    let begins = |i: usize| [0, 1, 3].contains(&(i % 6));
                    if i > 0 && !begins(i) {
                        assert_eq!(
                            y[i] == IGNORE_INDEX,
                            y[i - 1] == IGNORE_INDEX,
                            "half a word"
                        );
                    }
                    let original = [2, 4, 5, 6, 7, 9][i % 6];
                    match y[i] {
                        IGNORE_INDEX => assert_eq!(x[i], original),
                        target => {
                            assert_eq!(target, original);
                            hidden += 1;
                            masked += usize::from(x[i] == 0);
                            kept += usize::from(x[i] == original);
                        }
                    }
                }
                assert!(y.iter().filter(|&&y| y != IGNORE_INDEX).count() <= 9);
            }
        }
        let share = |n: usize| n as f64 / f64::from(hidden as u32);
        assert!(
            (f64::from(hidden as u32) / 2400.0 - 0.15).abs() < 0.01,
            "{hidden}"
        );
        assert!((share(masked) - 0.8).abs() < 0.08, "{masked} of {hidden}");
        assert!(
            share(kept) > 0.05 && share(kept) < 0.2,
            "{kept} of {hidden}"
        );
    }
}
