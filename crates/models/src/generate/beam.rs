//! Beam search: the likeliest text rather than the likeliest next token.

use super::{begin, scores};
use crate::CausalLm;
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
    let scored = |sum: f64, count: usize| sum / (count.max(1) as f64).powf(length_penalty);
    let mut done: Vec<Beam> = Vec::new();
    let mut open: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), 0.0)];
    if most == 0 {
        return vec![Beam {
            tokens: Vec::new(),
            score: 0.0,
        }];
    }
    let (mut logits, mut cache) = begin(model, &[prompt.to_vec()], length, prompt.len());
    for step in 1..=most {
        let rows = scores(&logits);
        let mut next: Vec<(usize, u32, f64)> = Vec::new();
        for (row, scores) in rows.chunks(model.vocab()).enumerate() {
            let likely = log_softmax(scores);
            next.extend(
                (0..)
                    .zip(likely)
                    .map(|(token, p)| (row, token, open[row].1 + p)),
            );
        }
        next.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        let mut kept = Vec::new();
        let mut last = 0;
        for (row, token, sum) in next {
            if kept.len() == width || last == width {
                break;
            }
            let ended = ends.contains(&token);
            let mut tokens = open[row].0.clone();
            if !ended {
                tokens.push(token);
            }
            if ended || step == most {
                let score = scored(sum, step);
                done.push(Beam { tokens, score });
                last += usize::from(step == most);
            } else {
                kept.push((row, token, tokens, sum));
            }
        }
        done.sort_by(|a, b| b.score.total_cmp(&a.score));
        done.truncate(width);
        if step == most || kept.is_empty() {
            break;
        }
        // The best that an open text can become, if all its further tokens are certain.
        let hope = kept
            .iter()
            .map(|(.., sum)| scored(*sum, if length_penalty > 0.0 { most } else { step }))
            .fold(f64::NEG_INFINITY, f64::max);
        if done.len() == width && done[width - 1].score >= hope {
            break;
        }
        let from: Vec<usize> = kept.iter().map(|(row, ..)| *row).collect();
        let ids: Vec<i64> = kept
            .iter()
            .map(|(_, token, ..)| i64::from(*token))
            .collect();
        open = kept
            .into_iter()
            .map(|(_, _, tokens, sum)| (tokens, sum))
            .collect();
        cache.select_rows(&from);
        logits = model.decode_step(&Tensor::from_vec(ids, [from.len(), 1]), &mut cache);
    }
    done
}

fn log_softmax(scores: &[f32]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|&s| f64::from(s - most).exp()).sum();
    scores
        .iter()
        .map(|&s| f64::from(s - most) - sum.ln())
        .collect()
}
