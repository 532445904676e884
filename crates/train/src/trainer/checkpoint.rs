//! One file that holds everything a run needs to go on: weights, best weights, optimizer, figures
//! and position. It takes its place by a rename, so that at any moment there is a whole one. Only
//! the records of the epochs are elsewhere, in `metrics.jsonl`, whose length it remembers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use fornax_nn::{Module, Optimizer, OptimizerState};
use fornax_tensor::io::{remove_leftovers, safetensors};
use fornax_tensor::{Tensor, eval_all};

use super::TrainConfig;
use super::fingerprint::Fingerprint;
use super::state::State;
use crate::callback::EpochRecord;
use crate::error::{Error, Result, io};
use crate::log::{self, MetricsLog};

/// Parameters and buffers with their full names.
pub type Weights = Vec<(String, Tensor)>;

/// The version of the file's layout.
const FORMAT: u32 = 2;
/// The entry of the file's metadata that holds everything but tensors.
const HEAD: &str = "fornax";

/// The part of a checkpoint that is not tensors.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    config: TrainConfig,
    data: Fingerprint,
    state: State,
    /// The optimizer's numbers.
    optimizer: BTreeMap<String, f64>,
    /// The length of `metrics.jsonl`.
    log: u64,
}

/// What a checkpoint holds.
pub struct Loaded {
    pub path: PathBuf,
    pub state: State,
    pub model: Weights,
    pub best: Option<Weights>,
    pub optimizer: OptimizerState,
    /// The length of `metrics.jsonl` then.
    log: u64,
}

impl Loaded {
    /// The records of the epochs that were done.
    ///
    /// # Errors
    /// If the log of the run in `folder` does not have them.
    pub fn history(&self, folder: &Path) -> Result<Vec<EpochRecord>> {
        let path = log_file(folder);
        let text = log::read_start(&path, self.log)?;
        let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let lines = lines.unwrap_or_default();
        let epochs = lines.iter().filter(|line| line["event"] == "epoch");
        let history: Option<Vec<EpochRecord>> = epochs.map(EpochRecord::from_json).collect();
        let history = history.filter(|history| history.len() == self.state.epoch);
        history.ok_or_else(|| {
            Error::Run(format!(
                "{} does not hold the {} epochs that the checkpoint knows; put the original back \
                 to resume",
                path.display(),
                self.state.epoch
            ))
        })
    }
}

/// The checkpoint file of a run and the log that goes with it.
pub struct Checkpoints {
    path: PathBuf,
    config: TrainConfig,
    data: Fingerprint,
    log: MetricsLog,
    written: Instant,
    /// The step of the last checkpoint.
    step: u64,
}

/// Where the checkpoint of the run in `folder` lies.
pub fn file(folder: &Path) -> PathBuf {
    folder.join("checkpoint").join("state.safetensors")
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("metrics.jsonl")
}

/// Appends a line to the log of a run whose last checkpoint is made: what a resume would write
/// again.
pub(crate) fn log_line(folder: &Path, line: &Value) -> Result<()> {
    let metadata = safetensors::SafeTensors::open(file(folder))?;
    let head = metadata
        .metadata()
        .get(HEAD)
        .map(String::as_str)
        .unwrap_or_default();
    let head: Head = serde_json::from_str(head)
        .map_err(|error| Error::Run(format!("{}: {error}", file(folder).display())))?;
    MetricsLog::resume(&log_file(folder), head.log)?.write(line)
}

/// Refuses a folder in which a new run would overwrite another one.
pub fn must_be_new(folder: &Path) -> Result<()> {
    let log = fs::metadata(log_file(folder)).is_ok_and(|log| log.len() > 0);
    if log || file(folder).exists() {
        return Err(Error::Run(format!(
            "{} holds a run already; resume it, or choose another folder",
            folder.display()
        )));
    }
    Ok(())
}

impl Checkpoints {
    /// Starts a run's files in `folder`.
    pub fn create(folder: &Path, config: &TrainConfig, data: Fingerprint) -> Result<Self> {
        must_be_new(folder)?;
        let path = file(folder);
        let inner = path.parent().unwrap_or(folder);
        fs::create_dir_all(inner).map_err(io("create", inner))?;
        remove_leftovers(&path);
        Ok(Self {
            log: MetricsLog::create(&log_file(folder))?,
            path,
            config: config.clone(),
            data,
            written: Instant::now(),
            step: 0,
        })
    }

    /// Goes on with the files in `folder` from `loaded`: cuts the log back to what it was then.
    pub fn resume(
        folder: &Path,
        config: &TrainConfig,
        data: Fingerprint,
        loaded: &Loaded,
    ) -> Result<Self> {
        remove_leftovers(&loaded.path);
        Ok(Self {
            log: MetricsLog::resume(&log_file(folder), loaded.log)?,
            path: loaded.path.clone(),
            config: config.clone(),
            data,
            written: Instant::now(),
            step: loaded.state.step,
        })
    }

