//! A recipe: everything that makes a training run what it is, as TOML.
//!
//! ```
//! let recipe = fornax_train::Recipe::load("digits", &["epochs=5".into()])?;
//! assert_eq!(recipe.epochs, 5);
//! # Ok::<(), fornax_train::Error>(())
//! ```

mod build;
mod read;
pub mod schema;

use std::collections::BTreeMap;
use std::path::Path;

use fornax_tensor::Precision;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, io};

/// The built-in recipes: name and TOML text.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("digits", include_str!("../../recipes/digits.toml")),
    ("digits-cnn", include_str!("../../recipes/digits-cnn.toml")),
    ("iris", include_str!("../../recipes/iris.toml")),
    (
        "breast-cancer",
        include_str!("../../recipes/breast-cancer.toml"),
    ),
    ("mnist", include_str!("../../recipes/mnist.toml")),
    ("mnist-cnn", include_str!("../../recipes/mnist-cnn.toml")),
    (
        "fashion-cnn",
        include_str!("../../recipes/fashion-cnn.toml"),
    ),
    (
        "fashion-vit",
        include_str!("../../recipes/fashion-vit.toml"),
    ),
    (
        "shakespeare-gpt",
        include_str!("../../recipes/shakespeare-gpt.toml"),
    ),
    (
        "shakespeare-gpt-bpe",
        include_str!("../../recipes/shakespeare-gpt-bpe.toml"),
    ),
    (
        "shakespeare-bert",
        include_str!("../../recipes/shakespeare-bert.toml"),
    ),
    (
        "shakespeare-t5",
        include_str!("../../recipes/shakespeare-t5.toml"),
    ),
    (
        "translate-en-es-transformer",
        include_str!("../../recipes/translate-en-es-transformer.toml"),
    ),
    (
        "translate-es-en-t5",
        include_str!("../../recipes/translate-es-en-t5.toml"),
    ),
];

/// How a CSV file and a folder of pictures are learned when they are named in a recipe's place.
const TABLE: &str = include_str!("../../recipes/table.toml");
const PICTURES: &str = include_str!("../../recipes/pictures.toml");

/// A complete, checked recipe. [`schema::KEYS`] documents every field.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Recipe {
    pub name: String,
    pub description: String,
    pub seed: u64,
    pub epochs: usize,
    pub batch_size: usize,
    pub accumulate: usize,
    pub precision: String,
    pub data: DataRecipe,
    /// All zero for text.
    #[serde(default)]
    pub augment: AugmentRecipe,
    pub model: ModelRecipe,
    pub optimizer: OptimizerRecipe,
    pub schedule: ScheduleRecipe,
    pub regularization: RegularizationRecipe,
    pub early_stopping: EarlyStoppingRecipe,
    pub best: BestRecipe,
    pub checkpoint: CheckpointRecipe,
    #[serde(skip)]
    values: BTreeMap<&'static str, toml::Value>,
}

/// `[data]`: what is learnt.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DataRecipe {
    pub name: String,
    pub path: Option<String>,
    pub target: Option<String>,
    pub task: Option<String>,
    pub missing: Option<String>,
    pub missing_markers: Option<Vec<String>>,
    #[serde(default)]
    pub ignore: Vec<String>,
    #[serde(default)]
    pub categorical: Vec<String>,
    #[serde(default)]
    pub numeric: Vec<String>,
    pub max_categories: Option<usize>,
    pub header: Option<String>,
    pub delimiter: Option<String>,
    pub skip_lines: Option<usize>,
    pub height: Option<usize>,
    pub width: Option<usize>,
    pub channels: Option<String>,
    pub test: Option<f64>,
    pub validation: f64,
    pub normalize: Option<String>,
    pub tokenizer: Option<String>,
    pub vocabulary: Option<usize>,
    pub context: Option<usize>,
    pub steps: Option<usize>,
    pub languages: Option<String>,
    pub masked: Option<f64>,
}

