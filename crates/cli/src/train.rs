//! `fornax train`: from a recipe to a trained network.

use std::path::PathBuf;

use crate::output::{json_line, line};
use crate::{Outcome, set_threads};
use fornax::nn::Module;
use fornax::train::callback::{Callback, EpochRecord, Flow};
use fornax::train::progress::{Progress, duration, thousands, value};
use fornax::train::run::{free_folder, read_recipe};
use fornax::train::{Purpose, Recipe, Report, Run};

/// Train a network by a recipe
#[derive(clap::Args)]
pub struct Args {
    /// Built-in recipe (see `fornax list recipes`), TOML file, CSV file or folder of pictures; not
    /// needed with --resume
    #[arg(required_unless_present = "resume")]
    recipe: Option<String>,
    /// Change a key of the recipe (see `fornax list keys`), for example --set epochs=5
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed of everything random; short for --set seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Threads; as many as the machine has without it. Results do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// The run's folder, new or empty; runs/RECIPE without it
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, exactly where it was stopped
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Where fetched data sets lie; FORNAX_DATA or ./data without it
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print one JSON object per epoch and one at the end, and nothing else
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Outcome {
    set_threads(args.threads)?;
    let mut set = args.set.clone();
    set.extend(args.seed.map(|seed| format!("seed={seed}")));
    let data = args.data.as_deref();
    let run = match &args.resume {
        Some(folder) => {
            let recipe = match &args.recipe {
                Some(recipe) => Some(Recipe::load(recipe, &set)?),
                None if set.is_empty() => None,
                // What is set must be what the run has.
                None => Some(read_recipe(folder)?.with(&set)?),
            };
            Run::resume(folder, recipe, data)?
        }
        None => {
            let name = args.recipe.as_deref().unwrap_or_default();
            let recipe = Recipe::load(name, &set)?;
            let folder = match args.out {
                Some(folder) => folder,
                None => free_folder(&recipe.name)?,
            };
            Run::create(&folder, recipe, data)?
        }
    };
    let callbacks: Vec<Box<dyn Callback<dyn Module>>> = if args.json {
        vec![Box::new(JsonLines)]
    } else {
        // A reader that has gone, such as `head`, must not cost the run.
        let _ = introduce(&run);
        vec![Box::new(Progress::new())]
    };
    let report = run.train(callbacks)?;
    if args.json {
        json_line(&report.to_json())?;
    } else {
        conclude(&report)?;
    }
    Ok(())
}

/// One JSON object per epoch.
struct JsonLines;

impl<M: ?Sized> Callback<M> for JsonLines {
    fn epoch(&mut self, record: &EpochRecord, _: &M) -> fornax::train::Result<Flow> {
        // As in `run`.
        let _ = json_line(&record.to_json());
        Ok(Flow::Continue)
    }
}

fn introduce(run: &Run) -> Outcome {
    let recipe = run.recipe();
    line(format!("{}: {}", recipe.name, recipe.description))?;
    for about in run.describe() {
        line(about)?;
    }
    line(format!("folder: {}\n", run.folder().display()))?;
    line(run.summary().to_string())?;
    Ok(())
}

fn conclude(report: &Report) -> Outcome {
    let best = report.history.iter().rfind(|record| record.best);
    let mut text = format!("\ntrained in {}", duration(report.seconds));
    if let Some(best) = best {
        text += &format!("; the weights are those of epoch {}", best.epoch);
    }
    line(text)?;
    if let Some(test) = &report.test {
        let mut text = format!("test: loss {}", value("loss", test.scores.loss));
        for (name, metric) in &test.scores.metrics {
            text += &format!(", {name} {}", value(name, *metric));
        }
        line(format!(
            "{text} on {} examples",
            thousands(test.samples as f64)
        ))?;
    }
    let folder = report.folder.display();
    let mut pictures = format!("{folder}/curves.png");
    if report
        .test
        .as_ref()
        .is_some_and(|test| test.classes.is_some())
    {
        pictures += &format!(" and {folder}/confusion.png");
    }
    line(format!("\nlook at {pictures}"))?;
    line(match report.purpose {
        Purpose::Predict => format!("use it:  fornax predict {folder} FILE..."),
        Purpose::Generate => format!("use it:  fornax generate {folder} --prompt \"...\""),
        Purpose::Evaluate => format!("evaluate it:  fornax eval {folder}"),
    })?;
    Ok(())
}
