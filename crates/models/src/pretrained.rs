//! Folders of HuggingFace's `transformers`: a `config.json` and `.safetensors` beside it.

use crate::ConfigError;
use fornax_nn::{Module, init, load_state_dict};
use fornax_tensor::io::Sharded;
use fornax_tensor::io::safetensors::save as save_tensors;
use fornax_tensor::{Tensor, io};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::path::Path;

/// What can go wrong with a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file is not what it should be.
    #[error("{path}: {reason}")]
    Json {
        /// The file.
        path: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// The folder holds another architecture.
    #[error("{path} describes a model of type \"{found}\", not \"{expected}\"")]
    OtherArchitecture {
        /// The `config.json`.
        path: String,
        /// Its `model_type`.
        found: String,
        /// The type that was to be loaded.
        expected: &'static str,
    },
    /// The configuration describes no network.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tensors are not those of the model.
    #[error(transparent)]
    Weights(#[from] fornax_nn::Error),
    /// A file of tensors is broken.
    #[error(transparent)]
    Tensors(#[from] fornax_tensor::Error),
}

/// A result with this module's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An architecture that HuggingFace's `transformers` has too.
pub trait Pretrained: Module + Sized {
    /// The fields of `config.json` that matter, under their names, with their defaults.
    type Config: Serialize + DeserializeOwned;

    /// The `model_type` of its `config.json`.
    const MODEL_TYPE: &'static str;

    /// The class that `transformers` loads its files with.
    const ARCHITECTURE: &'static str;

    /// What the names of the model without its head have before them once it has one, dot
    /// included: files of the one load as the other.
    const BASE: &'static str = "";

    /// The network of this configuration, with the starting weights of `transformers`.
    ///
    /// # Errors
    /// If the configuration describes no network, or one with parts that are not implemented.
    fn from_config(config: &Self::Config) -> Result<Self, ConfigError>;

    /// The configuration that the network was made from.
    fn config(&self) -> &Self::Config;

    /// Whether a file may hold a tensor of this name that is no weight of the model: a constant,
    /// or a second copy of a weight that is used twice.
    fn is_redundant(name: &str) -> bool {
        let _ = name;
        false
    }

    /// What old files call the tensor of this name.
    fn former_name(name: &str) -> Option<String> {
        let _ = name;
        None
    }
}

/// A model as it was loaded.
#[derive(Debug)]
pub struct Loaded<M> {
    /// The model.
    pub model: M,
    /// The names of tensors that the files hold and the model has no place for. Tell them to
    /// whoever asked for the model: often it is the head of another task.
    pub unexpected: Vec<String>,
    /// The parameters that the files did not hold and that keep their random starting weights,
    /// because the caller allowed it.
    pub fresh: Vec<String>,
}

/// Loads a model from a folder with `config.json` and `model.safetensors` (or the parts that
/// `model.safetensors.index.json` names).
///
/// ```
/// use fornax_models::pretrained::{from_folder, save_to_folder};
/// use fornax_models::{Gpt2, Gpt2Config};
/// # let folder = tempfile::tempdir().unwrap();
/// let config = Gpt2Config { vocab_size: 20, n_embd: 8, n_layer: 1, n_head: 2, ..Gpt2Config::default() };
/// save_to_folder(&Gpt2::new(&config)?, folder.path())?;
/// let loaded = from_folder::<Gpt2>(folder.path())?;
/// assert!(loaded.unexpected.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a file cannot be read, describes another architecture, or lacks tensors of the model, or
/// holds them in other shapes or types: each is named.
pub fn from_folder<M: Pretrained>(folder: impl AsRef<Path>) -> Result<Loaded<M>> {
    from_folder_with(folder, |_| false)
}

/// [`from_folder`] for fine-tuning: parameters for whose names `may_be_fresh` holds, such as those
/// of a new head, keep their random starting weights if the files lack them.
///
/// # Errors
/// As [`from_folder`].
pub fn from_folder_with<M: Pretrained>(
    folder: impl AsRef<Path>,
    may_be_fresh: impl Fn(&str) -> bool,
) -> Result<Loaded<M>> {
    let folder = folder.as_ref();
    let config = read_config::<M>(folder.join("config.json"))?;
    let mut model = init::without_values(|| M::from_config(&config))?;
    let files = Sharded::open(folder)?;
    let matched = Match::of(&model, &files, may_be_fresh);
    if !matched.fresh.is_empty() {
        // Some keep their starting weights, so there must be some.
        model = M::from_config(&config)?;
    }
    matched.load(&mut model, &files, &folder.display().to_string())?;
    if let Some(more) = beyond(&model, &matched.unexpected) {
        let reason = format!(
            "it describes fewer layers than the weights have: there is no place for \"{more}\""
        );
        return Err(json_error(&folder.join("config.json"), reason));
    }
    Ok(Loaded {
        model,
        unexpected: matched.unexpected,
        fresh: matched.fresh,
    })
}

/// A name of `unexpected` that is one of the model's but for its numbers.
fn beyond<'a, M: Pretrained>(model: &M, unexpected: &'a [String]) -> Option<&'a String> {
    let form = |name: &str| {
        let base = name.strip_prefix(M::BASE).unwrap_or(name);
        base.replace(|c: char| c.is_ascii_digit(), "")
    };
    let known: HashSet<String> = model
        .state_dict()
        .iter()
        .map(|(name, _)| form(name))
        .collect();
    unexpected.iter().find(|name| known.contains(&form(name)))
}

