//! Training: recipes, the trainer, checkpoints and resume, logs and plots.
//!
//! Part of Fornax.

pub mod atomic;
mod error;
pub mod log;
pub mod plot;
pub mod recipe;

pub use error::{Error, Result};
pub use recipe::Recipe;
