use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::recipe::{OptimizerRecipe, ScheduleRecipe};
use fornax_data::{InMemory, Subset};
use fornax_nn::{BatchNorm1d, Dropout, Linear, Param, Sequential};
use fornax_tensor::{is_recording, manual_seed, rng_state};

/// `n` points of two classes.
fn points(n: usize) -> SharedDataset {
    let features = (0..n * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    let labels = (0..n as i64).map(|i| i % 2).collect();
    InMemory::classification("points", &[3], features, labels, &["a", "b"])
        .unwrap()
        .shared()
}

/// Steps as long as the gradient, one batch an epoch.
fn plain(epochs: usize) -> TrainConfig {
    TrainConfig {
        epochs,
        optimizer: OptimizerRecipe::sgd(1.0, 0.0),
        schedule: ScheduleRecipe::named("constant"),
        ..TrainConfig::default()
    }
}

/// A single weight.
#[derive(Module)]
struct Point {
    weight: Param,
}

impl Point {
    fn new(weight: f32) -> Self {
        Self {
            weight: Param::new(Tensor::from_vec(vec![weight], [1, 1])),
        }
    }

    fn value(&self) -> f64 {
        self.weight.item()
    }
}

/// Pushes the weight up by 1 a step; validation finds it best at `best`.
struct Push {
    best: f64,
    metric: f64,
}

impl Push {
    fn to(best: f64) -> Self {
        Self { best, metric: 0.5 }
    }
}

impl Task<Point> for Push {
    fn outcome(&self, model: &Point, _: &Batch) -> Outcome {
        let weight = model.weight.sum(..);
        Outcome {
            loss: match is_recording() {
                true => -weight,
                false => (weight - self.best).square(),
            },
            metrics: vec![("given", Tensor::from_vec(vec![self.metric], ()))],
        }
    }
}

/// Trains a weight that starts at `start`.
fn push(config: TrainConfig, start: f32) -> (f64, Vec<EpochRecord>) {
    let (mut model, data) = (Point::new(start), points(4));
    let history = Trainer::new(config)
        .fit_task(&Push::to(3.0), &mut model, &data, Some(&data))
        .unwrap();
    (model.value(), history)
}

fn network() -> Sequential {
    manual_seed(1);
    Sequential::new()
        .push(Linear::new(3, 5))
        .push(BatchNorm1d::new(5))
        .push(Dropout::new(0.3))
        .push(Linear::new(5, 2))
}

fn weights(model: &impl Module) -> Vec<f64> {
    let state = model.state_dict();
    state.iter().flat_map(|(_, t)| t.to_f64_vec()).collect()
}

/// The records but for their times.
fn timeless(history: &[EpochRecord]) -> Vec<EpochRecord> {
    let records = history.iter().cloned().map(|record| EpochRecord {
        seconds: 0.0,
        samples_per_second: 0.0,
        ..record
    });
    records.collect()
}

/// Asks to stop at a step or at an epoch.
#[derive(Default)]
struct StopAt {
    step: Option<usize>,
    epoch: Option<usize>,
}

impl<M: ?Sized> Callback<M> for StopAt {
    fn step(&mut self, event: &StepEvent<'_>, _: &M) -> Result<Flow> {
        Ok(match self.step == Some(event.batch) {
            true => Flow::Stop,
            false => Flow::Continue,
        })
    }

    fn epoch(&mut self, record: &EpochRecord, _: &M) -> Result<Flow> {
        Ok(match self.epoch == Some(record.epoch) {
            true => Flow::Stop,
            false => Flow::Continue,
        })
    }
}

/// Fails at a batch of the whole run, as a full disk would.
struct FailAt(usize);

impl<M: ?Sized> Callback<M> for FailAt {
    fn step(&mut self, _: &StepEvent<'_>, _: &M) -> Result<Flow> {
        self.0 -= 1;
        match self.0 {
            0 => Err(Error::Run("as planned".into())),
            _ => Ok(Flow::Continue),
        }
    }
}

#[test]
fn the_weights_follow_the_optimizer() {
    let (weight, history) = push(plain(2), 0.0);
    assert_eq!(weight, 2.0);
    assert_eq!((history.len(), history[1].step), (2, 2));
    assert_eq!(history[0].train.loss, 0.0);
    assert_eq!(history[0].validation.as_ref().unwrap().loss, 4.0);
    assert!(push(plain(0), 0.5) == (0.5, vec![]));
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    // 22 examples: a whole step of 16 and a short one of 6.
    let data = points(22);
    let train = |batch_size: usize, accumulate: usize| {
        manual_seed(3);
        let mut model = Sequential::new().push(Linear::new(3, 2));
        let config = TrainConfig {
            batch_size,
            accumulate,
            ..plain(5)
        };
        let history = Trainer::new(config).fit(&mut model, &data, None).unwrap();
        assert_eq!(history[4].step, 10);
        weights(&model)
    };
    let whole = train(16, 1);
    for (a, b) in whole.iter().zip(train(4, 4)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn early_stopping_stops_and_the_best_weights_come_back() {
    let mut config = plain(50);
    config.early_stopping.patience = 2;
    let (weight, history) = push(config.clone(), 0.0);
    let best: Vec<bool> = history.iter().map(|record| record.best).collect();
    assert_eq!(best, [true, true, true, false, false]);
    assert_eq!(weight, 3.0);

    config.best.keep = false;
    assert_eq!(push(config.clone(), 0.0).0, 5.0);

    // From 4 to 1 to 0: the last gain is none.
    config.early_stopping.min_delta = 1.0;
    assert_eq!(push(config, 0.0).1.len(), 4);
}

#[test]
fn clipping_and_penalties_reach_the_step() {
    let after_one = |change: fn(&mut TrainConfig)| {
        let mut config = plain(1);
        change(&mut config);
        push(config, 2.0).0
    };
    assert_eq!(after_one(|_| {}), 3.0);
    let clipped = after_one(|config| config.regularization.clip_norm = 0.5);
    assert!((clipped - 2.5).abs() < 1e-5, "{clipped}");
    assert_eq!(
        after_one(|config| config.regularization.clip_value = 0.25),
        2.25
    );
    // |w| pulls down by its strength, w^2 by twice its strength times w.
    assert_eq!(after_one(|config| config.regularization.l1 = 0.25), 2.75);
    assert_eq!(after_one(|config| config.regularization.l2 = 0.125), 2.5);
}

#[test]
fn callbacks_can_stop_after_a_step_or_an_epoch() {
    let train = |stop: StopAt, accumulate: usize| {
        let config = TrainConfig {
            batch_size: 4,
            accumulate,
            ..plain(9)
        };
        let mut model = Point::new(0.0);
        let history = Trainer::new(config)
            .callback(stop)
            .fit_task(&Push::to(0.0), &mut model, &points(20), None)
            .unwrap();
        (history.len(), history[history.len() - 1].step)
    };
    let at_step = |step| StopAt {
        step: Some(step),
        epoch: None,
    };
    assert_eq!(train(at_step(2), 1), (1, 2));
    // What is accumulated is still learnt.
    assert_eq!(train(at_step(1), 2), (1, 1));
    let at_epoch = StopAt {
        step: None,
        epoch: Some(3),
    };
    assert_eq!(train(at_epoch, 1), (3, 15));
}

#[test]
fn validation_never_trains() {
    let (train, validation) = (points(20), points(7));
    let mut config = plain(3);
    config.best.keep = false;
    let after = |validation| {
        let mut model = network();
        Trainer::new(config.clone())
            .fit(&mut model, &train, validation)
            .unwrap();
        weights(&model)
    };
    assert_eq!(after(None), after(Some(&validation)));
}

#[test]
fn a_lone_last_example_does_not_stop_batch_normalisation() {
    let config = TrainConfig {
        batch_size: 4,
        ..plain(2)
    };
    let history = Trainer::new(config)
        .fit(&mut network(), &points(9), None)
        .unwrap();
    assert_eq!(history[1].step, 4);
}

#[test]
fn the_callers_random_generator_stays_where_it_was() {
    let mut model = network();
    manual_seed(77);
    let _ = Tensor::rand([1], fornax_tensor::DType::F32);
    let before = rng_state();
    Trainer::new(plain(1))
        .fit(&mut model, &points(8), None)
        .unwrap();
    assert_eq!(rng_state(), before);
    let failing = Trainer::new(plain(1)).callback(FailAt(1));
    assert!(failing.fit(&mut model, &points(8), None).is_err());
    assert_eq!(rng_state(), before);
}

#[test]
fn configurations_are_checked() {
    let refused = |change: fn(&mut TrainConfig), n: usize, part: &str| {
        let mut config = plain(1);
        change(&mut config);
        let data: SharedDataset = Arc::new(Subset::new(points(9), (0..n as u32).collect()));
        let outcome = Trainer::new(config).fit(&mut network(), &data, None);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(|config| config.accumulate = 0, 9, "accumulate");
    refused(|config| config.batch_size = 0, 9, "batch_size");
    refused(
        |config| config.early_stopping.patience = 3,
        9,
        "needs validation data",
    );
    refused(|_| {}, 0, "no examples");
}

/// Everything in a folder, by name.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            files.push((path, bytes));
        }
    }
    files.sort();
    files
}

/// A configuration that saves after every step.
fn saving(epochs: usize) -> TrainConfig {
    let mut config = plain(epochs);
    config.batch_size = 4;
    config.optimizer = OptimizerRecipe::adam(0.05);
    config.checkpoint.every_steps = 1;
    config
}

#[test]
fn a_run_that_failed_anywhere_goes_on_as_if_it_had_not() {
    let (train, validation) = (points(20), points(7));
    let fit = |trainer: Trainer<'_, Sequential>| {
        let mut model = network();
        let history = trainer.fit(&mut model, &train, Some(&validation));
        history.map(|history| (weights(&model), timeless(&history)))
    };
    let whole = fit(Trainer::new(saving(3))).unwrap();
    for step in [1, 4, 5, 6, 13] {
        let folder = tempfile::tempdir().unwrap();
        let trainer = || Trainer::new(saving(3)).folder(folder.path()).resume();
        assert!(fit(trainer().callback(FailAt(step))).is_err());
        assert!(fit(trainer()).unwrap() == whole, "failed at step {step}");
        // And once more when it is finished.
        assert!(fit(trainer()).unwrap() == whole, "failed at step {step}");
    }
}

