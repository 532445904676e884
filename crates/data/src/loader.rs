//! Loaders: a dataset's samples in batches, shuffled anew each epoch,
//! assembled ahead of time on a thread of their own.

use crate::augment::{Augment, Augmenter};
use crate::dataset::{Dataset, SharedDataset};
use crate::error::Result;
use crate::preprocess::Preprocess;
use crate::rng;
use crate::schema::TargetKind;
use fornax_tensor::Tensor;
use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Makes batches of a dataset's samples.
///
/// The batches of an epoch are a function of the settings and the epoch's
/// number only, not of the number of threads nor of what was read before. So a
/// training run that stopped after `k` batches of epoch `e` goes on exactly
/// there with `loader.epoch(e).skip(k)`, which makes none of the first `k`.
///
/// ```
/// use fornax_data::{Holdout, Loader, Preprocess, Scaling, builtin};
///
/// let digits = builtin::load("digits", None)?.whole();
/// let splits = Holdout::new().test(0.2).seed(1).split(&digits)?;
/// let rule = Preprocess::fit(&splits.train, &Scaling::Standard)?;
/// let loader = Loader::new(splits.train).batch_size(64).shuffle(1).preprocess(rule)?;
/// for batch in loader.epoch(0).skip(20) {
///     let batch = batch?;
///     assert_eq!(batch.x.shape()[1..], [1, 8, 8]);
///     assert_eq!(batch.x.shape()[0], batch.y.shape()[0]);
/// }
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Clone)]
pub struct Loader {
    maker: Maker,
    batch_size: usize,
    shuffle: Option<u64>,
    drop_last: bool,
    merge_lone: bool,
    threads: usize,
    prefetch: usize,
}

impl Loader {
    /// A loader with batches of 32 in the dataset's order, the last one
    /// smaller if need be, made by one thread up to two batches ahead.
    pub fn new(data: SharedDataset) -> Self {
        Loader {
            maker: Maker {
                data,
                preprocess: None,
                augment: None,
            },
            batch_size: 32,
            shuffle: None,
            drop_last: false,
            merge_lone: false,
            threads: 1,
            prefetch: 2,
        }
    }

    /// How many samples a batch has.
    ///
    /// # Panics
    /// If it is 0.
    #[track_caller]
    pub fn batch_size(mut self, samples: usize) -> Self {
        assert!(samples > 0, "a batch needs at least one sample");
        self.batch_size = samples;
        self
    }

    /// Visits the samples in random order: [`rng::permutation`] of `(seed, epoch)`.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.shuffle = Some(seed);
        self
    }

    /// Whether to leave out the last batch if it is not full.
    pub fn drop_last(mut self, yes: bool) -> Self {
        self.drop_last = yes;
        self
    }

    /// Whether a last batch of a single sample joins the one before it, which is then larger than
    /// the others by one. Batch normalisation cannot learn from a single sample.
    pub fn merge_lone(mut self, yes: bool) -> Self {
        self.merge_lone = yes;
        self
    }

    /// How many threads make batches; 0 makes each when it is asked for, on the caller's thread.
    /// One is plenty for data in memory; decoding image files may want more.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How many batches each thread may have waiting.
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.prefetch = batches;
        self
    }

    /// Fills and scales every sample by a fitted rule, and its target if the rule says so.
    ///
    /// # Errors
    /// If the rule was fitted to samples of another shape.
    pub fn preprocess(mut self, rule: Preprocess) -> Result<Self> {
        rule.check(self.maker.data.schema())?;
        self.maker.preprocess = Some(Arc::new(rule));
        Ok(self)
    }

    /// Changes every image at random, before it is scaled: a function of
    /// `(seed, epoch, index)` of the sample.
    ///
    /// # Errors
    /// If the samples are not images, or a change makes no sense for them.
    pub fn augment(mut self, steps: &[Augment], seed: u64) -> Result<Self> {
        if !steps.is_empty() {
            let augmenter = Augmenter::new(steps, self.maker.data.schema(), seed)?;
            self.maker.augment = Some(Arc::new(augmenter));
        }
        Ok(self)
    }

    /// The dataset.
    pub fn dataset(&self) -> &SharedDataset {
        &self.maker.data
    }

    /// The rule that every sample is filled and scaled by, if there is one.
    pub fn rule(&self) -> Option<&Preprocess> {
        self.maker.preprocess.as_deref()
    }

    /// How many samples an epoch visits.
    pub fn samples(&self) -> usize {
        match self.drop_last {
            true => self.batches() * self.batch_size,
            false => self.maker.data.len(),
        }
    }

    /// How many batches an epoch has.
    pub fn batches(&self) -> usize {
        let (n, size) = (self.maker.data.len(), self.batch_size);
        let lone = n > size && size > 1 && n % size == 1;
        match self.drop_last || (self.merge_lone && lone) {
            true => n / size,
            false => n.div_ceil(size),
        }
    }

    /// The batches of epoch `epoch`, from the first.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        Epoch {
            loader: self.clone(),
            epoch,
            next: 0,
            end: self.batches(),
            running: None,
        }
    }
}