    /// Appends to the log.
    pub fn log(&mut self, line: &Value) -> Result<()> {
        self.log.write(line)
    }

    /// Seconds since the last checkpoint.
    pub fn age(&self) -> f64 {
        self.written.elapsed().as_secs_f64()
    }

    /// What remains after an error, as the end of a sentence.
    pub fn kept(&self) -> String {
        format!(
            "; the checkpoint of step {} is kept in {}",
            self.step,
            self.path.display()
        )
    }

    /// Replaces the checkpoint, unless a weight is not finite: then the last good one stays.
    pub fn save(
        &mut self,
        state: &State,
        model: &dyn Module,
        optimizer: &dyn Optimizer,
        best: Option<&Weights>,
    ) -> Result<()> {
        let weights = model.state_dict();
        if let Some(name) = not_finite(&weights)? {
            return Err(Error::Run(format!(
                "`{name}` is no longer finite after step {}: training stopped{}; \
                 try a smaller optimizer.learning_rate or regularization.clip_norm = 1.0",
                state.step,
                self.kept()
            )));
        }
        let OptimizerState { tensors, scalars } = optimizer.state();
        let head = Head {
            format: FORMAT,
            config: self.config.clone(),
            data: self.data.clone(),
            state: state.clone(),
            optimizer: scalars,
            log: self.log.length(),
        };
        let head = serde_json::to_string(&head).expect("the head is plain data");
        let parts = [
            ("model", Some(&weights)),
            ("best", best),
            ("optimizer", Some(&tensors)),
        ];
        let all: Weights = parts
            .iter()
            .flat_map(|(part, tensors)| {
                let tensors = tensors.iter().flat_map(|tensors| tensors.iter());
                tensors.map(move |(name, tensor)| (format!("{part}/{name}"), tensor.clone()))
            })
            .collect();
        // The checkpoint says how long the log is, so the log must be there first.
        self.log.sync()?;
        safetensors::save(&self.path, &all, &BTreeMap::from([(HEAD.to_owned(), head)]))?;
        self.written = Instant::now();
        self.step = state.step;
        Ok(())
    }
}

/// Reads the checkpoint of the run in `folder` and changes nothing there; `None` if the run has
/// none because it has not begun.
///
/// # Errors
/// If it is damaged, of another configuration or of other data; if it is missing, but the folder
/// has what a run leaves.
pub fn load(folder: &Path, config: &TrainConfig, data: &Fingerprint) -> Result<Option<Loaded>> {
    let path = file(folder);
    let wrong = |reason: &str| Error::Run(format!("{}: {reason}", path.display()));
    if !path.exists() {
        let begun = must_be_new(folder).is_err() || folder.join("model.safetensors").exists();
        return if begun {
            Err(wrong(
                "the checkpoint is missing, so the run cannot go on; put it back, or start a new \
                 run in another folder",
            ))
        } else {
            Ok(None)
        };
    }
    let safetensors::Loaded { tensors, metadata } = safetensors::load(&path)?;
    let head = metadata
        .get(HEAD)
        .ok_or_else(|| wrong("not a checkpoint of Fornax"))?;
    let version = serde_json::from_str::<Value>(head).ok();
    let version = version.and_then(|head| head["format"].as_u64());
    if version != Some(u64::from(FORMAT)) {
        return Err(wrong("a checkpoint of another version of Fornax"));
    }
    let head: Head = serde_json::from_str(head).map_err(|error| wrong(&error.to_string()))?;
    if head.config != *config {
        return Err(wrong(
            "made with other hyperparameters; resume with the same ones, or start a new run",
        ));
    }
    if let Some(changes) = head.data.changes(data) {
        return Err(wrong(&format!(
            "made with other data: {changes}; resume with the data as it was, or start a new run"
        )));
    }
    let part = |part: &str| -> Weights {
        let inside = tensors.iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix(part)?.strip_prefix('/')?;
            Some((name.to_owned(), tensor.clone()))
        });
        inside.collect()
    };
    let best = part("best");
    let loaded = Loaded {
        state: head.state,
        model: part("model"),
        best: (!best.is_empty()).then_some(best),
        optimizer: OptimizerState {
            tensors: part("optimizer"),
            scalars: head.optimizer,
        },
        log: head.log,
        path,
    };
    Ok(Some(loaded))
}

/// The first tensor that holds a NaN or an infinity.
fn not_finite(weights: &[(String, Tensor)]) -> Result<Option<&str>> {
    let floats = weights
        .iter()
        .filter(|(_, tensor)| tensor.dtype().is_float() && tensor.numel() > 0);
    let checks: Vec<(&str, Tensor)> = floats
        .map(|(name, tensor)| (name.as_str(), tensor.is_finite().all(..)))
        .collect();
    eval_all(&checks.iter().map(|(_, check)| check).collect::<Vec<_>>())?;
    let bad = checks.into_iter().find(|(_, check)| check.item() == 0.0);
    Ok(bad.map(|(name, _)| name))
}
