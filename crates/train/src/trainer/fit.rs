//! One run of a [`Trainer`], step by step.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fornax_data::{Augment, Batch, Batches, Dataset, Loader, Preprocess, SharedDataset};
use fornax_nn::{
    Module, Optimizer, Path as ModulePath, Schedule, clip_grad_norm, clip_grad_value,
    load_state_dict,
};
use fornax_tensor::{Grads, RngState, Tensor, eval_all, set_rng_state, value_and_grad};

use super::checkpoint::{self, Checkpoints, Weights};
use super::evaluate::score;
use super::fingerprint::Fingerprint;
use super::state::{Running, State};
use super::{Outcome, Task, TrainConfig, Trainer};
use crate::callback::{Callback, EpochRecord, Flow, Plan, Scores, StepEvent, rounded};
use crate::error::{Error, Result};
use crate::lock::Lock;

/// Random streams set aside for each batch: no model draws more tensors in one forward pass.
const STREAMS_PER_BATCH: u64 = 1 << 24;
/// At the end of an epoch a checkpoint is written unless the last one is younger than this:
/// epochs can be shorter than a write takes.
const SECONDS_BETWEEN_EPOCHS: f64 = 1.0;

pub(super) struct Fit<'t, 'a, M> {
    config: TrainConfig,
    callbacks: Vec<Box<dyn Callback<M> + 'a>>,
    task: &'t dyn Task<M>,
    model: &'t mut M,
    optimizer: Box<dyn Optimizer>,
    schedule: Schedule,
    penalized: Vec<String>,
    train: Arc<dyn Batches>,
    validation: Option<Arc<dyn Batches>>,
    checkpoints: Option<Checkpoints>,
    /// Keeps other processes out of the folder.
    lock: Option<Lock>,
    state: State,
    /// The records of the epochs done.
    history: Vec<EpochRecord>,
    /// The weights of the best epoch so far.
    best: Option<Weights>,
    /// Gradients of the batches since the last step, each times its weight.
    pending: Option<Grads>,
    pending_weight: usize,
}

/// Finds everything that can be wrong with a configuration, before anything is written.
pub(super) fn check(
    config: &TrainConfig,
    train: &dyn Batches,
    validation: Option<&dyn Batches>,
) -> Result<()> {
    let wrong = |what: &str| Err(Error::Recipe(what.into()));
    if config.accumulate == 0 {
        return wrong("accumulate must be at least 1");
    }
    if config.early_stopping.patience > 0 && validation.is_none() {
        return wrong("early_stopping.patience needs validation data");
    }
    if train.samples() == 0 {
        return wrong("the training data has no examples");
    }
    if validation.is_some_and(|data| data.samples() == 0) {
        return wrong("the validation data has no examples");
    }
    Ok(())
}

/// The loaders of a run on examples, for training and validation.
pub(crate) fn loaders(
    config: &TrainConfig,
    preprocess: Option<&Preprocess>,
    augment: &[Augment],
    train: &SharedDataset,
    validation: Option<&SharedDataset>,
) -> Result<(Loader, Option<Loader>)> {
    if config.batch_size == 0 {
        return Err(Error::Recipe("batch_size must be at least 1".into()));
    }
    let loader = |data: &SharedDataset| -> Result<Loader> {
        let loader = Loader::new(data.clone()).batch_size(config.batch_size);
        Ok(match preprocess {
            Some(rule) => loader.preprocess(rule.clone())?,
            None => loader,
        })
    };
    let validation = validation.map(loader).transpose()?;
    let train = loader(train)?.shuffle(config.seed).merge_lone(true);
    let train = train.augment(augment, config.seed)?;
    let other = validation.as_ref().map(|loader| loader as &dyn Batches);
    check(config, &train, other)?;
    Ok((train, validation))
}

impl<'t, 'a, M: Module> Fit<'t, 'a, M> {
    /// A run on examples.
    pub fn on_examples(
        trainer: Trainer<'a, M>,
        task: &'t dyn Task<M>,
        model: &'t mut M,
        train: &SharedDataset,
        validation: Option<&SharedDataset>,
    ) -> Result<Self> {
        let (preprocess, augment) = (trainer.preprocess.clone(), trainer.augment.clone());
        let (config, rule) = (&trainer.config, preprocess.as_ref());
        let (train, validation) = loaders(config, rule, &augment, train, validation)?;
        let data = {
            let (train, validation) = (train.dataset().clone(), validation.clone());
            move || {
                let validation = validation.as_ref();
                let validation = validation.map(|loader| loader.dataset() as &dyn Dataset);
                Fingerprint::of(&train, validation, preprocess.as_ref(), &augment)
            }
        };
        let validation = validation.map(|loader| Arc::new(loader) as Arc<dyn Batches>);
        Self::new(trainer, task, model, Arc::new(train), validation, data)
    }

