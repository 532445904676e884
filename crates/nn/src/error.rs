//! What can go wrong around a model that is not the programmer's mistake.

/// Errors of optimizers and of loading weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A trainable parameter got no gradient.
    #[error(
        "no gradient for the trainable parameter `{0}`: take gradients of this model, or freeze it"
    )]
    MissingGradient(String),
    /// A gradient belongs to no trainable parameter of the model.
    #[error("a gradient for `{0}`, which is no trainable parameter of this model")]
    UnknownGradient(String),
    /// A gradient has another shape than its parameter.
    #[error("the gradient for `{path}` has shape {found:?}, the parameter {expected:?}")]
    GradientShape {
        /// The parameter.
        path: String,
        /// Its shape.
        expected: Vec<usize>,
        /// The gradient's shape.
        found: Vec<usize>,
    },
    /// Saved tensors do not fit the model or the optimizer.
    #[error("{what} does not fit: {}", problems.join("; "))]
    Mismatch {
        /// What was loaded, such as a file's path.
        what: String,
        /// Every misfit, one sentence each.
        problems: Vec<String>,
    },
    /// Reading, writing or computing failed.
    #[error(transparent)]
    Tensor(#[from] fornax_tensor::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
