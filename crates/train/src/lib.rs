//! Training: recipes, the trainer, checkpoints and resume, logs and plots.
//!
//! Part of Fornax.

pub mod atomic;
pub mod callback;
mod error;
pub mod log;
pub mod plot;
pub mod progress;
pub mod recipe;

pub use error::{Error, Result};
pub use recipe::Recipe;
