//! Each rule against its formula in plain `f64`, and the bookkeeping around it. That the formulas
//! are PyTorch's is tested with its own numbers in `tests/`.

use super::*;
use crate::module::Param;
use fornax_tensor::{DType, value_and_grad};

/// Two parameters named `0` and `1`.
type Model = (Param, Param);

fn model() -> Model {
    let p = |v: &[f64]| Param::new(Tensor::from_slice(v, [v.len()]));
    (p(&[0.5, -1.0, 2.0]), p(&[3.0, 0.0]))
}

fn values(m: &Model) -> Vec<f64> {
    let mut v = m.0.to_vec::<f64>();
    v.extend(m.1.to_vec::<f64>());
    v
}

/// Some gradient that differs by step and element.
fn gradient(step: usize, i: usize) -> f64 {
    ((step * 7 + i * 3) % 5) as f64 / 2.0 - 0.9
}

fn grads(step: usize) -> Grads {
    let g = |range: std::ops::Range<usize>| {
        let v: Vec<f64> = range.map(|i| gradient(step, i)).collect();
        Tensor::from_slice(&v, [v.len()])
    };
    [("0".to_owned(), g(0..3)), ("1".to_owned(), g(3..5))]
        .into_iter()
        .collect()
}

/// Five steps of `optimizer` against five of `rule(t, p, g, state)`, one element at a time.
fn check(mut optimizer: impl Optimizer, rule: impl Fn(f64, f64, f64, &mut [f64; 3]) -> f64) {
    let mut m = model();
    let mut expected = values(&m);
    let mut state = [[0.0; 3]; 5];
    for step in 0..5 {
        optimizer.step(&mut m, grads(step)).unwrap();
        for (i, p) in expected.iter_mut().enumerate() {
            *p = rule(step as f64 + 1.0, *p, gradient(step, i), &mut state[i]);
        }
        for (a, b) in values(&m).iter().zip(&expected) {
            assert!((a - b).abs() < 1e-12, "step {step}: {a} is not {b}");
        }
    }
}

#[test]
fn sgd() {
    check(SGD::new(0.1), |_, p, g, _| p - 0.1 * g);
    for nesterov in [false, true] {
        let dampening = if nesterov { 0.0 } else { 0.25 };
        let optimizer = SGD::new(0.1)
            .momentum(0.9)
            .dampening(dampening)
            .nesterov(nesterov)
            .weight_decay(0.01);
        check(optimizer, |t, p, g, s| {
            let g = g + 0.01 * p;
            s[0] = if t == 1.0 {
                g
            } else {
                0.9 * s[0] + (1.0 - dampening) * g
            };
            p - 0.1 * if nesterov { g + 0.9 * s[0] } else { s[0] }
        });
    }
}

fn adam_rule(t: f64, p: f64, g: f64, s: &mut [f64; 3], amsgrad: bool) -> f64 {
    s[0] = 0.8 * s[0] + 0.2 * g;
    s[1] = 0.95 * s[1] + 0.05 * g * g;
    s[2] = s[2].max(s[1]);
    let v = if amsgrad { s[2] } else { s[1] };
    let (m, v) = (s[0] / (1.0 - 0.8f64.powf(t)), v / (1.0 - 0.95f64.powf(t)));
    p - 0.1 * m / (v.sqrt() + 1e-6)
}

#[test]
fn adam() {
    for amsgrad in [false, true] {
        let optimizer = Adam::new(0.1)
            .betas(0.8, 0.95)
            .eps(1e-6)
            .amsgrad(amsgrad)
            .weight_decay(0.02);
        check(optimizer, |t, p, g, s| {
            adam_rule(t, p, g + 0.02 * p, s, amsgrad)
        });
        let optimizer = AdamW::new(0.1).betas(0.8, 0.95).eps(1e-6).amsgrad(amsgrad);
        check(optimizer, |t, p, g, s| {
            adam_rule(t, p * (1.0 - 0.1 * 0.01), g, s, amsgrad)
        });
    }
}

#[test]
fn adagrad() {
    let optimizer = Adagrad::new(0.1)
        .lr_decay(0.5)
        .initial_accumulator_value(0.2)
        .eps(1e-5)
        .weight_decay(0.02);
    check(optimizer, |t, p, g, s| {
        let g = g + 0.02 * p;
        s[0] += g * g + if t == 1.0 { 0.2 } else { 0.0 };
        p - 0.1 / (1.0 + (t - 1.0) * 0.5) * g / (s[0].sqrt() + 1e-5)
    });
}

