//! From a user's word to a model's files: a path, the name of fetched data, or a model id of
//! [HuggingFace's hub](https://huggingface.co/models).
//!
//! Fetching from the hub needs the cargo feature `hub`; the rest is always there.

use std::path::{Component, Path, PathBuf};

use fornax_data::locate;

use crate::error::{Error, Result, io};

#[cfg(feature = "hub")]
mod remote;

/// A trained model that `scripts/fetch-data` fetches and that is known by a name.
#[derive(Debug, Clone, Copy)]
pub struct Pretrained {
    /// Its name.
    pub name: &'static str,
    /// What it is, and what uses it.
    pub about: &'static str,
}

/// Every [`Pretrained`] model.
pub const PRETRAINED: [Pretrained; 2] = [
    Pretrained {
        name: "minilm",
        about: "MiniLM-L6, a BERT that turns sentences into vectors; 91 MB; fornax embed minilm",
    },
    Pretrained {
        name: "smollm2",
        about: "SmolLM2-135M-Instruct, a LLaMA that chats; 98 MB; fornax generate smollm2",
    },
];

impl Pretrained {
    /// Its folder, if it has been fetched.
    pub fn folder(&self) -> Option<PathBuf> {
        locate(self.name, None).ok()
    }
}

/// The file or folder that a user means by `word`. In this order:
///
/// 1. the path of something that is there; if it is a folder whose only file of a model is one
///    `.gguf` file, that file
/// 2. the name of fetched data, such as `minilm` (see [`fornax_data::locate`])
/// 3. a model id of HuggingFace's hub, which is [fetched](fetch)
///
/// # Errors
/// If it is none of these; the message says what to do. As [`fetch`].
///
/// ```
/// use fornax_train::hub::resolve;
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("model.gguf");
/// std::fs::write(&file, "")?;
/// assert_eq!(resolve(folder.path())?, file);
/// assert!(resolve("no such model").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn resolve(word: impl AsRef<Path>) -> Result<PathBuf> {
    let path = word.as_ref();
    if path.exists() {
        return only_gguf(path);
    }
    let plain = matches!(path.components().collect::<Vec<_>>()[..], [Component::Normal(name)] if name == path);
    let word = path.to_str().unwrap_or_default();
    if plain && let Ok(folder) = locate(word, None) {
        return only_gguf(&folder);
    }
    if PRETRAINED.iter().any(|known| known.name == word) {
        return Err(Error::Run(format!(
            "{word} has not been fetched; run scripts/fetch-data {word}, or say with FORNAX_DATA=DIR \
             where the folder {word} lies"
        )));
    }
    if Id::parse(word).is_some() {
        return fetch(word);
    }
    let names = PRETRAINED.map(|known| known.name).join(", ");
    Err(Error::Run(format!(
        "{} is no such file or folder; a model is a path, the name of fetched weights ({names}) or an \
         id OWNER/NAME of HuggingFace's hub",
        path.display()
    )))
}

/// The one `.gguf` file of a folder that has nothing else of a model, or the path as it is.
fn only_gguf(path: &Path) -> Result<PathBuf> {
    let is_model = |name: &str| path.join(name).exists();
    if !path.is_dir() || is_model("config.json") || is_model("recipe.toml") {
        return Ok(path.to_owned());
    }
    let mut found = Vec::new();
    for entry in path.read_dir().map_err(io("read", path))? {
        let file = entry.map_err(io("read", path))?.path();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => found.push(file),
            Some("safetensors") => return Ok(path.to_owned()),
            _ => {}
        }
    }
    match &mut found[..] {
        [] => Ok(path.to_owned()),
        [file] => Ok(std::mem::take(file)),
        several => {
            several.sort();
            Err(Error::Run(format!(
                "{} holds {} .gguf files; name one of them, such as {}",
                path.display(),
                several.len(),
                several[0].display()
            )))
        }
    }
}

/// What a user may ask the hub for.
#[derive(Debug, PartialEq)]
struct Id<'a> {
    /// `owner/name`.
    model: &'a str,
    /// One file of it.
    file: Option<&'a str>,
}

