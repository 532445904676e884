//! One process at a time writes into a run's folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result, io};

/// The file that is locked. It stays behind, empty: to remove it would be to race with a process
/// that has just opened it.
pub const FILE: &str = ".lock";

/// The right to write into a folder, held by all clones together. The system takes it back when a
/// process ends, however it ends.
#[derive(Debug, Clone)]
pub struct Lock {
    _file: Arc<File>,
}

impl Lock {
    /// Locks `folder`, which is made if it is missing.
    pub fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(io("create", folder))?;
        let path = folder.join(FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Run(format!(
                    "{} is in use by another process; wait until it ends, or choose another folder",
                    folder.display()
                )));
            }
            // Some network file systems have no locks; training there must not be impossible.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io("lock", &path)(error)),
        }
        Ok(Self {
            _file: Arc::new(file),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_until_the_last_clone_is_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("a/b");
        let first = Lock::take(&folder).unwrap();
        let clone = first.clone();
        drop(first);
        let error = Lock::take(&folder).unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        drop(clone);
        Lock::take(&folder).unwrap();
    }
}
