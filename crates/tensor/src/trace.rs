//! Where the time of an evaluation goes, told on stderr.
//!
//! `FORNAX_TRACE=1` prints one table per evaluation: kernels of one kind together, with their
//! share of the time, the rate at which they compute and move bytes, and what planning and
//! bookkeeping took besides. `FORNAX_TRACE=2` also lists every kernel in its order.
//!
//! [`kernels_of`] gives the same to programs.

use crate::plan::{Graph, Plan};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How much is told about each evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trace {
    /// Nothing.
    Off,
    /// Kernels of one kind in one line.
    Totals,
    /// Every kernel as well.
    Kernels,
}

/// A kernel that ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Name, sizes, and the elementwise work around it.
    pub label: String,
    /// How long it took.
    pub time: Duration,
    /// Multiplications and additions of its products; 0 if it has none.
    pub flops: u64,
    /// Bytes that it must read and write at least.
    pub bytes: u64,
}

thread_local! {
    static OVERRIDE: Cell<Option<Trace>> = const { Cell::new(None) };
    static SINK: RefCell<Option<Vec<Timed>>> = const { RefCell::new(None) };
}

fn level() -> Trace {
    static FROM_ENV: LazyLock<Trace> =
        LazyLock::new(|| match std::env::var("FORNAX_TRACE").as_deref() {
            Err(_) | Ok("" | "0") => Trace::Off,
            Ok("2") => Trace::Kernels,
            Ok(_) => Trace::Totals,
        });
    OVERRIDE.get().unwrap_or_else(|| *FROM_ENV)
}

/// Runs `f` and traces the evaluations that this thread begins in it, whatever the environment
/// says.
pub fn with_trace<R>(level: Trace, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Trace>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OVERRIDE.set(self.0);
        }
    }
    let _restore = Restore(OVERRIDE.replace(Some(level)));
    f()
}

/// Runs `f`, and returns with its result the kernels of the evaluations that this thread began in
/// it, in order.
///
/// ```
/// use fornax_tensor::{DType, Tensor, trace};
/// let x = Tensor::rand([8, 8], DType::F32);
/// x.eval();
/// let (_, kernels) = trace::kernels_of(|| x.matmul(&x).try_eval());
/// assert_eq!(kernels[0].flops, 2 * 8 * 8 * 8);
/// ```
pub fn kernels_of<R>(f: impl FnOnce() -> R) -> (R, Vec<Timed>) {
    struct Restore(Option<Vec<Timed>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SINK.set(self.0.take());
        }
    }
    let _restore = Restore(SINK.replace(Some(Vec::new())));
    let result = f();
    (result, SINK.take().unwrap_or_default())
}

/// Times one evaluation. Does nothing, in a few nanoseconds, when there is no trace.
pub(crate) struct Recorder(Option<Record>);

struct Record {
    level: Trace,
    mark: Instant,
    phases: Vec<(&'static str, Duration)>,
    kernels: Vec<Duration>,
}

impl Recorder {
    pub fn begin() -> Recorder {
        let level = level();
        let wanted = level > Trace::Off || SINK.with_borrow(Option::is_some);
        Recorder(wanted.then(|| Record {
            level,
            mark: Instant::now(),
            phases: Vec::new(),
            kernels: Vec::new(),
        }))
    }

    /// A phase besides the kernels has ended.
    #[inline]
    pub fn phase(&mut self, name: &'static str) {
        if let Some(record) = &mut self.0 {
            let now = Instant::now();
            record.phases.push((name, now - record.mark));
            record.mark = now;
        }
    }

    /// The next kernel has ended.
    #[inline]
    pub fn kernel(&mut self) {
        if let Some(record) = &mut self.0 {
            let now = Instant::now();
            record.kernels.push(now - record.mark);
            record.mark = now;
        }
    }

    /// Tells what was recorded.
    pub fn end(self, graph: &Graph, plan: &Plan) {
        let Some(record) = self.0 else { return };
        if record.level > Trace::Off {
            eprint!("{}", record.text(graph, plan));
        }
        SINK.with_borrow_mut(|sink| {
            let Some(sink) = sink else { return };
            let kernels = plan.steps.iter().zip(&record.kernels);
            sink.extend(kernels.map(|(step, &time)| Timed {
                label: step.about.label.clone(),
                time,
                flops: step.about.flops,
                bytes: step.about.bytes,
            }));
        });
    }
}

/// Kernels with the same label.
#[derive(Default)]
struct Total {
    count: usize,
    time: Duration,
    flops: u64,
    bytes: u64,
}

fn micros(time: Duration) -> f64 {
    1e6 * time.as_secs_f64()
}

/// A rate in billions a second, or nothing where there is no work.
fn rate(work: u64, time: Duration) -> String {
    match work {
        0 => String::new(),
        _ => format!("{:.1}", work as f64 / time.as_secs_f64().max(1e-9) / 1e9),
    }
}

impl Record {
    fn text(&self, graph: &Graph, plan: &Plan) -> String {
        let mut text = String::new();
        self.write(graph, plan, &mut text)
            .expect("a string takes everything");
        text
    }

