//! The choice of one token out of the scores of all.

use fornax_data::rng::{Philox, Purpose};

/// How a token is chosen. The steps are those of HuggingFace's `generate`, in its order: the
/// repetition penalty, the temperature, the `top_k` likeliest, the likeliest that together reach
/// `top_p`, and those at least `min_p` times as likely as the likeliest.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// What scores are divided by; 0 always takes the likeliest token.
    pub temperature: f64,
    /// So many of the likeliest tokens may be chosen; 0: all.
    pub top_k: usize,
    /// The likeliest tokens whose probabilities together reach this may be chosen; 1: all.
    pub top_p: f64,
    /// Tokens at least this many times as likely as the likeliest may be chosen; 0: all.
    pub min_p: f64,
    /// What the scores of tokens that have occurred are divided by if positive, multiplied with if
    /// negative (Keskar et al. 2019); 1: nothing.
    pub repetition_penalty: f64,
    /// The choice is a function of this, the text's number and the step.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token, the first of equals.
    pub fn greedy() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }

    /// Chooses a token by the `scores` of all after the tokens `past`, for text number `row` at
    /// step `step`.
    ///
    /// # Panics
    /// If there are no scores.
    #[track_caller]
    pub fn pick(&self, scores: &[f32], past: &[u32], row: usize, step: usize) -> u32 {
        let choice = self.distribution(scores, past);
        let mut rng = Philox::new(self.seed, Purpose::Sample, step as u64, row);
        let bits = u64::from(rng.next_u32()) << 32 | u64::from(rng.next_u32());
        let mut left = (bits >> 11) as f64 / (1u64 << 53) as f64;
        for &(token, p) in &choice {
            left -= p;
            if left < 0.0 {
                return token;
            }
        }
        // What rounding left over.
        choice[0].0
    }

    /// The tokens that may be chosen with their probabilities, likeliest first.
    ///
    /// # Panics
    /// If there are no scores.
    #[track_caller]
    pub fn distribution(&self, scores: &[f32], past: &[u32]) -> Vec<(u32, f64)> {
        assert!(!scores.is_empty(), "a choice needs at least one token");
        // A score that is no number is the least.
        let number = |score: &f32| match score.is_nan() {
            true => f64::NEG_INFINITY,
            false => f64::from(*score),
        };
        let mut scores: Vec<f64> = scores.iter().map(number).collect();
        if self.repetition_penalty != 1.0 {
            let mut seen: Vec<u32> = past.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                if let Some(score) = scores.get_mut(token as usize) {
                    *score = match *score < 0.0 {
                        true => *score * self.repetition_penalty,
                        false => *score / self.repetition_penalty,
                    };
                }
            }
        }
        let mut all: Vec<(u32, f64)> = (0..).zip(scores).collect();
        // Equals in the order of the vocabulary.
        let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.temperature <= 0.0 {
            let best = all.iter().min_by(|a, b| order(a, b));
            return vec![(best.expect("not empty").0, 1.0)];
        }
        if self.top_k > 0 && self.top_k < all.len() {
            all.select_nth_unstable_by(self.top_k - 1, order);
            let least = all[self.top_k - 1].1;
            // Equals of the last one stay, as in the reference.
            all.retain(|(_, score)| *score >= least);
        }
        all.sort_unstable_by(order);
        let most = all[0].1;
        for (_, score) in &mut all {
            *score = ((*score - most) / self.temperature).exp();
        }
        normalize(&mut all);
        if self.top_p < 1.0 {
            // From the unlikeliest on, as long as what is left out is no more than allowed.
            let mut out = 0.0;
            let mut keep = all.len();
            while keep > 1 && out + all[keep - 1].1 <= 1.0 - self.top_p {
                out += all[keep - 1].1;
                keep -= 1;
            }
            all.truncate(keep);
            normalize(&mut all);
        }
        if self.min_p > 0.0 {
            let least = self.min_p * all[0].1;
            all.retain(|(_, p)| *p >= least);
            normalize(&mut all);
        }
        all
    }
}

fn normalize(all: &mut [(u32, f64)]) {
    let sum: f64 = all.iter().map(|(_, p)| p).sum();
    match sum.is_finite() && sum > 0.0 {
        true => all.iter_mut().for_each(|(_, p)| *p /= sum),
        // No score is a number, or one is infinite: the first alone.
        false => {
            for (i, (_, p)) in all.iter_mut().enumerate() {
                *p = f64::from(u8::from(i == 0));
            }
        }
    }
}
