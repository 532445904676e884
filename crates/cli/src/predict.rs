//! `fornax predict`: what a trained network says about new examples.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::output::{Table, json_line};
use crate::{Outcome, set_threads};
use fornax::train::{Answer, Trained};

/// Let a trained network classify images or rows
#[derive(clap::Args)]
pub struct Args {
    /// A run's folder
    run: PathBuf,
    /// Image files, CSV files, or rows such as 5.1,3.5,1.4,0.2 (after `--` if one begins with -)
    #[arg(required = true)]
    inputs: Vec<String>,
    /// Threads; as many as the machine has without it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object per example
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    set_threads(args.threads)?;
    let trained = Trained::load(&args.run)?;
    let mut table: Option<Table> = None;
    let mut answer_all = || -> Outcome {
        for input in &args.inputs {
            for answer in trained.predict(input)? {
                if args.json {
                    json_line(&to_json(&answer))?;
                } else {
                    add_row(&mut table, answer);
                }
            }
        }
        Ok(())
    };
    // What could be answered before an error is worth as much as without it.
    let outcome = answer_all();
    if let Some(table) = table {
        table.print()?;
    }
    outcome
}

fn to_json(answer: &Answer) -> Value {
    match answer {
        Answer::Class {
            input,
            class,
            probabilities,
        } => {
            let probabilities: Map<String, Value> = probabilities
                .iter()
                .map(|(name, probability)| (name.clone(), json!(probability)))
                .collect();
            json!({
                "input": input,
                "class": class,
                "probability": probabilities.get(class),
                "probabilities": probabilities,
            })
        }
        Answer::Values { input, values } => json!({"input": input, "values": values}),
    }
}

/// The class and the three most probable, or the numbers.
fn add_row(table: &mut Option<Table>, answer: Answer) {
    match answer {
        Answer::Class {
            input,
            class,
            mut probabilities,
        } => {
            probabilities.sort_by(|a, b| b.1.total_cmp(&a.1));
            let percent = |p: f64| format!("{:.2}%", 100.0 * p);
            let own = probabilities
                .first()
                .map_or(String::new(), |(_, p)| percent(*p));
            let next = probabilities.iter().skip(1).take(2);
            let next: Vec<String> = next
                .map(|(name, p)| format!("{name} {}", percent(*p)))
                .collect();
            table
                .get_or_insert_with(|| Table::new(&["input", "class", ">probability", "then"]))
                .row([input, class, own, next.join(", ")]);
        }
        Answer::Values { input, values } => {
            let values: Vec<String> = values.iter().map(|value| format!("{value}")).collect();
            table
                .get_or_insert_with(|| Table::new(&["input", ">prediction"]))
                .row([input, values.join(", ")]);
        }
    }
}
