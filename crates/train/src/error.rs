//! The errors of training: each names the file or the setting, what is wrong and what to do.

use std::path::{Path, PathBuf};

/// What can go wrong in a run that is not a programmer's mistake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read, written or made.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", "create"...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A recipe is wrong: an unknown key, a value of another type or out of range.
    #[error("{0}")]
    Recipe(String),
    /// A run folder, model file or checkpoint is not what the program expects.
    #[error("{0}")]
    Run(String),
    /// The loss became NaN or infinite.
    #[error(
        "the loss is {loss} at epoch {epoch}, step {step}: training stopped{kept}; \
         try a smaller optimizer.learning_rate or regularization.clip_norm = 1.0"
    )]
    NotFinite {
        /// The loss as read.
        loss: f64,
        /// Epoch, counted from 1.
        epoch: usize,
        /// Optimizer step, counted from 1 over the whole run.
        step: u64,
        /// Where the last good checkpoint is, as the end of a sentence.
        kept: String,
    },
    /// Data is missing, damaged or does not fit.
    #[error(transparent)]
    Dataset(#[from] fornax_data::Error),
    /// Weights or an optimizer do not fit.
    #[error(transparent)]
    Network(#[from] fornax_nn::Error),
    /// A tensor file is damaged, or an index in the data is out of range.
    #[error(transparent)]
    Tensor(#[from] fornax_tensor::Error),
    /// Drawing a plot failed.
    #[error("cannot draw {}: {reason}", path.display())]
    Plot {
        /// The picture.
        path: PathBuf,
        /// The drawing library's reason.
        reason: String,
    },
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds the action and the path to an I/O error.
pub(crate) fn io<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
