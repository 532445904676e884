//! What a training run tells others while it goes, and how they can stop it.

use fornax_nn::Module;
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::number;

/// What a callback wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop after this step or epoch, as early stopping does: the run ends well.
    Stop,
}

/// The size of the work, told once.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Epochs to train.
    pub epochs: usize,
    /// Batches in one epoch.
    pub batches: usize,
    /// Training examples in one epoch.
    pub samples: usize,
    /// The epoch this process begins in, counted from 1: more than 1 after a resume.
    pub first_epoch: usize,
    /// The batch of that epoch it begins with, counted from 0.
    pub first_batch: usize,
}

/// Loss and metrics over some examples, each a mean per example, or per token that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The loss.
    pub loss: f64,
    /// The metrics by name, such as "accuracy".
    pub metrics: Vec<(String, f64)>,
}

impl Scores {
    /// The metric called `name`; "loss" is the loss.
    pub fn get(&self, name: &str) -> Option<f64> {
        if name == "loss" {
            return Some(self.loss);
        }
        let found = self.metrics.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
    }

    fn add_to(&self, prefix: &str, object: &mut Map<String, Value>) {
        object.insert(format!("{prefix}loss"), number::to_json(self.loss));
        for (name, value) in &self.metrics {
            object.insert(format!("{prefix}{name}"), number::to_json(*value));
        }
    }
}

/// One batch has been learnt.
#[derive(Debug)]
pub struct StepEvent<'a> {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Batches of the epoch done so far.
    pub batch: usize,
    /// Optimizer steps done so far in the whole run.
    pub step: u64,
    /// Examples in this batch.
    pub samples: usize,
    /// The loss of this batch.
    pub loss: f64,
    /// Means over the epoch so far.
    pub running: &'a Scores,
    /// The learning rate used.
    pub learning_rate: f64,
}

/// One epoch has been learnt and validated.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochRecord {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Optimizer steps done so far in the whole run.
    pub step: u64,
    /// Means over the epoch's training batches, as they were when each was learnt.
    pub train: Scores,
    /// Means over the validation data, if there is any.
    pub validation: Option<Scores>,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// Wall time of the epoch, training only, to the millisecond.
    pub seconds: f64,
    /// Training examples per second, a whole number.
    pub samples_per_second: f64,
    /// Whether this epoch is the best so far.
    pub best: bool,
}

impl EpochRecord {
    /// The record as one flat JSON object, validation under `val_` names. Numbers that are not
    /// finite, which JSON does not have, are the texts "NaN", "Infinity" and "-Infinity".
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("event".into(), json!("epoch"));
        object.insert("epoch".into(), json!(self.epoch));
        object.insert("step".into(), json!(self.step));
        self.train.add_to("", &mut object);
        if let Some(validation) = &self.validation {
            validation.add_to("val_", &mut object);
        }
        let mut put = |name: &str, number: f64| {
            object.insert(name.into(), number::to_json(number));
        };
        put("learning_rate", self.learning_rate);
        put("seconds", self.seconds);
        put("samples_per_second", self.samples_per_second);
        object.insert("best".into(), json!(self.best));
        Value::Object(object)
    }

    /// The record that [`to_json`](EpochRecord::to_json) made this object of.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let mut train = Vec::new();
        let mut validation = Vec::new();
        for (name, value) in value.as_object()? {
            match name.as_str() {
                "event" | "epoch" | "step" | "learning_rate" | "seconds" | "samples_per_second"
                | "best" => {}
                name => {
                    let number = number::from_json(value)?;
                    match name.strip_prefix("val_") {
                        Some(name) => validation.push((name.to_owned(), number)),
                        None => train.push((name.to_owned(), number)),
                    }
                }
            }
        }
        let scores = |mut metrics: Vec<(String, f64)>| {
            let loss = metrics.iter().position(|(name, _)| name == "loss")?;
            let (_, loss) = metrics.remove(loss);
            Some(Scores { loss, metrics })
        };
        let number = |name: &str| number::from_json(&value[name]);
        Some(Self {
            epoch: value["epoch"].as_u64()? as usize,
            step: value["step"].as_u64()?,
            train: scores(train)?,
            validation: scores(validation),
            learning_rate: number("learning_rate")?,
            seconds: number("seconds")?,
            samples_per_second: number("samples_per_second")?,
            best: value["best"].as_bool()?,
        })
    }
}