    /// A run on batches of any kind.
    pub fn on_batches(
        trainer: Trainer<'a, M>,
        task: &'t dyn Task<M>,
        model: &'t mut M,
        train: Arc<dyn Batches>,
        validation: Option<Arc<dyn Batches>>,
    ) -> Result<Self> {
        check(&trainer.config, &*train, validation.as_deref())?;
        let (first, second) = (train.clone(), validation.clone());
        let data = move || Fingerprint::of_batches(&*first, second.as_deref());
        Self::new(trainer, task, model, train, validation, data)
    }

    fn new(
        trainer: Trainer<'a, M>,
        task: &'t dyn Task<M>,
        model: &'t mut M,
        train: Arc<dyn Batches>,
        validation: Option<Arc<dyn Batches>>,
        data: impl FnOnce() -> Result<Fingerprint>,
    ) -> Result<Self> {
        let Trainer {
            config,
            callbacks,
            folder,
            lock,
            resume,
            ..
        } = trainer;
        let steps = train.batches().div_ceil(config.accumulate);
        let mut fit = Self {
            schedule: config.schedule.build(steps as u64, config.epochs as u64),
            optimizer: config.optimizer.build(),
            penalized: penalized(model),
            callbacks,
            task,
            model,
            train,
            validation,
            checkpoints: None,
            lock,
            state: State::default(),
            history: Vec::new(),
            best: None,
            pending: None,
            pending_weight: 0,
            config,
        };
        if let Some(folder) = folder {
            if !resume {
                // Before a lock is left in a folder that is not ours.
                checkpoint::must_be_new(&folder)?;
            }
            if fit.lock.is_none() {
                fit.lock = Some(Lock::take(&folder)?);
            }
            fit.open(&folder, resume, data()?)?;
        }
        Ok(fit)
    }

    /// Starts or continues the files in `folder`. Nothing in it changes before all is known to fit.
    fn open(&mut self, folder: &Path, resume: bool, data: Fingerprint) -> Result<()> {
        let loaded = match resume {
            true => checkpoint::load(folder, &self.config, &data)?,
            false => None,
        };
        let Some(loaded) = loaded else {
            self.checkpoints = Some(Checkpoints::create(folder, &self.config, data)?);
            // From here on there is always a checkpoint to go on from.
            return self.save();
        };
        let wrong = |error: fornax_nn::Error| {
            let path = loaded.path.display();
            Error::Run(format!(
                "{path} is the checkpoint of another model: {error}"
            ))
        };
        load_state_dict(self.model, loaded.model.clone()).map_err(wrong)?;
        self.optimizer
            .load_state(self.model, loaded.optimizer.clone())
            .map_err(wrong)?;
        self.history = loaded.history(folder)?;
        let checkpoints = Checkpoints::resume(folder, &self.config, data, &loaded)?;
        self.checkpoints = Some(checkpoints);
        self.state = loaded.state;
        self.best = loaded.best;
        Ok(())
    }

    pub fn run(mut self) -> Result<Vec<EpochRecord>> {
        let plan = Plan {
            epochs: self.config.epochs,
            batches: self.train.batches(),
            samples: self.train.samples(),
            first_epoch: self.state.epoch + 1,
            first_batch: self.state.batch,
        };
        for callback in &mut self.callbacks {
            callback.start(&plan, &self.history)?;
        }
        while !self.state.done && self.state.epoch < self.config.epochs {
            self.epoch()?;
        }
        if let Some(best) = &self.best {
            load_state_dict(self.model, best.clone())?;
        }
        let history = self.history;
        for callback in &mut self.callbacks {
            callback.end(&history, self.model)?;
        }
        Ok(history)
    }

