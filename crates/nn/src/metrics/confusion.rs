//! The confusion matrix and what follows from it.

use serde::{Deserialize, Serialize};

/// How per-class figures become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// From the summed counts of all classes; for one label per sample this is the accuracy.
    Micro,
    /// The plain mean over the classes that occur as target or prediction.
    Macro,
    /// The mean over the classes weighted by how often each is the target.
    Weighted,
}

/// Counts of (target, prediction) pairs.
///
/// ```
/// use fornax_nn::metrics::{Average, ConfusionMatrix};
/// let mut m = ConfusionMatrix::new(2);
/// m.add_all(&[0, 0, 1, 1], &[0, 1, 1, 1]); // targets, predictions
/// assert_eq!(m.count(0, 1), 1);
/// assert_eq!(m.accuracy(), 0.75);
/// assert_eq!(m.recall(Average::Macro), 0.75);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// An empty matrix for `classes` classes.
    pub fn new(classes: usize) -> Self {
        ConfusionMatrix {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Counts one sample.
    ///
    /// # Panics
    /// If either index is not below the number of classes.
    #[track_caller]
    pub fn add(&mut self, target: usize, prediction: usize) {
        for (what, class) in [("target", target), ("prediction", prediction)] {
            if class >= self.classes {
                panic!(
                    "ConfusionMatrix: {what} {class} is not one of the {} classes",
                    self.classes
                );
            }
        }
        self.counts[target * self.classes + prediction] += 1;
    }

    /// Counts a batch.
    ///
    /// # Panics
    /// If the lengths differ, or as [`add`](ConfusionMatrix::add).
    #[track_caller]
    pub fn add_all(&mut self, targets: &[usize], predictions: &[usize]) {
        if targets.len() != predictions.len() {
            panic!(
                "ConfusionMatrix: {} targets but {} predictions",
                targets.len(),
                predictions.len()
            );
        }
        for (&t, &p) in targets.iter().zip(predictions) {
            self.add(t, p);
        }
    }

    /// Adds the counts of another matrix of as many classes.
    #[track_caller]
    pub fn merge(&mut self, other: &ConfusionMatrix) {
        assert_eq!(
            self.classes, other.classes,
            "ConfusionMatrix: merging needs the same number of classes"
        );
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many samples of class `target` were taken for `prediction`.
    #[track_caller]
    pub fn count(&self, target: usize, prediction: usize) -> u64 {
        assert!(
            target < self.classes && prediction < self.classes,
            "ConfusionMatrix: no such class"
        );
        self.counts[target * self.classes + prediction]
    }

    /// The counts, one row per target class.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks(self.classes.max(1))
    }

    /// The number of samples.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The share of samples on the diagonal; NaN without samples.
    pub fn accuracy(&self) -> f64 {
        let hits: u64 = (0..self.classes).map(|c| self.count(c, c)).sum();
        hits as f64 / self.total() as f64
    }

    /// Hits, targets and predictions of one class.
    fn tally(&self, class: usize) -> [f64; 3] {
        let row: u64 = (0..self.classes).map(|p| self.count(class, p)).sum();
        let column: u64 = (0..self.classes).map(|t| self.count(t, class)).sum();
        [self.count(class, class) as f64, row as f64, column as f64]
    }

    /// Of the samples taken for each class, the share that are of it; 0 where there are none.
    pub fn precision_per_class(&self) -> Vec<f64> {
        self.per_class(|[hits, _, predicted]| ratio(hits, predicted))
    }

    /// Of the samples of each class, the share that was found; 0 where there are none.
    pub fn recall_per_class(&self) -> Vec<f64> {
        self.per_class(|[hits, targets, _]| ratio(hits, targets))
    }

    /// The harmonic mean of precision and recall of each class; 0 where the class never occurs.
    pub fn f1_per_class(&self) -> Vec<f64> {
        self.per_class(|[hits, targets, predicted]| ratio(2.0 * hits, targets + predicted))
    }

    /// Precision over all classes.
    pub fn precision(&self, average: Average) -> f64 {
        self.average(average, self.precision_per_class())
    }

    /// Recall over all classes.
    pub fn recall(&self, average: Average) -> f64 {
        self.average(average, self.recall_per_class())
    }

    /// F1 over all classes.
    pub fn f1(&self, average: Average) -> f64 {
        self.average(average, self.f1_per_class())
    }

    fn per_class(&self, f: impl Fn([f64; 3]) -> f64) -> Vec<f64> {
        (0..self.classes).map(|c| f(self.tally(c))).collect()
    }

    fn average(&self, average: Average, per_class: Vec<f64>) -> f64 {
        let weight = |class: usize| {
            let [_, targets, predicted] = self.tally(class);
            match average {
                Average::Macro => f64::from(targets + predicted > 0.0),
                _ => targets,
            }
        };
        match average {
            // With one label per sample, every false positive is another class's false negative.
            Average::Micro => self.accuracy(),
            _ => {
                let total: f64 = (0..self.classes).map(weight).sum();
                let sum: f64 = per_class
                    .iter()
                    .enumerate()
                    .map(|(c, v)| v * weight(c))
                    .sum();
                sum / total
            }
        }
    }
}

/// `a / b`, or 0 where there is nothing to divide by (scikit-learn's `zero_division=0`).
fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `sklearn.metrics.precision_recall_fscore_support`.
    #[test]
    fn figures_follow_scikit_learn() {
        let mut m = ConfusionMatrix::new(4);
        // Class 3 never occurs.
        m.add_all(&[0, 0, 0, 1, 1, 2, 2, 2], &[0, 1, 0, 1, 2, 2, 0, 2]);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        assert_eq!(m.precision_per_class(), [2. / 3., 0.5, 2. / 3., 0.]);
        assert_eq!(m.recall_per_class(), [2. / 3., 0.5, 2. / 3., 0.]);
        close(m.precision(Average::Macro), (2. / 3. + 0.5 + 2. / 3.) / 3.);
        close(
            m.f1(Average::Weighted),
            (3. * 2. / 3. + 2. * 0.5 + 3. * 2. / 3.) / 8.,
        );
        close(m.recall(Average::Micro), 5. / 8.);
        assert_eq!(m.total(), 8);
    }

    #[test]
    fn an_empty_matrix_has_no_figures() {
        let m = ConfusionMatrix::new(3);
        assert!(m.accuracy().is_nan() && m.f1(Average::Macro).is_nan());
        assert_eq!(m.f1_per_class(), [0.0; 3]);
        assert_eq!(ConfusionMatrix::new(0).rows().count(), 0);
    }

    #[test]
    #[should_panic(expected = "prediction 2 is not one of the 2 classes")]
    fn a_class_out_of_range_is_an_error() {
        ConfusionMatrix::new(2).add(0, 2);
    }
}
