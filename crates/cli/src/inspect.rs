//! `fornax inspect`: what is in a run or in a file of weights.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Outcome;
use crate::output::{Table, json_line, line};
use fornax::tensor::io::safetensors::SafeTensors;
use fornax::train::progress::thousands;
use fornax::train::run::read_recipe;
use fornax::train::{Trained, log};

/// Show a run's network and progress, or the tensors of a .safetensors file
#[derive(clap::Args)]
pub struct Args {
    /// A run's folder or a .safetensors file
    path: PathBuf,
    /// Print one JSON object per tensor, or one for a run
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    if args.path.is_dir() {
        inspect_run(&args.path, args.json)
    } else {
        inspect_file(&args.path, args.json)
    }
}

fn inspect_file(path: &Path, as_json: bool) -> Outcome {
    let file = SafeTensors::open(path)?;
    if as_json {
        for entry in file.entries() {
            json_line(&json!({
                "name": entry.name,
                "dtype": entry.dtype,
                "shape": entry.shape,
                "bytes": entry.bytes.end - entry.bytes.start,
            }))?;
        }
        return Ok(());
    }
    let mut table = Table::new(&["tensor", "type", "shape", ">elements", ">bytes"]);
    let (mut elements, mut bytes) = (0, 0);
    for entry in file.entries() {
        let size = entry.bytes.end - entry.bytes.start;
        let count: usize = entry.shape.iter().product();
        elements += count;
        bytes += size;
        table.row([
            entry.name.clone(),
            entry.dtype.to_owned(),
            format!("{:?}", entry.shape),
            thousands(count as f64),
            thousands(size as f64),
        ]);
    }
    table.print()?;
    let (elements, bytes) = (thousands(elements as f64), thousands(bytes as f64));
    line(format!(
        "\n{} tensors, {elements} elements, {bytes} bytes",
        file.entries().len()
    ))?;
    for (name, text) in file.metadata() {
        // Metadata can be a whole document.
        let short: String = text.chars().take(120).collect();
        let more = if short.len() < text.len() { "..." } else { "" };
        line(format!("{name}: {short}{more}"))?;
    }
    Ok(())
}

fn inspect_run(folder: &Path, as_json: bool) -> Outcome {
    let recipe = read_recipe(folder)?;
    let path = folder.join("metrics.jsonl");
    let lines = if path.exists() {
        log::read(&path)?
    } else {
        Vec::new()
    };
    let last = |event: &str| lines.iter().rfind(|line| line["event"] == event).cloned();
    let epochs = lines.iter().filter(|line| line["event"] == "epoch").count();
    let trained = folder
        .join("model.safetensors")
        .exists()
        .then(|| Trained::load(folder))
        .transpose()?;
    if as_json {
        let summary = trained.as_ref().map(Trained::summary);
        json_line(&json!({
            "recipe": recipe.name,
            "seed": recipe.seed,
            "epochs": epochs,
            "epochs_wanted": recipe.epochs,
            "finished": trained.is_some(),
            "parameters": summary.map(|summary| summary.total),
            "last_epoch": last("epoch"),
            "test": last("test"),
        }))?;
        return Ok(());
    }
    line(format!("{}: {}", recipe.name, recipe.description))?;
    line(format!(
        "seed {}, {epochs} of {} epochs done",
        recipe.seed, recipe.epochs
    ))?;
    for event in ["epoch", "test"] {
        if let Some(Value::Object(record)) = last(event) {
            let mut table = Table::new(&[&format!("last {event}"), ">value"]);
            for (name, value) in record.iter().filter(|(name, _)| *name != "event") {
                table.row([name.clone(), value.to_string()]);
            }
            line("")?;
            table.print()?;
        }
    }
    match trained {
        Some(trained) => line(format!("\n{}", trained.summary()))?,
        None => line(format!(
            "\nnot finished: fornax train --resume {}",
            folder.display()
        ))?,
    }
    Ok(())
}