    /// Trains to the end of the epoch, validates, and decides whether to go on.
    fn epoch(&mut self) -> Result<()> {
        let before = self.state.seconds;
        let started = Instant::now();
        let batches = self.train.batches();
        let mut stop = false;
        let train = self.train.clone();
        for batch in train.epoch(self.state.epoch as u64, self.state.batch) {
            stop |= self.batch(&batch?)? == Flow::Stop;
            self.state.seconds = before + started.elapsed().as_secs_f64();
            let last = self.state.batch == batches;
            if self.pending.is_none() && !last {
                if stop {
                    break;
                }
                if self.checkpoint_is_due() {
                    self.save()?;
                }
            }
        }

        let train = self.state.running.mean();
        let validation = self.validate()?;
        let best = self.judge(validation.as_ref());
        let record = EpochRecord {
            epoch: self.state.epoch + 1,
            step: self.state.step,
            learning_rate: self.state.learning_rate,
            seconds: rounded(self.state.seconds),
            samples_per_second: (self.state.running.samples() / self.state.seconds.max(1e-9))
                .round(),
            train,
            validation,
            best,
        };
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.log(&record.to_json())?;
        }
        self.history.push(record.clone());
        self.state.epoch += 1;
        self.state.batch = 0;
        self.state.seconds = 0.0;
        self.state.running = Running::default();
        for callback in &mut self.callbacks {
            stop |= callback.epoch(&record, self.model)? == Flow::Stop;
        }
        let patience = self.config.early_stopping.patience;
        stop |= patience > 0 && self.state.waited >= patience;
        self.state.done = stop || self.state.epoch >= self.config.epochs;