/// What a trainer learns from: batches by epoch.
///
/// The batches of an epoch are a function of its number alone, so that a run can go on anywhere.
pub trait Batches: Send + Sync {
    /// How many samples an epoch visits.
    fn samples(&self) -> usize;

    /// How many batches an epoch has.
    fn batches(&self) -> usize;

    /// The batches of epoch `epoch` but the first `skip`, which are not made.
    fn epoch(&self, epoch: u64, skip: usize) -> Box<dyn Iterator<Item = Result<Batch>> + '_>;

    /// Shows `take` everything that the batches are made of, so that other data is noticed.
    ///
    /// # Errors
    /// If something cannot be read.
    fn digest(&self, take: &mut dyn FnMut(&[u8])) -> Result<()>;
}

impl Batches for Loader {
    fn samples(&self) -> usize {
        Loader::samples(self)
    }

    fn batches(&self) -> usize {
        Loader::batches(self)
    }

    fn epoch(&self, epoch: u64, skip: usize) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        Box::new(Loader::epoch(self, epoch).skip(skip))
    }

    fn digest(&self, take: &mut dyn FnMut(&[u8])) -> Result<()> {
        let data = &self.maker.data;
        let mut x = vec![0f32; data.schema().sample_len()];
        let mut y = vec![0f32; data.schema().target_shape().iter().product()];
        for index in 0..data.len() {
            data.read(index, &mut x)?;
            take(bytemuck::cast_slice(&x));
            match data.schema().target {
                TargetKind::Classes { .. } => take(&data.class(index).to_le_bytes()),
                TargetKind::Values { .. } => {
                    data.read_values(index, &mut y)?;
                    take(bytemuck::cast_slice(&y));
                }
            }
        }
        Ok(())
    }
}

/// Some samples, put together.
#[derive(Clone)]
pub struct Batch {
    /// The features, `[batch, ...sample shape]`, `f32`; of text, the tokens `[batch, time]`, `i64`.
    pub x: Tensor,
    /// The targets: classes `[batch]` as `i64`, or values `[batch, ...target shape]` as `f32`; of
    /// text, the tokens to predict `[batch, time]`, `i64`.
    pub y: Tensor,
    /// The numbers of the samples in the loader's dataset; of text, where they begin.
    pub indices: Vec<usize>,
    /// What the batch counts for in a mean over several: its samples, or the tokens to predict.
    pub weight: usize,
}

impl Batch {
    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether it has none, which no loader gives.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// What turns sample numbers into a batch.
#[derive(Clone)]
struct Maker {
    data: SharedDataset,
    preprocess: Option<Arc<Preprocess>>,
    augment: Option<Arc<Augmenter>>,
}

/// Room that a thread keeps from batch to batch.
#[derive(Default)]
struct Room {
    features: Vec<f32>,
    scratch: Vec<f32>,
}

impl Maker {
    fn make(&self, indices: Vec<usize>, epoch: u64, room: &mut Room) -> Result<Batch> {
        let schema = self.data.schema();
        let n = indices.len();
        let sample = schema.sample_len();
        room.features.resize(n * sample, 0.0);
        for (x, &index) in room.features.chunks_exact_mut(sample).zip(&indices) {
            self.data.read(index, x)?;
            if let Some(augment) = &self.augment {
                augment.apply(x, epoch, index, &mut room.scratch);
            }
            if let Some(rule) = &self.preprocess {
                rule.apply(x);
            }
        }
        let shape = |rest: &[usize]| [&[n], rest].concat();
        let x = Tensor::from_slice(&room.features, shape(&schema.sample_shape()));
        let y = match &schema.target {
            TargetKind::Classes { .. } => {
                let classes: Vec<i64> = indices.iter().map(|&i| self.data.class(i)).collect();
                Tensor::from_vec(classes, n)
            }
            TargetKind::Values {
                shape: per_sample, ..
            } => {
                let width: usize = per_sample.iter().product();
                let mut values = vec![0.0f32; n * width];
                for (y, &index) in values.chunks_exact_mut(width.max(1)).zip(&indices) {
                    self.data.read_values(index, y)?;
                    if let Some(rule) = &self.preprocess {
                        rule.apply_target(y);
                    }
                }
                Tensor::from_vec(values, shape(per_sample))
            }
        };
        Ok(Batch {
            x,
            y,
            weight: indices.len(),
            indices,
        })
    }
}

/// Which samples each batch of an epoch has.
struct Order {
    /// The order of the samples; `None` is that of the dataset.
    order: Option<Vec<usize>>,
    /// Of the epoch.
    samples: usize,
    batches: usize,
    batch_size: usize,
    epoch: u64,
}

impl Order {
    fn batch(&self, number: usize) -> Vec<usize> {
        let start = number * self.batch_size;
        let end = match number + 1 == self.batches {
            true => self.samples,
            false => start + self.batch_size,
        };
        match &self.order {
            Some(order) => order[start..end].to_vec(),
            None => (start..end).collect(),
        }
    }
}

/// The batches of one epoch, an iterator. See [`Loader::epoch`].
///
/// After an error there are no more batches. Dropping it early stops its
/// threads and waits for them, at most as long as making one batch takes.
pub struct Epoch {
    loader: Loader,
    epoch: u64,
    next: usize,
    end: usize,
    /// What makes the batches, from the first one asked for.
    running: Option<Running>,
}

enum Running {
    Here {
        order: Order,
        room: Room,
    },
    /// The thread whose turn it is comes first.
    Threads(VecDeque<Worker>),
}

struct Worker {
    batches: Receiver<Result<Batch>>,
    thread: JoinHandle<()>,
}

impl Epoch {
    /// Goes on after the next `batches` batches, without making them. (An
    /// [`Iterator::skip`] that costs nothing.)
    ///
    /// # Panics
    /// If a batch was taken already.
    #[track_caller]
    pub fn skip(mut self, batches: usize) -> Self {
        assert!(
            self.running.is_none(),
            "skip batches before taking the first one"
        );
        self.next = self.next.saturating_add(batches).min(self.end);
        self
    }