/// Reads and checks the `config.json` of an architecture.
///
/// # Errors
/// If the file cannot be read, is not of that architecture, or has a field of another type than
/// expected.
pub fn read_config<M: Pretrained>(path: impl AsRef<Path>) -> Result<M::Config> {
    let path = path.as_ref();
    let mut value = read_json(path)?;
    let mut take = |name| value.as_object_mut()?.remove(name);
    match take("model_type").as_ref().and_then(Value::as_str) {
        Some(found) if found != M::MODEL_TYPE => Err(Error::OtherArchitecture {
            path: path.display().to_string(),
            found: found.to_owned(),
            expected: M::MODEL_TYPE,
        }),
        Some(_) => {
            // That of the model that is saved is written.
            take("architectures");
            serde_json::from_value(value).map_err(|e| json_error(path, e))
        }
        None => Err(json_error(
            path,
            format!("it has no \"model_type\"; expected \"{}\"", M::MODEL_TYPE),
        )),
    }
}

/// Replaces the weights of a model by tensors under names of `transformers`: with or without the
/// prefix of the [base model](Pretrained::BASE), in any floating-point type. Returns the names
/// that the model has no place for.
///
/// # Errors
/// If tensors are missing, or have other shapes or types, naming each; then the model has not
/// changed.
pub fn load_tensors<M: Pretrained>(
    model: &mut M,
    tensors: Vec<(String, Tensor)>,
) -> Result<Vec<String>> {
    let source: HashMap<String, Tensor> = tensors.into_iter().collect();
    let matched = Match::of(model, &source, |_| false);
    matched.load(model, &source, "the given tensors")?;
    Ok(matched.unexpected)
}

