//! Errors for everything that comes from outside; a programmer's mistakes panic instead.

/// What can go wrong with data, files and memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An index read from data does not exist in the tensor it points into.
    #[error("{op}: index {index} is out of range for an axis of size {size}")]
    Index {
        /// The op that met the index.
        op: &'static str,
        /// The index.
        index: i64,
        /// The size of the axis.
        size: usize,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong, and where.
        reason: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
