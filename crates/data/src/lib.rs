//! Datasets and loaders of Fornax: from files to batches of tensors.
//!
//! A reader follows a sample through the modules in this order:
//!
//! 1. Something is read into a [`Dataset`]: a set known by name ([`builtin`]),
//!    an [`idx`] file, a CSV [`table`], an [`ImageFolder`], or numbers in
//!    memory ([`InMemory`]). Its [`Schema`] says what the samples are.
//! 2. [`Holdout`] cuts it into training, validation and test parts, which
//!    share the one copy of the data.
//! 3. [`Preprocess`] is fitted to the training part: it fills missing values
//!    and brings the features to a common scale. Schema and rule are saved with
//!    the model, so that a new image or row is treated as the training data were.
//! 4. A [`Loader`] shuffles, augments ([`Augment`]), scales and batches,
//!    ahead of time on a thread of its own.
//!
//! Text has a way of its own: a [`text::Tokenizer`] makes it [`text::Tokens`], of which
//! [`text::Windows`] are batches.
//!
//! Everything random is a function of a seed, the epoch and the sample
//! ([`rng`]), so any batch can be made again. Whatever is wrong with data from
//! outside is an [`Error`] that names the file, the place and the remedy.
//!
//! ```
//! use fornax_data::{Dataset, Holdout, Loader, Preprocess, Scaling, builtin};
//!
//! let cancer = builtin::load("breast-cancer", None)?.whole();
//! let splits = Holdout::new().test(0.2).validation(0.1).seed(1).split(&cancer)?;
//! let rule = Preprocess::fit(&splits.train, &Scaling::Standard)?;
//! let train = Loader::new(splits.train).batch_size(32).shuffle(1).preprocess(rule)?;
//! for epoch in 0..2 {
//!     for batch in train.epoch(epoch) {
//!         let batch = batch?; // batch.x: [32, 30] f32, batch.y: [32] i64
//!         assert_eq!(batch.x.dim(1), 30);
//!     }
//! }
//! # Ok::<(), fornax_data::Error>(())
//! ```

mod augment;
pub mod builtin;
mod dataset;
mod error;
mod file;
pub mod idx;
mod images;
mod loader;
mod locate;
mod preprocess;
pub mod rng;
mod schema;
mod split;
pub mod table;
pub mod text;

pub use augment::Augment;
pub use dataset::{Dataset, Features, InMemory, SharedDataset, Subset, Targets, class_counts};
pub use error::{Error, Result};
pub use images::{Colour, ImageFolder, ImageForm, ImageParts, read_image};
pub use loader::{Batch, Batches, Epoch, Loader};
pub use locate::locate;
pub use preprocess::{Preprocess, Scaling};
pub use schema::{Input, Schema, TargetKind};
pub use split::{Holdout, Splits};
