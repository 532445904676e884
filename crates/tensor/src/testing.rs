//! Helpers for tests: comparing tensors, and checking gradients to second order.

use crate::node::record;
use crate::tensor::Tensor;
use crate::{DType, grad_of};

/// Asserts that two tensors have one shape and agree to `|a - b| <= tolerance * max(1, |b|)`;
/// NaN agrees with NaN, infinities with themselves.
#[track_caller]
pub fn assert_close(actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(actual.shape(), expected.shape(), "shapes differ");
    let (a, b) = (actual.to_f64_vec(), expected.to_f64_vec());
    for (i, (&x, &y)) in a.iter().zip(&b).enumerate() {
        let same = x == y || (x.is_nan() && y.is_nan());
        // Nothing is close to infinity: the tolerance would be infinite too.
        let close = y.is_finite() && (x - y).abs() <= tolerance * y.abs().max(1.0);
        if !(same || close) {
            panic!(
                "element {i} of {:?}: {x} is not {y} (tolerance {tolerance})",
                actual.shape()
            );
        }
    }
}

/// Fixed numbers between -1 and 1, different everywhere, to weigh results with.
fn weights(like: &Tensor, salt: usize) -> Tensor {
    let n = like.numel();
    let w: Vec<f64> = (0..n)
        .map(|i| ((i * 37 + salt * 11 + 5) as f64 * 0.7548776662).sin())
        .collect();
    Tensor::from_vec(w, like.shape())
}

/// Asserts that the first and second derivatives of `f` at `inputs` (`f64`, all of them
/// differentiated) agree with central differences.
///
/// ```
/// use fornax_tensor::{testing::check_grads, Tensor};
/// let x = Tensor::from_vec(vec![0.3f64, -1.2], [2]);
/// check_grads(|x| x[0].tanh(), &[x]);
/// ```
#[track_caller]
pub fn check_grads(f: impl Fn(&[Tensor]) -> Tensor, inputs: &[Tensor]) {
    let scalar = |x: &[Tensor]| {
        let y = f(x);
        (&y * weights(&y, 0)).sum(..)
    };
    let slope = |x: &[Tensor]| -> Tensor {
        let grads = grad_of(&scalar(x), &x.iter().collect::<Vec<_>>());
        let parts = grads
            .iter()
            .enumerate()
            .map(|(i, g)| (g * weights(g, i + 1)).sum(..));
        parts.reduce(|a, b| a + b).expect("at least one input")
    };
    compare("first", &|x| record(|| scalar(x)), inputs);
    compare("second", &|x| record(|| slope(x)), inputs);
}

/// As [`check_grads`], to first order only: for functions whose gradient is constant or flat.
#[track_caller]
pub fn check_grads_first(f: impl Fn(&[Tensor]) -> Tensor, inputs: &[Tensor]) {
    compare(
        "first",
        &|x| {
            record(|| {
                let y = f(x);
                (&y * weights(&y, 0)).sum(..)
            })
        },
        inputs,
    );
}

#[track_caller]
fn compare(order: &str, f: &dyn Fn(&[Tensor]) -> Tensor, inputs: &[Tensor]) {
    assert!(
        inputs.iter().all(|x| x.dtype() == DType::F64),
        "gradients are checked in f64"
    );
    let h = 1e-5;
    let analytic: Vec<Vec<f64>> = record(|| {
        let y = f(inputs);
        let zero = inputs
            .iter()
            .map(|x| (x * 0.0).sum(..))
            .reduce(|a, b| a + b);
        // The added zero makes a function that is flat in some input have a gradient of 0 there.
        let y = y + zero.expect("at least one input");
        let grads = grad_of(&y, &inputs.iter().collect::<Vec<_>>());
        grads.iter().map(Tensor::to_f64_vec).collect()
    });
    for (k, x) in inputs.iter().enumerate() {
        let values = x.to_f64_vec();
        for i in 0..values.len() {
            let at = |delta: f64| {
                let mut moved = values.clone();
                moved[i] += delta;
                let mut all = inputs.to_vec();
                all[k] = Tensor::from_vec(moved, x.shape());
                f(&all).item()
            };
            let numeric = (at(h) - at(-h)) / (2.0 * h);
            let got = analytic[k][i];
            let scale = 1.0 + numeric.abs() + got.abs();
            let off = (got - numeric).abs();
            if off.is_nan() || off > 2e-6 * scale {
                panic!(
                    "{order} derivative with respect to element {i} of input {k} {:?}: {got}, numerically {numeric}",
                    x.shape()
                );
            }
        }
    }
}
