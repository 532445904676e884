//! HuggingFace's hub, by the crate `hf-hub`.
//!
//! `hf-hub` appends to `blobs/ETAG.part` and renames that when the connection ends, whatever its
//! length. [`Watch`] stands between: a part of another length than the hub told is taken away before
//! it gets its name.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::ProgressBar;
use serde_json::Value;

use super::Id;
use crate::error::{Error, Result, io};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The files that a tokenizer may consist of, the best first, as `Tokenizer::open` looks for them.
const TOKENIZERS: [&[&str]; 7] = [
    &["tokenizer.json"],
    &["tokenizer.model"],
    &["spiece.model"],
    &["sentencepiece.bpe.model"],
    &["vocab.json", "merges.txt"],
    &["encoder.json", "vocab.bpe"],
    &["vocab.txt"],
];

/// A file or folder in the cache, after fetching what was missing.
pub fn fetch(id: &Id<'_>) -> Result<PathBuf> {
    let cache = cache();
    let main = cache.model(id.model.to_owned());
    if let Some(path) = cached(&main, id) {
        return Ok(path);
    }
    let hub = Hub::new(cache, id.model)?;
    let (commit, files) = hub.look_up()?;
    let repo = hub.at(&commit);
    let path = match id.file {
        Some(file) if files.contains(file) => hub.get(&repo, file)?,
        Some(file) => return Err(hub.lacks(file, &files, ".gguf")),
        None => hub.get_folder(&repo, &files)?,
    };
    // Only now, so that what `main` means is complete.
    main.create_ref(&commit)
        .map_err(io("write", &hub.cache.path().join("refs/main")))?;
    Ok(path)
}

fn cache() -> Cache {
    match std::env::var_os("HF_HUB_CACHE").filter(|dir| !dir.is_empty()) {
        Some(dir) => Cache::new(dir.into()),
        None => Cache::from_env(),
    }
}

/// What the cache has, if it is complete.
fn cached(repo: &CacheRepo, id: &Id<'_>) -> Option<PathBuf> {
    if let Some(file) = id.file {
        return repo.get(file);
    }
    let config = repo.get(CONFIG)?;
    let there = |files: &&[&str]| files.iter().all(|file| repo.get(file).is_some());
    TOKENIZERS.iter().find(|files| there(files))?;
    if repo.get(WEIGHTS).is_none() {
        let shards = shards(&repo.get(INDEX)?).ok()?;
        let all = shards.iter().all(|shard| repo.get(shard).is_some());
        all.then_some(())?;
    }
    config.parent().map(Path::to_owned)
}

/// The files that an index of shards names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read(index).map_err(io("read", index))?;
    let wrong = |reason: String| Error::Run(format!("{}: {reason}", index.display()));
    let value: Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    let map = value["weight_map"].as_object();
    let map = map.ok_or_else(|| wrong("it has no \"weight_map\"".into()))?;
    let names = map.values().filter_map(Value::as_str).map(str::to_owned);
    Ok(names.collect())
}

struct Hub<'a> {
    model: &'a str,
    endpoint: String,
    cache: Cache,
    api: hf_hub::api::sync::Api,
}

impl<'a> Hub<'a> {
    fn new(cache: Cache, model: &'a str) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or("https://huggingface.co".into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_user_agent("fornax", env!("CARGO_PKG_VERSION"));
        if let Some(token) = variable("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(|e| Error::Run(e.to_string()))?;
        Ok(Self {
            model,
            endpoint,
            cache,
            api,
        })
    }

    fn at(&self, revision: &str) -> Place {
        let repo = Repo::with_revision(self.model.into(), RepoType::Model, revision.into());
        Place {
            remote: self.api.repo(repo.clone()),
            local: self.cache.repo(repo),
        }
    }

    /// The commit of the main branch, and its files.
    fn look_up(&self) -> Result<(String, BTreeSet<String>)> {
        let info = self.at("main").remote.info();
        let info = info.map_err(|error| self.told(error, None))?;
        // It becomes a folder's name.
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(self.wrong(format!("it told the commit {:?}", info.sha)));
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename);
        Ok((info.sha, files.collect()))
    }

    /// Configuration, tokenizer and weights; returns their folder.
    fn get_folder(&self, repo: &Place, files: &BTreeSet<String>) -> Result<PathBuf> {
        if !files.contains(CONFIG) {
            return Err(self.lacks(CONFIG, files, ".gguf"));
        }
        let there = |names: &&&[&str]| names.iter().all(|&name| files.contains(name));
        let Some(tokenizer) = TOKENIZERS.iter().find(there) else {
            return Err(self.lacks("tokenizer.json", files, ".gguf"));
        };
        let weights = match (files.contains(WEIGHTS), files.contains(INDEX)) {
            (true, _) => WEIGHTS,
            (false, true) => INDEX,
            (false, false) => return Err(self.lacks(WEIGHTS, files, ".gguf")),
        };
        let config = self.get(repo, CONFIG)?;
        for name in *tokenizer {
            self.get(repo, name)?;
        }
        let weights = self.get(repo, weights)?;
        if weights.ends_with(INDEX) {
            for shard in shards(&weights)? {
                // Nor does an index make us write anywhere else.
                match files.contains(&shard) && is_plain(&shard) {
                    true => self.get(repo, &shard)?,
                    false => return Err(self.lacks(&shard, files, ".safetensors")),
                };
            }
        }
        Ok(config.parent().unwrap_or(Path::new("")).to_owned())
    }

