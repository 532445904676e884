//! Weights in several safetensors files, as HuggingFace publishes large models: an
//! `*.safetensors.index.json` says which file holds which tensor.

use super::map::Map;
use super::safetensors::{FileEntry, Loaded, SafeTensors, Unique};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// Tensors by name from one or more safetensors files, mapped into memory.
#[derive(Debug)]
pub struct Sharded {
    shards: Vec<SafeTensors>,
    /// File and place in it, by name.
    places: HashMap<String, (usize, usize)>,
}

impl Sharded {
    /// Opens weights: a `.safetensors` file, an `index.json` beside the files that it names, or a
    /// folder with `model.safetensors` or `model.safetensors.index.json` in it. No element is
    /// read yet.
    ///
    /// # Errors
    /// If a file is missing or damaged, the index names files outside its folder, or files and
    /// index disagree about which tensors there are; these are then listed.
    pub fn open(path: impl AsRef<Path>) -> Result<Sharded> {
        let path = path.as_ref();
        let path = match path.is_dir() {
            true => find(path)?,
            false => path.to_owned(),
        };
        match path.extension().is_some_and(|e| e == "json") {
            true => Self::open_index(&path),
            false => Self::of(vec![SafeTensors::open(&path)?], &path),
        }
    }

    fn open_index(path: &Path) -> Result<Sharded> {
        let text = Map::open(path)?;
        let files = read_index(&text)?;
        let mut names: Vec<&str> = files.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let folder = path.parent().unwrap_or(Path::new("."));
        let shards = names
            .iter()
            .map(|name| SafeTensors::open(folder.join(name)))
            .collect::<Result<Vec<_>>>()?;
        let sharded = Self::of(shards, path)?;
        let missing: Vec<&str> = files
            .iter()
            .filter(|(tensor, file)| {
                let place = sharded.places.get(*tensor);
                place.is_none_or(|&(shard, _)| names[shard] != file.as_str())
            })
            .map(|(tensor, _)| tensor.as_str())
            .collect();
        if !missing.is_empty() {
            return Err(text.refuse(format!(
                "tensors are not in the files that the index names: {}",
                list(&missing)
            )));
        }
        let extra: Vec<&str> = sharded
            .entries()
            .map(|entry| entry.name.as_str())
            .filter(|name| !files.contains_key(*name))
            .collect();
        if !extra.is_empty() {
            return Err(text.refuse(format!(
                "the files hold tensors that the index does not name: {}",
                list(&extra)
            )));
        }
        Ok(sharded)
    }

    fn of(shards: Vec<SafeTensors>, path: &Path) -> Result<Sharded> {
        let mut places = HashMap::new();
        for (shard, file) in shards.iter().enumerate() {
            for (place, entry) in file.entries().iter().enumerate() {
                if places.insert(entry.name.clone(), (shard, place)).is_some() {
                    return Err(Error::Format {
                        path: path.display().to_string(),
                        reason: format!("two of its files hold a tensor `{}`", entry.name),
                    });
                }
            }
        }
        Ok(Sharded { shards, places })
    }

    /// The tensors, file by file in the order of their elements.
    pub fn entries(&self) -> impl Iterator<Item = &FileEntry> {
        self.shards.iter().flat_map(SafeTensors::entries)
    }

    /// The files.
    pub fn shards(&self) -> &[SafeTensors] {
        &self.shards
    }

    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<&FileEntry> {
        let &(shard, place) = self.places.get(name)?;
        Some(&self.shards[shard].entries()[place])
    }

    /// Reads the tensor called `name`; `None` if there is none.
    ///
    /// # Errors
    /// As [`SafeTensors::tensor`].
    pub fn tensor(&self, name: &str) -> Option<Result<Tensor>> {
        let &(shard, place) = self.places.get(name)?;
        let file = &self.shards[shard];
        Some(file.tensor(&file.entries()[place]))
    }

    /// Reads all tensors, and the texts of all files.
    ///
    /// # Errors
    /// As [`SafeTensors::tensor`].
    pub fn load(&self) -> Result<Loaded> {
        let mut loaded = Loaded {
            tensors: Vec::with_capacity(self.places.len()),
            metadata: BTreeMap::new(),
        };
        for file in &self.shards {
            for entry in file.entries() {
                let tensor = file.tensor(entry)?;
                loaded.tensors.push((entry.name.clone(), tensor));
            }
            let texts = file.metadata().iter();
            loaded
                .metadata
                .extend(texts.map(|(k, v)| (k.clone(), v.clone())));
        }
        Ok(loaded)
    }
}

