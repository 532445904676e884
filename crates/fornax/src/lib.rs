//! Fornax: deep learning in Rust.
//!
//! This crate gathers the parts; a program needs no other:
//!
//! - [`tensor`] has lazy tensors and automatic differentiation
//! - [`nn`] has layers, losses, optimizers, schedules, metrics
//! - [`data`] has data sets, loaders, augmentation
//! - [`models`] has architectures
//! - [`train`] has the trainer, recipes, checkpoints, plots
//!
//! and [`prelude`], what most programs use.
//!
//! ```
//! use fornax::prelude::*;
//!
//! let digits = builtin::load("digits", None)?.whole();
//! let parts = Holdout::new().test(0.2).validation(0.1).split(&digits)?;
//! let mut model = Sequential::new()
//!     .push(Flatten::default())
//!     .push(Linear::new(64, 128))
//!     .push(ReLU)
//!     .push(Linear::new(128, 10));
//! let config = TrainConfig { epochs: 10, ..TrainConfig::default() };
//! Trainer::new(config).fit(&mut model, &parts.train, parts.validation.as_ref())?;
//! let test = evaluate(&model, &Loader::new(parts.test.unwrap()))?;
//! assert!(test.scores.get("accuracy").unwrap() > 0.9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use fornax_data as data;
pub use fornax_models as models;
pub use fornax_nn as nn;
pub use fornax_tensor as tensor;
pub use fornax_train as train;

/// What most programs use: `use fornax::prelude::*`.
pub mod prelude {
    pub use fornax_data::{
        Augment, Dataset, Holdout, ImageFolder, InMemory, Loader, Preprocess, Scaling,
        SharedDataset, builtin, table,
    };
    pub use fornax_nn::{
        Adafactor, Adagrad, Adam, AdamW, BatchNorm1d, BatchNorm2d, Conv1d, Conv2d,
        CrossEntropyLoss, Dropout, Embedding, Flatten, GELU, GRU, LSTM, Layer, LayerNorm, Linear,
        Loss, MSELoss, MaxPool2d, Module, Optimizer, Param, RMSprop, RNN, ReLU, SGD, Schedule,
        Sequential, SiLU, Sigmoid, Tanh, summary,
    };
    pub use fornax_tensor::{DType, Tensor, grad, jvp, manual_seed, value_and_grad};
    pub use fornax_train::{
        Callback, EpochRecord, Flow, OptimizerRecipe, Progress, Recipe, Run, ScheduleRecipe,
        TrainConfig, Trained, Trainer, evaluate,
    };
}

/// The programs of `docs/training.md` run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/training.md")]
struct TrainingPage;

/// The programs of `docs/transformers.md` run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/transformers.md")]
struct TransformersPage;
