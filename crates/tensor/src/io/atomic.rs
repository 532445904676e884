//! Files that are either the old one or the new one, never half of one.
//!
//! The content goes to a temporary name in the same folder, is synced, and takes its place by a
//! rename, which the file system does at once. Whatever happens on the way (a full disk, SIGKILL,
//! a power cut) leaves the old file as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Ends the temporary names, so that leftovers of a killed process can be told and removed.
const SUFFIX: &str = ".tmp";

/// Replaces `path` by what `fill` writes, atomically. The folder must exist.
///
/// # Errors
/// What the system says; then the old file is as it was, and the temporary one is removed.
///
/// ```
/// use std::io::Write;
/// let path = std::env::temp_dir().join("fornax-doc-atomic.txt");
/// fornax_tensor::io::write_atomic(&path, |file| file.write_all(b"whole"))?;
/// assert_eq!(std::fs::read(&path)?, b"whole");
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary_name(path);
    let written = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        fill(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()
    })();
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        // The temporary file takes room on what may be a full disk; that it cannot be removed is
        // not the error to report.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder_of(path)
}

/// Makes a rename or a new file in the folder of `path` survive a power cut.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Only Unix lets a folder be opened and synced.
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    name.push(SUFFIX);
    path.with_file_name(name)
}

/// Removes what killed processes left half-written by [`write_atomic`] in `folder`. Nothing is
/// reported: the files are in nobody's way. Not to be called while another process writes there.
pub fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(SUFFIX) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, |f| f.write_all(b"one")).unwrap();
        write_atomic(&path, |f| f.write_all(b"two!")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two!");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, |f| f.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |file| {
            file.write_all(&vec![0; 3 << 20])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomic(&folder.path().join("none/a"), |_| Ok(())).is_err());
    }

    #[test]
    fn leftovers_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let keep = folder.path().join("model.safetensors");
        fs::write(&keep, b"x").unwrap();
        fs::write(temporary_name(&keep), b"half").unwrap();
        remove_leftovers(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(keep.exists());
    }
}