/// Saves `config.json` and `model.safetensors` to a folder, which is created if need be, as
/// `transformers` would: `from_pretrained(folder)` loads it. Fields that the model's own
/// `config.json` had and this crate does not know are kept.
///
/// # Errors
/// If a file cannot be written.
pub fn save_to_folder<M: Pretrained>(model: &M, folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let in_folder = |source| Error::Io {
        path: folder.display().to_string(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(in_folder)?;
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = model.state_dict();
    save_tensors(folder.join("model.safetensors"), &tensors, &metadata)?;
    let path = folder.join("config.json");
    let mut value = serde_json::to_value(model.config()).map_err(|e| json_error(&path, e))?;
    value["model_type"] = M::MODEL_TYPE.into();
    value["architectures"] = vec![M::ARCHITECTURE].into();
    if let Some((_, tensor)) = tensors.iter().find(|(_, t)| t.dtype().is_float()) {
        // The type may have changed since it was loaded.
        for name in ["dtype", "torch_dtype"] {
            if let Some(dtype) = value.get_mut(name) {
                *dtype = tensor.dtype().to_string().into();
            }
        }
    }
    let text = serde_json::to_string_pretty(&value).map_err(|e| json_error(&path, e))?;
    io::write_atomic(&path, |file| file.write_all(text.as_bytes())).map_err(in_folder)
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.display().to_string(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| json_error(path, e))
}

fn json_error(path: &Path, reason: impl ToString) -> Error {
    Error::Json {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

/// Where tensors come from: they are read when they are asked for.
trait Source {
    fn names(&self) -> Vec<&str>;
    fn read(&self, name: &str) -> Result<Option<Tensor>>;
}

impl Source for HashMap<String, Tensor> {
    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
    fn read(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.get(name).cloned())
    }
}

impl Source for Sharded {
    fn names(&self) -> Vec<&str> {
        self.entries().map(|entry| entry.name.as_str()).collect()
    }
    fn read(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.tensor(name).transpose()?)
    }
}

/// Which tensors of a source are which parameters of a model.
#[derive(Default)]
struct Match {
    /// Names of parameters and of tensors.
    found: Vec<(String, String)>,
    fresh: Vec<String>,
    unexpected: Vec<String>,
}

impl Match {
    fn of<M: Pretrained>(
        model: &M,
        source: &dyn Source,
        may_be_fresh: impl Fn(&str) -> bool,
    ) -> Match {
        let mut left: HashSet<&str> = source.names().into_iter().collect();
        let mut all = Match::default();
        for (name, _) in model.state_dict() {
            let bare = name.strip_prefix(M::BASE).unwrap_or(&name).to_owned();
            let full = format!("{}{name}", M::BASE);
            let names = [name.clone(), bare, full];
            let former: Vec<String> = names.iter().filter_map(|n| M::former_name(n)).collect();
            let mut candidates = names.into_iter().chain(former);
            match candidates.find(|n| left.remove(n.as_str())) {
                Some(theirs) => all.found.push((name, theirs)),
                None if may_be_fresh(&name) => all.fresh.push(name),
                // Told by `load_state_dict`, together with all other misfits.
                None => {}
            }
        }
        let unexpected = left.into_iter().filter(|name| !M::is_redundant(name));
        all.unexpected = unexpected.map(str::to_owned).collect();
        all.unexpected.sort_unstable();
        all
    }

    /// Reads the tensors into the model; `what` is the source's name in errors.
    fn load(&self, model: &mut impl Module, source: &dyn Source, what: &str) -> Result<()> {
        let mut tensors = model.state_dict();
        tensors.retain(|(name, _)| self.fresh.contains(name));
        for (name, theirs) in &self.found {
            let tensor = source.read(theirs)?.expect("the source named it");
            tensors.push((name.clone(), tensor));
        }
        load_state_dict(model, tensors).map_err(|e| match e {
            fornax_nn::Error::Mismatch { problems, .. } => fornax_nn::Error::Mismatch {
                what: what.to_owned(),
                problems,
            },
            other => other,
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CausalLm, Gpt2, Gpt2Config};
    use fornax_tensor::DType;

    fn tiny() -> Gpt2 {
        let config = Gpt2Config {
            vocab_size: 20,
            n_positions: 8,
            n_embd: 8,
            n_layer: 1,
            n_head: 2,
            ..Gpt2Config::default()
        };
        Gpt2::new(&config).unwrap()
    }

    fn folder(model: &Gpt2) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        save_to_folder(model, folder.path()).unwrap();
        folder
    }

    fn error(folder: &tempfile::TempDir) -> String {
        from_folder::<Gpt2>(folder.path())
            .err()
            .unwrap()
            .to_string()
    }

    fn scores(model: &Gpt2) -> Vec<f32> {
        let ids = Tensor::from_vec(vec![3i64, 1, 4], [1, 3]);
        model.forward_logits(&ids, None).to_vec()
    }

    /// Tensors of a model written under other names, in parts.
    fn write(folder: &Path, file: &str, tensors: &[(String, Tensor)]) {
        save_tensors(folder.join(file), tensors, &BTreeMap::new()).unwrap();
    }

    #[test]
    fn a_folder_gives_back_the_model() {
        let model = tiny();
        let loaded = from_folder::<Gpt2>(folder(&model).path()).unwrap();
        assert_eq!(loaded.model.config(), model.config());
        assert_eq!(scores(&loaded.model), scores(&model));
        assert!(loaded.unexpected.is_empty() && loaded.fresh.is_empty());
    }

    #[test]
    fn layers_that_the_configuration_does_not_have_are_refused() {
        let config = Gpt2Config {
            n_layer: 2,
            ..tiny().config().clone()
        };
        let folder = folder(&Gpt2::new(&config).unwrap());
        let path = folder.path().join("config.json");
        let mut config = read_json(&path).unwrap();
        config["n_layer"] = 1.into();
        std::fs::write(&path, config.to_string()).unwrap();
        let error = from_folder::<Gpt2>(folder.path()).err().unwrap();
        let error = error.to_string();
        assert!(error.contains("no place for \"transformer.h.1."), "{error}");
    }

    #[test]
    fn unknown_fields_of_a_configuration_are_kept() {
        let folder = folder(&tiny());
        let path = folder.path().join("config.json");
        let mut config = read_json(&path).unwrap();
        config["torch_dtype"] = "float16".into();
        config["task_specific_params"] = serde_json::json!({ "text-generation": { "k": [1] } });
        config["id2label"] = serde_json::json!({ "0": "bad", "1": "good" });
        std::fs::write(&path, config.to_string()).unwrap();
        let loaded = from_folder::<Gpt2>(folder.path()).unwrap().model;
        let again = tempfile::tempdir().unwrap();
        save_to_folder(&loaded, again.path()).unwrap();
        let saved = read_json(&again.path().join("config.json")).unwrap();
        // The weights were loaded as the model's own type.
        config["torch_dtype"] = "float32".into();
        assert_eq!(saved, config);

        let rope = r#"{"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3}}"#;
        let rope: crate::LlamaConfig = serde_json::from_str(rope).unwrap();
        let saved = serde_json::to_value(&rope).unwrap();
        let expected = serde_json::json!({ "type": "linear", "factor": 2.0, "beta_fast": 3 });
        assert_eq!(saved["rope_scaling"], expected);

        let bert = r#"{"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}"#;
        let bert: crate::BertConfig = serde_json::from_str(bert).unwrap();
        assert_eq!(bert.id2label[&1], "good");
        assert_eq!(bert.extra["label2id"]["good"], 1);
        assert!(bert.classes(3).extra.is_empty());
    }

    #[test]
    fn old_names_and_parts_load() {
        let model = tiny();
        let folder = folder(&model);
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let mut state: Vec<_> = model
            .state_dict()
            .into_iter()
            .map(|(name, t)| (name["transformer.".len()..].to_owned(), t))
            .collect();
        let mask = Tensor::ones([1, 1, 8, 8], DType::F32);
        state.push(("h.0.attn.bias".to_owned(), mask.clone()));
        state.push(("score.weight".to_owned(), mask));
        let (a, b) = state.split_at(4);
        let mut map = serde_json::Map::new();
        for (file, part) in [("a.safetensors", a), ("b.safetensors", b)] {
            write(folder.path(), file, part);
            map.extend(part.iter().map(|(name, _)| (name.clone(), file.into())));
        }
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
        let loaded = from_folder::<Gpt2>(folder.path()).unwrap();
        assert_eq!(scores(&loaded.model), scores(&model));
        assert_eq!(loaded.unexpected, ["score.weight"]);

        let outside = serde_json::json!({ "weight_map": { "wte": "../a.safetensors" } });
        std::fs::write(&index, outside.to_string()).unwrap();
        assert!(error(&folder).contains("not a safetensors file in the same folder"));
    }

    #[test]
    fn misfits_are_all_told() {
        let model = tiny();
        let folder = folder(&model);
        let mut state = model.state_dict();
        state.retain(|(name, _)| !name.contains("ln_1") && !name.contains("wpe"));
        let place = |name: &str| state.iter().position(|(n, _)| n == name).unwrap();
        let (short, whole) = (
            place("transformer.ln_f.bias"),
            place("transformer.ln_f.weight"),
        );
        state[short].1 = Tensor::zeros([7], DType::F32);
        state[whole].1 = Tensor::zeros([8], DType::I64);
        write(folder.path(), "model.safetensors", &state);
        let message = error(&folder);
        for part in [
            "`transformer.wpe.weight` is missing",
            "`transformer.h.0.ln_1.weight` is missing",
            "`transformer.h.0.ln_1.bias` is missing",
            "`transformer.ln_f.bias` has shape [7], the model needs [8]",
            "`transformer.ln_f.weight` holds int64, the model needs float32",
            &folder.path().display().to_string(),
        ] {
            assert!(message.contains(part), "{message}");
        }
        state.truncate(2);
        write(folder.path(), "model.safetensors", &state);
        let loaded = from_folder_with::<Gpt2>(folder.path(), |_| true).unwrap();
        let state = loaded.model.state_dict();
        assert_eq!(loaded.fresh.len(), state.len() - 2);
        let random = &state.iter().find(|(n, _)| n.contains("wpe")).unwrap().1;
        assert!(random.abs().max(..).item() > 0.0, "it has starting weights");
    }

    #[test]
    fn other_configurations_are_refused() {
        let folder = folder(&tiny());
        let path = folder.path().join("config.json");
        let check = |text: &str, expected: &str| {
            std::fs::write(&path, text).unwrap();
            let message = error(&folder);
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("config.json") || message.starts_with("gpt2"));
        };
        check(
            r#"{"model_type": "bert"}"#,
            "describes a model of type \"bert\", not \"gpt2\"",
        );
        check("{}", "it has no \"model_type\"; expected \"gpt2\"");
        check("{", "EOF");
        check(
            r#"{"model_type": "gpt2", "n_embd": "wide"}"#,
            "invalid type",
        );
        check(
            r#"{"model_type": "gpt2", "n_head": 7}"#,
            "7 heads do not divide a width of 768",
        );
        check(
            r#"{"model_type": "gpt2", "activation_function": "gegelu"}"#,
            "the activation \"gegelu\" is unknown",
        );
        std::fs::remove_file(&path).unwrap();
        assert!(error(&folder).contains("config.json"));
    }
}
