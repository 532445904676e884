//! Ten steps of training follow PyTorch's losses, from the same weights on the same batches.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_nn::*;
use fornax_tensor::{DType, Tensor, value_and_grad};
use serde_json::Value;
use support::compare::compare;
use support::{Attrs, Fixture, integers, tensor, uniform};

fn mlp() -> (Sequential, Vec<usize>) {
    let net = Sequential::new()
        .push(Linear::new(784, 256))
        .push(ReLU)
        .push(Linear::new(256, 128))
        .push(ReLU)
        .push(Linear::new(128, 10));
    (net, vec![784])
}

fn lenet() -> (Sequential, Vec<usize>) {
    let net = Sequential::new()
        .push(Conv2d::new(1, 32, 3).padding(1))
        .push(ReLU)
        .push(MaxPool2d::new(2))
        .push(Conv2d::new(32, 64, 3).padding(1))
        .push(ReLU)
        .push(MaxPool2d::new(2))
        .push(Flatten::default())
        .push(Linear::new(3136, 128))
        .push(ReLU)
        .push(Linear::new(128, 10));
    (net, vec![1, 28, 28])
}

/// The starting weights of the fixture: uniform within 1/sqrt(fan in).
fn start(net: &mut Sequential, dtype: DType) {
    let (mut fan_in, mut k) = (1, 0);
    net.visit_mut(&mut Path::new(), &mut |_, entry| {
        let shape = entry.tensor().shape().to_vec();
        if shape.len() > 1 {
            fan_in = shape[1..].iter().product();
        }
        let bound = 1.0 / (fan_in as f64).sqrt();
        let values = uniform(1000 + k, -bound, bound, shape.iter().product());
        entry.set(tensor(&values, &shape, dtype));
        k += 1;
    });
}

fn follow(model: &str, kind: &str, dtype: DType) {
    let fixture = Fixture::open(env!("CARGO_MANIFEST_DIR"), "training");
    let runs = fixture.meta("runs");
    let at = |r: &&Value| r["model"] == model && r["optimizer"] == kind;
    let (index, run) = runs
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .find(|(_, r)| at(r))
        .expect("a run of that name");
    let options = Attrs(&run["options"]);
    let (mut net, shape) = if model == "mlp" { mlp() } else { lenet() };
    start(&mut net, dtype);
    let names: Vec<String> = net.named_parameters().into_iter().map(|p| p.0).collect();
    let expected: Vec<String> = serde_json::from_value(run["names"].clone()).unwrap();
    assert_eq!(names, expected);

    let mut optimizer: Box<dyn Optimizer> = match kind {
        "AdamW" => {
            Box::new(AdamW::new(options.float("lr")).weight_decay(options.float("weight_decay")))
        }
        _ => Box::new(SGD::new(options.float("lr")).momentum(options.float("momentum"))),
    };
    let batch = run["batch"].as_u64().unwrap() as usize;
    let inputs: Vec<usize> = [batch].into_iter().chain(shape).collect();
    let tolerance = if dtype == DType::F64 { 1e-11 } else { 1e-5 };
    for (step, want) in run["losses"].as_array().unwrap().iter().enumerate() {
        let x = tensor(
            &uniform(2000 + step as u64, 0.0, 1.0, inputs.iter().product()),
            &inputs,
            dtype,
        );
        let t = Tensor::from_vec(integers(3000 + step as u64, 0, 10, batch), [batch]);
        let (loss, grads) = value_and_grad(&net, |net| {
            CrossEntropyLoss::default().forward(&net.forward(&x), &t)
        });
        optimizer
            .step(&mut net, grads)
            .expect("gradients of this model");
        let (got, want) = (loss.item(), want.as_f64().unwrap());
        assert!(
            ((got - want) / want).abs() <= tolerance,
            "{model} {kind} {dtype}: loss {got} at step {step}, expected {want}"
        );
    }
    if dtype == DType::F64 {
        for (name, p) in net.named_parameters() {
            let complaint = compare(&fixture, &format!("{index}.{name}"), &p, None, false);
            assert!(
                complaint.is_none(),
                "{model} {kind}: {}",
                complaint.unwrap()
            );
        }
    }
}

#[test]
fn mlp_with_adamw() {
    follow("mlp", "AdamW", DType::F32);
    follow("mlp", "AdamW", DType::F64);
}

#[test]
fn mlp_with_sgd_and_momentum() {
    follow("mlp", "SGD", DType::F32);
    follow("mlp", "SGD", DType::F64);
}

#[test]
fn lenet_with_adamw() {
    follow("lenet", "AdamW", DType::F32);
    follow("lenet", "AdamW", DType::F64);
}

#[test]
fn lenet_with_sgd_and_momentum() {
    follow("lenet", "SGD", DType::F32);
    follow("lenet", "SGD", DType::F64);
}
