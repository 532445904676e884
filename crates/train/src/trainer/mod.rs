//! The training loop.

mod checkpoint;
mod config;
mod evaluate;
mod fingerprint;
mod fit;
mod state;
mod task;

use std::path::PathBuf;
use std::sync::Arc;

use fornax_data::{Augment, Batches, Preprocess, SharedDataset};
use fornax_nn::{Layer, Module};
use fornax_tensor::{rng_state, set_rng_state};

pub(crate) use checkpoint::log_line;
pub use config::TrainConfig;
pub use evaluate::{ClassFigures, Evaluation, evaluate, evaluate_text, predict};
pub(crate) use fingerprint::Part;
pub(crate) use fit::loaders;
pub use task::{Language, Outcome, Seq2Seq, Supervised, Task};

use crate::callback::{Callback, EpochRecord};
use crate::error::Result;
use crate::lock::Lock;

/// Trains models: epochs, validation, schedules, clipping, gradient accumulation, early stopping,
/// the best weights, checkpoints and callbacks.
///
/// What a run computes is a function of its configuration, the data and the starting weights
/// alone: the same bits at any number of threads, and the same when it was stopped at any moment
/// and [resumed](Trainer::resume).
///
/// ```
/// use fornax_data::{Holdout, builtin};
/// use fornax_nn::{Linear, ReLU, Sequential};
/// use fornax_train::{TrainConfig, Trainer};
///
/// let iris = builtin::load("iris", None)?.whole();
/// let parts = Holdout::new().test(0.2).split(&iris)?;
/// let mut model = Sequential::new().push(Linear::new(4, 16)).push(ReLU).push(Linear::new(16, 3));
/// let config = TrainConfig { epochs: 20, batch_size: 16, ..TrainConfig::default() };
/// let history = Trainer::new(config).fit(&mut model, &parts.train, parts.test.as_ref())?;
/// assert!(history.last().unwrap().train.loss < history[0].train.loss);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Trainer<'a, M> {
    config: TrainConfig,
    preprocess: Option<Preprocess>,
    augment: Vec<Augment>,
    callbacks: Vec<Box<dyn Callback<M> + 'a>>,
    folder: Option<PathBuf>,
    /// The lock on it, if the caller holds one already.
    lock: Option<Lock>,
    resume: bool,
}

impl<'a, M: Module> Trainer<'a, M> {
    /// A trainer without callbacks that writes nothing.
    pub fn new(config: TrainConfig) -> Self {
        Self {
            config,
            preprocess: None,
            augment: Vec::new(),
            callbacks: Vec::new(),
            folder: None,
            lock: None,
            resume: false,
        }
    }

    /// What is done to every example, training and validation. Without it: nothing.
    pub fn preprocess(mut self, rule: Preprocess) -> Self {
        self.preprocess = Some(rule);
        self
    }

    /// Random changes of training images.
    pub fn augment(mut self, steps: Vec<Augment>) -> Self {
        self.augment = steps;
        self
    }

    /// Adds a callback; they are called in the order added.
    pub fn callback(mut self, callback: impl Callback<M> + 'a) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    /// Writes `metrics.jsonl` and checkpoints into `folder`, which is made if it is missing. For
    /// the time of the training no other process can write there. The data is read once more than
    /// the epochs need, so that [resuming](Trainer::resume) with other data is noticed.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Uses a lock that the caller holds on the folder.
    pub(crate) fn lock(mut self, lock: Lock) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Goes on where the checkpoint in [`folder`](Trainer::folder) was made, or starts in a folder
    /// without a run. Configuration, data and model must be those of the run.
    pub fn resume(mut self) -> Self {
        self.resume = true;
        self
    }

    /// Trains `model` on `train`, validating on `validation` after every epoch, and returns the
    /// record of each epoch. Afterwards the model has the best epoch's weights, if the
    /// configuration keeps them and there is validation data, else the last ones.
    ///
    /// The loss is the usual one for the data's target, see [`Supervised`].
    ///
    /// A last batch of a single example joins the batch before it, because batch normalisation
    /// cannot learn from one; a shorter last batch is learnt as it is.
    ///
    /// The thread's random generator is afterwards where it was before.
    ///
    /// # Errors
    /// A configuration that does not fit the data, a loss that is not finite (a checkpoint made
    /// before stays), data or files that cannot be read or written, a folder that holds a run or
    /// is in use, a checkpoint of another model, configuration or other data, an error of a
    /// callback.
    ///
    /// # Panics
    /// If the model does not fit the data.
    pub fn fit(
        self,
        model: &mut M,
        train: &SharedDataset,
        validation: Option<&SharedDataset>,
    ) -> Result<Vec<EpochRecord>>
    where
        M: Layer,
    {
        let smoothing = self.config.regularization.label_smoothing;
        let task = Supervised::of(train.schema(), self.preprocess.as_ref(), smoothing);
        self.fit_task(&task, model, train, validation)
    }

    /// As [`fit`](Trainer::fit), for any model and its own [`Task`].
    ///
    /// # Errors
    /// As [`fit`](Trainer::fit).
    pub fn fit_task(
        self,
        task: &dyn Task<M>,
        model: &mut M,
        train: &SharedDataset,
        validation: Option<&SharedDataset>,
    ) -> Result<Vec<EpochRecord>> {
        let before = rng_state();
        let outcome =
            fit::Fit::on_examples(self, task, model, train, validation).and_then(fit::Fit::run);
        set_rng_state(before);
        outcome
    }

    /// As [`fit_task`](Trainer::fit_task), on batches that come from elsewhere, such as windows of a
    /// text ([`fornax_data::text::Windows`]). Their size is theirs, not the configuration's.
    ///
    /// # Errors
    /// As [`fit`](Trainer::fit).
    pub fn fit_batches(
        self,
        task: &dyn Task<M>,
        model: &mut M,
        train: Arc<dyn Batches>,
        validation: Option<Arc<dyn Batches>>,
    ) -> Result<Vec<EpochRecord>> {
        let before = rng_state();
        let outcome =
            fit::Fit::on_batches(self, task, model, train, validation).and_then(fit::Fit::run);
        set_rng_state(before);
        outcome
    }
}
