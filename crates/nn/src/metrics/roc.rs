//! Area under the ROC curve.

/// The area under the receiver operating characteristic: the chance that a positive scores higher
/// than a negative, ties counting one half. `None` unless both classes occur.
///
/// By ranks (Mann & Whitney 1947), so ties are exact; agrees with
/// `sklearn.metrics.roc_auc_score`.
///
/// # Panics
/// If the lengths differ or a score is NaN.
///
/// ```
/// use fornax_nn::metrics::auroc;
/// let area = auroc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]);
/// assert_eq!(area, Some(0.75));
/// ```
#[track_caller]
pub fn auroc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    if scores.len() != positive.len() {
        panic!(
            "auroc: {} scores but {} labels",
            scores.len(),
            positive.len()
        );
    }
    if let Some(i) = scores.iter().position(|s| s.is_nan()) {
        panic!("auroc: score {i} is NaN");
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut positives, mut wins, mut negatives_below) = (0.0, 0.0, 0.0);
    // `==` and not `total_cmp` tells ties: 0 and -0 are equal scores.
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let p = tied.iter().filter(|&&i| positive[i]).count() as f64;
        let n = tied.len() as f64 - p;
        wins += p * (negatives_below + n / 2.0);
        positives += p;
        negatives_below += n;
    }
    let pairs = positives * negatives_below;
    (pairs > 0.0).then(|| wins / pairs)
}

/// The mean over the classes of "this class against the rest" (macro average).
///
/// `scores`: `[batch * classes]` row-major, `targets`: class indices. Classes that never occur,
/// or always, have no curve and do not count; `None` if no class has one.
///
/// # Panics
/// If the lengths do not fit, a target is not a class, or a score is NaN.
#[track_caller]
pub fn auroc_one_vs_rest(scores: &[f64], targets: &[usize], classes: usize) -> Option<f64> {
    if scores.len() != targets.len() * classes {
        panic!(
            "auroc: {} scores do not fit {} targets of {classes} classes",
            scores.len(),
            targets.len()
        );
    }
    if let Some(t) = targets.iter().find(|&&t| t >= classes) {
        panic!("auroc: target {t} is not one of the {classes} classes");
    }
    let mut areas = Vec::new();
    for class in 0..classes {
        let column: Vec<f64> = scores
            .iter()
            .skip(class)
            .step_by(classes)
            .copied()
            .collect();
        let positive: Vec<bool> = targets.iter().map(|&t| t == class).collect();
        areas.extend(auroc(&column, &positive));
    }
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_half() {
        assert_eq!(auroc(&[0.5, 0.5], &[true, false]), Some(0.5));
        assert_eq!(auroc(&[0.0, -0.0], &[true, false]), Some(0.5));
        assert_eq!(
            auroc(&[1., 1., 2., 3.], &[false, true, false, true]),
            Some(0.625)
        );
    }

    #[test]
    fn every_order_of_pairs_counts() {
        assert_eq!(auroc(&[3., 2., 1.], &[true, false, false]), Some(1.0));
        assert_eq!(auroc(&[3., 2., 1.], &[false, false, true]), Some(0.0));
        assert_eq!(auroc(&[f64::INFINITY, 0.], &[true, false]), Some(1.0));
        assert_eq!(auroc(&[1., 2.], &[true, true]), None);
        assert_eq!(auroc(&[], &[]), None);
    }

    #[test]
    fn one_vs_rest_skips_absent_classes() {
        let scores = [0.8, 0.1, 0.1, 0.2, 0.7, 0.1, 0.6, 0.3, 0.1];
        assert_eq!(auroc_one_vs_rest(&scores, &[0, 1, 0], 3), Some(1.0));
        assert_eq!(auroc_one_vs_rest(&[], &[], 3), None);
    }
}