#[test]
fn rmsprop() {
    for (momentum, centered) in [(0.0, false), (0.9, false), (0.5, true)] {
        let optimizer = RMSprop::new(0.01)
            .alpha(0.8)
            .eps(1e-3)
            .momentum(momentum)
            .centered(centered)
            .weight_decay(0.02);
        check(optimizer, |_, p, g, s| {
            let g = g + 0.02 * p;
            s[0] = 0.8 * s[0] + 0.2 * g * g;
            s[1] = if centered { 0.8 * s[1] + 0.2 * g } else { 0.0 };
            s[2] = momentum * s[2] + g / ((s[0] - s[1] * s[1]).sqrt() + 1e-3);
            p - 0.01 * s[2]
        });
    }
}

#[test]
fn groups_have_their_own_options() {
    let mut m = model();
    let before = values(&m);
    SGD::new(0.1)
        .weight_decay(0.5)
        .group(
            Group::when(|name, _| name == "1")
                .weight_decay(0.0)
                .lr_scale(2.0),
        )
        .group(Group::vectors().weight_decay(0.25))
        .step(&mut m, grads(0))
        .unwrap();
    for (i, (after, p)) in values(&m).iter().zip(before).enumerate() {
        let g = gradient(0, i);
        let expected = if i < 3 {
            p - 0.1 * (g + 0.25 * p)
        } else {
            p - 0.2 * g
        };
        assert!((after - expected).abs() < 1e-15);
    }
}

#[test]
fn frozen_parameters_stay() {
    let mut m = model();
    m.1.freeze();
    let before = values(&m);
    let only_first: Grads = grads(0).into_iter().take(1).collect();
    let mut optimizer = Adam::new(0.1);
    optimizer.step(&mut m, only_first.clone()).unwrap();
    let after = values(&m);
    assert!(after[..3] != before[..3] && after[3..] == before[3..]);
    // Counts of steps are each parameter's own.
    m.1.unfreeze();
    optimizer.step(&mut m, grads(1)).unwrap();
    let state = optimizer.state();
    assert_eq!(
        (state.scalars["0.step"], state.scalars["1.step"]),
        (2.0, 1.0)
    );
    assert_eq!(optimizer.steps(), 2);
}

#[test]
fn gradients_and_parameters_must_match() {
    let mut m = model();
    let before = values(&m);
    let mut optimizer = SGD::new(0.1);
    let missing: Grads = grads(0).into_iter().take(1).collect();
    let e = optimizer.step(&mut m, missing).unwrap_err().to_string();
    assert!(
        e.contains("no gradient for the trainable parameter `1`"),
        "{e}"
    );
    let stray = grads(0)
        .into_iter()
        .chain([("2".to_owned(), Tensor::scalar(1.0))])
        .collect();
    let e = optimizer.step(&mut m, stray).unwrap_err().to_string();
    assert!(e.contains("a gradient for `2`"), "{e}");
    let e = optimizer
        .step(&mut m, grads(0).map(|_, g| g.unsqueeze(0)))
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("the gradient for `0` has shape [1, 3], the parameter [3]"),
        "{e}"
    );
    assert_eq!(values(&m), before);
    assert_eq!(optimizer.steps(), 0);
}

#[test]
fn a_restored_optimizer_goes_on_as_if_nothing_had_happened() {
    let make = || RMSprop::new(0.01).momentum(0.9).centered(true);
    let (mut a, mut m) = (make(), model());
    for step in 0..3 {
        a.step(&mut m, grads(step)).unwrap();
    }
    a.set_lr(0.02);
    let (mut b, mut n) = (make(), m.clone());
    b.load_state(&n, a.state()).unwrap();
    assert_eq!((b.lr(), b.steps()), (0.02, 3));
    for step in 3..6 {
        a.step(&mut m, grads(step)).unwrap();
        b.step(&mut n, grads(step)).unwrap();
    }
    assert_eq!(values(&m), values(&n));
    let names: Vec<String> = b.state().tensors.into_iter().map(|t| t.0).collect();
    assert_eq!(
        names[..3],
        ["0.grad_avg", "0.momentum_buffer", "0.square_avg"]
    );
}