impl DataRecipe {
    /// Whether the data is text, or texts in pairs.
    pub fn is_text(&self) -> bool {
        schema::TEXTS.contains(&self.name.as_str()) || self.is_pairs()
    }

    /// Whether the data is texts in pairs: one to read and one to write.
    pub fn is_pairs(&self) -> bool {
        schema::PAIRS.contains(&self.name.as_str())
    }
}

/// `[augment]`: random changes of training images.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AugmentRecipe {
    pub shift: usize,
    pub flip: bool,
    pub rotate: f64,
    pub scale: f64,
    pub erase: f64,
}

/// `[model]`: the network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ModelRecipe {
    pub name: String,
    pub layers: Option<usize>,
    pub heads: Option<usize>,
    pub width: Option<usize>,
    pub patch: Option<usize>,
    pub neurons: Option<OneOrMany>,
    pub channels: Option<OneOrMany>,
    pub convolutions: Option<usize>,
    pub dense: Option<OneOrMany>,
    pub activation: Option<String>,
    pub batch_norm: Option<bool>,
    pub dropout: Option<f64>,
    pub checkpoint: Option<bool>,
}

/// `[optimizer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct OptimizerRecipe {
    pub name: String,
    pub learning_rate: f64,
    pub weight_decay: f64,
    #[serde(default)]
    pub decay: Option<String>,
    pub momentum: Option<f64>,
    pub nesterov: Option<bool>,
    pub beta1: Option<f64>,
    pub beta2: Option<f64>,
    pub alpha: Option<f64>,
    pub eps: Option<f64>,
}

/// `[schedule]`: how the learning rate moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ScheduleRecipe {
    pub name: String,
    pub warmup: Option<f64>,
    pub every: Option<usize>,
    pub gamma: Option<f64>,
    #[serde(rename = "final")]
    pub last: Option<f64>,
    pub rise: Option<f64>,
}

/// `[regularization]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RegularizationRecipe {
    pub l1: f64,
    pub l2: f64,
    pub label_smoothing: f64,
    pub clip_norm: f64,
    pub clip_value: f64,
}

/// `[early_stopping]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct EarlyStoppingRecipe {
    pub patience: usize,
    pub min_delta: f64,
}

/// `[best]`: which epoch's weights are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct BestRecipe {
    pub keep: bool,
    pub monitor: String,
}

/// `[checkpoint]`: how often the state is saved inside an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CheckpointRecipe {
    pub every_steps: u64,
    pub every_seconds: f64,
}

/// `128` or `[256, 128]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// The same number everywhere.
    One(usize),
    /// One number each.
    Many(Vec<usize>),
}

impl OneOrMany {
    /// As a list; a single number is a list of one.
    pub fn list(&self) -> Vec<usize> {
        match self {
            OneOrMany::One(number) => vec![*number],
            OneOrMany::Many(numbers) => numbers.clone(),
        }
    }
}

impl ModelRecipe {
    /// The width of each hidden layer of an MLP: `neurons` as given, or `layers` times the same.
    pub fn hidden(&self) -> Vec<usize> {
        match &self.neurons {
            Some(OneOrMany::Many(neurons)) => neurons.clone(),
            Some(OneOrMany::One(neurons)) => vec![*neurons; self.layers.unwrap_or(1)],
            None => Vec::new(),
        }
    }
}

impl Recipe {
    /// How exactly products are computed in training and evaluation, whatever
    /// [`set_precision`](fornax_tensor::set_precision) says: a recipe is all that a run depends on.
    pub fn precision(&self) -> Precision {
        self.precision.parse().expect("a recipe has been checked")
    }

