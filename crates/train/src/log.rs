//! `metrics.jsonl`: one JSON object per line, one line per thing that happened.
//!
//! The log is part of the run's state: a checkpoint remembers how long it was, and resuming cuts
//! it back to that length, so that no step or epoch appears twice.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result, io};

/// An open `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    length: u64,
}

impl MetricsLog {
    /// Starts an empty log at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(io("create", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            length: 0,
        })
    }

    /// Opens the log at `path` and cuts it back to `length` bytes, the length that a checkpoint
    /// remembers.
    pub fn resume(path: &Path, length: u64) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io("open", path))?;
        let found = file.metadata().map_err(io("read", path))?.len();
        must_reach(path, found, length)?;
        file.set_len(length).map_err(io("cut", path))?;
        file.seek(SeekFrom::Start(length))
            .map_err(io("read", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
        })
    }

    /// Appends one object as one line.
    pub fn write(&mut self, line: &Value) -> Result<()> {
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // A full disk may have taken a part of the line: take it back, so that the file stays
            // one object per line.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            return Err(io("write", &self.path)(error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written so far, for a checkpoint.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Makes what was written survive a power cut; a checkpoint calls this before it takes its
    /// place, because it remembers the length.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(io("write", &self.path))
    }
}

/// Reads all objects of a log.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(io("read", path))?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                Error::Run(format!("{}, line {}: {error}", path.display(), index + 1))
            })
        })
        .collect()
}

/// Reads the first `length` bytes of a log, those that a checkpoint remembers.
pub(crate) fn read_start(path: &Path, length: u64) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(length).read_to_string(&mut text))
        .map_err(io("read", path))?;
    must_reach(path, text.len() as u64, length)?;
    Ok(text)
}

fn must_reach(path: &Path, found: u64, length: u64) -> Result<()> {
    if found >= length {
        return Ok(());
    }
    Err(Error::Run(format!(
        "{} has {found} bytes, but the checkpoint was made when it had {length}: \
         the file was cut or replaced; put the original back to resume",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resuming_cuts_back_to_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::create(&path).unwrap();
        log.write(&json!({"epoch": 1, "loss": 0.5})).unwrap();
        let length = log.length();
        log.write(&json!({"epoch": 2, "loss": 0.4})).unwrap();
        drop(log);
        assert_eq!(read_start(&path, length).unwrap().lines().count(), 1);

        let mut log = MetricsLog::resume(&path, length).unwrap();
        log.write(&json!({"epoch": 2, "loss": 0.3})).unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["loss"], 0.3);
    }

    #[test]
    fn a_log_shorter_than_the_checkpoint_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        MetricsLog::create(&path).unwrap();
        let error = MetricsLog::resume(&path, 10).unwrap_err();
        assert!(error.to_string().contains("0 bytes"), "{error}");
        let error = read_start(&path, 10).unwrap_err();
        assert!(error.to_string().contains("0 bytes"), "{error}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"a\":1}\n{\"a\":").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
