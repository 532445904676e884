//! Where a run stands, besides weights and optimizer: what a checkpoint must remember so that
//! going on is the same as never having stopped.

use serde::{Deserialize, Serialize};

use crate::callback::Scores;

/// The position of a run and its figures so far. The records of the epochs done are in
/// `metrics.jsonl`, lest every checkpoint write them all again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The epoch that goes on, counted from 0.
    pub epoch: usize,
    /// Batches of it that are learnt.
    pub batch: usize,
    /// Batches learnt in the whole run: names the random numbers of the next one.
    pub batches: u64,
    /// Optimizer steps done in the whole run.
    pub step: u64,
    /// Sums over the epoch so far.
    pub running: Running,
    /// Seconds spent in the epoch so far.
    #[serde(with = "crate::number")]
    pub seconds: f64,
    /// The learning rate of the last step.
    #[serde(with = "crate::number")]
    pub learning_rate: f64,
    /// The epoch whose weights are kept, counted from 0.
    pub best: Option<usize>,
    /// For early stopping: the lowest validation loss, and epochs since it was reached.
    pub lowest: Option<f64>,
    pub waited: usize,
    /// No more epochs are to come.
    pub done: bool,
}

/// Sums of loss and metrics over batches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Running {
    samples: f64,
    /// What the sums are divided by: examples, or the tokens that count.
    weight: f64,
    #[serde(with = "crate::number")]
    loss: f64,
    #[serde(with = "crate::number::named")]
    metrics: Vec<(String, f64)>,
}

impl Running {
    /// Adds the means over a batch of `samples` examples, which counts `weight` times.
    pub fn add(
        &mut self,
        samples: usize,
        weight: usize,
        loss: f64,
        metrics: &[(&'static str, f64)],
    ) {
        let weight = weight as f64;
        self.samples += samples as f64;
        self.weight += weight;
        self.loss += weight * loss;
        if self.metrics.is_empty() {
            let zeros = metrics.iter().map(|(name, _)| ((*name).to_owned(), 0.0));
            self.metrics = zeros.collect();
        }
        for ((_, sum), (_, value)) in self.metrics.iter_mut().zip(metrics) {
            *sum += weight * value;
        }
    }

    /// Examples so far.
    pub fn samples(&self) -> f64 {
        self.samples
    }

    /// The means so far; NaN where there was nothing.
    pub fn mean(&self) -> Scores {
        let metrics = self.metrics.iter();
        Scores {
            loss: self.loss / self.weight,
            metrics: metrics
                .map(|(name, sum)| (name.clone(), sum / self.weight))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_weigh_by_what_counts() {
        let mut running = Running::default();
        running.add(2, 3, 1.0, &[("accuracy", 1.0)]);
        running.add(7, 1, 5.0, &[("accuracy", 0.0)]);
        assert_eq!(running.samples(), 9.0);
        let mean = running.mean();
        assert_eq!(mean.loss, 2.0);
        assert_eq!(mean.get("accuracy"), Some(0.75));
        assert_eq!(mean.get("loss"), Some(2.0));
        assert_eq!(mean.get("f1"), None);
    }

    #[test]
    fn the_state_survives_json_to_the_last_bit() {
        let mut state = State::default();
        for index in 1..200 {
            let odd = 1.0 / f64::from(index) + 1e-17 * f64::from(index);
            state
                .running
                .add(1, index as usize, odd, &[("accuracy", odd.sin())]);
            state.seconds = odd.exp();
            assert_eq!(state, again(&state));
        }
    }

    fn again(state: &State) -> State {
        serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
    }

    #[test]
    fn numbers_that_are_not_finite_survive_too() {
        let mut state = State::default();
        let metrics = [("up", f64::INFINITY), ("down", f64::NEG_INFINITY)];
        state.running.add(1, 1, f64::MAX * 2.0, &metrics);
        assert_eq!(state, again(&state));
        state
            .running
            .add(1, 1, 1.0, &[("up", f64::NAN), ("down", 0.0)]);
        let read = again(&state).running.mean();
        assert_eq!(read.loss, f64::INFINITY);
        assert!(read.get("up").unwrap().is_nan());
        assert_eq!(read.get("down"), Some(f64::NEG_INFINITY));
    }
}