    /// Reads the recipe `name_or_file` (a built-in name, or else a TOML file) and applies `set`,
    /// each `key=value`. A CSV file or a folder of pictures is data for the recipe that suits it,
    /// which is then called as they are.
    ///
    /// # Errors
    /// A name that is neither; unknown keys (with the line and the nearest known key), values of a
    /// wrong type or out of range, keys that do nothing beside the others.
    pub fn load(name_or_file: &str, set: &[String]) -> Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
            return Self::parse(&format!("recipe {name}"), text, set);
        }
        let path = Path::new(name_or_file);
        if !path.exists() {
            let near = BUILT_IN
                .iter()
                .map(|(name, _)| (strsim::damerau_levenshtein(name, name_or_file), *name))
                .min()
                .filter(|(distance, _)| *distance <= 3);
            let hint = match near {
                Some((_, name)) => format!("did you mean `{name}`?"),
                None => format!("built-in are {}", names().join(", ")),
            };
            return Err(Error::Recipe(format!(
                "`{name_or_file}` is neither a built-in recipe nor a file; {hint}"
            )));
        }
        let table = path.extension().is_some_and(|e| {
            ["csv", "tsv"]
                .iter()
                .any(|known| e.eq_ignore_ascii_case(known))
        });
        if table || path.is_dir() {
            let name = std::path::absolute(path).map_err(io("find", path))?;
            let name = name
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            // As TOML texts: a path may hold any character.
            let key = |key: &str, text: &str| format!("{key}={}", toml::Value::from(text));
            let mut all = vec![key("name", &name), key("data.path", name_or_file)];
            all.extend_from_slice(set);
            let text = if table { TABLE } else { PICTURES };
            return Self::parse(name_or_file, text, &all);
        }
        let text = std::fs::read_to_string(path).map_err(io("read", path))?;
        Self::parse(name_or_file, &text, set)
    }

    /// Reads a recipe from TOML text; `file` is what errors call it. A path in it is taken from the
    /// working folder and made absolute, so that a run finds its data from wherever it is used.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(file: &str, text: &str, set: &[String]) -> Result<Self> {
        let mut values = read::Values::parse(file, text)?;
        for assignment in set {
            values.set(assignment)?;
        }
        let mut values = values.resolve()?;
        if let Some(toml::Value::String(path)) = values.get_mut("data.path") {
            *path = absolute(path)?;
        }
        if let Some(toml::Value::String(path)) = values.get_mut("data.tokenizer")
            && !matches!(path.as_str(), "characters" | "bpe")
        {
            *path = absolute(path)?;
        }
        let mut recipe: Self = toml::Value::Table(read::nest(&values))
            .try_into()
            .map_err(|error| Error::Recipe(format!("{file}: {error}")))?;
        recipe.values = values;
        recipe.check(file)?;
        Ok(recipe)
    }

    /// The recipe with some keys changed.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn with(&self, set: &[String]) -> Result<Self> {
        Self::parse("the run's recipe", &self.to_toml(), set)
    }

    /// The resolved recipe: complete TOML with a comment at each key.
    pub fn to_toml(&self) -> String {
        read::write(&self.values)
    }

    /// The first key that has another value in `other`.
    pub fn first_difference(&self, other: &Self) -> Option<&'static str> {
        let keys = schema::KEYS.iter().map(|key| key.path);
        keys.into_iter()
            .find(|path| self.values.get(path) != other.values.get(path))
    }

    /// What no single key can tell.
    fn check(&self, file: &str) -> Result<()> {
        let refuse = |message: String| Err(Error::Recipe(format!("{file}: {message}")));
        if let (Some(layers), Some(OneOrMany::Many(neurons))) =
            (self.model.layers, &self.model.neurons)
            && neurons.len() != layers
        {
            return refuse(format!(
                "model.neurons lists {} layers, but model.layers = {layers}; leave model.layers out",
                neurons.len()
            ));
        }
        let files = ["csv", "images", "text", "pairs"];
        if files.contains(&self.data.name.as_str()) && self.data.path.is_none() {
            return refuse(format!(
                "data.name = \"{}\" needs data.path, for example --set data.path=FILE",
                self.data.name
            ));
        }
        // The networks that can learn from the data.
        let fitting: &[&str] = match (self.data.is_text(), self.data.is_pairs()) {
            (_, true) => &["transformer", "t5"],
            (true, false) => &["gpt2", "bert", "t5"],
            (false, false) => &["mlp", "cnn", "lenet", "vit"],
        };
        if !fitting.contains(&self.model.name.as_str()) {
            return refuse(format!(
                "model.name = \"{}\" cannot learn from data.name = \"{}\"; use {}",
                self.model.name,
                self.data.name,
                fitting.join(" or ")
            ));
        }
        if self.schedule.warmup.unwrap_or(0.0) >= 1.0 {
            return refuse("schedule.warmup is a fraction of the steps, below 1".into());
        }
        if self.optimizer.nesterov == Some(true) && self.optimizer.momentum == Some(0.0) {
            return refuse("optimizer.nesterov needs optimizer.momentum above 0".into());
        }
        for (name, beta) in [
            ("beta1", self.optimizer.beta1),
            ("beta2", self.optimizer.beta2),
        ] {
            if beta.is_some_and(|beta| beta >= 1.0) {
                return refuse(format!("optimizer.{name} must be below 1"));
            }
        }
        if self.early_stopping.patience > 0 && self.data.validation == 0.0 {
            return refuse("early_stopping needs validation data: data.validation above 0".into());
        }
        Ok(())
    }
}