/// Seconds to the millisecond: more digits are noise.
pub(crate) fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// Hooks into a run. Every hook does nothing unless written; an error stops the run and is its
/// result.
///
/// A hook sees the model, so that it can draw samples or measure more; it must not change it,
/// and it must not draw random numbers that outlive it: each batch sets the random state anew.
pub trait Callback<M: ?Sized> {
    /// Before the first batch, with the records of the epochs that were done before a resume.
    fn start(&mut self, _plan: &Plan, _history: &[EpochRecord]) -> Result<()> {
        Ok(())
    }
    /// After each batch.
    fn step(&mut self, _event: &StepEvent<'_>, _model: &M) -> Result<Flow> {
        Ok(Flow::Continue)
    }
    /// After each epoch and its validation.
    fn epoch(&mut self, _record: &EpochRecord, _model: &M) -> Result<Flow> {
        Ok(Flow::Continue)
    }
    /// After the last epoch, with the records of all of them.
    fn end(&mut self, _history: &[EpochRecord], _model: &M) -> Result<()> {
        Ok(())
    }
}

impl<M: ?Sized, C: Callback<M> + ?Sized> Callback<M> for Box<C> {
    fn start(&mut self, plan: &Plan, history: &[EpochRecord]) -> Result<()> {
        (**self).start(plan, history)
    }
    fn step(&mut self, event: &StepEvent<'_>, model: &M) -> Result<Flow> {
        (**self).step(event, model)
    }
    fn epoch(&mut self, record: &EpochRecord, model: &M) -> Result<Flow> {
        (**self).epoch(record, model)
    }
    fn end(&mut self, history: &[EpochRecord], model: &M) -> Result<()> {
        (**self).end(history, model)
    }
}

/// A callback for models of any type, as one for those of type `M`.
pub(crate) struct ForAny(pub Box<dyn Callback<dyn Module>>);

impl<M: Module + 'static> Callback<M> for ForAny {
    fn start(&mut self, plan: &Plan, history: &[EpochRecord]) -> Result<()> {
        self.0.start(plan, history)
    }
    fn step(&mut self, event: &StepEvent<'_>, model: &M) -> Result<Flow> {
        self.0.step(event, model)
    }
    fn epoch(&mut self, record: &EpochRecord, model: &M) -> Result<Flow> {
        self.0.epoch(record, model)
    }
    fn end(&mut self, history: &[EpochRecord], model: &M) -> Result<()> {
        self.0.end(history, model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_their_lines() {
        let scores = |loss: f64, accuracy: f64| Scores {
            loss,
            metrics: vec![("top5".into(), 0.1 + 0.2), ("accuracy".into(), accuracy)],
        };
        let mut record = EpochRecord {
            epoch: 3,
            step: 1 << 40,
            train: scores(1.0 / 3.0, f64::INFINITY),
            validation: Some(scores(5.0, f64::NEG_INFINITY)),
            learning_rate: 1e-3 / 7.0,
            seconds: 12.345,
            samples_per_second: 1e6,
            best: true,
        };
        let again = |record: &EpochRecord| {
            let line = record.to_json().to_string();
            EpochRecord::from_json(&serde_json::from_str(&line).unwrap()).unwrap()
        };
        assert_eq!(again(&record), record);
        record.validation = None;
        assert_eq!(again(&record), record);
        record.train.metrics[0].1 = f64::NAN;
        assert!(again(&record).train.metrics[0].1.is_nan());
        assert_eq!(EpochRecord::from_json(&json!({"event": "epoch"})), None);
    }
}
