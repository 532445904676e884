//! Datasets and loaders of Fornax.

#[allow(dead_code)]
mod augment;
pub mod builtin;
mod dataset;
mod error;
mod file;
pub mod idx;
mod images;
mod locate;
mod preprocess;
pub mod rng;
mod schema;
mod split;
pub mod table;

pub use augment::Augment;
pub use dataset::{Dataset, Features, InMemory, SharedDataset, Subset, Targets, class_counts};
pub use error::{Error, Result};
pub use images::{Colour, ImageFolder, ImageForm, read_image};
pub use locate::locate;
pub use preprocess::{Preprocess, Scaling};
pub use schema::{Input, Schema, TargetKind};
pub use split::{Holdout, Splits};
