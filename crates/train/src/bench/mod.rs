//! Standard training steps, to compare speeds with other frameworks and with former versions.
//!
//! Each workload is a network with PyTorch's default initialisation, one fixed random batch, and
//! AdamW at 1e-3 with weight decay 0.01. A step is forward pass, gradients and update; the loss is
//! read after every step.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use fornax_models::{LeNet, LeNetConfig, Mlp, MlpConfig};
use fornax_nn::{AdamW, CrossEntropyLoss, Layer, Loss, Optimizer};
use fornax_tensor::cpu::pool;
use fornax_tensor::{DType, Tensor, manual_seed, value_and_grad};

use crate::error::Result;
use crate::model::Network;

/// Steps before those that count.
const WARMUP: usize = 3;
/// Steps that count.
const STEPS: usize = 30;

/// A standard training step.
pub struct Workload {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    build: fn() -> (Network, Tensor),
}

/// All workloads.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "mlp_b64",
        about: "784-256-128-10, ReLU, batch 64",
        build: || (mlp([256, 128]), images([64, 784])),
    },
    Workload {
        name: "mlp_b512",
        about: "784-1024-1024-10, ReLU, batch 512",
        build: || (mlp([1024, 1024]), images([512, 784])),
    },
    Workload {
        name: "lenet_b64",
        about: "two 3x3 convolutions (32, 64), two 2x2 poolings, 3136-128-10, ReLU, batch 64",
        build: || (lenet(), images([64, 1, 28, 28])),
    },
];

/// The figures of one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The workload.
    pub workload: String,
    /// How exactly products are computed.
    pub precision: String,
    /// Threads that shared the work.
    pub threads: usize,
    /// The median step, in milliseconds.
    pub median_ms: f64,
    /// The fastest step, in milliseconds.
    pub min_ms: f64,
    /// The very first step, planning included, in milliseconds.
    pub first_ms: f64,
    /// The most memory that the process ever held, in MiB; only known on Linux.
    pub peak_rss_mb: Option<f64>,
    /// The loss of the first step.
    pub loss_first: f64,
    /// The loss of the last step.
    pub loss_last: f64,
}

/// Runs the workload called `name` in this process; `None` if there is none. The peak memory is
/// the workload's own only if the process did nothing else before.
///
/// # Errors
/// If a step fails.
pub fn run(name: &str) -> Option<Result<Measurement>> {
    let workload = WORKLOADS.iter().find(|workload| workload.name == name)?;
    Some(measure(workload))
}

fn measure(workload: &Workload) -> Result<Measurement> {
    manual_seed(1);
    let (mut model, x) = (workload.build)();
    let y = Tensor::randint(0, 10, [x.dim(0)]);
    x.eval();
    y.eval();
    let mut optimizer = AdamW::new(1e-3).weight_decay(0.01);
    let criterion = CrossEntropyLoss::default();
    let mut times = Vec::new();
    let mut losses = Vec::new();
    for _ in 0..WARMUP + STEPS {
        let started = Instant::now();
        let (loss, grads) =
            value_and_grad(&model, |model| criterion.forward(&model.forward(&x), &y));
        optimizer.step(&mut model, grads)?;
        losses.push(loss.item());
        times.push(1e3 * started.elapsed().as_secs_f64());
    }
    let mut counted = times[WARMUP..].to_vec();
    counted.sort_by(f64::total_cmp);
    let median = (counted[(STEPS - 1) / 2] + counted[STEPS / 2]) / 2.0;
    let rounded = |value: f64, digits: i32| {
        let unit = 10f64.powi(digits);
        (value * unit).round() / unit
    };
    Ok(Measurement {
        workload: workload.name.into(),
        precision: "highest".into(),
        threads: pool::threads(),
        median_ms: rounded(median, 4),
        min_ms: rounded(counted[0], 4),
        first_ms: rounded(times[0], 2),
        peak_rss_mb: peak_rss().map(|mb| rounded(mb, 1)),
        loss_first: losses[0],
        loss_last: losses[losses.len() - 1],
    })
}

fn mlp<const N: usize>(hidden: [usize; N]) -> Network {
    let net = Mlp::new(&MlpConfig::new(784, hidden, 10));
    Box::new(net.expect("the workload's sizes are right"))
}

fn lenet() -> Network {
    let net = LeNet::new(&LeNetConfig::default());
    Box::new(net.expect("the workload's sizes are right"))
}

/// Numbers from 0 to 1, as pixels are.
fn images<const N: usize>(shape: [usize; N]) -> Tensor {
    Tensor::rand(shape, DType::F32)
}

/// The most memory that this process ever held, in MiB, as Linux tells it.
fn peak_rss() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_learns_its_batch() {
        let figures = run("mlp_b64").unwrap().unwrap();
        assert!(figures.loss_first > 2.0 && figures.loss_last < figures.loss_first);
        assert!(figures.min_ms <= figures.median_ms);
        assert!(run("none").is_none());
    }
}
