//! Files that are either the old one or the new one, never half of one.
//!
//! The content goes to a temporary name in the same folder, is synced, and takes its place by a
//! rename, which the file system does at once. Whatever happens on the way (a full disk, SIGKILL,
//! a power cut) leaves the old file as it was.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ends the temporary names, so that leftovers of a killed process can be told and removed.
const SUFFIX: &str = ".tmp";

/// A temporary file, removed in the end: after an error and after a panic too, for it takes room on
/// what may be a full disk. Once it has taken its place nothing has this name. That it cannot be
/// removed is never the error to report.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Replaces `path` by what `fill` writes, atomically. The folder must exist.
///
/// # Errors
/// What the system says; then the old file is as it was, and the temporary one is removed. Only if
/// the folder cannot be synced in the end, the new file is in place already.
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
    let (temporary, file) = create_temporary(path)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    fill(&mut file)?;
    file.flush()?;
    file.get_ref().sync_all()?;
    drop(file);
    fs::rename(&temporary.0, path)?;
    sync_folder_of(path)
}

/// Makes a rename or a new file in the folder of `path` survive a power cut.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    // Only Unix lets a folder be opened and synced.
    match cfg!(unix) {
        true => File::open(folder_of(path))?.sync_all(),
        false => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A new file that no other writer of `path` has: other threads count on, and another process of
/// the same number (in another container) is passed over.
fn create_temporary(path: &Path) -> io::Result<(Temporary, File)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".{}{count:06}", std::process::id()));
        name.push(SUFFIX);
        let name = path.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            file => return Ok((Temporary(name), file?)),
        }
    }
}

/// Removes what killed processes left half-written by [`write_atomic`] beside `path`. Nothing is
/// reported: the files are in nobody's way. Not to be called while another process writes `path`.
pub fn remove_leftovers(path: &Path) {
    let (Some(name), Ok(entries)) = (path.file_name(), fs::read_dir(folder_of(path))) else {
        return;
    };
    for entry in entries.flatten() {
        if is_leftover(&entry.file_name(), name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether `entry` is a temporary name that [`write_atomic`] uses for the file called `name`.
pub fn is_leftover(entry: &OsStr, name: &OsStr) -> bool {
    let (entry, name) = (entry.to_string_lossy(), name.to_string_lossy());
    let process = entry
        .strip_prefix('.')
        .and_then(|rest| rest.strip_prefix(&*name))
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(SUFFIX));
    process.is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
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
    fn a_write_that_panics_leaves_the_old_file_and_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, |f| f.write_all(b"old")).unwrap();
        let panicked = std::panic::catch_unwind(|| {
            write_atomic(&path, |file| {
                file.write_all(b"new")?;
                panic!("no way to write the rest")
            })
        });
        assert!(panicked.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn threads_that_write_one_file_leave_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        std::thread::scope(|scope| {
            for byte in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomic(path, |f| f.write_all(&vec![byte; 100_000])).unwrap();
                    }
                });
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 100_000 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.safetensors");
        let others = [
            "model.safetensors",
            ".thesis.tmp",
            ".notes.7.tmp",
            ".model.safetensors.tmp",
            ".model.safetensors..tmp",
            ".model.safetensors.old.tmp",
            "model.safetensors.7.tmp",
        ];
        for name in others {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        let (temporary, _) = create_temporary(&model).unwrap();
        std::mem::forget(temporary);
        fs::write(folder.path().join(".model.safetensors.7.tmp"), b"half").unwrap();
        remove_leftovers(&model);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, others.len());
        assert!(others.iter().all(|name| folder.path().join(name).exists()));
    }
}
