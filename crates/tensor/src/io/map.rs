//! The bytes of a file, mapped into memory: opening costs nothing, and what is never looked at is
//! never read.

use crate::error::{Error, Result};
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A file's bytes, or bytes in memory that go by a file's name.
///
/// A mapped file shows what is on the disk: it must not be cut short while it is open, or reading
/// the missing part ends the process. Replacing a file by renaming another over it, as
/// [`write_atomic`](super::write_atomic) does, leaves a map as it was.
#[derive(Debug)]
pub struct Map {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Map {
    /// Maps a file.
    ///
    /// # Errors
    /// If it is not a regular file or cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Map> {
        let path = path.as_ref().to_owned();
        let error = |source| Error::Io {
            path: path.display().to_string(),
            source,
        };
        let file = File::open(&path).map_err(error)?;
        if !file.metadata().map_err(error)?.is_file() {
            return Err(Error::Format {
                path: path.display().to_string(),
                reason: "not a file".into(),
            });
        }
        // SAFETY: the map is only ever read, as bytes. Whoever writes into the file meanwhile
        // changes what is read, which the type's documentation forbids and no check can prevent.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(error)?;
        Ok(Map {
            path,
            bytes: Bytes::Mapped(bytes),
        })
    }

    /// Bytes in memory; `name` is what errors call them.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Map {
        Map {
            path: name.into(),
            bytes: Bytes::Owned(bytes),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error that the file is not what it should be.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::Format {
            path: self.path.display().to_string(),
            reason: reason.into(),
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_shows_its_bytes_and_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for content in [&b""[..], b"abc"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(&Map::open(&path).unwrap()[..], content);
        }
        assert!(Map::open(folder.path()).is_err());
        assert!(Map::open(folder.path().join("none")).is_err());
    }
}
