//! `fornax eval`: how good a trained network is.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::output::{Table, json_line, line};
use crate::{Outcome, set_threads};
use fornax::train::progress::{thousands, value};
use fornax::train::run::read_recipe;
use fornax::train::{Trained, TrainedText};

/// Evaluate a trained network on its test data
#[derive(clap::Args)]
pub struct Args {
    /// A run's folder
    run: PathBuf,
    /// Where fetched data sets lie; FORNAX_DATA or ./data without it
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Threads; as many as the machine has without it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    set_threads(args.threads)?;
    let data = args.data.as_deref();
    let recipe = read_recipe(&args.run)?;
    let (part, figures) = match recipe.data.is_text() {
        true => TrainedText::load(&args.run)?.evaluate(data)?,
        false => Trained::load(&args.run)?.evaluate(data)?,
    };
    if args.json {
        let mut object = figures.to_json(&format!("{part}_"));
        object.insert("recipe".into(), json!(recipe.name));
        json_line(&Value::Object(object))?;
        return Ok(());
    }
    let samples = thousands(figures.samples as f64);
    line(format!("{} on {samples} {part} examples\n", recipe.name))?;
    let mut table = Table::new(&["metric", ">value"]);
    table.row(["loss".to_owned(), value("loss", figures.scores.loss)]);
    for (name, metric) in &figures.scores.metrics {
        table.row([name.clone(), value(name, *metric)]);
    }
    if let Some(auroc) = figures.classes.as_ref().and_then(|classes| classes.auroc) {
        table.row(["AUROC".to_owned(), value("auroc", auroc)]);
    }
    table.print()?;
    if let Some(classes) = &figures.classes {
        line("")?;
        let confusion = &classes.confusion;
        let (precision, recall, f1) = (
            confusion.precision_per_class(),
            confusion.recall_per_class(),
            confusion.f1_per_class(),
        );
        let mut table = Table::new(&["class", ">examples", ">precision", ">recall", ">F1"]);
        for (index, (name, row)) in classes.names.iter().zip(confusion.rows()).enumerate() {
            table.row([
                name.clone(),
                row.iter().sum::<u64>().to_string(),
                value("precision", precision[index]),
                value("recall", recall[index]),
                value("f1", f1[index]),
            ]);
        }
        table.print()?;
    }
    Ok(())
}
