//! Cross-entropy of rows of logits with class numbers.

use super::softmax::softmax_group;
use super::{RowFloat, Shared, for_groups, row_count};
use crate::cpu::index::IndexError;
use crate::cpu::math;
use crate::cpu::reduce::kernel::fold_body;
use crate::simd_dispatch;

/// `loss[i] = log(sum(exp(logits[i]))) - logits[i, targets[i]]`, and 0 where the target is
/// `ignore`: `torch.nn.functional.cross_entropy` with `reduction="none"`.
///
/// `logits` is `[rows, classes]`, `targets` and `loss` are `[rows]`. A target that is neither a
/// class nor `ignore` is an error.
pub fn cross_entropy<T: RowFloat>(
    logits: &[T],
    classes: usize,
    targets: &[i64],
    ignore: i64,
    loss: &mut [T],
) -> Result<(), IndexError> {
    assert_eq!(targets.len(), loss.len());
    check(targets, classes, ignore)?;
    if classes == 0 {
        loss.fill(T::default());
        return Ok(());
    }
    assert_eq!(row_count(logits, classes), targets.len());
    let loss = Shared::new(loss);
    for_groups(targets.len(), classes, |rows| {
        let x = &logits[rows.start * classes..rows.end * classes];
        let mut scratch = vec![T::default(); x.len()];
        // SAFETY: groups are disjoint.
        let loss = unsafe { loss.part(rows.clone()) };
        loss_group(x, classes, &targets[rows], ignore, loss, &mut scratch);
    });
    Ok(())
}

/// The gradient of [`cross_entropy`] with respect to the logits:
/// `dlogits[i] = dloss[i] (softmax(logits[i]) - onehot(targets[i]))`, and 0 for ignored rows.
///
/// `logits` and `dlogits` are `[rows, classes]`, `targets` and `dloss` are `[rows]`.
pub fn cross_entropy_grad<T: RowFloat>(
    logits: &[T],
    classes: usize,
    targets: &[i64],
    ignore: i64,
    dloss: &[T],
    dlogits: &mut [T],
) -> Result<(), IndexError> {
    assert_eq!(targets.len(), dloss.len());
    assert_eq!(logits.len(), dlogits.len());
    check(targets, classes, ignore)?;
    if classes == 0 {
        return Ok(());
    }
    assert_eq!(row_count(logits, classes), targets.len());
    let dx = Shared::new(dlogits);
    for_groups(targets.len(), classes, |rows| {
        let range = rows.start * classes..rows.end * classes;
        // SAFETY: groups are disjoint.
        let dx = unsafe { dx.part(range.clone()) };
        softmax_group(&logits[range], classes, dx);
        for (row, i) in dx.chunks_exact_mut(classes).zip(rows) {
            let d = dloss[i];
            if targets[i] == ignore {
                row.fill(T::default());
            } else {
                row.iter_mut().for_each(|p| *p = *p * d);
                let hit = &mut row[targets[i] as usize];
                *hit = *hit - d;
            }
        }
    });
    Ok(())
}

fn check(targets: &[i64], classes: usize, ignore: i64) -> Result<(), IndexError> {
    match targets
        .iter()
        .find(|&&t| t != ignore && t as u64 >= classes as u64)
    {
        Some(&index) => Err(IndexError {
            index,
            size: classes,
        }),
        None => Ok(()),
    }
}

simd_dispatch! {
    fn loss_group<T: RowFloat>(
        x: &[T],
        n: usize,
        targets: &[i64],
        ignore: i64,
        loss: &mut [T],
        scratch: &mut [T],
    ) {
        super::softmax::shift_by_max(x, n, scratch);
        // The target's shifted logit, before the exponential overwrites it.
        for ((row, &t), o) in scratch.chunks_exact(n).zip(targets).zip(&mut *loss) {
            *o = if t == ignore { T::default() } else { row[t as usize] };
        }
        for v in scratch.iter_mut() {
            *v = math::exp(*v);
        }
        for ((row, &t), o) in scratch.chunks_exact(n).zip(targets).zip(&mut *loss) {
            if t != ignore {
                *o = T::from_f64(math::log(fold_body::<T::Sum>(row)) - o.to_f64());
            }
        }
    }
}
