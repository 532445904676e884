//! `fornax bench`: how fast training steps are on this machine.

use std::process::{Command, Stdio};

use crate::output::{Table, json_line};
use crate::{Outcome, set_threads};
use fornax::train::bench::{self, Measurement, WORKLOADS};

/// Time standard training steps
#[derive(clap::Args)]
pub struct Args {
    /// Workloads (see `fornax list workloads`); all without any
    workloads: Vec<String>,
    /// How exactly products are computed; `highest` is full f32
    #[arg(long, default_value = "highest", value_parser = ["highest"])]
    precision: String,
    /// Threads; as many as the machine has without it
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object per workload
    #[arg(long)]
    json: bool,
    /// Run the one workload in this process
    #[arg(long, hide = true)]
    here: bool,
}

pub fn run(args: Args) -> Outcome {
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
        let figures = bench::run(name).ok_or("no workload given")??;
        json_line(&serde_json::to_value(figures)?)?;
        return Ok(());
    }
    let names = match args.workloads.is_empty() {
        true => known.iter().map(|name| (*name).to_owned()).collect(),
        false => args.workloads,
    };
    let mut all = Vec::new();
    for name in names {
        let figures = in_child(&name, args.threads)?;
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

/// Each workload has a process of its own, so that its memory and its first step are its own.
fn in_child(name: &str, threads: Option<usize>) -> Result<Measurement, Box<dyn std::error::Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", name, "--here"]);
    if let Some(threads) = threads {
        command.args(["--threads", &threads.to_string()]);
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
        ">threads",
        ">median ms",
        ">min ms",
        ">first ms",
        ">peak MiB",
        ">first loss",
        ">last loss",
    ]);
    for figures in all {
        table.row([
            figures.workload.clone(),
            figures.threads.to_string(),
            format!("{:.3}", figures.median_ms),
            format!("{:.3}", figures.min_ms),
            format!("{:.1}", figures.first_ms),
            figures
                .peak_rss_mb
                .map_or("?".into(), |mb| format!("{mb:.0}")),
            format!("{:.4}", figures.loss_first),
            format!("{:.4}", figures.loss_last),
        ]);
    }
    Ok(table.print()?)
}
