//! Beam search: the likeliest text rather than the likeliest next token.

use super::{begin, scores};
use crate::{CausalLm, Seq2SeqLm};
use fornax_tensor::Tensor;

/// A text that beam search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Beam {
    /// Its new tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// The sum of its tokens' log probabilities, divided by their number to the power of the length
    /// penalty.
    pub score: f64,
}

impl Beam {
    fn empty() -> Self {
        Beam {
            tokens: Vec::new(),
            score: 0.0,
        }
    }
}

/// Follows the `width` likeliest texts after `prompt` for up to `most` tokens and returns the best
/// `width` that were found, best first. A text ends with one of `ends` or after `most` tokens. With
/// a `length_penalty` above 0 longer texts gain, as in HuggingFace's `generate`, whose default is 1.
///
/// # Panics
/// If the prompt has no token, prompt and new tokens are more than the model's context, or `width`
/// is 0.
#[track_caller]
pub fn beam_search(
    model: &(impl CausalLm + ?Sized),
    prompt: &[u32],
    width: usize,
    most: usize,
    ends: &[u32],
    length_penalty: f64,
) -> Vec<Beam> {
    assert!(width > 0, "beam_search: at least one beam");
    assert!(!prompt.is_empty(), "beam_search: the prompt has no token");
    let length = prompt.len() + most;
    assert!(
        length <= model.context(),
        "beam_search: {length} tokens are more than the model's context of {}",
        model.context()
    );
    if most == 0 {
        return vec![Beam::empty()];
    }
    let (logits, mut cache) = begin(model, &[prompt.to_vec()], length, prompt.len());
    search(width, most, ends, length_penalty, logits, |rows, ids| {
        cache.select_rows(rows);
        model.decode_step(ids, &mut cache)
    })
}

/// [`beam_search`] for what a model writes about the text `source`.
///
/// # Panics
/// If the source has no token, it or `most` tokens are more than the model's positions, or `width`
/// is 0.
#[track_caller]
pub fn beam_search_seq2seq(
    model: &(impl Seq2SeqLm + ?Sized),
    source: &[u32],
    width: usize,
    most: usize,
    ends: &[u32],
    length_penalty: f64,
) -> Vec<Beam> {
    assert!(width > 0, "beam_search: at least one beam");
    assert!(!source.is_empty(), "beam_search: the source has no token");
    if most == 0 {
        return vec![Beam::empty()];
    }
    let ids = source.iter().map(|&id| i64::from(id)).collect();
    let states = model.encode(&Tensor::from_vec(ids, [1, source.len()]), None);
    let mut cache = model.init_cache(&states, None, most);
    let start = Tensor::from_vec(vec![model.start_token()], [1, 1]);
    let logits = model.decode_step(&start, &mut cache);
    search(width, most, ends, length_penalty, logits, |rows, ids| {
        cache.select_rows(rows);
        model.decode_step(ids, &mut cache)
    })
}

/// A text that goes on.
struct Open {
    tokens: Vec<u32>,
    /// Of its tokens' log probabilities.
    sum: f64,
}

/// Goes on from the scores `[1, vocab]` of the first token. `step` takes which texts of the last
/// step go on, and with which token `[texts, 1]` each, and returns the scores `[texts, vocab]` of
/// what follows.
#[track_caller]
fn search(
    width: usize,
    most: usize,
    ends: &[u32],
    length_penalty: f64,
    mut logits: Tensor,
    mut step: impl FnMut(&[usize], &Tensor) -> Tensor,
) -> Vec<Beam> {
    let scored = |sum: f64, count: usize| sum / (count as f64).powf(length_penalty);
    let mut done: Vec<Beam> = Vec::new();
    let mut open = vec![Open {
        tokens: Vec::new(),
        sum: 0.0,
    }];
    for count in 1..=most {
        let (mut rows, mut ids, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut full = 0;
        for (row, token, sum) in candidates(&logits, &open, width, ends) {
            if kept.len() == width || full == width {
                break;
            }
            let ended = ends.contains(&token);
            let mut tokens = open[row].tokens.clone();
            if !ended {
                tokens.push(token);
            }
            if ended || count == most {
                let score = scored(sum, count);
                done.push(Beam { tokens, score });
                full += usize::from(count == most);
            } else {
                rows.push(row);
                ids.push(i64::from(token));
                kept.push(Open { tokens, sum });
            }
        }
        done.sort_by(|a, b| b.score.total_cmp(&a.score));
        done.truncate(width);
        // The best that an open text can become, if all its further tokens are certain.
        let length = if length_penalty > 0.0 { most } else { count };
        let hope = kept.iter().map(|text| scored(text.sum, length));
        let hope = hope.fold(f64::NEG_INFINITY, f64::max);
        if kept.is_empty() || done.len() == width && done[width - 1].score >= hope {
            break;
        }
        open = kept;
        logits = step(&rows, &Tensor::from_vec(ids, [rows.len(), 1]));
    }
    done
}

/// The likeliest continuations, best first: the text's row, its next token and the sum. So many that
/// `width` of them go on.
#[track_caller]
fn candidates(
    logits: &Tensor,
    open: &[Open],
    width: usize,
    ends: &[u32],
) -> Vec<(usize, u32, f64)> {
    let mut all = Vec::with_capacity(logits.numel());
    for (row, scores) in scores(logits).chunks(logits.dim(1)).enumerate() {
        let sums = log_softmax(scores).map(|p| open[row].sum + p);
        all.extend((0..).zip(sums).map(|(token, sum)| (row, token, sum)));
    }
    let order = |a: &(usize, u32, f64), b: &(usize, u32, f64)| {
        b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1)))
    };
    // Each of the `width` texts at most may end in so many ways.
    let enough = width.saturating_mul(1 + ends.len());
    if enough < all.len() {
        all.select_nth_unstable_by(enough, order);
        all.truncate(enough);
    }
    all.sort_unstable_by(order);
    all
}

