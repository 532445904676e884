//! Residual networks against torchvision's: one training step, then an evaluation.

#[path = "../../tensor/tests/support/mod.rs"]
mod support;

use fornax_models::{ResNet, ResNetConfig};
use fornax_nn::module::{EntryMut, Module, Path};
use fornax_nn::{CrossEntropyLoss, Layer, Loss};
use fornax_tensor::{DType, Tensor, value_and_grad};
use support::compare::compare;
use support::{Fixture, integers, tensor, uniform};

/// Starts from the fixture's weights in `dtype`.
fn start(net: &mut ResNet, dtype: DType) {
    let mut k = 0;
    net.visit_mut(&mut Path::new(), &mut |_, entry| match entry {
        EntryMut::Param { tensor: p, .. } => {
            let shape = p.shape().to_vec();
            let bound = 1.0 / (shape[1..].iter().product::<usize>() as f64).sqrt();
            let (low, high) = if shape.len() > 1 {
                (-bound, bound)
            } else {
                (0.5, 1.5)
            };
            let values = uniform(1000 + k, low, high, shape.iter().product());
            *p = tensor(&values, &shape, dtype);
            k += 1;
        }
        other => {
            let buffer = other.tensor();
            if buffer.dtype().is_float() {
                other.set(buffer.to_dtype(dtype));
            }
        }
    });
}

fn check(name: &str, config: &ResNetConfig, dtype: DType) {
    let fixture = Fixture::open(env!("CARGO_MANIFEST_DIR"), "resnet");
    let runs = fixture.meta("runs");
    let mut runs = runs.as_array().unwrap().iter();
    let run = runs
        .find(|run| run["model"] == name)
        .expect("a run of that name");
    let mut net = ResNet::new(config).unwrap();
    start(&mut net, dtype);
    let names: Vec<String> = net.named_parameters().into_iter().map(|p| p.0).collect();
    let expected: Vec<String> = serde_json::from_value(run["names"].clone()).unwrap();
    assert_eq!(names, expected);

    let size = run["size"].as_u64().unwrap() as usize;
    let shape = [3, 3, size, size];
    let x = tensor(&uniform(1, 0.0, 1.0, shape.iter().product()), &shape, dtype);
    let t = Tensor::from_vec(integers(2, 0, 10, 3), [3]);
    let mut logits = None;
    let (loss, grads) = value_and_grad(&net, |net| {
        let y = net.forward(&x);
        logits = Some(y.clone());
        CrossEntropyLoss::default().forward(&y, &t)
    });
    let want = run["loss"].as_f64().unwrap();
    let tolerance = if dtype == DType::F64 { 1e-12 } else { 1e-4 };
    let (got, want) = (loss.item(), want);
    assert!(
        ((got - want) / want).abs() < tolerance,
        "loss {got}, expected {want}"
    );
    // Rounding errors grow through so many normalisations: in f32 the loss must do.
    if dtype != DType::F64 {
        return;
    }
    let mut complaints = Vec::new();
    let mut judge = |key: String, got: &Tensor| {
        complaints.extend(compare(
            &fixture,
            &format!("{name}.{key}"),
            got,
            None,
            false,
        ));
    };
    judge("logits".into(), &logits.unwrap());
    for (key, grad) in grads {
        judge(format!("grad.{key}"), &grad);
    }
    for (key, buffer) in net.named_buffers() {
        judge(format!("after.{key}"), &buffer);
    }
    judge("eval".into(), &net.forward(&x));
    assert!(complaints.is_empty(), "{name}:\n{}", complaints.join("\n"));
}

#[test]
fn resnet18_for_small_images() {
    let config = ResNetConfig {
        classes: 10,
        small_images: true,
        ..ResNetConfig::resnet18()
    };
    check("resnet18_cifar", &config, DType::F64);
    check("resnet18_cifar", &config, DType::F32);
}

#[test]
fn resnet50() {
    let config = ResNetConfig {
        classes: 10,
        ..ResNetConfig::resnet50()
    };
    check("resnet50", &config, DType::F64);
    check("resnet50", &config, DType::F32);
}

#[test]
fn sizes_are_those_of_the_paper() {
    let count = |config| {
        let net = ResNet::new(&config).unwrap();
        net.named_parameters()
            .iter()
            .map(|(_, p)| p.numel())
            .sum::<usize>()
    };
    // torchvision's figures.
    assert_eq!(count(ResNetConfig::resnet18()), 11_689_512);
    assert_eq!(count(ResNetConfig::resnet34()), 21_797_672);
    assert_eq!(count(ResNetConfig::resnet50()), 25_557_032);
}

#[test]
fn impossible_sizes_are_errors() {
    let error = |config| ResNet::new(&config).err().unwrap().to_string();
    let none = error(ResNetConfig {
        blocks: [2, 0, 2, 2],
        ..ResNetConfig::default()
    });
    assert_eq!(none, "resnet: blocks must be at least 1, not [2, 0, 2, 2]");
    let wide = error(ResNetConfig {
        width: 1 << 20,
        ..ResNetConfig::default()
    });
    assert!(wide.contains("weights"), "{wide}");
}
