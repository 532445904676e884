//! How well a model does on data it did not learn from.

use serde_json::{Map, Value, json};

use fornax_data::{Batch, Batches, Loader, Schema};
use fornax_nn::metrics::{Average, ConfusionMatrix, auroc_one_vs_rest, predictions};
use fornax_nn::{Layer, Module};
use fornax_tensor::{Tensor, eval_all};

use super::state::Running;
use super::{Outcome, Supervised, Task};
use crate::callback::Scores;
use crate::error::Result;
use crate::number;

/// The means of loss and metrics over a loader's data.
pub(super) fn score<M: Module>(
    task: &dyn Task<M>,
    model: &M,
    batches: &dyn Batches,
) -> Result<Scores> {
    Ok(run_through(task, model, batches)?.mean())
}

fn run_through<M: Module>(task: &dyn Task<M>, model: &M, batches: &dyn Batches) -> Result<Running> {
    let mut running = Running::default();
    for batch in batches.epoch(0, 0) {
        let batch = batch?;
        let Outcome { loss, metrics } = task.outcome(model, &batch);
        add(&mut running, &batch, &loss, &metrics)?;
    }
    Ok(running)
}

/// Evaluates a model of language: loss, metrics and "perplexity", e to the power of the loss.
///
/// # Errors
/// If the data cannot be read.
pub fn evaluate_text<M: Module>(
    task: &dyn Task<M>,
    model: &M,
    batches: &dyn Batches,
) -> Result<Evaluation> {
    let running = run_through(task, model, batches)?;
    let mut scores = running.mean();
    let perplexity = scores.loss.exp();
    scores.metrics.push(("perplexity".to_owned(), perplexity));
    Ok(Evaluation {
        samples: running.samples() as usize,
        scores,
        classes: None,
    })
}

fn add(
    running: &mut Running,
    batch: &Batch,
    loss: &Tensor,
    metrics: &[(&'static str, Tensor)],
) -> Result<()> {
    let mut wanted = vec![loss];
    wanted.extend(metrics.iter().map(|(_, metric)| metric));
    eval_all(&wanted)?;
    let values: Vec<(&'static str, f64)> = metrics
        .iter()
        .map(|(name, metric)| (*name, metric.item()))
        .collect();
    running.add(batch.len(), batch.weight, loss.item(), &values);
    Ok(())
}

/// The figures of a trained network on a data set.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Examples.
    pub samples: usize,
    /// Mean loss, and "accuracy", or "mae" and "rmse" in the target's own units.
    pub scores: Scores,
    /// For classes only.
    pub classes: Option<ClassFigures>,
}

/// The figures of a classifier.
#[derive(Debug, Clone)]
pub struct ClassFigures {
    /// The classes' names.
    pub names: Vec<String>,
    /// Counts of (true class, predicted class).
    pub confusion: ConfusionMatrix,
    /// The area under the ROC curve, the mean over the classes; `None` with one class only.
    pub auroc: Option<f64>,
}

impl Evaluation {
    /// Everything as one flat JSON object, its names beginning with `prefix`.
    pub fn to_json(&self, prefix: &str) -> Map<String, Value> {
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(format!("{prefix}{name}"), value);
        put("samples", json!(self.samples));
        put("loss", number::to_json(self.scores.loss));
        for (name, value) in &self.scores.metrics {
            put(name, number::to_json(*value));
        }
        if let Some(classes) = &self.classes {
            put(
                "precision",
                json!(classes.confusion.precision(Average::Macro)),
            );
            put("recall", json!(classes.confusion.recall(Average::Macro)));
            put("f1", json!(classes.confusion.f1(Average::Macro)));
            put("auroc", json!(classes.auroc));
        }
        object
    }
}

/// Evaluates `model` on the data of `loader`, which must not shuffle away examples or augment.
///
/// # Errors
/// If the data cannot be read.
///
/// # Panics
/// If the model does not fit the data.
pub fn evaluate<M: Layer>(model: &M, loader: &Loader) -> Result<Evaluation> {
    let schema = loader.dataset().schema();
    let task = Supervised::of(schema, loader.rule(), 0.0);
    let mut running = Running::default();
    let names = schema.classes();
    let mut confusion = names.map(|names| ConfusionMatrix::new(names.len()));
    let (mut probabilities, mut targets) = (Vec::new(), Vec::new());
    for batch in loader.epoch(0) {
        let batch = batch?;
        let output = model.forward(&batch.x);
        let Outcome { loss, metrics } = task.judge(&output, &batch.y);
        add(&mut running, &batch, &loss, &metrics)?;
        if let Some(confusion) = &mut confusion {
            let truth: Vec<usize> = batch
                .y
                .to_vec::<i64>()
                .iter()
                .map(|&y| y as usize)
                .collect();
            let output = output.softmax(-1);
            confusion.add_all(&truth, &predictions(&output));
            probabilities.extend(output.to_f64_vec());
            targets.extend(truth);
        }
    }
    let classes = names.zip(confusion).map(|(names, confusion)| ClassFigures {
        names: names.to_vec(),
        auroc: probabilities
            .iter()
            .all(|p| !p.is_nan())
            .then(|| auroc_one_vs_rest(&probabilities, &targets, names.len()))
            .flatten(),
        confusion,
    });
    let mut scores = running.mean();
    if let Supervised::Regression { scale } = task {
        let rmse = scores.loss.sqrt() * scale;
        scores.metrics.push(("rmse".to_owned(), rmse));
    }
    Ok(Evaluation {
        samples: running.samples() as usize,
        scores,
        classes,
    })
}

/// What a model says about examples: `[rows, classes]` probabilities, or the numbers themselves.
pub fn predict<M: Layer>(model: &M, schema: &Schema, x: &Tensor) -> Tensor {
    let output = model.forward(x);
    match schema.classes() {
        Some(_) => output.softmax(-1),
        None => output,
    }
}