/// A path that means the same from any working folder.
fn absolute(path: &str) -> Result<String> {
    let whole = std::path::absolute(path).map_err(io("find", Path::new(path)))?;
    // Recipes are text, so a folder whose name is none leaves the path as it was given.
    Ok(whole.to_str().unwrap_or(path).to_owned())
}

/// The names of the built-in recipes.
pub fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, set: &[&str]) -> String {
        let set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
        Recipe::parse("r.toml", text, &set).unwrap_err().to_string()
    }

    #[test]
    fn built_in_recipes_load_and_survive_a_round_trip() {
        for (name, _) in BUILT_IN {
            let recipe = Recipe::load(name, &[]).unwrap();
            assert_eq!(&recipe.name, name);
            let again = Recipe::parse("again", &recipe.to_toml(), &[]).unwrap();
            assert_eq!(recipe, again);
        }
    }

    #[test]
    fn an_empty_recipe_is_all_defaults() {
        let recipe = Recipe::parse("r.toml", "", &[]).unwrap();
        assert_eq!(recipe.optimizer.name, "adamw");
        assert_eq!(recipe.model.hidden(), [128, 128]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_nearest() {
        assert_eq!(
            error("seed = 1\n\n[model]\nneurns = 5", &[]),
            "r.toml, line 4: unknown key `model.neurns`; did you mean `model.neurons`?"
        );
        assert_eq!(
            error("[optimiser]\nname = \"sgd\"", &[]),
            "r.toml, line 1: unknown key `optimiser`; `fornax list keys` shows them all"
        );
        assert!(error("model = 5", &[]).contains("is a section"));
        assert!(error("", &["epoch=5"]).contains("did you mean `epochs`"));
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(
            error("epochs = \"five\"", &[]),
            "r.toml, line 1: `epochs` is \"five\", expected a whole number, at least 1"
        );
        assert_eq!(
            error("[optimizer]\nname = \"adamm\"", &[]),
            "r.toml, line 2: `optimizer.name` is \"adamm\", expected one of \"sgd\", \"adam\", \
             \"adamw\", \"adagrad\", \"adafactor\", \"rmsprop\"; did you mean \"adam\"?"
        );
        assert!(error("", &["epochs=0"]).starts_with("--set epochs is 0, expected"));
        assert!(error("", &["optimizer.learning_rate=nan"]).contains("expected a number"));
        assert!(error("", &["optimizer.learning_rate=inf"]).contains("expected a number"));
        assert!(error("", &["model.neurons=[5, \"x\"]"]).contains("whole number"));
        assert!(error("", &["epochs"]).contains("expected key=value"));
        assert!(error("epochs = 99999999999999999999", &[]).contains("whole number"));
        assert!(error("epochs = ", &[]).starts_with("r.toml, line 1: "));
        assert!(error("epochs = 1\nepochs = 2", &[]).starts_with("r.toml, line 2: "));
    }

    #[test]
    fn set_overrides_with_types() {
        let set = [
            "optimizer.name=sgd",
            "optimizer.momentum=0.9",
            "optimizer.learning_rate=1",
            "model.layers=3",
            "model.neurons=[64, 32, 16]",
            "model.batch_norm=true",
            "name=7",
        ]
        .map(String::from);
        let recipe = Recipe::parse("r.toml", "", &set).unwrap();
        assert_eq!(recipe.optimizer.momentum, Some(0.9));
        assert_eq!(recipe.optimizer.learning_rate, 1.0);
        assert_eq!(recipe.model.hidden(), [64, 32, 16]);
        assert_eq!(recipe.model.batch_norm, Some(true));
        assert_eq!(recipe.name, "7");
    }

    #[test]
    fn a_list_of_neurons_counts_the_layers() {
        let hidden = |text: &str, set: &[&str]| {
            let set: Vec<String> = set.iter().map(|text| text.to_string()).collect();
            let recipe = Recipe::parse("r.toml", text, &set).unwrap();
            let hidden = recipe.model.hidden();
            assert_eq!(recipe.model.layers, Some(hidden.len()));
            hidden
        };
        // Over the default, and by `--set` over the recipe.
        assert_eq!(hidden("[model]\nneurons = [5]", &[]), [5]);
        assert_eq!(hidden("", &["model.neurons=[5, 6, 7]"]), [5, 6, 7]);
        let one = "[model]\nlayers = 1\nneurons = 32";
        assert_eq!(hidden(one, &["model.neurons=[64, 32]"]), [64, 32]);
        assert_eq!(hidden(one, &["model.layers=2"]), [32, 32]);
        // Two that stand side by side must agree.
        let both = "[model]\nlayers = 1\nneurons = [64, 32]";
        assert!(error(both, &[]).contains("lists 2 layers, but model.layers = 1"));
        let set = ["model.layers=3", "model.neurons=[64, 32]"];
        assert!(error("", &set).contains("lists 2 layers, but model.layers = 3"));
        let list = "[model]\nneurons = [64, 32]";
        assert!(error(list, &["model.layers=3"]).contains("model.layers = 3"));
    }

    #[test]
    fn a_path_means_the_same_from_any_folder() {
        let set = ["data.name=csv".to_owned(), "data.path=some.csv".to_owned()];
        let recipe = Recipe::parse("r", "", &set).unwrap();
        let here = std::env::current_dir().unwrap().join("some.csv");
        assert_eq!(recipe.data.path.as_deref(), here.to_str());
        let stored = Recipe::parse("r", &recipe.to_toml(), &[]).unwrap();
        assert_eq!(stored.first_difference(&recipe), None);
    }

    #[test]
    fn the_recipe_in_the_docs_is_one() {
        let page = include_str!("../../../../docs/training.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        assert_eq!(Recipe::parse("docs", text, &[]).unwrap().name, "churn");
    }

    #[test]
    fn keys_of_another_choice_are_refused() {
        assert_eq!(
            error("[optimizer]\nname = \"sgd\"\nbeta1 = 0.9", &[]),
            "r.toml, line 3: `optimizer.beta1` does nothing with optimizer.name = \"sgd\"; \
             it belongs to adam, adamw"
        );
        assert!(error("", &["optimizer.name=sgd", "optimizer.beta1=0.9"]).contains("--set"));
        // Choosing anew drops what the file says about the former choice.
        let text = "[optimizer]\nname = \"adam\"\nbeta1 = 0.8";
        let recipe = Recipe::parse("r", text, &["optimizer.name=sgd".into()]).unwrap();
        assert_eq!(recipe.optimizer.beta1, None);
    }

    #[test]
    fn combinations_are_checked() {
        assert!(error("", &["data.name=csv"]).contains("needs data.path"));
        assert!(error("", &["data.validation=0", "early_stopping.patience=3"]).contains("valid"));
    }
}