fn log_softmax(scores: &[f32]) -> impl Iterator<Item = f64> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|&s| f64::from(s - most).exp()).sum();
    let sum = sum.ln();
    scores.iter().map(move |&s| f64::from(s - most) - sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{T5, T5Config, Transformer, TransformerConfig};
    use fornax_nn::init;
    use fornax_tensor::manual_seed;

    const MOST: u32 = 3;

    /// All texts of three tokens and their mean log probabilities, best first, by whole passes.
    fn all_texts(model: &dyn Seq2SeqLm, source: &[u32]) -> Vec<(Vec<u32>, f64)> {
        let ids = source.iter().map(|&id| i64::from(id)).collect();
        let states = model.encode(&Tensor::from_vec(ids, [1, source.len()]), None);
        let memory = model.memory(&states, None);
        let vocab = model.vocab();
        let of = |number: usize| {
            let tokens: Vec<u32> = (0..MOST)
                .map(|i| (number / vocab.pow(i) % vocab) as u32)
                .collect();
            let mut ids = vec![model.start_token()];
            ids.extend(tokens[..2].iter().map(|&token| i64::from(token)));
            let logits = model.decode(&Tensor::from_vec(ids, [1, 3]), &memory);
            let rows = scores(&logits);
            let likely = rows.chunks(vocab).zip(&tokens);
            let sum: f64 = likely
                .map(|(row, &token)| log_softmax(row).nth(token as usize).unwrap())
                .sum();
            (tokens, sum / f64::from(MOST))
        };
        let mut all: Vec<_> = (0..vocab.pow(MOST)).map(of).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }

    fn finds_the_best(model: &dyn Seq2SeqLm) {
        let source = [2, 4, 1, 3];
        let all = all_texts(model, &source);
        let search = |width, ends: &[u32], penalty| {
            beam_search_seq2seq(model, &source, width, MOST as usize, ends, penalty)
        };
        let found = search(25, &[], 1.0);
        assert_eq!(found.len(), 25);
        for (beam, (tokens, score)) in found.iter().zip(&all).take(10) {
            assert_eq!(&beam.tokens, tokens);
            assert!((beam.score - score).abs() < 1e-4);
        }
        // A text that may end does, and does not hold the token that ended it.
        let end = all[0].0[1];
        let ended = search(25, &[end], 0.0);
        assert!(ended.iter().any(|beam| beam.tokens.len() < MOST as usize));
        assert!(ended.iter().all(|beam| !beam.tokens.contains(&end)));
        assert_eq!(
            beam_search_seq2seq(model, &source, 2, 0, &[], 1.0),
            [Beam::empty()]
        );
    }

    #[test]
    fn wide_beams_find_the_best_of_all_texts_about_a_source() {
        manual_seed(6);
        let t5 = T5Config {
            vocab_size: 5,
            d_model: 16,
            d_kv: 8,
            d_ff: 32,
            num_layers: 2,
            num_heads: 2,
            ..T5Config::default()
        };
        finds_the_best(&T5::new(&t5).unwrap());
        let config = TransformerConfig {
            source_vocab: 5,
            target_vocab: 5,
            d_model: 16,
            nhead: 2,
            num_encoder_layers: 1,
            num_decoder_layers: 2,
            dim_feedforward: 32,
            max_length: 4,
            ..TransformerConfig::default()
        };
        let mut model = Transformer::new(&config).unwrap();
        // So that scores differ.
        init::apply(&mut model, |name, p| {
            let is_table = name.ends_with("embedding.weight");
            is_table.then(|| init::normal(p.shape(), 0.0, 1.0))
        });
        finds_the_best(&model);
    }
}