#[test]
fn a_refused_run_changes_no_file() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let (train, validation) = (points(20), points(7));
    let trainer = || Trainer::<Sequential>::new(saving(2)).folder(folder);
    let mut model = network();
    let failing = trainer().callback(FailAt(8));
    assert!(failing.fit(&mut model, &train, Some(&validation)).is_err());
    let before = contents(folder);
    assert!(before.len() == 3, "{before:?}");
    #[track_caller]
    fn refused(outcome: Result<Vec<EpochRecord>>, part: &str) {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let part = Some(&validation);

    refused(trainer().fit(&mut model, &train, part), "holds a run");
    let mut wide = Sequential::new().push(Linear::new(3, 2));
    let resumed = trainer().resume().fit(&mut wide, &train, part);
    refused(resumed, "another model");
    let resumed = trainer().resume().fit(&mut model, &points(21), part);
    refused(resumed, "20 training examples then and are 21 now");
    let resumed = trainer().resume().fit(&mut model, &train, None);
    refused(resumed, "there was validation data then");
    let rule = Preprocess::fit(&train, &fornax_data::Scaling::Standard).unwrap();
    let scaled = trainer().resume().preprocess(rule);
    refused(scaled.fit(&mut model, &train, part), "scaling differs");
    let mut config = saving(2);
    config.seed = 9;
    let other = Trainer::new(config).folder(folder).resume();
    refused(other.fit(&mut model, &train, part), "hyperparameters");
    let lock = Lock::take(folder).unwrap();
    let resumed = trainer().resume().fit(&mut model, &train, part);
    refused(resumed, "in use by another process");
    drop(lock);
    assert!(contents(folder) == before);

    let checkpoint = checkpoint::file(folder);
    let kept = std::fs::read(&checkpoint).unwrap();
    std::fs::remove_file(&checkpoint).unwrap();
    let resumed = trainer().resume().fit(&mut model, &train, part);
    refused(resumed, "the checkpoint is missing");
    std::fs::write(&checkpoint, kept).unwrap();
    assert!(contents(folder) == before);
    trainer().resume().fit(&mut model, &train, part).unwrap();
}

