//! Averages over a stream.

/// A running mean, weighted by the number of samples behind each value.
///
/// ```
/// use fornax_nn::metrics::Mean;
/// let mut loss = Mean::default();
/// loss.add(2.0, 64); // the mean loss of 64 samples
/// loss.add(1.0, 32);
/// assert!((loss.get() - 5.0 / 3.0).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    /// Adds the mean of `samples` values.
    pub fn add(&mut self, value: f64, samples: usize) {
        if samples > 0 {
            self.sum += value * samples as f64;
            self.count += samples as u64;
        }
    }

    /// The mean so far; NaN before the first sample.
    pub fn get(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// How many samples it is over.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Mean::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Mean;

    #[test]
    fn empty_batches_do_not_count() {
        let mut m = Mean::default();
        assert!(m.get().is_nan());
        m.add(f64::NAN, 0);
        m.add(3.0, 2);
        assert_eq!((m.get(), m.count()), (3.0, 2));
        m.reset();
        assert_eq!(m.count(), 0);
    }
}
