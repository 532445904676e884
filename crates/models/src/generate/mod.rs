//! Writing text: from a model of the next token to whole texts, token by token.
//!
//! ```
//! use fornax_models::generate::{Options, Sampling, generate};
//! use fornax_models::{Gpt2, Gpt2Config};
//! use std::ops::ControlFlow;
//! let config = Gpt2Config { vocab_size: 50, n_positions: 16, n_embd: 16, n_layer: 1, n_head: 2, ..Gpt2Config::default() };
//! let model = Gpt2::new(&config)?;
//! let options = Options { most: 20, sampling: Sampling { temperature: 0.8, top_k: 10, ..Sampling::greedy() }, ..Options::default() };
//! let texts = generate(&model, &[vec![1, 2, 3], vec![4]], &options, |_row, _token| ControlFlow::Continue(()));
//! assert_eq!((texts[0].len(), texts[1].len()), (20, 20));
//! # Ok::<(), fornax_models::ConfigError>(())
//! ```

mod beam;
mod sampling;

pub use beam::{Beam, beam_search, beam_search_seq2seq};
pub use sampling::Sampling;

use crate::{CausalLm, Seq2SeqLm};
use fornax_tensor::Tensor;
use std::ops::ControlFlow;

/// How long texts get, and how their tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The most new tokens of a text.
    pub most: usize,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// Tokens that end a text; they are not part of it.
    pub ends: Vec<u32>,
}

/// 256 tokens at most, always the likeliest.
impl Default for Options {
    fn default() -> Self {
        Options {
            most: 256,
            sampling: Sampling::greedy(),
            ends: Vec::new(),
        }
    }
}