/// The index or the only file of weights in a folder.
fn find(folder: &Path) -> Result<PathBuf> {
    for name in [WHOLE, INDEX] {
        let path = folder.join(name);
        if path.exists() {
            return Ok(path);
        }
    }
    Err(Error::Format {
        path: folder.display().to_string(),
        reason: format!("has neither {WHOLE} nor {INDEX}"),
    })
}

/// The file of every tensor, by the tensor's name.
///
/// # Errors
/// If the text is no index.
pub fn read_index(text: &Map) -> Result<BTreeMap<String, String>> {
    let wrong = |reason: String| text.refuse(format!("not an index of weights: {reason}"));
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: Unique,
    }
    let Index {
        weight_map: Unique(map),
    } = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
    let mut files = BTreeMap::new();
    for (tensor, file) in map {
        let Value::String(file) = file else {
            return Err(wrong(format!("the file of `{tensor}` is no text")));
        };
        let mut parts = Path::new(&file).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        );
        if !plain || file.contains(['/', '\\', '\0']) || !file.ends_with(".safetensors") {
            return Err(wrong(format!(
                "the file {file:?} of `{tensor}` is not a safetensors file in the same folder"
            )));
        }
        files.insert(tensor, file);
    }
    if files.is_empty() {
        return Err(wrong("it names no tensors".into()));
    }
    Ok(files)
}

/// The first few names.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    match names.len() {
        0..=SHOWN => names.join(", "),
        n => format!("{}, and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::save_safetensors;

    /// Two files and an index, and the folder that holds them.
    fn two() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, names) in [("a.safetensors", ["x", "y"]), ("b.safetensors", ["z", "w"])] {
            let tensors: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(i, name)| (name.to_string(), Tensor::from_vec(vec![i as f32; 3], [3])))
                .collect();
            save_safetensors(folder.path().join(file), &tensors, &BTreeMap::new()).unwrap();
        }
        folder
    }

    fn index(folder: &Path, map: &str) -> PathBuf {
        let path = folder.join(INDEX);
        std::fs::write(
            &path,
            format!("{{\"metadata\":{{}},\"weight_map\":{{{map}}}}}"),
        )
        .unwrap();
        path
    }

    const GOOD: &str =
        r#""x":"a.safetensors","y":"a.safetensors","z":"b.safetensors","w":"b.safetensors""#;

    #[test]
    fn a_folder_opens_by_its_index() {
        let folder = two();
        let path = index(folder.path(), GOOD);
        for path in [path.as_path(), folder.path()] {
            let weights = Sharded::open(path).unwrap();
            assert_eq!(weights.load().unwrap().tensors.len(), 4);
            let w = weights.tensor("w").unwrap().unwrap();
            assert_eq!(w.to_vec::<f32>(), [1.0; 3]);
            assert!(weights.tensor("v").is_none());
        }
    }

    #[test]
    fn an_index_that_does_not_fit_is_refused() {
        let folder = two();
        for (map, part) in [
            (format!("{GOOD},\"v\":\"a.safetensors\""), "names: v"),
            (GOOD.replace("\"w\":\"b", "\"w\":\"a"), "names: w"),
            (
                GOOD.replace(",\"w\":\"b.safetensors\"", ""),
                "does not name: w",
            ),
            (GOOD.replace("\"b.safe", "\"../b.safe"), "same folder"),
            (GOOD.replace("\"b.safe", "\"/b.safe"), "same folder"),
            (GOOD.replace("b.safetensors", "b.bin"), "same folder"),
            (GOOD.replace("\"b.safe", "\"c.safe"), "c.safetensors"),
            (GOOD.replace("\"w\"", "\"z\""), "twice"),
            (String::new(), "names no tensors"),
            ("\"x\":5".into(), "no text"),
        ] {
            let path = index(folder.path(), &map);
            let error = Sharded::open(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}: {part}");
        }
        let empty = tempfile::tempdir().unwrap();
        let error = Sharded::open(empty.path()).unwrap_err().to_string();
        assert!(error.contains("neither"), "{error}");
    }
}