        let due = self
            .checkpoints
            .as_ref()
            .is_some_and(|checkpoints| checkpoints.age() >= SECONDS_BETWEEN_EPOCHS);
        if due || self.state.done || self.checkpoint_is_due() {
            self.save()?;
        }
        Ok(())
    }

    /// Learns one batch; makes an optimizer step if it completes one.
    fn batch(&mut self, batch: &Batch) -> Result<Flow> {
        set_rng_state(RngState {
            seed: self.config.seed,
            // Stream numbers from 0 on made the starting weights.
            stream: (self.state.batches + 1) * STREAMS_PER_BATCH,
        });
        let samples = batch.len();
        let mut metrics = Vec::new();
        let (task, penalized, config) = (self.task, &self.penalized, &self.config);
        let (loss, grads) = value_and_grad(&*self.model, |model| {
            let Outcome {
                loss,
                metrics: named,
            } = task.outcome(model, batch);
            metrics = named;
            penalize(loss, model, penalized, config)
        });

        self.state.batch += 1;
        self.state.batches += 1;
        self.pending_weight += batch.weight;
        let completes = self.state.batch.is_multiple_of(self.config.accumulate)
            || self.state.batch == self.train.batches();
        // The metrics share the forward pass with the loss, so they are computed in the same plan,
        // and the update too where there is one.
        let mut wanted = vec![&loss];
        wanted.extend(metrics.iter().map(|(_, metric)| metric));
        match self.pending.take() {
            None if completes => self.step(grads, &wanted)?,
            pending => {
                // So that a short last batch counts for what it is.
                let weight = batch.weight as f64;
                let weighted = grads.map(|_, grad| grad * weight);
                let sum: Grads = match pending {
                    None => weighted,
                    Some(sum) => sum
                        .into_iter()
                        .zip(weighted)
                        .map(|((name, sum), (_, grad))| (name, sum + grad))
                        .collect(),
                };
                if completes {
                    let all = self.pending_weight as f64;
                    self.step(sum.map(|_, sum| sum / all), &wanted)?;
                } else {
                    wanted.extend(sum.iter().map(|(_, sum)| sum));
                    eval_all(&wanted)?;
                    self.pending = Some(sum);
                }
            }
        }
        if completes {
            self.pending_weight = 0;
        }
        let loss = loss.item();
        if !loss.is_finite() {
            return Err(self.not_finite(loss));
        }
        let metrics: Vec<(&'static str, f64)> = metrics
            .iter()
            .map(|(name, metric)| (*name, metric.item()))
            .collect();
        let running = &mut self.state.running;
        running.add(samples, batch.weight, loss, &metrics);

        let running = self.state.running.mean();
        let event = StepEvent {
            epoch: self.state.epoch + 1,
            batch: self.state.batch,
            step: self.state.step,
            samples,
            loss,
            running: &running,
            learning_rate: self.state.learning_rate,
        };
        let mut flow = Flow::Continue;
        for callback in &mut self.callbacks {
            if callback.step(&event, self.model)? == Flow::Stop {
                flow = Flow::Stop;
            }
        }
        Ok(flow)
    }

    /// Lets the optimizer move the weights by `grads`, the gradients of the mean loss.
    fn step(&mut self, mut grads: Grads, also: &[&Tensor]) -> Result<()> {
        let limits = &self.config.regularization;
        if limits.clip_value > 0.0 {
            grads = clip_grad_value(grads, limits.clip_value);
        }
        if limits.clip_norm > 0.0 {
            grads = clip_grad_norm(grads, limits.clip_norm).0;
        }
        let factor = self.schedule.factor(self.state.step);
        self.state.learning_rate = self.config.optimizer.learning_rate * factor;
        self.optimizer.set_lr(self.state.learning_rate);
        if let Some(momentum) = self.schedule.momentum(self.state.step) {
            self.optimizer.set_momentum(momentum);
        }
        self.optimizer.step_with(self.model, grads, also)?;
        self.state.step += 1;
        Ok(())
    }

    fn not_finite(&self, loss: f64) -> Error {
        let kept = match &self.checkpoints {
            Some(checkpoints) => checkpoints.kept(),
            None => String::new(),
        };
        Error::NotFinite {
            loss,
            epoch: self.state.epoch + 1,
            step: self.state.step,
            kept,
        }
    }

    fn validate(&self) -> Result<Option<Scores>> {
        let Some(loader) = &self.validation else {
            return Ok(None);
        };
        let scores = score(self.task, &*self.model, &**loader)?;
        if !scores.loss.is_finite() {
            return Err(self.not_finite(scores.loss));
        }
        Ok(Some(scores))
    }

    /// Whether this epoch is the best; keeps its weights if so, and counts for early stopping.
    fn judge(&mut self, validation: Option<&Scores>) -> bool {
        let Some(scores) = validation else {
            return false;
        };
        let limit = self.state.lowest.unwrap_or(f64::INFINITY);
        if scores.loss < limit - self.config.early_stopping.min_delta {
            self.state.lowest = Some(scores.loss);
            self.state.waited = 0;
        } else {
            self.state.waited += 1;
        }
        // Small validation sets often tie in accuracy; the loss then tells.
        let rank = |scores: &Scores| match self.config.best.monitor.as_str() {
            "accuracy" => (scores.get("accuracy").unwrap_or(0.0), -scores.loss),
            _ => (0.0, -scores.loss),
        };
        let record = self.state.best.and_then(|index| self.history.get(index));
        let so_far = record.and_then(|record| record.validation.as_ref());
        let better = so_far.is_none_or(|so_far| rank(scores) > rank(so_far));
        if better {
            self.state.best = Some(self.history.len());
            if self.config.best.keep {
                self.best = Some(self.model.state_dict());
            }
        }
        better
    }

    fn checkpoint_is_due(&self) -> bool {
        let Some(checkpoints) = &self.checkpoints else {
            return false;
        };
        let config = &self.config.checkpoint;
        let by_steps = config.every_steps > 0
            && self.state.step.is_multiple_of(config.every_steps)
            && self.state.step > 0;
        let by_time = config.every_seconds > 0.0 && checkpoints.age() >= config.every_seconds;
        by_steps || by_time
    }

    fn save(&mut self) -> Result<()> {
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.save(
                &self.state,
                self.model,
                &*self.optimizer,
                self.best.as_ref(),
            )?;
        }
        Ok(())
    }
}

/// The names of the weights that L1 and L2 penalties are for: those of products and
/// convolutions, not biases and norms.
fn penalized(model: &impl Module) -> Vec<String> {
    let mut names = Vec::new();
    model.visit(&mut ModulePath::new(), &mut |entry| {
        if entry.trainable && entry.tensor.rank() >= 2 {
            names.push(entry.path.to_owned());
        }
    });
    names
}

fn penalize<M: Module>(loss: Tensor, model: &M, names: &[String], config: &TrainConfig) -> Tensor {
    let (l1, l2) = (config.regularization.l1, config.regularization.l2);
    let chosen = |name: &str| names.iter().any(|known| known == name);
    let mut loss = loss;
    if l1 > 0.0 {
        loss = loss + fornax_nn::l1_penalty(model, chosen) * l1;
    }
    if l2 > 0.0 {
        loss = loss + fornax_nn::l2_penalty(model, chosen) * l2;
    }
    loss
}

#[cfg(test)]
mod tests;