/// Goes on with each prompt, all of them together, though their lengths differ. Every new token is
/// shown to `each` with the number of its prompt; when `each` breaks, that text ends with it.
/// Returns the new tokens of each.
///
/// A text may be longer than what the model can look back on: then it goes on from the last half.
/// From the second token on, all steps run one plan.
///
/// # Panics
/// If a prompt has no token, or the model's vocabulary lacks one.
#[track_caller]
pub fn generate(
    model: &(impl CausalLm + ?Sized),
    prompts: &[Vec<u32>],
    options: &Options,
    each: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Vec<Vec<u32>> {
    if let Some(row) = prompts.iter().position(Vec::is_empty) {
        panic!("generate: prompt {row} has no token");
    }
    if prompts.is_empty() || options.most == 0 {
        return vec![Vec::new(); prompts.len()];
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let length = model.context().min(longest.saturating_add(options.most));
    // A prompt that fills the context leaves no room for what is new.
    let reach = match longest < length {
        true => longest,
        false => length.div_ceil(2).min(length - 1).max(1),
    };
    let (logits, mut cache) = begin(model, prompts, length, reach);
    write(
        logits,
        prompts.to_vec(),
        options,
        each,
        |next, histories| {
            if cache.room() == 0 {
                let half = length.div_ceil(2).min(length - 1).max(1);
                let (logits, fresh) = begin(model, histories, length, half);
                cache = fresh;
                return Some(logits);
            }
            Some(model.decode_step(&next, &mut cache))
        },
    )
}

/// Writes a text about each of the texts `sources`, all of them together, though their lengths
/// differ; otherwise as [`generate`]. A text ends, at the latest, where the model has no place for
/// more.
///
/// ```
/// use fornax_models::generate::{Options, generate_seq2seq};
/// use fornax_models::{T5, T5Config};
/// use std::ops::ControlFlow;
/// let config = T5Config { vocab_size: 50, d_model: 16, d_ff: 32, num_layers: 1, ..T5Config::default() };
/// let model = T5::new(&config)?;
/// let options = Options { most: 5, ends: vec![1], ..Options::default() };
/// let texts = generate_seq2seq(&model, &[vec![7, 8, 9, 1], vec![7, 1]], &options, |_, _| ControlFlow::Continue(()));
/// assert!(texts.len() == 2 && texts[0].len() <= 5);
/// # Ok::<(), fornax_models::ConfigError>(())
/// ```
///
/// # Panics
/// If a source has no token or is too long for the model, or the model's vocabulary lacks one.
#[track_caller]
pub fn generate_seq2seq(
    model: &(impl Seq2SeqLm + ?Sized),
    sources: &[Vec<u32>],
    options: &Options,
    each: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Vec<Vec<u32>> {
    if let Some(row) = sources.iter().position(Vec::is_empty) {
        panic!("generate_seq2seq: source {row} has no token");
    }
    let length = options.most.min(model.longest());
    if sources.is_empty() || length == 0 {
        return vec![Vec::new(); sources.len()];
    }
    // Filled up to a multiple of 8, so that few plans serve all sources.
    let longest = sources.iter().map(Vec::len).max().unwrap_or(0);
    let width = longest
        .next_multiple_of(8)
        .min(model.longest())
        .max(longest);
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for source in sources {
        let padding = width - source.len();
        ids.extend(source.iter().map(|&id| i64::from(id)));
        ids.extend(std::iter::repeat_n(0, padding));
        mask.extend(std::iter::repeat_n(1i64, source.len()));
        mask.extend(std::iter::repeat_n(0, padding));
    }
    let shape = [sources.len(), width];
    let (ids, mask) = (Tensor::from_vec(ids, shape), Tensor::from_vec(mask, shape));
    let states = model.encode(&ids, Some(&mask));
    let mut cache = model.init_cache(&states, Some(&mask), length);
    let start = vec![model.start_token(); sources.len()];
    let logits = model.decode_step(&Tensor::from_vec(start, [sources.len(), 1]), &mut cache);
    let histories = vec![Vec::new(); sources.len()];
    write(logits, histories, options, each, |next, _| {
        (cache.room() > 0).then(|| model.decode_step(&next, &mut cache))
    })
}

/// Chooses a token of each text by the scores `logits [texts, vocab]`, asks `go_on` for the scores
/// of those after it, and so on. `go_on` is given the tokens `[texts, 1]` and all the tokens of each
/// text; nothing is what it gives where there is no room.
fn write(
    mut logits: Tensor,
    mut histories: Vec<Vec<u32>>,
    options: &Options,
    mut each: impl FnMut(usize, u32) -> ControlFlow<()>,
    mut go_on: impl FnMut(Tensor, &[Vec<u32>]) -> Option<Tensor>,
) -> Vec<Vec<u32>> {
    let mut texts = vec![Vec::new(); histories.len()];
    let mut open = vec![true; histories.len()];
    let vocab = logits.dim(1);
    for step in 0..options.most {
        let rows = scores(&logits);
        let mut next = Vec::with_capacity(open.len());
        for (row, scores) in rows.chunks(vocab).enumerate() {
            if !open[row] {
                next.push(0);
                continue;
            }
            let token = options.sampling.pick(scores, &histories[row], row, step);
            next.push(i64::from(token));
            if options.ends.contains(&token) {
                open[row] = false;
                continue;
            }
            texts[row].push(token);
            histories[row].push(token);
            open[row] = each(row, token).is_continue();
        }
        if !open.contains(&true) || step + 1 == options.most {
            break;
        }
        match go_on(Tensor::from_vec(next, [open.len(), 1]), &histories) {
            Some(scores) => logits = scores,
            None => break,
        }
    }
    texts
}

/// Shows the model the last `reach` tokens of each text, so that all end together.
#[track_caller]
fn begin(
    model: &(impl CausalLm + ?Sized),
    texts: &[Vec<u32>],
    length: usize,
    reach: usize,
) -> (Tensor, fornax_nn::KvCache) {
    let width = texts.iter().map(Vec::len).max().unwrap_or(0).min(reach);
    let mut ids = Vec::with_capacity(width * texts.len());
    let mut padding = Vec::with_capacity(texts.len());
    for text in texts {
        let last = &text[text.len().saturating_sub(width)..];
        padding.push(width - last.len());
        ids.extend(std::iter::repeat_n(0, width - last.len()));
        ids.extend(last.iter().map(|&id| i64::from(id)));
    }
    let mut cache = model.init_cache(texts.len(), length).pad_left(&padding);
    let ids = Tensor::from_vec(ids, [texts.len(), width]);
    (model.decode_step(&ids, &mut cache), cache)
}

/// The scores as numbers, row after row.
#[track_caller]
fn scores(logits: &Tensor) -> Vec<f32> {
    logits
        .to_f64_vec()
        .into_iter()
        .map(|score| score as f32)
        .collect()
}

#[cfg(test)]
mod tests;
