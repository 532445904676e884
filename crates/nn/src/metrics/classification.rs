//! Accuracy, straight from scores.

use fornax_tensor::Tensor;

/// The predicted class of each row: the index of the largest score, the first of equals.
///
/// `scores`: `[batch, classes]` logits or probabilities.
#[track_caller]
pub fn predictions(scores: &Tensor) -> Vec<usize> {
    let (rows, classes) = matrix("predictions", scores);
    let flat = scores.to_f64_vec();
    (0..rows)
        .map(|r| {
            let row = &flat[r * classes..(r + 1) * classes];
            let mut best = 0;
            for (i, &v) in row.iter().enumerate() {
                // A NaN never wins, and loses to whatever follows it.
                if v > row[best] || row[best].is_nan() {
                    best = i;
                }
            }
            best
        })
        .collect()
}

/// The share of rows whose largest score is at the target; NaN without rows.
///
/// `scores`: `[batch, classes]`; `targets`: `[batch]` class indices.
///
/// ```
/// use fornax_nn::metrics::accuracy;
/// use fornax_tensor::Tensor;
/// let scores = Tensor::from_vec(vec![0.1f32, 0.9, 0.8, 0.2], [2, 2]);
/// let targets = Tensor::from_vec(vec![1i64, 1], [2]);
/// assert_eq!(accuracy(&scores, &targets), 0.5);
/// ```
#[track_caller]
pub fn accuracy(scores: &Tensor, targets: &Tensor) -> f64 {
    let targets = indices("accuracy", scores, targets);
    let hits = predictions(scores)
        .iter()
        .zip(&targets)
        .filter(|(p, t)| **p as f64 == **t)
        .count();
    hits as f64 / targets.len() as f64
}

/// The share of rows whose target is among the `k` largest scores; NaN without rows.
///
/// `scores`: `[batch, classes]`; `targets`: `[batch]` class indices. Of equal scores the lower
/// class ranks first, so that a model that says nothing gets no credit. A target whose score is
/// NaN is a miss.
#[track_caller]
pub fn top_k(scores: &Tensor, targets: &Tensor, k: usize) -> f64 {
    let targets = indices("top_k", scores, targets);
    let classes = scores.dim(1);
    let flat = scores.to_f64_vec();
    let hits = targets
        .iter()
        .enumerate()
        .filter(|&(r, &t)| {
            let row = &flat[r * classes..(r + 1) * classes];
            let t = t as usize;
            let ahead = |(i, &v): (usize, &f64)| v > row[t] || (v == row[t] && i < t);
            !row[t].is_nan() && row.iter().enumerate().filter(|&iv| ahead(iv)).count() < k
        })
        .count();
    hits as f64 / targets.len() as f64
}

#[track_caller]
fn matrix(what: &str, scores: &Tensor) -> (usize, usize) {
    match *scores.shape() {
        [rows, classes] if classes > 0 => (rows, classes),
        _ => panic!(
            "{what}: scores must be [batch, classes], not {:?}",
            scores.shape()
        ),
    }
}

/// The targets as whole numbers below the number of classes.
#[track_caller]
fn indices(what: &str, scores: &Tensor, targets: &Tensor) -> Vec<f64> {
    let (rows, classes) = matrix(what, scores);
    if targets.shape() != [rows] {
        panic!(
            "{what}: targets must be class indices of shape [{rows}], one per row of scores, not {:?}",
            targets.shape()
        );
    }
    let targets = targets.to_f64_vec();
    for (row, &t) in targets.iter().enumerate() {
        if t.fract() != 0.0 || t < 0.0 || t >= classes as f64 {
            panic!("{what}: target {t} of row {row} is not one of the {classes} classes");
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores() -> Tensor {
        Tensor::from_vec(
            vec![0.1f32, 0.7, 0.2, 0.5, 0.5, 0.5, f32::NAN, 1.0, 0.0],
            [3, 3],
        )
    }

    #[test]
    fn the_first_of_equals_wins_and_nan_loses() {
        assert_eq!(predictions(&scores()), [1, 0, 1]);
    }

    #[test]
    fn top_k_counts_ranks() {
        let t = Tensor::from_vec(vec![2i64, 1, 0], [3]);
        assert_eq!(top_k(&scores(), &t, 1), 0.0);
        assert_eq!(top_k(&scores(), &t, 2), 2.0 / 3.0);
        assert_eq!(top_k(&scores(), &t, 3), 2.0 / 3.0);
        assert_eq!(accuracy(&scores(), &t), 0.0);
    }

    #[test]
    fn no_rows_give_nan() {
        let none = Tensor::from_vec(Vec::<f32>::new(), [0, 3]);
        let t = Tensor::from_vec(Vec::<i64>::new(), [0]);
        assert!(accuracy(&none, &t).is_nan());
    }

    #[test]
    #[should_panic(expected = "target 3 of row 0 is not one of the 3 classes")]
    fn a_target_out_of_range_is_an_error() {
        accuracy(&scores(), &Tensor::from_vec(vec![3i64, 0, 0], [3]));
    }
}
