//! `fornax inspect`: what is in a run or in a file of weights.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Outcome;
use crate::output::{Table, json_line, line};
use fornax::tensor::io::{Gguf, Sharded, gguf};
use fornax::train::progress::thousands;
use fornax::train::run::read_recipe;
use fornax::train::{Trained, TrainedText, hub, log};

/// Show a run's network and progress, or the tensors of a file or folder of weights
#[derive(clap::Args)]
pub struct Args {
    /// A run's folder, a .safetensors or .gguf file, a folder with model.safetensors or its index,
    /// the name of fetched weights (minilm, smollm2), or a HuggingFace OWNER/NAME
    path: PathBuf,
    /// Print one JSON object per tensor, or one for a run
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    let path = &hub::resolve(&args.path)?;
    if path.is_dir() && path.join("recipe.toml").exists() {
        return inspect_run(path, args.json);
    }
    let file = match path.extension().is_some_and(|e| e == "gguf") {
        true => gguf(path)?,
        false => safetensors(path)?,
    };
    show(&file, args.json)
}

/// What a file or a folder of weights holds.
struct Weights {
    tensors: Vec<Row>,
    metadata: Vec<(String, String)>,
}

struct Row {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

/// A `.safetensors` file, an `index.json`, or a folder with either.
fn safetensors(path: &Path) -> Result<Weights, Box<dyn std::error::Error>> {
    let files = Sharded::open(path)?;
    let tensors = files.entries().map(|entry| Row {
        name: entry.name.clone(),
        dtype: entry.dtype,
        shape: entry.shape.clone(),
        bytes: entry.bytes.end - entry.bytes.start,
    });
    let metadata = files.shards().iter().flat_map(|file| file.metadata());
    Ok(Weights {
        tensors: tensors.collect(),
        metadata: metadata.map(|(k, v)| (k.clone(), v.clone())).collect(),
    })
}

fn gguf(path: &Path) -> Result<Weights, Box<dyn std::error::Error>> {
    let file = Gguf::open(path)?;
    let tensors = file.entries().iter().map(|entry| Row {
        name: entry.name.clone(),
        dtype: entry.dtype.name(),
        shape: entry.shape.clone(),
        bytes: entry.bytes.len() as u64,
    });
    let told = |value: &gguf::Value| match value {
        gguf::Value::Integer(x) => x.to_string(),
        gguf::Value::Float(x) => x.to_string(),
        gguf::Value::Bool(x) => x.to_string(),
        gguf::Value::Text(text) => text.clone(),
        gguf::Value::Integers(list) => format!("{} whole numbers", list.len()),
        gguf::Value::Floats(list) => format!("{} numbers", list.len()),
        gguf::Value::Bools(list) => format!("{} truths", list.len()),
        gguf::Value::Texts(list) => format!("{} texts", list.len()),
    };
    let metadata = file.metadata().iter();
    Ok(Weights {
        tensors: tensors.collect(),
        metadata: metadata
            .map(|(key, value)| (key.clone(), told(value)))
            .collect(),
    })
}

fn show(file: &Weights, as_json: bool) -> Outcome {
    if as_json {
        for row in &file.tensors {
            json_line(&json!({
                "name": row.name,
                "dtype": row.dtype,
                "shape": row.shape,
                "bytes": row.bytes,
            }))?;
        }
        return Ok(());
    }
    let mut table = Table::new(&["tensor", "type", "shape", ">elements", ">bytes"]);
    let (mut elements, mut bytes) = (0, 0);
    for row in &file.tensors {
        let count: usize = row.shape.iter().product();
        elements += count;
        bytes += row.bytes;
        table.row([
            row.name.clone(),
            row.dtype.to_owned(),
            format!("{:?}", row.shape),
            thousands(count as f64),
            thousands(row.bytes as f64),
        ]);
    }
    table.print()?;
    let (elements, bytes) = (thousands(elements as f64), thousands(bytes as f64));
    line(format!(
        "\n{} tensors, {elements} elements, {bytes} bytes",
        file.tensors.len()
    ))?;
    for (name, text) in &file.metadata {
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
    let summary = match folder.join("model.safetensors").exists() {
        true if recipe.data.is_text() => Some(TrainedText::load(folder)?.summary()),
        true => Some(Trained::load(folder)?.summary()),
        false => None,
    };
    if as_json {
        json_line(&json!({
            "recipe": recipe.name,
            "seed": recipe.seed,
            "epochs": epochs,
            "epochs_wanted": recipe.epochs,
            "finished": summary.is_some(),
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
    match summary {
        Some(summary) => line(format!("\n{summary}"))?,
        None => line(format!(
            "\nnot finished: fornax train --resume {}",
            folder.display()
        ))?,
    }
    Ok(())
}
