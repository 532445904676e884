//! Training: recipes, the trainer, checkpoints and resume, logs and plots.
//!
//! [`Trainer`] trains any model on any data; a [`Run`] does it by a [`Recipe`] in a folder of its
//! own, as the program does.

pub mod bench;
pub mod callback;
mod data;
mod embedder;
mod error;
pub mod hub;
mod lock;
pub mod log;
mod model;
mod number;
pub mod plot;
mod predict;
pub mod progress;
pub mod recipe;
pub mod run;
mod text;
mod trainer;
mod writer;

pub use callback::{Callback, EpochRecord, Flow};
pub use data::Data;
pub use embedder::Embedder;
pub use error::{Error, Result};
pub use model::{Network, build as build_model};
pub use predict::Answer;
pub use progress::Progress;
pub use recipe::{OptimizerRecipe, Recipe, ScheduleRecipe};
pub use run::{Purpose, Report, Run, Trained, TrainedText};
pub use text::{Text, TextModel};
pub use trainer::{
    ClassFigures, Evaluation, Language, Outcome, Seq2Seq, Supervised, Task, TrainConfig, Trainer,
    evaluate, evaluate_text, predict,
};
pub use writer::{Writer, WritingModel, Written};