    /// One file: from the cache, or fetched.
    fn get(&self, repo: &Place, file: &str) -> Result<PathBuf> {
        if let Some(path) = repo.local.get(file) {
            return Ok(path);
        }
        let told = |error| self.told(error, Some(file));
        let metadata = self.api.metadata(&repo.remote.url(file)).map_err(told)?;
        if !is_plain(metadata.etag()) {
            return Err(self.wrong(format!("{file} has the tag {:?}", metadata.etag())));
        }
        let size = metadata.size() as u64;
        let part = repo.local.blob_path(metadata.etag()).with_extension("part");
        let mut again = false;
        loop {
            let length = Rc::new(Cell::new(None));
            let watch = Watch {
                bar: ProgressBar::new(0),
                part: part.clone(),
                size,
                length: Rc::clone(&length),
            };
            let error = match repo.remote.download_with_progress(file, watch) {
                Ok(path) => return Ok(path),
                Err(error) => error,
            };
            if let ApiError::LockAcquisition(_) = error {
                return Err(Error::Run(format!(
                    "another process is fetching {}/{file}; try again when it is done",
                    self.model
                )));
            }
            // A part that is longer, or complete without its name, can only be begun anew.
            let of_old = fs::metadata(&part).is_ok_and(|part| part.len() >= size);
            if of_old {
                fs::remove_file(&part).map_err(io("remove", &part))?;
            }
            if !again && (of_old || length.get().is_some()) {
                again = true;
                continue;
            }
            return Err(match length.get() {
                Some(length) => self.wrong(format!(
                    "{file} came with {length} bytes instead of {size}; try again"
                )),
                None => told(error),
            });
        }
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Run(format!("{}/{}: {reason}", self.endpoint, self.model))
    }

    /// The model has no such file; names those that it has of the same kind.
    fn lacks(&self, file: &str, files: &BTreeSet<String>, kind: &str) -> Error {
        let others = files.iter().filter(|name| name.ends_with(kind));
        let others: Vec<&str> = others.map(String::as_str).collect();
        let hint = match (&others[..], kind) {
            ([], _) => "it may be in a form that Fornax does not read".to_owned(),
            (others, ".gguf") => format!("ask for {}/{}", self.model, others.join(" or ")),
            (others, _) => format!("it has {}", others.join(", ")),
        };
        self.wrong(format!("it has no {file}; {hint}"))
    }

    /// What went wrong with a file, or with the list of them.
    fn told(&self, error: ApiError, file: Option<&str>) -> Error {
        let page = format!("{}/{}", self.endpoint, self.model);
        let model = self.model;
        let status = match &error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status) => Some(status),
                _ => None,
            },
            _ => None,
        };
        Error::Run(match (status, file) {
            // The hub does not tell strangers which models are private.
            (Some(401 | 403 | 404), _) => format!(
                "{model} is no such file or folder, and {page} is not open: there is no such model, \
                 or it is private or wants its terms accepted (then set HF_TOKEN)"
            ),
            (_, Some(file)) => {
                format!(
                    "cannot fetch {file} of {page}: {error}; the next try goes on where it stood"
                )
            }
            (_, None) => format!(
                "{model} is no such file or folder, and {page} cannot be asked: {error}; try again, \
                 or fetch its files by hand and name their folder"
            ),
        })
    }
}

/// One commit of a model.
struct Place {
    remote: ApiRepo,
    local: CacheRepo,
}

/// A path that stays below the folder it is joined to.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Shows how far a download is, and looks at its end whether it is whole.
struct Watch {
    bar: ProgressBar,
    part: PathBuf,
    /// The length it should have.
    size: u64,
    /// The length it had at the end, if it was another.
    length: Rc<Cell<Option<u64>>>,
}

impl Progress for Watch {
    fn init(&mut self, size: usize, filename: &str) {
        Progress::init(&mut self.bar, size, filename);
    }

    fn update(&mut self, size: usize) {
        Progress::update(&mut self.bar, size);
    }

    /// Runs before the part is renamed; a part that is taken away fails to be.
    fn finish(&mut self) {
        self.bar.finish_and_clear();
        let length = fs::metadata(&self.part).map_or(0, |part| part.len());
        let whole = length == self.size;
        // Its bytes are on the disk before its name is.
        if !whole
            || File::open(&self.part)
                .and_then(|part| part.sync_all())
                .is_err()
        {
            self.length.set(Some(length));
            let _ = fs::remove_file(&self.part);
        }
    }
}
