//! Standard pieces of work, to compare speeds with other frameworks and with former versions.

pub mod kernels;
mod workloads;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use fornax_tensor::cpu::pool;
use fornax_tensor::trace::{Trace, with_trace};
use fornax_tensor::{Precision, manual_seed};

use crate::error::Result;

pub use workloads::{WORKLOADS, Work, Workload};

/// Steps before those that count.
const WARMUP: usize = 3;
/// Steps that count: at least so many, ...
const LEAST: usize = 5;
/// ... then more until the time is over, ...
const ENOUGH: Duration = Duration::from_secs(3);
/// ... but not beyond these.
const MOST: usize = 300;

/// The figures of one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The workload.
    pub workload: String,
    /// How exactly products are computed.
    pub precision: String,
    /// Threads that shared the work.
    pub threads: usize,
    /// Weights of the network.
    pub parameters: usize,
    /// The steps that count: those after three to warm up.
    pub steps: usize,
    /// The median step, in milliseconds.
    pub median_ms: f64,
    /// The fastest step, in milliseconds.
    pub min_ms: f64,
    /// The very first step, planning included, in milliseconds.
    pub first_ms: f64,
    /// What the median step makes of [`Workload::work`], if that is not simply a step.
    pub rate: Option<Rate>,
    /// The most memory that the process ever held, in MiB; only known on Linux.
    pub peak_rss_mb: Option<f64>,
    /// The loss of the first step (or the mean output, where nothing is trained).
    pub loss_first: f64,
    /// The same of the eighth step, which every run gets to.
    pub loss_eighth: f64,
}

/// A speed in its own unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
}

/// Runs the workload called `name` in this process, at the precision that is set; `None` if there
/// is none. The peak memory is the workload's own only if the process did nothing else before.
/// With `trace`, one more step tells on stderr where its time went.
///
/// # Errors
/// If a step fails.
pub fn run(name: &str, trace: bool) -> Option<Result<Measurement>> {
    let workload = WORKLOADS.iter().find(|workload| workload.name == name)?;
    Some(measure(workload, trace))
}

fn measure(workload: &Workload, trace: bool) -> Result<Measurement> {
    manual_seed(1);
    let mut job = (workload.build)();
    let mut times = Vec::with_capacity(WARMUP + MOST);
    let mut losses = Vec::with_capacity(WARMUP + MOST);
    let mut counted = Duration::ZERO;
    while times.len() < WARMUP + LEAST || (counted < ENOUGH && times.len() < WARMUP + MOST) {
        let started = Instant::now();
        losses.push((job.step)()?);
        times.push(started.elapsed());
        if times.len() > WARMUP {
            counted += times[times.len() - 1];
        }
    }
    if trace {
        with_trace(Trace::Totals, &mut job.step)?;
    }
    let ms = |time: Duration| 1e3 * time.as_secs_f64();
    let mut sorted: Vec<f64> = times[WARMUP..].iter().map(|&time| ms(time)).collect();
    sorted.sort_by(f64::total_cmp);
    let steps = sorted.len();
    let median = (sorted[(steps - 1) / 2] + sorted[steps / 2]) / 2.0;
    Ok(Measurement {
        workload: workload.name.into(),
        precision: Precision::current().to_string(),
        threads: pool::threads(),
        parameters: job.parameters,
        steps,
        median_ms: rounded(median, 4),
        min_ms: rounded(sorted[0], 4),
        first_ms: rounded(ms(times[0]), 2),
        rate: rate(workload.work, median),
        peak_rss_mb: peak_rss().map(|mb| rounded(mb, 1)),
        loss_first: losses[0],
        loss_eighth: losses[WARMUP + LEAST - 1],
    })
}

/// What a step of so many milliseconds makes of the work.
fn rate(work: Work, ms: f64) -> Option<Rate> {
    let (value, unit) = match work {
        Work::Step => return None,
        Work::Ops(n) => (1e6 * ms / n as f64, "ns/op"),
        Work::Tokens(n) => (1e3 * n as f64 / ms, "tokens/s"),
    };
    Some(Rate {
        value: rounded(value, 1),
        unit: unit.into(),
    })
}

fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
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
        let figures = run("mlp_b64", false).unwrap().unwrap();
        assert_eq!(figures.parameters, 235_146);
        assert!(figures.loss_first > 2.0 && figures.loss_eighth < figures.loss_first);
        assert!(figures.min_ms <= figures.median_ms && figures.steps >= LEAST);
        assert!(run("none", false).is_none());
    }

    #[test]
    fn rates_have_their_units() {
        let ops = rate(Work::Ops(100), 0.05).unwrap();
        assert_eq!((ops.value, &*ops.unit), (500.0, "ns/op"));
        let tokens = rate(Work::Tokens(128), 1000.0).unwrap();
        assert_eq!((tokens.value, &*tokens.unit), (128.0, "tokens/s"));
        assert_eq!(rate(Work::Step, 3.0), None);
    }
}