    /// The number that the next batch has in the epoch, from 0: what to give
    /// [`skip`](Epoch::skip) to go on from here.
    pub fn position(&self) -> usize {
        self.next
    }

    fn start(&self) -> Running {
        let Loader {
            maker,
            shuffle,
            batch_size,
            threads,
            prefetch,
            ..
        } = &self.loader;
        let samples = maker.data.len();
        let order = Order {
            order: shuffle.map(|seed| rng::permutation(samples, seed, self.epoch)),
            samples: self.loader.samples(),
            batches: self.loader.batches(),
            batch_size: *batch_size,
            epoch: self.epoch,
        };
        let threads = (*threads).min(self.end - self.next);
        if threads == 0 {
            let room = Room::default();
            return Running::Here { order, room };
        }
        let order = Arc::new(order);
        let spawn = |first: usize| {
            let (sender, batches) = sync_channel(*prefetch);
            let numbers = (first..self.end).step_by(threads);
            let (maker, order) = (maker.clone(), Arc::clone(&order));
            let thread = std::thread::Builder::new()
                .name("fornax-loader".into())
                .spawn(move || work(&maker, &order, numbers, &sender))
                .expect("the system can start a thread");
            Worker { batches, thread }
        };
        Running::Threads((self.next..self.next + threads).map(spawn).collect())
    }
}

/// What a loader's thread does: makes its share of the batches until there are
/// no more or nobody wants them.
fn work(
    maker: &Maker,
    order: &Order,
    numbers: impl Iterator<Item = usize>,
    sender: &SyncSender<Result<Batch>>,
) {
    let mut room = Room::default();
    for number in numbers {
        let batch = maker.make(order.batch(number), order.epoch, &mut room);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.next >= self.end {
            // Nothing is left to make, so waiting for the threads is short.
            self.running = None;
            return None;
        }
        if self.running.is_none() {
            self.running = Some(self.start());
        }
        let batch = match self.running.as_mut()? {
            Running::Here { order, room } => {
                self.loader
                    .maker
                    .make(order.batch(self.next), self.epoch, room)
            }
            Running::Threads(workers) => {
                let worker = workers.pop_front()?;
                match worker.batches.recv() {
                    Ok(batch) => {
                        workers.push_back(worker);
                        batch
                    }
                    // A thread ends before its time only by a panic.
                    Err(_) => match worker.thread.join() {
                        Err(panic) => std::panic::resume_unwind(panic),
                        Ok(()) => unreachable!("a loader's thread stops when its work is done"),
                    },
                }
            }
        };
        self.next += 1;
        if batch.is_err() {
            self.next = self.end;
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch {}

impl FusedIterator for Epoch {}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Threads(workers) = self {
            // First nobody listens any more, so that no thread waits to be heard; then they end.
            let (batches, threads): (Vec<_>, Vec<_>) =
                workers.drain(..).map(|w| (w.batches, w.thread)).unzip();
            drop(batches);
            for thread in threads {
                // A panic over a batch that nobody asked for is nobody's concern.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests;
