//! Optimizers, schedules and gradient clipping against PyTorch.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_nn::*;
use fornax_tensor::{DType, Grads, Tensor};
use serde_json::Value;
use support::compare::{check_outs, compare};
use support::{Attrs, Fixture, tensor, uniform, usizes};

const STEPS: usize = 10;

/// The gradient of parameter `k` at a step, as the fixture's script has it.
fn gradient(step: usize, k: usize, shape: &[usize], dtype: DType) -> Tensor {
    let scale = 4f64.powi(step as i32 % 3) / 4.0;
    let values = uniform(
        (600 + 10 * step + k) as u64,
        -1.0,
        1.0,
        shape.iter().product(),
    );
    tensor(
        &values.iter().map(|v| v * scale).collect::<Vec<_>>(),
        shape,
        dtype,
    )
}

#[test]
fn optimizers() {
    let fixture = Fixture::open(env!("CARGO_MANIFEST_DIR"), "optim");
    let shapes: Vec<Vec<usize>> = fixture
        .meta("shapes")
        .as_array()
        .unwrap()
        .iter()
        .map(usizes)
        .collect();
    let mut failures = Vec::new();
    for (index, case) in fixture
        .meta("optimizers")
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        for dtype in [DType::F32, DType::F64] {
            let mut optimizer = build(
                case["kind"].as_str().unwrap(),
                Attrs(&case["options"]),
                &case["groups"],
            );
            let start = |(k, shape): (usize, &Vec<usize>)| {
                let values = uniform(500 + k as u64, -1.0, 1.0, shape.iter().product());
                Param::new(tensor(&values, shape, dtype))
            };
            let mut params: Vec<Param> = shapes.iter().enumerate().map(start).collect();
            for step in 0..STEPS {
                let grads = shapes
                    .iter()
                    .enumerate()
                    .map(|(k, s)| (k.to_string(), gradient(step, k, s, dtype)));
                optimizer
                    .step(&mut params, grads.collect::<Grads>())
                    .expect("the gradients fit");
                if ![1, 2, STEPS].contains(&(step + 1)) {
                    continue;
                }
                for (k, p) in params.iter().enumerate() {
                    let complaint = compare(
                        &fixture,
                        &format!("{index}.{}.{k}", step + 1),
                        p,
                        Some(&shapes[k]),
                        false,
                    );
                    failures.extend(
                        complaint.map(|c| format!("{case} [{dtype}], step {}: {c}", step + 1)),
                    );
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// `torch.optim.KIND(**options)`, with a group per parameter if there are groups.
fn build(kind: &str, a: Attrs, groups: &Value) -> Box<dyn Optimizer> {
    let lr = a.float("lr");
    let decay = |default| a.float_or("weight_decay", default);
    let (beta1, beta2) = match a.0["betas"].as_array() {
        Some(betas) => (betas[0].as_f64().unwrap(), betas[1].as_f64().unwrap()),
        None => (0.9, 0.999),
    };
    let amsgrad = a.flag("amsgrad", false);
    let mut optimizer: Box<dyn Optimizer> = match kind {
        "SGD" => Box::new(
            SGD::new(lr)
                .momentum(a.float_or("momentum", 0.0))
                .dampening(a.float_or("dampening", 0.0))
                .nesterov(a.flag("nesterov", false))
                .weight_decay(decay(0.0)),
        ),
        "Adam" => {
            let adam = Adam::new(lr)
                .betas(beta1, beta2)
                .eps(a.float_or("eps", 1e-8));
            Box::new(adam.amsgrad(amsgrad).weight_decay(decay(0.0)))
        }
        "AdamW" => {
            let adam = AdamW::new(lr)
                .betas(beta1, beta2)
                .eps(a.float_or("eps", 1e-8))
                .amsgrad(amsgrad);
            // PyTorch's default decay is ours.
            Box::new(if a.has("weight_decay") {
                adam.weight_decay(decay(0.0))
            } else {
                adam
            })
        }
        "Adagrad" => Box::new(
            Adagrad::new(lr)
                .lr_decay(a.float_or("lr_decay", 0.0))
                .initial_accumulator_value(a.float_or("initial_accumulator_value", 0.0))
                .eps(a.float_or("eps", 1e-10))
                .weight_decay(decay(0.0)),
        ),
        "Adafactor" => {
            let (eps1, eps2) = match a.0["eps"].as_array() {
                Some(eps) => (eps[0].as_f64(), eps[1].as_f64().unwrap()),
                None => (None, 1e-3),
            };
            Box::new(
                Adafactor::new(lr)
                    .beta2_decay(a.float_or("beta2_decay", -0.8))
                    .eps(eps1, eps2)
                    .d(a.float_or("d", 1.0))
                    .weight_decay(decay(0.0)),
            )
        }
        "RMSprop" => Box::new(
            RMSprop::new(lr)
                .alpha(a.float_or("alpha", 0.99))
                .eps(a.float_or("eps", 1e-8))
                .momentum(a.float_or("momentum", 0.0))
                .centered(a.flag("centered", false))
                .weight_decay(decay(0.0)),
        ),
        _ => panic!("the test knows no {kind}"),
    };
    for (k, options) in groups.as_array().into_iter().flatten().enumerate() {
        let mut group = Group::when(move |name, _| name == k.to_string());
        if let Some(own) = options["lr"].as_f64() {
            group = group.lr_scale(own / lr);
        }
        if let Some(decay) = options["weight_decay"].as_f64() {
            group = group.weight_decay(decay);
        }
        optimizer.add_group(group);
    }
    optimizer
}

#[test]
fn schedules() {
    let fixture = Fixture::open(env!("CARGO_MANIFEST_DIR"), "optim");
    for case in fixture.meta("schedules").as_array().unwrap() {
        let a = Attrs(&case["options"]);
        let base = case["base"].as_f64().unwrap();
        // The base rate, and what is done with it.
        let (base, schedule) = match case["kind"].as_str().unwrap() {
            "constant" => (base, Schedule::Constant),
            "step" => (
                base,
                Schedule::step(a.size("step_size") as u64, a.float("gamma")),
            ),
            "multi_step" => {
                let milestones: Vec<u64> =
                    a.sizes("milestones").iter().map(|&m| m as u64).collect();
                (base, Schedule::multi_step(milestones, a.float("gamma")))
            }
            "exponential" => (base, Schedule::exponential(a.float("gamma"))),
            "cosine" => (
                base,
                Schedule::cosine(a.size("t_max") as u64, a.float("eta_min") / base),
            ),
            "linear" if a.float("end_factor") == 1.0 => {
                let (steps, start) = (a.size("total_iters") as u64, a.float("start_factor"));
                (
                    base,
                    Schedule::Warmup {
                        steps,
                        start,
                        then: Box::new(Schedule::Constant),
                    },
                )
            }
            "linear" => (
                base,
                Schedule::linear(a.size("total_iters") as u64, a.float("end_factor")),
            ),
            "warmup_cosine" => {
                let (steps, start) = (a.size("warmup") as u64, a.float("start_factor"));
                let then = Box::new(Schedule::cosine(a.size("t_max") as u64, 0.0));
                (base, Schedule::Warmup { steps, start, then })
            }
            "one_cycle" => {
                let schedule = Schedule::OneCycle {
                    steps: a.size("total_steps") as u64,
                    rise: a.float("pct_start"),
                    div: a.float("div_factor"),
                    final_div: a.float("final_div_factor"),
                    momentum: None,
                };
                (a.float("max_lr"), schedule)
            }
            other => panic!("the test knows no {other}"),
        };
        for (step, want) in case["lrs"].as_array().unwrap().iter().enumerate() {
            let (got, want) = (base * schedule.factor(step as u64), want.as_f64().unwrap());
            assert!(
                (got - want).abs() <= 1e-12 * base,
                "{case}: rate {got} at step {step}, expected {want}"
            );
        }
    }
}

#[test]
fn clipping() {
    Fixture::open(env!("CARGO_MANIFEST_DIR"), "clip").check_all(|case, dtype| {
        let a = case.attrs();
        let grads: Grads = case
            .leaves(dtype)
            .into_iter()
            .enumerate()
            .map(|(k, g)| (k.to_string(), g))
            .collect();
        let values = |grads: Grads| grads.into_iter().map(|(_, g)| g).collect::<Vec<_>>();
        if case.op() == "clip_value" {
            return check_outs(
                case,
                &values(clip_grad_value(grads, a.float("max_value"))),
                dtype,
            );
        }
        let p = a.float("norm_type");
        if p != 2.0 {
            // Clipping is by the L2 norm; other norms are there to be read.
            let norm = format!("{}.o{}", case.index, grads.len());
            return compare(case.fixture, &norm, &grad_norm(&grads, p), None, false)
                .into_iter()
                .collect();
        }
        let (clipped, norm) = clip_grad_norm(grads, a.float("max_norm"));
        let mut outs = values(clipped);
        outs.push(norm);
        check_outs(case, &outs, dtype)
    });
}
