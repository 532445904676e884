//! `fornax bench`: how fast training steps are on this machine.

use std::process::{Command, Stdio};

use crate::output::{Table, json_line, line};
use crate::{Outcome, set_threads};
use fornax::tensor::{Precision, set_precision};
use fornax::train::bench::kernels::{self, Ceilings};
use fornax::train::bench::{self, Measurement, WORKLOADS};

/// Time standard training steps and forward passes
#[derive(clap::Args)]
pub struct Args {
    /// Workloads (see `fornax list workloads`); all without any. With `--kernels`: parts of the
    /// kernels' names
    workloads: Vec<String>,
    /// Time single kernels instead, and hold them against the limits of this machine
    #[arg(long)]
    kernels: bool,
    /// How exactly products are computed: `highest` (full f32), `high` or `medium` (bf16)
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Threads; as many as the machine has without it
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object per workload
    #[arg(long)]
    json: bool,
    /// Tell on stderr where the time of each workload's last step went
    #[arg(long)]
    trace: bool,
    /// Run the one workload in this process
    #[arg(long, hide = true)]
    here: bool,
}

pub fn run(args: Args) -> Outcome {
    set_precision(args.precision);
    if args.kernels {
        set_threads(args.threads)?;
        return kernels(&args);
    }
    let known: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
    if let Some(name) = args
        .workloads
        .iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        return Err(format!(
            "no workload is called `{name}`; there are {}",
            known.join(", ")
        )
        .into());
    }
    set_threads(args.threads)?;
    if args.here {
        let name = args.workloads.first().map_or("", String::as_str);
        let figures = bench::run(name, args.trace).ok_or("no workload given")??;
        json_line(&serde_json::to_value(figures)?)?;
        return Ok(());
    }
    let names = match args.workloads.is_empty() {
        true => known.iter().map(|name| (*name).to_owned()).collect(),
        false => args.workloads.clone(),
    };
    let mut all = Vec::new();
    for name in names {
        let figures = in_child(&name, &args)?;
        if args.json {
            json_line(&serde_json::to_value(&figures)?)?;
        }
        all.push(figures);
    }
    if !args.json {
        print(&all)?;
    }
    Ok(())
}

/// One line for each kernel, as soon as it is known.
fn kernels(args: &Args) -> Outcome {
    let ceilings = Ceilings::measure();
    if args.json {
        json_line(&serde_json::to_value(ceilings)?)?;
    } else {
        let unit = ceilings.bf16_gflops.map_or(String::new(), |limit| {
            format!(" {limit:.0} GFLOP/s of bf16 products,")
        });
        line(format!(
            "limits: {:.0} GFLOP/s of f32 multiply-adds,{unit} {:.1} GB/s of copying; precision {}\n",
            ceilings.f32_gflops, ceilings.copy_gbs, args.precision
        ))?;
        line(format!(
            "{:<15} {:<44} {:>10} {:>9} {:<7} {:>6}",
            "kernel", "", "us", "", "", "%"
        ))?;
    }
    let mut outcome = Ok(());
    kernels::run(&args.workloads, &ceilings, |figures| {
        let told = if args.json {
            serde_json::to_value(figures)
                .map_err(Into::into)
                .and_then(|value| json_line(&value))
        } else {
            let unit = if figures.unit == "flop" {
                "GFLOP/s"
            } else {
                "GB/s"
            };
            line(format!(
                "{:<15} {:<44} {:>10.1} {:>9.1} {unit:<7} {:>5.0}%",
                figures.kind.trim_end_matches([' ', '[']),
                figures.name,
                figures.us,
                figures.rate,
                figures.percent
            ))
        };
        if outcome.is_ok() {
            outcome = told;
        }
    });
    Ok(outcome?)
}

/// Each workload has a process of its own, so that its memory and its first step are its own.
fn in_child(name: &str, args: &Args) -> Result<Measurement, Box<dyn std::error::Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    let precision = args.precision.to_string();
    command.args(["bench", name, "--here", "--precision", &precision]);
    if let Some(threads) = args.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    if args.trace {
        command.arg("--trace");
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the workload `{name}` failed: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn print(all: &[Measurement]) -> Outcome {
    let mut table = Table::new(&[
        "workload",
        "precision",
        ">threads",
        ">median ms",
        ">min ms",
        ">first ms",
        ">peak MiB",
        ">first loss",
        ">8th loss",
        ">rate",
    ]);
    for figures in all {
        table.row([
            figures.workload.clone(),
            figures.precision.clone(),
            figures.threads.to_string(),
            format!("{:.3}", figures.median_ms),
            format!("{:.3}", figures.min_ms),
            format!("{:.1}", figures.first_ms),
            figures
                .peak_rss_mb
                .map_or("?".into(), |mb| format!("{mb:.0}")),
            format!("{:.4}", figures.loss_first),
            format!("{:.4}", figures.loss_eighth),
            figures.rate.as_ref().map_or(String::new(), |rate| {
                format!("{:.1} {}", rate.value, rate.unit)
            }),
        ]);
    }
    Ok(table.print()?)
}
