//! What can be wrong with data that comes from outside, each error saying the
//! file, the place in it and the remedy.

use std::path::{Path, PathBuf};

/// Shorthand for `Result<T, fornax_data::Error>`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error about data: a file that cannot be used, a dataset that is not
/// there, or parts that do not fit each other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open or read a file.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A file's content is not what its format demands.
    #[error("{}: {place}: {problem}; {remedy}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in it: `byte 4`, or `line 12, column "age"`.
        place: String,
        /// What is wrong there.
        problem: String,
        /// What to do about it.
        remedy: String,
    },

    /// An image that cannot be decoded.
    #[error("{}: not a readable image: {problem}; replace the file or remove it", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        problem: String,
    },

    /// A folder that is missing, empty or not laid out as expected.
    #[error("{}: {problem}; {remedy}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: String,
    },

    /// A dataset that has a name but whose files are in none of the places searched.
    #[error(
        "\"{name}\" is not there (looked in {}); fetch it with `scripts/fetch-data {name}`, or say \
         where it is with FORNAX_DATA=DIR",
        list(looked)
    )]
    NotFetched {
        /// The dataset's name.
        name: String,
        /// The folders that were tried.
        looked: Vec<PathBuf>,
    },

    /// A name that no built-in dataset has.
    #[error("no dataset is called \"{name}\"; the names are {known}")]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// Every name there is, separated by commas.
        known: String,
    },

    /// A class that is to be predicted but cannot be learned.
    #[error(
        "the class \"{class}\" has {count} sample(s) in the {part} part but none in the training part, \
         so it cannot be learned; split with stratification, add training samples of it, or remove it"
    )]
    ClassNotInTraining {
        /// The class's name.
        class: String,
        /// The part it was found in: `test` or `validation`.
        part: String,
        /// How many samples of it are there.
        count: usize,
    },

    /// A file of tensors that cannot be used.
    #[error(transparent)]
    Tensors(#[from] fornax_tensor::Error),

    /// Settings that do not fit the data, such as an augmentation of images asked of a table.
    #[error("{0}")]
    Mismatch(String),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    }

    pub(crate) fn format(
        path: &Path,
        place: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Error {
        Error::Format {
            path: path.to_owned(),
            place: place.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn folder(
        path: &Path,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Error {
        Error::Folder {
            path: path.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let texts: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    texts.join(", ")
}