impl<'a> Id<'a> {
    /// `owner/name`, or `owner/name/path/of/file.gguf`.
    fn parse(word: &'a str) -> Option<Self> {
        let valid = |part: &str| {
            // The hub's own rule for names.
            let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let end = |c: char| c.is_ascii_alphanumeric() || c == '_';
            part.len() <= 96
                && part.chars().all(inside)
                && part.starts_with(end)
                && part.ends_with(end)
        };
        let (owner, rest) = word.split_once('/')?;
        let (name, file) = match rest.split_once('/') {
            Some((name, file)) => (name, Some(file)),
            None => (rest, None),
        };
        let is_file = |file: &str| {
            let parts_are_names = file.split('/').all(|part| !part.is_empty() && part != "..");
            let extension = Path::new(file).extension().and_then(|e| e.to_str());
            parts_are_names && matches!(extension, Some("gguf" | "safetensors"))
        };
        // A name such as model.gguf is a file's that is not there.
        let is_name = valid(name) && (file.is_some() || !is_file(name));
        (valid(owner) && is_name && file.is_none_or(is_file)).then(|| Id {
            model: &word[..owner.len() + 1 + name.len()],
            file,
        })
    }
}

/// Fetches a model of HuggingFace's hub into HuggingFace's cache, unless it is there: of
/// `owner/name` its `config.json`, tokenizer and safetensors weights, whose folder is returned; of
/// `owner/name/file.gguf` (or `.safetensors`) that file.
///
/// What was fetched once is used from then on without asking the hub. A file has its name only when
/// it is complete; a download that was interrupted goes on where it stood. `HF_HOME` and
/// `HF_HUB_CACHE` name the cache, `HF_ENDPOINT` another hub, `HF_TOKEN` a token for models that want
/// one, as with HuggingFace's own programs.
///
/// # Errors
/// If this program was built without the feature `hub`, the hub cannot be reached, or it has no such
/// model, or none in these files.
///
/// ```no_run
/// let folder = fornax_train::hub::fetch("sentence-transformers/all-MiniLM-L6-v2")?;
/// let embedder = fornax_train::Embedder::open(&folder)?;
/// # Ok::<(), fornax_train::Error>(())
/// ```
pub fn fetch(id: &str) -> Result<PathBuf> {
    let Some(parsed) = Id::parse(id) else {
        return Err(Error::Run(format!(
            "\"{id}\" is no model id of HuggingFace's hub, which is OWNER/NAME or \
             OWNER/NAME/FILE.gguf"
        )));
    };
    from_hub(&parsed)
}

#[cfg(feature = "hub")]
fn from_hub(id: &Id<'_>) -> Result<PathBuf> {
    remote::fetch(id)
}

#[cfg(not(feature = "hub"))]
fn from_hub(id: &Id<'_>) -> Result<PathBuf> {
    let Id { model, file } = id;
    let word = file.map_or((*model).to_owned(), |file| format!("{model}/{file}"));
    Err(Error::Run(format!(
        "{word} is no such file or folder, and this program was built without HuggingFace's hub; \
         install it with `cargo install --path crates/cli --features hub`, or fetch the files of \
         https://huggingface.co/{model} by hand and name their folder"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = |model, file| Some(Id { model, file });
        assert_eq!(Id::parse("openai/gpt2"), id("openai/gpt2", None));
        assert_eq!(Id::parse("a/b-1.0_c"), id("a/b-1.0_c", None));
        assert_eq!(Id::parse("a/b/c.gguf"), id("a/b", Some("c.gguf")));
        assert_eq!(Id::parse("a/b/q/c.gguf"), id("a/b", Some("q/c.gguf")));
        for word in [
            "gpt2",
            "/a/b",
            "./b",
            "../b",
            "a/",
            "a/b/",
            "a/b/c",
            "a/b/../c.gguf",
            "a/b//c.gguf",
            "a/model.gguf",
            "~/models",
            "a b/c",
            "C:\\a/b",
            "",
        ] {
            assert_eq!(Id::parse(word), None, "{word}");
        }
    }

    #[test]
    fn folders_of_gguf_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(resolve(root).unwrap(), root);
        std::fs::write(root.join("b.gguf"), "").unwrap();
        std::fs::write(root.join("README.md"), "").unwrap();
        assert_eq!(resolve(root).unwrap(), root.join("b.gguf"));
        std::fs::write(root.join("a.gguf"), "").unwrap();
        let error = resolve(root).unwrap_err().to_string();
        assert!(error.contains("2 .gguf files") && error.contains("a.gguf"));
        std::fs::write(root.join("config.json"), "").unwrap();
        assert_eq!(resolve(root).unwrap(), root);
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_the_error_names_it() {
        let error = fetch("owner/name").unwrap_err().to_string();
        assert!(error.contains("--features hub"), "{error}");
        assert!(error.contains("https://huggingface.co/owner/name"));
        let error = fetch("nothing").unwrap_err().to_string();
        assert!(error.contains("OWNER/NAME"), "{error}");
    }
}