/// The state of a vector, a matrix and a stack of matrices.
#[test]
fn a_restored_adafactor_goes_on_as_if_nothing_had_happened() {
    fornax_tensor::manual_seed(5);
    let rand = |shape: &[usize]| Param::new(Tensor::randn(shape, DType::F32));
    let (mut a, mut m) = (
        Adafactor::new(0.02),
        vec![rand(&[4]), rand(&[3, 4]), rand(&[2, 3, 5])],
    );
    let step = |optimizer: &mut Adafactor, m: &mut Vec<Param>| {
        let (_, grads) = value_and_grad(&*m, |m| {
            let sums = m.iter().map(|p| p.sin().sum(..));
            sums.reduce(|a, b| a + b).unwrap()
        });
        optimizer.step(m, grads).unwrap();
    };
    for _ in 0..3 {
        step(&mut a, &mut m);
    }
    let (mut b, mut n) = (Adafactor::new(0.02), m.clone());
    b.load_state(&n, a.state()).unwrap();
    for _ in 0..3 {
        step(&mut a, &mut m);
        step(&mut b, &mut n);
    }
    let bits = |m: &[Param]| m.iter().map(|p| p.to_vec::<f32>()).collect::<Vec<_>>();
    assert_eq!(bits(&m), bits(&n));
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let (mut a, mut m) = (Adam::new(0.1), model());
    a.step(&mut m, grads(0)).unwrap();
    let mut state = a.state();
    state.tensors[0].1 = Tensor::zeros([7], fornax_tensor::DType::F64);
    state.tensors.remove(1);
    state.scalars.remove("lr");
    state.scalars.insert("1.step".to_owned(), -1.0);
    let e = Adam::new(0.3)
        .load_state(&m, state)
        .unwrap_err()
        .to_string();
    for part in [
        "`0.exp_avg` has shape [7], not [3]",
        "`0.exp_avg_sq` is missing",
        "`lr` is missing",
        "`1.step` is -1, not a count",
    ] {
        assert!(e.contains(part), "{e}");
    }
    let e = SGD::new(0.1)
        .load_state(&m, a.state())
        .unwrap_err()
        .to_string();
    assert!(e.contains("`0.exp_avg` is unknown"), "{e}");
}

#[test]
fn a_boxed_optimizer_is_an_optimizer() {
    let mut boxed: Box<dyn Optimizer> = Box::new(SGD::new(0.1).momentum(0.5));
    boxed.set_lr(0.5);
    boxed.set_momentum(0.0);
    let mut m = model();
    let before = values(&m);
    boxed.step(&mut m, grads(0)).unwrap();
    assert!((values(&m)[0] - (before[0] - 0.5 * gradient(0, 0))).abs() < 1e-15);
}

#[test]
fn a_failed_step_leaves_everything_as_it_was() {
    let table = |v: &[f32]| Param::new(Tensor::from_slice(v, [2, 2]));
    let mut m = (table(&[1., 2., 3., 4.]), table(&[5., 6., 7., 8.]));
    let mut optimizer = AdamW::new(0.1);
    let step = |m: &mut Model, optimizer: &mut AdamW, index: i64| {
        let (_, grads) = fornax_tensor::value_and_grad(m, |m| {
            let rows = m.1.index_select(0, &Tensor::from_slice(&[index], [1]));
            (rows.matmul(&m.0)).square().sum(..)
        });
        optimizer.step(m, grads)
    };
    step(&mut m, &mut optimizer, 1).unwrap();
    let tensors = |m: &Model, o: &AdamW| -> Vec<Vec<f32>> {
        let state = o.state();
        let mut all = vec![m.0.to_vec(), m.1.to_vec()];
        all.extend(state.tensors.iter().map(|(_, t)| t.to_vec()));
        all
    };
    let (before, scalars) = (tensors(&m, &optimizer), optimizer.state().scalars);
    assert!(step(&mut m, &mut optimizer, 2).is_err());
    assert_eq!(tensors(&m, &optimizer), before);
    assert_eq!(optimizer.state().scalars, scalars);
    step(&mut m, &mut optimizer, 0).unwrap();
    assert_ne!(tensors(&m, &optimizer), before);
}