    fn write(&self, graph: &Graph, plan: &Plan, out: &mut String) -> std::fmt::Result {
        let in_kernels: Duration = self.kernels.iter().sum();
        let besides: Duration = self.phases.iter().map(|(_, time)| *time).sum();
        write!(
            out,
            "evaluation of {} nodes by {} kernels, arena {:.1} MiB: {:.1} us = kernels {:.1}",
            graph.nodes.len(),
            plan.steps.len(),
            plan.arena as f64 / (1 << 20) as f64,
            micros(in_kernels + besides),
            micros(in_kernels)
        )?;
        for (name, time) in &self.phases {
            write!(out, " + {name} {:.1}", micros(*time))?;
        }
        writeln!(out)?;
        let head = |out: &mut String, first: &str| {
            writeln!(
                out,
                "{first:>7} {:>10} {:>6} {:>8} {:>7}  kernel",
                "us", "%", "GFLOP/s", "GB/s"
            )
        };
        let share = |time: Duration| 100.0 * micros(time) / micros(in_kernels).max(1e-3);
        if self.level == Trace::Kernels {
            head(out, "number")?;
            for (i, (step, &time)) in plan.steps.iter().zip(&self.kernels).enumerate() {
                let about = &step.about;
                line(
                    out,
                    i,
                    time,
                    share(time),
                    about.flops,
                    about.bytes,
                    &about.label,
                )?;
            }
        }
        let mut totals: HashMap<&str, Total> = HashMap::new();
        for (step, &time) in plan.steps.iter().zip(&self.kernels) {
            let total = totals.entry(&step.about.label).or_default();
            total.count += 1;
            total.time += time;
            total.flops += step.about.flops;
            total.bytes += step.about.bytes;
        }
        let mut totals: Vec<(&str, Total)> = totals.into_iter().collect();
        totals.sort_by(|(a, s), (b, t)| t.time.cmp(&s.time).then(a.cmp(b)));
        head(out, "count")?;
        for (label, t) in totals {
            line(out, t.count, t.time, share(t.time), t.flops, t.bytes, label)?;
        }
        Ok(())
    }
}

fn line(
    out: &mut String,
    first: usize,
    time: Duration,
    share: f64,
    flops: u64,
    bytes: u64,
    label: &str,
) -> std::fmt::Result {
    writeln!(
        out,
        "{first:>7} {:>10.1} {share:>6.1} {:>8} {:>7}  {label}",
        micros(time),
        rate(flops, time),
        rate(bytes, time)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn kernels_of_one_kind_are_added_up() {
        let x = Tensor::ones([8, 8], crate::DType::F32);
        x.eval();
        let y = x.matmul(&x).matmul(&x).exp();
        let graph = Graph::collect(std::slice::from_ref(&y));
        let plan = crate::plan::plan_for(&graph);
        let record = Record {
            level: Trace::Kernels,
            mark: Instant::now(),
            phases: vec![("collect", Duration::from_micros(3))],
            kernels: vec![Duration::from_micros(10), Duration::from_micros(30)],
        };
        let text = record.text(&graph, &plan);
        let first = text.lines().next().unwrap();
        assert!(first.contains("by 2 kernels"), "{text}");
        assert!(
            first.ends_with("43.0 us = kernels 40.0 + collect 3.0"),
            "{text}"
        );
        // In order, then by time.
        let labels: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("matmul"))
            .map(|line| line.split("  ").last().unwrap())
            .collect();
        let (plain, with_exp) = ("matmul 8x8x8 nn", "matmul 8x8x8 nn then exp");
        assert_eq!(labels, [plain, with_exp, with_exp, plain], "{text}");
        let (_, timed) = kernels_of(|| y.eval().numel());
        let labels: Vec<&str> = timed.iter().map(|k| &*k.label).collect();
        assert_eq!(labels, [plain, with_exp]);
    }
}