#[test]
fn a_log_of_others_is_not_overwritten() {
    let temporary = tempfile::tempdir().unwrap();
    std::fs::write(temporary.path().join("metrics.jsonl"), "{\"mine\":1}\n").unwrap();
    let before = contents(temporary.path());
    let trainer = Trainer::new(plain(1)).folder(temporary.path());
    let outcome = trainer.fit(&mut network(), &points(8), None);
    assert!(outcome.unwrap_err().to_string().contains("holds a run"));
    assert!(contents(temporary.path()) == before);
}

#[test]
fn many_epochs_make_no_larger_checkpoint() {
    let size = |epochs: usize| {
        let folder = tempfile::tempdir().unwrap();
        let trainer = || Trainer::new(plain(epochs)).folder(folder.path());
        let train = |trainer: Trainer<'_, Point>| {
            let (mut model, data) = (Point::new(0.0), points(4));
            trainer
                .fit_task(&Push::to(3.0), &mut model, &data, Some(&data))
                .unwrap()
        };
        let history = train(trainer());
        assert_eq!(train(trainer().resume()), history);
        std::fs::metadata(checkpoint::file(folder.path()))
            .unwrap()
            .len()
    };
    let (few, many) = (size(4), size(1000));
    assert!(many < few + 64, "{few} bytes grew to {many}");
}

#[test]
fn metrics_that_are_not_numbers_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let train = |stop: Option<usize>, resume: bool, metric: f64| {
        let mut trainer = Trainer::new(saving(3)).folder(folder.path());
        if resume {
            trainer = trainer.resume();
        }
        if let Some(batch) = stop {
            trainer = trainer.callback(FailAt(batch));
        }
        let task = Push { best: 1.0, metric };
        trainer.fit_task(&task, &mut Point::new(0.0), &points(12), None)
    };
    assert!(train(Some(5), false, f64::NAN).is_err());
    let history = train(None, true, f64::INFINITY).unwrap();
    let metrics: Vec<f64> = history
        .iter()
        .map(|record| record.train.get("given").unwrap())
        .collect();
    assert!(metrics[0].is_nan() && metrics[1].is_nan());
    assert_eq!(metrics[2], f64::INFINITY);
}
