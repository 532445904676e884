//! Fornax: deep learning in Rust.
//!
//! This crate gathers the parts; a program needs no other:
//!
//! - [`tensor`]: lazy tensors and automatic differentiation
//! - [`nn`]: layers, losses, optimizers, schedules, metrics
//! - [`data`]: data sets, loaders, augmentation
//! - [`models`]: architectures
//! - [`train`]: the trainer, recipes, checkpoints, plots
//!
//! and [`prelude`], what most programs use.
//!
//! ```
#![doc = include_str!("../examples/digits.rs")]
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
        Adam, AdamW, BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, CrossEntropyLoss, Dropout,
        Embedding, Flatten, GELU, Layer, LayerNorm, Linear, Loss, MSELoss, MaxPool2d, Module,
        Optimizer, Param, RMSprop, ReLU, SGD, Schedule, Sequential, SiLU, Sigmoid, Tanh, summary,
    };
    pub use fornax_tensor::{DType, Tensor, grad, jvp, manual_seed, value_and_grad};
    pub use fornax_train::{
        Callback, EpochRecord, Flow, OptimizerRecipe, Progress, Recipe, Run, ScheduleRecipe,
        TrainConfig, Trained, Trainer, evaluate,
    };
}
