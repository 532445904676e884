//! Where fetched datasets are.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Finds the folder of a fetched dataset: `DIR/name` for the given `--data`
/// folder, else for the folder that the environment variable `FORNAX_DATA`
/// names, else for `data` in the current folder or the nearest one above it.
///
/// A given folder may also be the dataset's own, if it is called `name`.
///
/// # Errors
/// If there is none; the message says where it was sought and how to fetch it.
///
/// ```no_run
/// let folder = fornax_data::locate("mnist", None)?;
/// # Ok::<(), fornax_data::Error>(())
/// ```
pub fn locate(name: &str, given: Option<&Path>) -> Result<PathBuf> {
    let named = std::env::var_os("FORNAX_DATA").filter(|v| !v.is_empty());
    let here = std::env::current_dir().ok();
    search(
        name,
        given.map(Path::to_owned).or(named.map(PathBuf::from)),
        here,
    )
}

fn search(name: &str, given: Option<PathBuf>, here: Option<PathBuf>) -> Result<PathBuf> {
    let candidates: Vec<PathBuf> = match given {
        Some(dir) if dir.file_name().is_some_and(|f| f == name) => vec![dir.join(name), dir],
        Some(dir) => vec![dir.join(name)],
        None => here
            .iter()
            .flat_map(|here| here.ancestors())
            .map(|dir| dir.join("data").join(name))
            .collect(),
    };
    match candidates.iter().find(|dir| dir.is_dir()) {
        Some(dir) => Ok(dir.clone()),
        None => Err(Error::NotFetched {
            name: name.into(),
            // The folders above the current one are a convenience not worth listing.
            looked: candidates.into_iter().take(1).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_the_given_folder_or_upwards() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        std::fs::create_dir_all(root.join("data/mnist")).unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let found = root.join("data/mnist");
        assert_eq!(
            search("mnist", Some(root.join("data")), None).unwrap(),
            found
        );
        assert_eq!(search("mnist", Some(found.clone()), None).unwrap(), found);
        assert_eq!(
            search("mnist", None, Some(root.join("a/b"))).unwrap(),
            found
        );
        // A given folder is the only one searched.
        assert!(search("mnist", Some(root.join("a")), Some(root.into())).is_err());
    }

    #[test]
    fn the_error_names_the_remedy() {
        let tmp = tempfile::tempdir().unwrap();
        let text = search("mnist", Some(tmp.path().into()), None)
            .unwrap_err()
            .to_string();
        assert!(text.contains("scripts/fetch-data mnist"), "{text}");
        assert!(
            text.contains(&tmp.path().join("mnist").display().to_string()),
            "{text}"
        );
    }
}
